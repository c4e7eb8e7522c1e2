"""Gaussian focal loss on a heat map, elementwise."""

from __future__ import annotations

import torch
from torch import nn

from .numerics import at_least_float32, power
from .weights import require_same_shape


def gaussian_focal_loss(
    pred: torch.Tensor, target: torch.Tensor, alpha: float = 2.0, gamma: float = 4.0, eps: float = 1e-12
) -> torch.Tensor:
    """Penalty-reduced focal loss of CornerNet (Law and Deng 2018, arXiv:1808.01244, equation 1), elementwise::

        -(1 - p)^alpha log(p + eps)                          where t = 1
        -(1 - t)^gamma p^alpha log(1 - p + eps)              elsewhere

    Args:
        pred: probabilities in [0, 1], any shape. Half precision is computed, and returned, in float32 (where eps still
            counts).
        target: Gaussian heat map in [0, 1], same shape; exactly 1 at object centres.
        alpha: exponent of the prediction; gamma: exponent of the target, both >= 0.
        eps: keeps the logarithm finite at 0.
    Returns:
        Loss of the shape of ``pred``.
    Raises:
        InputError: different shapes.

    >>> gaussian_focal_loss(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))               # 0.25 log 2
    tensor([0.1733, 0.1733])
    """
    require_same_shape("gaussian_focal_loss", pred=pred, target=target)
    pred, target = at_least_float32(pred, target)
    positive = -(pred + eps).log() * power(1 - pred, alpha) * target.eq(1)
    negative = -(1 - pred + eps).log() * power(pred, alpha) * (1 - target).pow(gamma)
    return positive + negative


class GaussianFocalLoss(nn.Module):
    """``gaussian_focal_loss`` as a module, not reduced.

    >>> GaussianFocalLoss(alpha=2.0, gamma=4.0)(torch.full((1, 3, 8, 8), 0.1), torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(self, alpha: float = 2.0, gamma: float = 4.0) -> None:
        """
        Args:
            alpha: exponent of the prediction.
            gamma: exponent of one minus the target, for negatives.
        """
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, gamma={self.gamma}"

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(any shape) probabilities and heat map -> loss of that shape."""
        return gaussian_focal_loss(pred, target, self.alpha, self.gamma)
