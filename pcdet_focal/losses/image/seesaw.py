"""2-D detection, for no head of this package: seesaw loss.

Softmax cross entropy with less gradient from samples of frequent classes to rare classes.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ...errors import InputError
from ..arguments import require_count, require_labels, require_number, require_tensors, require_values_between
from ..numerics import at_least_float32, bounded, finite_log
from ..reduction import ReducedLoss, choose_reduction
from ..registry import register_loss
from ..running_counts import Float32Buffers, store, sum_over_ranks
from ..weights import check_elementwise_weights


def seesaw_loss(
    pred: torch.Tensor,
    labels: torch.Tensor,
    cum_samples: torch.Tensor,
    p: float = 0.8,
    q: float = 2.0,
    eps: float = 1e-2,
) -> torch.Tensor:
    """Seesaw loss (Wang et al. 2021, arXiv:2008.10032), one value a row. For a row of class i, with s = softmax(x)::

        M_ij = min(1, n_j / n_i)^p                  mitigation: class j is rarer than i by the counts so far
        C_ij = max(1, s_j / max(s_i, eps))^q        compensation (detached): j is scored higher than i
        loss = -log( e^x_i / (e^x_i + sum over j != i of M_ij C_ij e^x_j) )

    Args:
        pred: (N, C) logits of the classes. Half precision is computed, and returned, in float32.
        labels: (N,) integers in [0, C).
        cum_samples: (C,) number of samples of each class so far; at least 1 each is assumed.
        p, q: exponents >= 0; 0 switches that factor off.
        eps: smallest own score that the compensation divides by, > 0.
    Returns:
        Loss (N,).
    Raises:
        InputError: shapes, dtypes or devices that do not fit, negative exponents; on the CPU also for labels outside
            [0, C).

    >>> pred, labels = torch.zeros(1, 2), torch.tensor([0])
    >>> seesaw_loss(pred, labels, torch.tensor([3.0, 1.0]), p=1.0)                             # -log(1 / (1 + 1 / 3))
    tensor([0.2877])
    """
    name = "seesaw_loss"
    require_tensors(name, pred=pred, labels=labels, cum_samples=cum_samples)
    if pred.dim() != 2 or tuple(cum_samples.shape) != (pred.shape[-1],):
        raise InputError(
            f"{name}: pred (N, C) and cum_samples (C,) are needed, but pred is {tuple(pred.shape)} and cum_samples "
            f"{tuple(cum_samples.shape)}."
        )
    require_labels(name, labels, pred.shape[:1], "labels")
    require_values_between(name, "labels", labels, 0, pred.shape[-1] - 1)
    for argument, value in (("p", p), ("q", q)):
        require_number(name, argument, value)
    require_number(name, "eps", eps, low_allowed=False)
    (pred,) = at_least_float32(pred)
    pred, labels = bounded(pred), labels.long()
    own_class = labels.unsqueeze(-1)
    log_factor = pred.new_zeros(())
    if p > 0:
        counts = cum_samples.detach().to(pred.dtype).clamp(min=1)
        log_factor = log_factor + p * (counts / counts[own_class]).clamp(max=1).log()  # (N, C)
    if q > 0:
        log_scores = torch.log_softmax(pred.detach(), dim=-1)
        own_score = log_scores.gather(-1, own_class).exp().clamp(min=eps)
        log_factor = log_factor + q * finite_log(log_scores.exp() / own_score).clamp(min=0)
    others = torch.arange(pred.shape[-1], device=pred.device) != own_class
    return F.cross_entropy(pred + log_factor * others, labels, reduction="none")


@register_loss("SeesawLoss")
class SeesawLoss(Float32Buffers, ReducedLoss):
    """Seesaw loss with mmdetection's arguments, call and buffer; ``seesaw_loss`` on the positives plus a two-way
    softmax for objectness.

    The logits are (N, C + 2): the classes, then object and background. ``cum_samples`` (C + 1, the last is background)
    counts every sample, also those with weight 0, before the loss, in training mode, over all ranks.

    >>> loss = SeesawLoss(num_classes=3, return_dict=False)
    >>> cls_score, labels = torch.zeros(4, 5), torch.tensor([0, 0, 2, 3])                      # 3 is background
    >>> round(loss(cls_score, labels).item(), 4)
    1.5693
    >>> loss.cum_samples
    tensor([2., 0., 1., 1.])
    """

    shown = ("p", "q", "num_classes", "eps", "return_dict")

    cum_samples: torch.Tensor

    def __init__(
        self,
        use_sigmoid: bool = False,
        p: float = 0.8,
        q: float = 2.0,
        num_classes: int = 1203,
        eps: float = 1e-2,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        return_dict: bool = True,
    ) -> None:
        """
        Args:
            use_sigmoid: False; the loss is a softmax.
            p: exponent of the mitigation factor; q: of the compensation factor; both >= 0.
            num_classes: number of foreground classes, C.
            eps: smallest own score in the compensation factor, > 0.
            reduction: 'none', 'mean' or 'sum'.
            loss_weight: factor of the results.
            return_dict: return both parts by name instead of their sum.
        """
        super().__init__(reduction, loss_weight)
        if use_sigmoid:
            raise InputError(
                "SeesawLoss: use_sigmoid=True is not allowed: this loss is a softmax; use_sigmoid=False is."
            )
        require_count("SeesawLoss", "num_classes", num_classes)
        for argument, value in (("p", p), ("q", q)):
            require_number("SeesawLoss", argument, value)
        require_number("SeesawLoss", "eps", eps, low_allowed=False)
        self.use_sigmoid = use_sigmoid
        self.p = p
        self.q = q
        self.num_classes = num_classes
        self.eps = eps
        self.return_dict = return_dict
        self.register_buffer("cum_samples", torch.zeros(num_classes + 1))

    def get_cls_channels(self, num_classes: int) -> int:
        """Number of logits that a head needs: the classes, object and background."""
        return num_classes + 2

    def get_activation(self, cls_score: torch.Tensor) -> torch.Tensor:
        """(..., C + 2) logits -> (..., C + 1) scores: class score times objectness, and the background's score last."""
        scores, objectness = (
            torch.softmax(part, dim=-1) for part in at_least_float32(cls_score[..., :-2], cls_score[..., -2:])
        )
        return torch.cat([scores * objectness[..., :1], objectness[..., 1:]], dim=-1)

    def forward(  # type: ignore[override]  # two losses, each by its name
        self,
        cls_score: torch.Tensor,
        labels: torch.Tensor,
        label_weights: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """
        Args:
            cls_score: (N, C + 2) logits.
            labels: (N,) integers in [0, C]; C is background.
            label_weights: (N,); None for 1.
            avg_factor: what 'mean' divides both parts by; None for the number of positives (classes) and of rows
                (objectness).
            reduction_override: replaces ``reduction`` for this call.
        Returns:
            ``{"loss_cls_objectness": ..., "loss_cls_classes": ...}``, scalars, or (N,) and (number of positives,) for
            'none'; or, with ``return_dict=False``, the sum of both. Without positives (without rows) that part is 0.
        Raises:
            InputError: shapes, dtypes or devices that do not fit, 'sum' with avg_factor, 'none' with
                ``return_dict=False`` (two lengths cannot be added); on the CPU also for labels outside [0, C].
        """
        name = "SeesawLoss"
        reduction = choose_reduction(self.reduction, reduction_override, name)
        require_tensors(
            name, cls_score=cls_score, labels=labels, label_weights=label_weights, cum_samples=self.cum_samples
        )
        if cls_score.dim() != 2 or cls_score.shape[-1] != self.num_classes + 2:
            raise InputError(
                f"{name}: cls_score needs the shape (N, {self.num_classes + 2}), num_classes and two for objectness, "
                "but it is "
                f"{tuple(cls_score.shape)}."
            )
        require_labels(name, labels, cls_score.shape[:1], "labels")
        require_values_between(name, "labels", labels, 0, self.num_classes, " (the last is background)")
        if label_weights is not None:
            label_weights = check_elementwise_weights(label_weights, labels.shape, name)
        if reduction == "none" and not self.return_dict:
            raise InputError(f"{name}: reduction 'none' needs return_dict=True: the two parts have different lengths.")
        self._count(labels)
        background = labels == self.num_classes
        objectness_loss = F.cross_entropy(
            at_least_float32(bounded(cls_score[:, -2:]))[0], background.long(), reduction="none"
        )
        classes_loss = seesaw_loss(
            cls_score[:, :-2], torch.where(background, 0, labels), self.cum_samples[:-1], self.p, self.q, self.eps
        )
        if reduction == "none":
            positive = (~background).nonzero().squeeze(-1)
            weight = None if label_weights is None else label_weights[positive]
            classes = self.reduced(classes_loss[positive], weight, avg_factor, reduction)
        else:  # all rows: a shape that does not depend on the labels
            weight = (~background).to(classes_loss.dtype) if label_weights is None else label_weights * ~background
            num_positives = (~background).sum().clamp(min=1)
            classes = self.reduced(classes_loss, weight, avg_factor, reduction, num_positives)
        objectness = self.reduced(objectness_loss, label_weights, avg_factor, reduction)
        if self.return_dict:
            return {"loss_cls_objectness": objectness, "loss_cls_classes": classes}
        return objectness + classes

    def _count(self, labels: torch.Tensor) -> None:
        """Add this batch's labels of all ranks to the running counts."""
        if self.training:
            counts = (labels.unsqueeze(-1) == torch.arange(self.num_classes + 1, device=labels.device)).sum(0)
            store(self, "cum_samples", self.cum_samples + sum_over_ranks(counts.to(self.cum_samples.dtype)))
