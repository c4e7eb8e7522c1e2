"""Binary cross entropy with its usual extras, and label smoothing for sigmoids and for a softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ..errors import InputError
from .arguments import (
    dense_class_targets,
    one_hot,
    require_labels,
    require_number,
    require_tensors,
    require_values_between,
)
from .numerics import at_least_float32, bounded
from .reduction import ReducedLoss, weight_reduce_loss
from .registry import register_loss
from .running_counts import Float32Buffers
from .weights import check_elementwise_weights, expand_anchor_weights, require_same_shape

PerClass = float | Sequence[float] | torch.Tensor | None


def smooth_binary_targets(targets: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Targets moved towards 0.5: ``t (1 - eps) + eps / 2``, so that 1 becomes 1 - eps / 2 and 0 becomes eps / 2.

    >>> smooth_binary_targets(torch.tensor([0.0, 1.0]), 0.1)
    tensor([0.0500, 0.9500])
    """
    require_number("smooth_binary_targets", "label_smoothing", label_smoothing, 0, 1)
    (targets,) = at_least_float32(targets)
    return targets * (1 - label_smoothing) + 0.5 * label_smoothing


def binary_cross_entropy(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    pos_weight: PerClass = None,
    label_smoothing: float = 0.0,
    reduction: str = "none",
) -> torch.Tensor:
    """Binary cross entropy of logits with a weight on the positive term and label smoothing. With p = sigmoid(x) and t
    after smoothing::

        loss = -pos_weight t log p - (1 - t) log(1 - p)

    Args:
        inputs: logits (..., C) or any shape. Half precision is computed, and returned, in float32.
        targets: same shape, values in [0, 1].
        pos_weight: number, or one per entry of the last axis (C,), >= 0; None for 1.
        label_smoothing: eps in [0, 1], see ``smooth_binary_targets``.
        reduction: 'none', 'mean' over all elements (0 for none), or 'sum'.
    Returns:
        Shape of ``inputs`` for 'none', else a scalar. Without smoothing these are the values of
        ``F.binary_cross_entropy_with_logits``.
    Raises:
        InputError: different shapes or devices, numbers out of range.

    >>> binary_cross_entropy(torch.zeros(2), torch.tensor([1.0, 0.0]), pos_weight=3.0)         # 3 log 2 and log 2
    tensor([2.0794, 0.6931])
    """
    name = "binary_cross_entropy"
    require_tensors(name, inputs=inputs, targets=targets)
    require_same_shape(name, inputs=inputs, targets=targets)
    logits, targets = at_least_float32(inputs, targets)
    logits, targets = bounded(logits), smooth_binary_targets(targets, label_smoothing)
    positive = -targets * F.logsigmoid(logits)
    if pos_weight is not None:
        positive = positive * _factor_per_class(name, "pos_weight", pos_weight, logits)
    return weight_reduce_loss(positive - (1 - targets) * F.logsigmoid(-logits), None, reduction, None, name)


def label_smoothing_cross_entropy(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    label_smoothing: float = 0.1,
    class_weight: PerClass = None,
    ignore_index: int = -100,
) -> torch.Tensor:
    """Softmax cross entropy with smoothed labels (Szegedy et al. 2016, arXiv:1512.00567, section 7), one value a row.
    With k the label::

        loss = -(1 - eps) w_k log s_k - (eps / C) sum over c of w_c log s_c            s = softmax(x)

    Args:
        inputs: (..., C) logits. Half precision is computed, and returned, in float32.
        targets: (...) integer labels in [0, C), or (..., C) class probabilities.
        label_smoothing: eps in [0, 1].
        class_weight: w, one per class, >= 0; None for 1.
        ignore_index: label of rows with loss 0.
    Returns:
        Loss (...); the values of ``F.cross_entropy(..., reduction="none")``.
    Raises:
        InputError: shapes, dtypes or devices that do not fit, eps outside [0, 1]; on the CPU also for labels outside
            [0, C).

    >>> label_smoothing_cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))           # log(1 + e^-2) + 0.1
    tensor([0.2269])
    """
    name = "label_smoothing_cross_entropy"
    require_tensors(name, inputs=inputs, targets=targets)
    require_number(name, "label_smoothing", label_smoothing, 0, 1)
    if inputs.dim() == 0 or inputs.shape[-1] == 0:
        raise InputError(
            f"{name}: inputs need the shape (..., C) with at least one class, but they are {tuple(inputs.shape)}."
        )
    num_classes = inputs.shape[-1]
    (logits,) = at_least_float32(inputs)
    log_scores = torch.log_softmax(bounded(logits), dim=-1)
    counted = None
    if targets.dim() == inputs.dim():
        require_same_shape(name, inputs=inputs, targets=targets)
        targets = targets.to(log_scores.dtype)
    else:
        require_labels(name, targets, inputs.shape[:-1], "targets")
        counted = targets != ignore_index
        labels = torch.where(counted, targets, 0)
        require_values_between(name, "targets", labels, 0, num_classes - 1, f" or ignore_index={ignore_index}")
        targets = one_hot(labels, num_classes, log_scores.dtype)
    terms = -(targets * (1 - label_smoothing) + label_smoothing / num_classes) * log_scores
    if class_weight is not None:
        terms = terms * _factor_per_class(name, "class_weight", class_weight, logits)
    loss = terms.sum(-1)
    return loss if counted is None else torch.where(counted, loss, loss.new_zeros(()))


def _factor_per_class(name: str, argument: str, value: PerClass, logits: torch.Tensor) -> torch.Tensor:
    value = torch.as_tensor(value, dtype=logits.dtype, device=logits.device)
    if (
        value.dim() > 1
        or (value.dim() == 1 and logits.dim() == 0)
        or (value.dim() == 1 and value.numel() not in (1, logits.shape[-1]))
    ):
        raise InputError(
            f"{name}: {argument} of shape {tuple(value.shape)} is not allowed: a number, or one for each entry of the "
            "last axis of "
            f"inputs {tuple(logits.shape)}."
        )
    return value


def _numbers(name: str, argument: str, value: PerClass) -> torch.Tensor | None:
    """A constructor's number or numbers as a tensor."""
    if value is None:
        return None
    value = torch.as_tensor(value, dtype=torch.float32).detach().clone()
    if value.dim() > 1 or not bool((value >= 0).all()):
        raise InputError(
            f"{name}: {argument}={value.tolist()} is not allowed: a number, or one per class, each at least 0."
        )
    return value


@register_loss("BinaryCrossEntropyLoss")
class BinaryCrossEntropyLoss(Float32Buffers, ReducedLoss):
    """``binary_cross_entropy`` with mmdetection's call; see ReducedLoss.

    >>> loss = BinaryCrossEntropyLoss(label_smoothing=0.1)
    >>> loss(torch.zeros(3, 2), torch.tensor([0, 1, 2]))                                       # 2 is background; log 2
    tensor(0.6931)
    """

    shown = ("label_smoothing",)

    def __init__(
        self,
        pos_weight: PerClass = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            pos_weight: factor of the positive term, a number or one per class; None for 1.
            label_smoothing: eps in [0, 1]: targets 1 and 0 become 1 - eps / 2 and eps / 2.
            reduction, loss_weight: see ReducedLoss.
        """
        super().__init__(reduction, loss_weight)
        require_number("BinaryCrossEntropyLoss", "label_smoothing", label_smoothing, 0, 1)
        self.register_buffer(
            "pos_weight", _numbers("BinaryCrossEntropyLoss", "pos_weight", pos_weight), persistent=False
        )
        self.label_smoothing = label_smoothing

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(..., C) logits; (...) integer labels, background outside [0, C), or (..., C) one-hot or soft -> (..., C)."""
        target = dense_class_targets(type(self).__name__, pred, target)
        return binary_cross_entropy(pred, target, self.pos_weight, self.label_smoothing)

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per row (N,), or one per element (N, C)."""
        return expand_anchor_weights(weight, loss.shape, type(self).__name__)


@register_loss("LabelSmoothingLoss")
class LabelSmoothingLoss(Float32Buffers, ReducedLoss):
    """``label_smoothing_cross_entropy`` (softmax) with mmdetection's call; see ReducedLoss.

    >>> LabelSmoothingLoss(label_smoothing=0.1)(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tensor(0.2269)
    """

    shown = ("label_smoothing", "ignore_index")

    def __init__(
        self,
        label_smoothing: float = 0.1,
        class_weight: PerClass = None,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        ignore_index: int = -100,
    ) -> None:
        """
        Args:
            label_smoothing: eps in [0, 1].
            class_weight: one per class, or None. Not part of the denominator of 'mean'.
            reduction, loss_weight: see ReducedLoss; 'mean' is over the rows that are not ignored.
            ignore_index: label of rows that do not count.
        """
        super().__init__(reduction, loss_weight)
        require_number("LabelSmoothingLoss", "label_smoothing", label_smoothing, 0, 1)
        self.label_smoothing = label_smoothing
        self.register_buffer(
            "class_weight", _numbers("LabelSmoothingLoss", "class_weight", class_weight), persistent=False
        )
        self.ignore_index = ignore_index

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(..., C) logits; (...) labels in [0, C), or (..., C) class probabilities -> (...)."""
        return label_smoothing_cross_entropy(pred, target, self.label_smoothing, self.class_weight, self.ignore_index)

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per row (N,)."""
        return check_elementwise_weights(weight, loss.shape, type(self).__name__)

    def num_averaged(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
        """The number of labels that are not ignored, at least 1; None for class probabilities."""
        if target.dim() == pred.dim():
            return None
        return (target != self.ignore_index).sum().clamp(min=1)
