"""Equalized focal loss for long-tailed classes: a class is weighted by its accumulated gradients."""

from __future__ import annotations

import torch

from ..errors import InputError
from .arguments import (
    dense_class_targets,
    require_count,
    require_number,
    require_tensors,
)
from .cross_entropy import binary_cross_entropy_with_logits
from .numerics import at_least_float32
from .reduction import ReducedLoss
from .registry import register_loss
from .running_counts import Float32Buffers, store, sum_over_ranks
from .weights import expand_anchor_weights, require_same_shape


def equalized_focal_loss(
    pred: torch.Tensor,
    target: torch.Tensor,
    gradient_ratio: torch.Tensor,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    scale: float = 8.0,
) -> torch.Tensor:
    """Equalized focal loss (Li et al., CVPR 2022, arXiv:2201.02593), elementwise. With p = sigmoid(x), p_t as in focal
    loss and the ratio g_c of positive to negative gradients of class c so far, held in [0, 1]::

        gamma_c = gamma + scale (1 - g_c)                     rare classes are focused harder ...
        loss    = alpha_t (gamma_c / gamma) (1 - p_t)^gamma_c (-log p_t)       ... and weigh more

    With g_c = 1 for every class it is sigmoid focal loss.

    Args:
        pred: (..., C) logits. Half precision is computed, and returned, in float32.
        target: same shape, one-hot or values in [0, 1].
        gradient_ratio: (C,).
        alpha: weight of positives in [0, 1], negatives get 1 - alpha; None or -1 for no weighting.
        gamma: focusing exponent of a balanced class, > 0.
        scale: how much a class without positives adds to gamma, >= 0.
    Returns:
        Loss of the same shape.
    Raises:
        InputError: shapes or devices that do not fit, gamma not above 0, negative scale, alpha outside [0, 1].

    >>> # 0.5^2 log 2 and 5 * 0.5^10 log 2
    >>> equalized_focal_loss(torch.zeros(1, 2), torch.eye(2)[:1], torch.tensor([1.0, 0.0]), alpha=None)
    tensor([[0.1733, 0.0034]])
    """
    name = "equalized_focal_loss"
    require_tensors(name, pred=pred, target=target, gradient_ratio=gradient_ratio)
    require_same_shape(name, pred=pred, target=target)
    if pred.dim() == 0 or tuple(gradient_ratio.shape) != tuple(pred.shape[-1:]):
        raise InputError(
            f"{name}: gradient_ratio needs one value per class, {tuple(pred.shape[-1:])}, but its shape is "
            f"{tuple(gradient_ratio.shape)}."
        )
    _require_focal(name, alpha, gamma, scale)
    pred, target = at_least_float32(pred, target)
    factor, _ = _equalized_factor(pred, target, gradient_ratio, alpha, gamma, scale)
    return factor * binary_cross_entropy_with_logits(pred, target)


def _equalized_factor(pred, target, gradient_ratio, alpha, gamma, scale) -> tuple[torch.Tensor, torch.Tensor]:
    """What cross entropy is multiplied by, and gamma_c (C,)."""
    class_gamma = gamma + scale * (1 - gradient_ratio.detach().to(pred.dtype).clamp(0, 1))
    one_minus_pt = target * torch.sigmoid(-pred) + (1 - target) * torch.sigmoid(pred)
    # numerics.power, for an exponent per class
    lowest = torch.finfo(pred.dtype).tiny if gamma < 1 else 0
    factor = class_gamma / gamma * one_minus_pt.clamp(min=lowest).pow(class_gamma)
    if alpha is not None and alpha != -1:
        factor = factor * (target * alpha + (1 - target) * (1 - alpha))
    return factor, class_gamma


def _require_focal(name: str, alpha: float | None, gamma: float, scale: float) -> None:
    require_number(name, "gamma", gamma, low_allowed=False)
    require_number(name, "scale", scale)
    if alpha is not None and alpha != -1:
        require_number(name, "alpha", alpha, 0, 1)


class GradientRatio(Float32Buffers, ReducedLoss):
    """Base of the equalization losses: accumulated positive and negative gradients of each class, and their ratio."""

    pos_grad: torch.Tensor
    neg_grad: torch.Tensor
    pos_neg: torch.Tensor

    def __init__(self, num_classes: int, initial_ratio: float, reduction: str, loss_weight: float) -> None:
        super().__init__(reduction, loss_weight)
        require_count(type(self).__name__, "num_classes", num_classes)
        self.num_classes = num_classes
        self.register_buffer("pos_grad", torch.zeros(num_classes))
        self.register_buffer("neg_grad", torch.zeros(num_classes))
        self.register_buffer("pos_neg", torch.full((num_classes,), float(initial_ratio)))

    @torch.no_grad()
    def _collect(self, gradient: torch.Tensor, target: torch.Tensor) -> None:
        """Add the sums over rows of |gradient| (..., C) of positives and of negatives, of all ranks; the ratio
        follows.
        """
        gradient, target = gradient.flatten(0, -2), target.flatten(0, -2)
        sums = torch.stack([(gradient * target).sum(0), (gradient * (1 - target)).sum(0)]).to(self.pos_grad.dtype)
        positive, negative = sum_over_ranks(sums)
        store(self, "pos_grad", self.pos_grad + positive)
        store(self, "neg_grad", self.neg_grad + negative)
        store(self, "pos_neg", self.pos_grad / (self.neg_grad + 1e-10))


@register_loss("EqualizedFocalLoss")
class EqualizedFocalLoss(GradientRatio):
    """``equalized_focal_loss`` with the gradient ratios of its own running sums, called like mmdetection's losses.

    ``pos_grad`` and ``neg_grad`` take |dL/dx| of the weighted elementwise loss, before any division by avg_factor, of
    every step in training mode, over all ranks, after the loss. A class counts as balanced until it has had a gradient,
    so that the first step is sigmoid focal loss.

    >>> loss = EqualizedFocalLoss(num_classes=2, alpha=None, reduction="none")
    >>> pred, target = torch.zeros(2, 2), torch.tensor([0, 2])                                 # (N, C); 2 is background
    >>> loss(pred, target)                                                                     # all 0.5^2 log 2
    tensor([[0.1733, 0.1733],
            [0.1733, 0.1733]])
    >>> loss.pos_neg
    tensor([1., 0.])
    >>> # a class without positives: 5 * 0.5^10 log 2
    >>> loss(pred, target)[:, 1]
    tensor([0.0034, 0.0034])
    """

    shown = ("num_classes", "alpha", "gamma", "scale")

    def __init__(
        self,
        num_classes: int,
        alpha: float | None = 0.25,
        gamma: float = 2.0,
        scale: float = 8.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            num_classes: number of foreground classes, C; there is no background logit.
            alpha: weight of positives in [0, 1]; None or -1 for no weighting.
            gamma: focusing exponent of a balanced class, > 0.
            scale: how much a class without positives adds to gamma, >= 0 (the paper: 8).
            reduction, loss_weight: see ReducedLoss.
        """
        super().__init__(num_classes, 1.0, reduction, loss_weight)
        _require_focal("EqualizedFocalLoss", alpha, gamma, scale)
        self.alpha = alpha
        self.gamma = gamma
        self.scale = scale

    def forward(
        self,
        pred: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
    ) -> torch.Tensor:
        """As ReducedLoss's; in training mode the gradient sums are updated after the loss."""
        loss = super().forward(pred, target, weight, avg_factor, reduction_override)
        if self.training:
            self._update(pred.detach(), target, weight)
        return loss

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(..., C) logits; (...) integer labels, background outside [0, C), or (..., C) one-hot -> (..., C)."""
        name = type(self).__name__
        require_tensors(name, pred=pred, target=target, pos_neg=self.pos_neg)
        if pred.dim() < 2 or pred.shape[-1] != self.num_classes:
            raise InputError(
                f"{name}: pred needs the shape (N, {self.num_classes}), one logit per class, but it is "
                f"{tuple(pred.shape)}."
            )
        target = dense_class_targets(name, pred, target)
        return equalized_focal_loss(pred, target, self.pos_neg, self.alpha, self.gamma, self.scale)

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per row (N,), or one per element (N, C)."""
        return expand_anchor_weights(weight, loss.shape, type(self).__name__)

    def _update(self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None) -> None:
        pred, target = at_least_float32(pred, dense_class_targets(type(self).__name__, pred, target))
        gradient = self._gradient(pred, target)
        if weight is not None:
            gradient = gradient * self.broadcast_weight(weight.detach(), pred, gradient)
        self._collect(gradient, target)
        has_gradient = self.pos_grad + self.neg_grad > 0
        store(self, "pos_neg", torch.where(has_gradient, self.pos_neg.clamp(0, 1), torch.ones_like(self.pos_neg)))

    def _gradient(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """|dL/dx| = alpha_t (gamma_c / gamma) (1 - p_t)^gamma_c (gamma_c p_t (-log p_t) + 1 - p_t), elementwise."""
        factor, class_gamma = _equalized_factor(pred, target, self.pos_neg, self.alpha, self.gamma, self.scale)
        one_minus_pt = target * torch.sigmoid(-pred) + (1 - target) * torch.sigmoid(pred)
        return factor * (
            class_gamma * (1 - one_minus_pt) * binary_cross_entropy_with_logits(pred, target) + one_minus_pt
        )
