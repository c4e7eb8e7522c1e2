"""The share of easy negatives in the classification gradient, measured during training."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ... import losses

SHARE, EASY = "easy_negative_share", 0.1  # the logged value; below which probability a negative is easy
INTERVAL = 25  # iterations between two measurements of the share


def easy_negative_share(head: nn.Module) -> torch.Tensor:
    """What share of the head's classification loss its easy negatives have: background anchors all of whose
    probabilities are below 0.1.

    Reads what the head's last forward left, changes nothing. The share is that part of the loss which is gone when
    these anchors are ignored; a normaliser that counts positives is not touched by that. Gradient harmonising weighs an
    element by all others, so its own elements are added up.

    Returns:
        0-d tensor, NaN where the loss is 0.
    """
    ret, own_loss = head.forward_ret_dict, head.cls_loss_func
    labels, logits = ret["box_cls_labels"], ret["cls_preds"]
    logits = logits.detach().view(*labels.shape, -1)
    scores = losses.logits_of_softmax(logits) if getattr(own_loss, "is_softmax", False) else logits
    easy = (labels == 0) & (scores.sigmoid().amax(dim=-1) < EASY)  # (B, A)
    inner = getattr(own_loss, "loss", None)
    with torch.no_grad():
        if isinstance(inner, losses.GHMC):
            one_hot = losses.one_hot_from_labels(labels, logits.shape[-1], logits.dtype)
            each = copy.deepcopy(inner)(
                logits, one_hot, label_weight=(labels >= 0).to(logits.dtype), reduction_override="none"
            )
            return each[easy].sum() / each.sum()
        totals = []
        try:
            for kept in (labels, labels.masked_fill(easy, -1)):
                head.cls_loss_func = copy.deepcopy(own_loss)  # its running counts must not see this
                head.forward_ret_dict = {**ret, "box_cls_labels": kept}
                totals.append(type(head).get_cls_layer_loss(head)[0])
        finally:
            head.cls_loss_func, head.forward_ret_dict = own_loss, ret
    return 1 - totals[1] / totals[0]


def watch_easy_negatives(head: nn.Module, interval: int = INTERVAL) -> None:
    """Let ``head`` log ``easy_negative_share`` in its first training step and then in every ``interval``-th."""
    original, steps = head.get_cls_layer_loss, 0

    def get_cls_layer_loss():
        nonlocal steps
        steps += 1
        loss, logged = original()
        if steps == 1 or steps % interval == 0:
            logged = {**logged, SHARE: easy_negative_share(head)}
        return loss, logged

    head.get_cls_layer_loss = get_cls_layer_loss


class Shares:
    """The trainer's scalar log: keeps (iteration, share) and nothing else."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def add(self, values: dict, iteration: int) -> None:
        """``values``: name -> number or 0-d tensor."""
        if f"train/{SHARE}" in values:
            self.points.append((iteration, float(values[f"train/{SHARE}"])))
