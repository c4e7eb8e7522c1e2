"""Binary cross entropy blurred where labels may be missing (YOLOv5's BCEBlurWithLogitsLoss)."""

from __future__ import annotations

import torch

from .arguments import require_number
from .cross_entropy import binary_cross_entropy_with_logits
from .numerics import at_least_float32
from .reduction import ReducedLoss, require_same_device
from .registry import register_loss
from .weights import expand_anchor_weights, require_same_shape


def bce_blur_with_logits(pred: torch.Tensor, true: torch.Tensor, alpha: float = 0.05) -> torch.Tensor:
    """Binary cross entropy that forgives missing labels: where the prediction is high and the target low it fades.
    Elementwise, with p = sigmoid(x)::

        BCE(x, t) * (1 - exp((p - t - 1) / (alpha + 1e-4)))

    The gradient flows through the factor too.

    Args:
        pred: logits, any shape. Half precision is computed, and returned, in float32.
        true: same shape, values in [0, 1].
        alpha: width of the blur, at least 0; 0 leaves the plain cross entropy except where p - t is within 1e-3 of 1.
    Returns:
        The shape of ``pred``.
    Raises:
        InputError: different shapes or devices, a negative alpha.

    >>> bce_blur_with_logits(torch.tensor([4.0, 4.0]), torch.tensor([1.0, 0.0]))                # plain: 0.0181, 4.0181
    tensor([0.0181, 1.2120])
    """
    require_number("bce_blur_with_logits", "alpha", alpha)
    require_same_device("bce_blur_with_logits", pred=pred, true=true)
    require_same_shape("bce_blur_with_logits", pred=pred, true=true)
    pred, true = at_least_float32(pred, true)
    # p - t - 1 = -(t + sigmoid(-x)): no digits are lost near 0; expm1 likewise
    factor = -torch.expm1(-(true + torch.sigmoid(-pred)) / (alpha + 1e-4))
    return factor * binary_cross_entropy_with_logits(pred, true)


@register_loss("BCEBlurWithLogitsLoss")
class BCEBlurWithLogitsLoss(ReducedLoss):
    """``bce_blur_with_logits`` as a module: ``loss(pred, true)`` is YOLOv5's mean; weights and the other reductions are
    optional.

    >>> BCEBlurWithLogitsLoss(alpha=0.05)(torch.tensor([4.0, 4.0]), torch.tensor([1.0, 0.0]))
    tensor(0.6151)
    """

    shown = ("alpha",)

    def __init__(self, alpha: float = 0.05, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        """
        Args:
            alpha: width of the blur.
            reduction: 'none', 'mean' or 'sum'. loss_weight: multiplies the result.
        """
        super().__init__(reduction, loss_weight)
        require_number(type(self).__name__, "alpha", alpha)
        self.alpha = alpha

    def forward(
        self,
        pred: torch.Tensor,
        true: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
    ) -> torch.Tensor:
        """As ReducedLoss's, with YOLOv5's name of the target."""
        return super().forward(pred, true, weight, avg_factor, reduction_override)

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits and targets of the same shape -> that shape."""
        return bce_blur_with_logits(pred, target, self.alpha)

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per element, or one per row (the shape without the last axis)."""
        return expand_anchor_weights(weight, loss.shape, type(self).__name__)
