"""Sigmoid focal loss: the elementwise function and OpenPCDet's drop-in module."""
from __future__ import annotations

import torch
from torch import nn

from ..errors import InputError
from ..ops import focal_loss as fused
from .cross_entropy import binary_cross_entropy_with_logits
from .numerics import at_least_float32, bounded, power, reduce_loss
from .weights import expand_anchor_weights, require_same_shape


def sigmoid_focal_loss(
    inputs: torch.Tensor, targets: torch.Tensor, alpha: float | None = 0.25, gamma: float = 2.0, reduction: str = "none"
) -> torch.Tensor:
    r"""Focal loss on independent sigmoids (Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002).

    With p = sigmoid(x) and a target t in [0, 1], elementwise::

        one_minus_pt = t (1 - p) + (1 - t) p                      how wrong the prediction is
        bce          = -t log p - (1 - t) log(1 - p)
        alpha_t      = t alpha + (1 - t) (1 - alpha)
        loss         = alpha_t * one_minus_pt^gamma * bce

    1 - p is computed as sigmoid(-x) and log p as logsigmoid(x): full relative precision for any logit, finite gradients for any gamma >= 0
    (formulas with ``1 - sigmoid(x)`` lose confident correct predictions beyond |x| of about 17 and have NaN gradients there for gamma < 1).

    Args:
        inputs: logits, any shape, e.g. (B, A, C). Half precision is computed, and returned, in float32.
            Beyond +-1.8e19 (float32), and so for +-inf, a logit counts as that number, with gradient 0: loss 0 on its own side, finite on
            the other. A NaN logit gives NaN.
        targets: same shape; one-hot or soft values in [0, 1]; any dtype.
        alpha: weight of the positive class in [0, 1]; None or -1 for no weighting.
        gamma: focusing exponent >= 0; 0 is (weighted) binary cross entropy.
        reduction: 'none', 'mean' over all elements, or 'sum'.
    Returns:
        Shape of ``inputs`` for 'none', else a scalar. The arguments and the results are those of ``torchvision.ops.sigmoid_focal_loss``.
    Raises:
        InputError: different shapes, alpha outside [0, 1], negative gamma, unknown reduction.

    >>> logits = torch.tensor([[2.0, -1.0]])
    >>> targets = torch.tensor([[1.0, 0.0]])
    >>> sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0)
    tensor([[0.0005, 0.0170]])
    """
    loss = focal_factor(inputs, targets, alpha, gamma) * binary_cross_entropy_with_logits(inputs, targets)
    return reduce_loss(loss, reduction)


def focal_factor(inputs: torch.Tensor, targets: torch.Tensor, alpha: float | None, gamma: float) -> torch.Tensor:
    """What focal loss multiplies cross entropy by: ``alpha_t * one_minus_pt^gamma``; arguments, shapes and errors of ``sigmoid_focal_loss``.

    >>> focal_factor(torch.zeros(2), torch.tensor([1.0, 0.0]), alpha=0.25, gamma=2.0)         # 0.25 * 0.5^2 and 0.75 * 0.5^2
    tensor([0.0625, 0.1875])
    """
    require_same_shape("sigmoid_focal_loss", inputs=inputs, targets=targets)
    if alpha is not None and alpha != -1 and not 0 <= alpha <= 1:
        raise InputError(f"sigmoid_focal_loss: alpha={alpha} is not allowed: a number from 0 to 1, or None or -1 for no class weighting.")
    if not gamma >= 0:
        raise InputError(f"sigmoid_focal_loss: gamma={gamma} is not allowed: a number of at least 0.")
    logits, targets = at_least_float32(inputs, targets)
    one_minus_pt = targets * torch.sigmoid(-logits) + (1 - targets) * torch.sigmoid(logits)
    factor = power(one_minus_pt, gamma)
    if alpha is None or alpha == -1:
        return factor
    return (targets * alpha + (1 - targets) * (1 - alpha)) * factor


class SigmoidFocalClassificationLoss(nn.Module):
    """OpenPCDet's focal loss module: the formula of ``sigmoid_focal_loss`` times anchor weights, not reduced.

    On the CPU, with gamma 2 and without float64, one kernel computes the loss and one its gradient, and only the inputs are kept; such a loss can be
    differentiated once. A head needs neither targets nor weights of its own: ``sigmoid_focal_loss_from_labels``.

    >>> cls_preds = torch.zeros(2, 6, 3)                               # (B, A, C) logits
    >>> one_hot_targets = torch.zeros(2, 6, 3)
    >>> cls_weights = torch.ones(2, 6)                                 # (B, A)
    >>> loss = SigmoidFocalClassificationLoss(alpha=0.25, gamma=2.0)(cls_preds, one_hot_targets, weights=cls_weights)
    >>> loss.shape, round(loss[0, 0, 0].item(), 4)                     # 0.75 * 0.5^2 * log 2
    (torch.Size([2, 6, 3]), 0.13)
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.25) -> None:
        """
        Args:
            gamma: focusing exponent >= 0.
            alpha: weight of positives in [0, 1], negatives get 1 - alpha; None or -1 for no weighting.
        """
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, alpha={self.alpha}"

    @staticmethod
    def sigmoid_cross_entropy_with_logits(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Elementwise binary cross entropy in TensorFlow's form, ``max(x, 0) - x t + log1p(exp(-|x|))``; shape of ``input``.

        The values are those of ``binary_cross_entropy_with_logits``. At a logit of exactly 0 this form has the gradient 1 - t where the derivative
        is 0.5 - t; it stays because this class promises OpenPCDet's gradients.
        """
        require_same_shape("sigmoid_cross_entropy_with_logits", input=input, target=target)
        logits, target = at_least_float32(input, target)
        logits = bounded(logits)
        return logits.clamp(min=0) - logits * target + torch.log1p(torch.exp(-logits.abs()))

    def forward(self, input: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input: (B, A, C) or (N, C) logits.
            target: same shape, one-hot or soft.
            weights: one per anchor, (B, A) or (N,), or one per element; None for 1.
        Returns:
            Elementwise loss of the shape of ``input``.
        Raises:
            InputError: shapes that do not fit, with both shapes and what is allowed.
        """
        if self._is_fused(input, target, weights):
            alphas = (1.0, 1.0) if self.alpha is None or self.alpha == -1 else (self.alpha, 1 - self.alpha)
            if weights is not None:
                weights = expand_anchor_weights(weights, input.shape, type(self).__name__)
                weights = weights.expand(*input.shape[:-1], weights.shape[-1])
            return fused.weighted_focal_loss(input, target, weights, *alphas)
        loss = focal_factor(input, target, self.alpha, self.gamma) * self.sigmoid_cross_entropy_with_logits(input, target)
        return loss if weights is None else loss * expand_anchor_weights(weights, loss.shape, type(self).__name__)

    def _is_fused(self, input: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None) -> bool:
        """Whether the kernels serve: gamma 2, a usual alpha, gradients only for the input, shapes that fit (the formula's errors explain others)."""
        others = [target] if weights is None else [target, weights]
        own = type(self).sigmoid_cross_entropy_with_logits is SigmoidFocalClassificationLoss.sigmoid_cross_entropy_with_logits
        return (own and self.gamma == 2 and (self.alpha is None or self.alpha == -1 or 0 <= self.alpha <= 1)
                and input.dim() > 0 and input.shape == target.shape and input.is_floating_point()
                and not any(t.requires_grad for t in others) and fused.serves(input, *others))
