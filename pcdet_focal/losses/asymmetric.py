"""Asymmetric loss: focal loss with its own exponent for positives and for negatives, and very easy negatives left
out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
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
from .numerics import at_least_float32, bounded, power
from .reduction import ReducedLoss, choose_reduction, weight_reduce_loss
from .registry import register_loss
from .running_counts import Float32Buffers
from .weights import expand_anchor_weights, require_same_shape


def asymmetric_loss(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float | None = 0.05,
    eps: float = 1e-8,
    detach_factor: bool = False,
) -> torch.Tensor:
    """Asymmetric loss for independent classes (Ridnik et al. 2021, arXiv:2009.14119), elementwise. With p =
    sigmoid(x)::

        n          = min(1 - p + clip, 1)                     probability of "not this class", shifted
        p_t        = t p + (1 - t) n
        gamma_t    = t gamma_pos + (1 - t) gamma_neg
        loss       = (1 - p_t)^gamma_t (-t log max(p, eps) - (1 - t) log max(n, eps))

    A negative with p <= clip costs nothing. Without clip and with equal gammas it is sigmoid focal loss without alpha.
    1 - p is computed as sigmoid(-x): confident wrong negatives keep their value where a float32 ``1 - sigmoid(x)`` is
    0.

    Args:
        inputs: logits, any shape. Half precision is computed, and returned, in float32.
        targets: same shape, values in [0, 1].
        gamma_neg, gamma_pos: focusing exponents >= 0.
        clip: shift of the negatives in [0, 1); None is 0.
        eps: probabilities below it count as it, with gradient 0 (confidently missed positives learn nothing); 0
            switches that off.
        detach_factor: no gradient through ``(1 - p_t)^gamma_t``.
    Returns:
        Loss of the same shape.
    Raises:
        InputError: different shapes or devices, numbers out of range.

    >>> # 0.5 log 2, 0.45^4 log(1 / 0.55), 0
    >>> asymmetric_loss(torch.tensor([0.0, 0.0, -3.0]), torch.tensor([1.0, 0.0, 0.0]))
    tensor([0.3466, 0.0245, 0.0000])
    """
    name = "asymmetric_loss"
    require_tensors(name, inputs=inputs, targets=targets)
    require_same_shape(name, inputs=inputs, targets=targets)
    _require_numbers(name, gamma_neg, gamma_pos, clip, eps)
    logits, targets = at_least_float32(inputs, targets)
    logits = bounded(logits)
    log_positive = _floor(F.logsigmoid(logits), eps)
    if clip:
        log_negative = _floor((torch.sigmoid(-logits) + clip).clamp(max=1).log(), eps)
        miss_of_negative = (torch.sigmoid(logits) - clip).clamp(min=0)  # 1 - n
    else:
        log_negative = _floor(F.logsigmoid(-logits), eps)
        miss_of_negative = torch.sigmoid(logits)
    loss = targets * -log_positive + (1 - targets) * -log_negative
    if gamma_neg == 0 and gamma_pos == 0:
        return loss
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_factor):
        one_minus_pt = targets * torch.sigmoid(-logits) + (1 - targets) * miss_of_negative
        factor = _power(one_minus_pt, targets * gamma_pos + (1 - targets) * gamma_neg, min(gamma_neg, gamma_pos))
    return factor * loss


def asymmetric_loss_single_label(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    label_smoothing: float = 0.1,
) -> torch.Tensor:
    """Asymmetric loss on one softmax over the classes, one value a row. With s = softmax(x) and k the label::

        w_k  = (1 - s_k)^gamma_pos,        w_c = s_c^gamma_neg  for the other classes
        loss = - sum over c of y_c w_c log s_c,       y = one-hot (1 - label_smoothing) + label_smoothing / C

    Source: the code of arXiv:2009.14119 (its smoothing comes after the factors).

    Args:
        inputs: (..., C) logits. Half precision is computed, and returned, in float32.
        targets: (...) integer labels in [0, C).
        gamma_pos, gamma_neg: focusing exponents >= 0.
        label_smoothing: from 0 to below 1.
    Returns:
        Loss (...).
    Raises:
        InputError: shapes, dtypes or devices that do not fit, numbers out of range; on the CPU also for labels outside
            [0, C).

    >>> asymmetric_loss_single_label(torch.zeros(1, 2), torch.tensor([0]), label_smoothing=0.0)             # 0.5 log 2
    tensor([0.3466])
    """
    name = "asymmetric_loss_single_label"
    require_tensors(name, inputs=inputs, targets=targets)
    require_labels(name, targets, inputs.shape[:-1], "targets")
    require_values_between(name, "targets", targets, 0, inputs.shape[-1] - 1)
    _require_numbers(name, gamma_neg, gamma_pos, None, 0)
    require_number(name, "label_smoothing", label_smoothing, 0, 1)
    (logits,) = at_least_float32(inputs)
    log_scores = torch.log_softmax(bounded(logits), dim=-1)
    is_own = one_hot(targets, logits.shape[-1], torch.bool)
    own_factor, other_factor = power(-torch.expm1(log_scores), gamma_pos), power(log_scores.exp(), gamma_neg)
    smooth = torch.where(is_own, 1 - label_smoothing, 0.0) + label_smoothing / logits.shape[-1]
    return -(smooth.to(log_scores.dtype) * torch.where(is_own, own_factor, other_factor) * log_scores).sum(-1)


def _floor(log_probability: torch.Tensor, eps: float) -> torch.Tensor:
    """log max(probability, eps)."""
    return log_probability.clamp(min=math.log(eps)) if eps > 0 else log_probability


def _power(base: torch.Tensor, exponent: torch.Tensor, smallest: float) -> torch.Tensor:
    """``base ** exponent``, an exponent an element, with finite gradients at a base of 0 (``numerics.power``)."""
    if smallest < 1:
        base = base.clamp(min=torch.finfo(base.dtype).tiny)
    return base.pow(exponent)


def _require_numbers(name: str, gamma_neg: float, gamma_pos: float, clip: float | None, eps: float) -> None:
    require_number(name, "gamma_neg", gamma_neg)
    require_number(name, "gamma_pos", gamma_pos)
    require_number(name, "eps", eps, 0, 1)
    if clip is not None:
        require_number(name, "clip", clip, 0, 1)


def _per_class(name: str, argument: str, value: float | Sequence[float] | torch.Tensor | None) -> torch.Tensor | None:
    if value is None:
        return None
    value = torch.as_tensor(value, dtype=torch.float32).detach().clone()
    if value.dim() > 1:
        raise InputError(
            f"{name}: {argument} of shape {tuple(value.shape)} is not allowed: a number, or one per class."
        )
    return value


@register_loss("AsymmetricLoss")
class AsymmetricLoss(ReducedLoss):
    """``asymmetric_loss`` with mmdetection's call; see ReducedLoss.

    >>> pred, target = torch.zeros(2, 2), torch.tensor([0, 2])                                 # (N, C); 2 is background
    >>> # 0.5 log 2 + 3 * 0.45^4 log(1 / 0.55)
    >>> round(AsymmetricLoss()(pred, target, avg_factor=1).item(), 4)
    0.4201
    """

    shown = ("gamma_pos", "gamma_neg", "clip", "eps", "detach_factor")

    def __init__(
        self,
        gamma_pos: float = 1.0,
        gamma_neg: float = 4.0,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        detach_factor: bool = False,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            gamma_pos, gamma_neg, clip, eps, detach_factor: see ``asymmetric_loss``.
            reduction, loss_weight: see ReducedLoss.
        """
        super().__init__(reduction, loss_weight)
        _require_numbers("AsymmetricLoss", gamma_neg, gamma_pos, clip, eps)
        self.gamma_pos = gamma_pos
        self.gamma_neg = gamma_neg
        self.clip = clip
        self.eps = eps
        self.detach_factor = detach_factor

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(..., C) logits; (...) integer labels, background outside [0, C), or (..., C) one-hot or soft -> (..., C)."""
        target = dense_class_targets(type(self).__name__, pred, target)
        return asymmetric_loss(pred, target, self.gamma_neg, self.gamma_pos, self.clip, self.eps, self.detach_factor)

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per row (N,), or one per element (N, C)."""
        return expand_anchor_weights(weight, loss.shape, type(self).__name__)


class AsymmetricLossMultiLabel(Float32Buffers):
    """``asymmetric_loss`` with timm's arguments and call, ``loss(x, y)``.

    >>> AsymmetricLossMultiLabel()(torch.zeros(2, 1), torch.ones(2, 1))                        # 0.5 log 2 a row
    tensor(0.3466)
    """

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 1,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        disable_torch_grad_focal_loss: bool = False,
        smoothing: float = 0.0,
        weight: torch.Tensor | Sequence[float] | None = None,
        pos_weight: torch.Tensor | float | None = None,
        reduction: str = "batchmean",
    ) -> None:
        """
        Args:
            gamma_neg, gamma_pos, clip, eps: as ``asymmetric_loss``.
            disable_torch_grad_focal_loss: no gradient through the focal factor.
            smoothing: moves targets towards 0.5: t (1 - smoothing) + smoothing / 2.
            weight: (C,) factor of each class.
            pos_weight: number or (C,), factor of the positive term.
            reduction: 'batchmean' (sum / N), 'mean', 'sum' or 'none'.
        """
        super().__init__()
        name = "AsymmetricLossMultiLabel"
        _require_numbers(name, gamma_neg, gamma_pos, clip, eps)
        require_number(name, "smoothing", smoothing, 0, 1)
        if reduction not in ("batchmean", "mean", "sum", "none"):
            raise InputError(f"{name}: reduction={reduction!r} is not allowed: 'batchmean', 'mean', 'sum' or 'none'.")
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip
        self.eps = eps
        self.disable_torch_grad_focal_loss = disable_torch_grad_focal_loss
        self.smoothing = smoothing
        self.reduction = reduction
        self.register_buffer("weight", _per_class(name, "weight", weight))
        self.register_buffer("pos_weight", _per_class(name, "pos_weight", pos_weight))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(N, C) logits and targets in [0, 1] -> scalar, or (N, C) for 'none'. InputError for shapes or devices that do
        not fit.
        """
        name = "AsymmetricLossMultiLabel"
        require_tensors(name, x=x, y=y)
        require_same_shape(name, x=x, y=y)
        (y,) = at_least_float32(y)
        y = y * (1 - self.smoothing) + 0.5 * self.smoothing
        loss = asymmetric_loss(
            x, y, self.gamma_neg, self.gamma_pos, self.clip, self.eps, self.disable_torch_grad_focal_loss
        )
        for argument, value in (("pos_weight", self.pos_weight), ("weight", self.weight)):
            if value is None:
                continue
            if value.numel() not in (1, x.shape[-1]):
                raise InputError(f"{name}: {argument} has {value.numel()} values, but x has {x.shape[-1]} classes.")
            loss = loss * (value if argument == "weight" else y * value + (1 - y))
        if self.reduction == "batchmean":
            return loss.sum() / max(x.shape[0], 1)
        return weight_reduce_loss(loss, None, self.reduction, None, name)


class AsymmetricLossSingleLabel(nn.Module):
    """``asymmetric_loss_single_label`` with timm's arguments and call, ``loss(inputs, target)``; 'sum' sums (timm
    returns the rows).

    >>> AsymmetricLossSingleLabel(eps=0.0)(torch.zeros(3, 2), torch.tensor([0, 1, 1]))         # 0.5 log 2
    tensor(0.3466)
    """

    def __init__(self, gamma_pos: float = 1, gamma_neg: float = 4, eps: float = 0.1, reduction: str = "mean") -> None:
        """
        Args:
            gamma_pos, gamma_neg: focusing exponents >= 0.
            eps: label smoothing, from 0 to 1.
            reduction: 'mean', 'sum' or 'none'.
        """
        super().__init__()
        _require_numbers("AsymmetricLossSingleLabel", gamma_neg, gamma_pos, None, eps)
        self.gamma_pos = gamma_pos
        self.gamma_neg = gamma_neg
        self.eps = eps
        self.reduction = choose_reduction(reduction, None, "AsymmetricLossSingleLabel")

    def forward(self, inputs: torch.Tensor, target: torch.Tensor, reduction: str | None = None) -> torch.Tensor:
        """(N, C) logits, (N,) labels -> scalar, or (N,) for 'none'; ``reduction`` replaces the module's for this
        call.
        """
        reduction = choose_reduction(self.reduction, reduction, "AsymmetricLossSingleLabel")
        loss = asymmetric_loss_single_label(inputs, target, self.gamma_pos, self.gamma_neg, self.eps)
        return weight_reduce_loss(loss, None, reduction, None, "AsymmetricLossSingleLabel")
