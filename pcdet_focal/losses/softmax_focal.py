"""Softmax focal loss: focal loss for classes that exclude each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import InputError
from .arguments import require_labels, require_number, require_tensors, require_values_between
from .numerics import at_least_float32, bounded, power
from .reduction import ReducedLoss, weight_reduce_loss
from .registry import register_loss
from .running_counts import Float32Buffers
from .weights import check_elementwise_weights

PerClass = float | Sequence[float] | torch.Tensor | None


def softmax_focal_loss(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    alpha: PerClass = None,
    gamma: float = 2.0,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> torch.Tensor:
    """Focal loss on one softmax (arXiv:1708.02002, equation 5, with softmax in place of the sigmoid). With p =
    softmax(x) and k the label::

        loss = -alpha_k (1 - p_k)^gamma log p_k

    log p_k comes from log_softmax and 1 - p_k is -expm1(log p_k): finite, with finite gradients, for logits of +-1e4
    and for p_k of 0 or 1.
    gamma 0 without alpha is ``torch.nn.functional.cross_entropy`` exactly, with ignore_index too.

    Args:
        inputs: logits (N, C), or (N, C, d1, ...) with the classes on axis 1, as in torch. Half precision is computed,
            and returned, in float32.
        targets: integer labels (N, d1, ...) in [0, C), or one-hot or soft targets t of the shape of ``inputs``, for
            which the loss is ``-sum over c of alpha_c t_c (1 - p_c)^gamma log p_c``.
        alpha: weight per class (C values), one number for all, or None. It is not part of the denominator of 'mean'.
        gamma: focusing exponent >= 0.
        reduction: 'none', 'mean' over the rows that are not ignored (0 where all are), or 'sum'.
        ignore_index: label of rows with loss 0 and gradient 0; may be a class.
    Returns:
        (N, d1, ...) for 'none', else a scalar.
    Raises:
        InputError: shapes, dtypes or devices that do not fit, negative gamma or alpha, unknown reduction; on the CPU
            also for a label outside [0, C) that is not ignore_index.

    >>> logits, labels = torch.zeros(2, 4), torch.tensor([0, 3])
    >>> # 0.75^2 log 4, and twice that
    >>> softmax_focal_loss(logits, labels, alpha=[1.0, 1.0, 1.0, 2.0], reduction="none")
    tensor([0.7798, 1.5596])
    """
    loss, counted = _terms("softmax_focal_loss", inputs, targets, alpha, gamma, ignore_index)
    return weight_reduce_loss(loss, None, reduction, None, "softmax_focal_loss", counted.sum().clamp(min=1))


def _terms(name, inputs, targets, alpha, gamma, ignore_index) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of every row, and which rows are not ignored."""
    require_tensors(name, inputs=inputs, targets=targets)
    require_number(name, "gamma", gamma)
    if inputs.dim() < 2:
        raise InputError(
            f"{name}: inputs need the shape (N, C) or (N, C, ...), classes on axis 1, but they are "
            f"{tuple(inputs.shape)}."
        )
    num_classes = inputs.shape[1]
    alpha = _alpha_per_class(name, alpha, num_classes, inputs)
    (logits,) = at_least_float32(inputs)
    log_scores = torch.log_softmax(bounded(logits), dim=1)
    if targets.dim() == inputs.dim():
        if targets.shape != inputs.shape:
            raise InputError(
                f"{name}: targets need the shape {tuple(inputs.shape)} (one-hot or soft) or integer labels without "
                "axis 1, but they are "
                f"{tuple(targets.shape)}."
            )
        loss = -targets.to(log_scores.dtype) * _focal(log_scores, gamma)
        if alpha is not None:
            loss = loss * alpha.reshape(-1, *[1] * (inputs.dim() - 2))
        loss = loss.sum(1)
        return loss, torch.ones_like(loss, dtype=torch.bool)
    require_labels(name, targets, inputs.shape[:1] + inputs.shape[2:], "targets")
    counted = targets != ignore_index
    labels = torch.where(counted, targets, 0).long()
    if num_classes > 0:
        require_values_between(name, "targets", labels, 0, num_classes - 1, f" or ignore_index={ignore_index}")
    log_own = log_scores.gather(1, labels.unsqueeze(1)).squeeze(1)
    loss = -_focal(log_own, gamma)
    if alpha is not None:
        loss = loss * alpha[labels]
    return torch.where(counted, loss, loss.new_zeros(())), counted


def _focal(log_scores: torch.Tensor, gamma: float) -> torch.Tensor:
    """(1 - p)^gamma log p."""
    return log_scores if gamma == 0 else power(-torch.expm1(log_scores), gamma) * log_scores


def _alpha_per_class(name: str, alpha: PerClass, num_classes: int, inputs: torch.Tensor) -> torch.Tensor | None:
    if alpha is None:
        return None
    alpha = torch.as_tensor(alpha, dtype=torch.promote_types(inputs.dtype, torch.float32), device=inputs.device)
    if alpha.dim() > 1 or alpha.numel() not in (1, num_classes):
        raise InputError(
            f"{name}: alpha of shape {tuple(alpha.shape)} is not allowed: one number, or one for each of the "
            f"{num_classes} classes."
        )
    return alpha.expand(num_classes)


@register_loss("SoftmaxFocalLoss")
class SoftmaxFocalLoss(Float32Buffers, ReducedLoss):
    """``softmax_focal_loss`` with mmdetection's call; see ReducedLoss.

    >>> loss = SoftmaxFocalLoss(gamma=2.0, alpha=[0.25, 0.75, 0.75])
    >>> # (0.25 + 0.75 + 0.75) / 3 * (2 / 3)^2 log 3
    >>> round(loss(torch.zeros(4, 3), torch.tensor([0, 1, 2, -100])).item(), 4)
    0.2848
    """

    shown = ("gamma", "alpha", "ignore_index")

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: PerClass = None,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        ignore_index: int = -100,
        size_average: bool | None = None,
    ) -> None:
        """
        Args:
            gamma: focusing exponent >= 0; 0 is cross entropy.
            alpha: weight per class (C values), one number, or None.
            reduction, loss_weight: see ReducedLoss; 'mean' is over the rows that are not ignored.
            ignore_index: label of rows that do not count.
            size_average: the old way to say 'mean' (True) or 'sum' (False); replaces ``reduction``.
        """
        if size_average is not None:
            reduction = "mean" if size_average else "sum"
        super().__init__(reduction, loss_weight)
        require_number("SoftmaxFocalLoss", "gamma", gamma)
        if alpha is not None:
            alpha = torch.as_tensor(alpha, dtype=torch.float32).detach().clone()
            if alpha.dim() > 1 or not bool((alpha >= 0).all()):
                raise InputError(
                    f"SoftmaxFocalLoss: alpha={alpha.tolist()} is not allowed: a number, or one per class, each at "
                    "least 0."
                )
        self.gamma = gamma
        self.register_buffer("alpha", alpha, persistent=False)
        self.ignore_index = ignore_index

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) logits; (N, ...) labels in [0, C), or (N, C, ...) one-hot or soft targets -> (N, ...)."""
        return _terms(type(self).__name__, pred, target, self.alpha, self.gamma, self.ignore_index)[0]

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per row, (N, ...)."""
        return check_elementwise_weights(weight, loss.shape, type(self).__name__)

    def num_averaged(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
        """The number of labels that are not ignored, at least 1; None for one-hot or soft targets."""
        if target.dim() == pred.dim():
            return None
        return (target != self.ignore_index).sum().clamp(min=1)
