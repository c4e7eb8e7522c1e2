"""mmdetection's L1Loss, SmoothL1Loss and MSELoss of box codes."""

from __future__ import annotations

import torch

from .arguments import require_number
from .numerics import at_least_float32
from .reduction import ReducedLoss, choose_reduction, require_no_avg_factor, without_positive_weight
from .registry import register_loss
from .smooth_l1 import smooth_l1
from .weights import require_same_shape


@register_loss("L1Loss")
class L1Loss(ReducedLoss):
    """``|pred - target|``, the mean over all elements by default; scalar 0 where there is nothing to compare, whatever
    the reduction.

    >>> L1Loss()(torch.tensor([[1.0, -3.0]]), torch.zeros(1, 2))
    tensor(2.)
    """

    def forward(
        self,
        pred: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
    ) -> torch.Tensor:
        """As ReducedLoss's, with mmdetection's two exceptions: without elements the result is a scalar 0, and without a
        weight above 0 it is the scalar ``(pred * weight).sum()``, also under 'none'.
        """
        if isinstance(target, torch.Tensor) and target.numel() == 0:
            reduction = choose_reduction(self.reduction, reduction_override, type(self).__name__)
            if reduction == "sum":
                require_no_avg_factor(avg_factor, type(self).__name__)
            return self.elementwise(pred, target).sum()
        loss = super().forward(pred, target, weight, avg_factor, reduction_override)
        reduction = choose_reduction(self.reduction, reduction_override, type(self).__name__)
        return without_positive_weight(loss, pred, weight, reduction)

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Same shape twice, for example (N, D) box codes -> that shape."""
        require_same_shape(type(self).__name__, pred=pred, target=target)
        pred, target = at_least_float32(pred, target)
        return self.of_difference(pred - target)

    def of_difference(self, diff: torch.Tensor) -> torch.Tensor:
        """Loss of a difference."""
        return diff.abs()


@register_loss("SmoothL1Loss")
class SmoothL1Loss(L1Loss):
    """``smooth_l1`` of the difference (Girshick 2015, arXiv:1504.08083), the mean over all elements by default;
    otherwise like L1Loss.

    >>> SmoothL1Loss(beta=1.0, reduction="sum")(torch.tensor([[0.5, -3.0]]), torch.zeros(1, 2))        # 0.125 + 2.5
    tensor(2.6250)
    """

    shown = ("beta",)

    def __init__(self, beta: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        """
        Args:
            beta: transition point from quadratic to linear, above 0.
            reduction, loss_weight: see ReducedLoss.
        """
        super().__init__(reduction, loss_weight)
        require_number("SmoothL1Loss", "beta", beta, low_allowed=False)
        self.beta = beta

    def of_difference(self, diff: torch.Tensor) -> torch.Tensor:
        return smooth_l1(diff, self.beta)


@register_loss("MSELoss")
class MSELoss(L1Loss):
    """``(pred - target)^2``, the mean over all elements by default; called like L1Loss, and of nothing it is 0 like
    that.

    >>> MSELoss()(torch.tensor([[1.0, -3.0]]), torch.zeros(1, 2))
    tensor(5.)
    """

    def of_difference(self, diff: torch.Tensor) -> torch.Tensor:
        return diff.square()
