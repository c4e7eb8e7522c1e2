"""Balanced L1 loss: between L1 and smooth L1, with more gradient from the boxes that are nearly right."""

from __future__ import annotations

import math

import torch

from ..errors import InputError
from .arguments import require_number
from .numerics import at_least_float32
from .reduction import ReducedLoss, choose_reduction, require_same_device
from .registry import register_loss
from .smooth_l1 import code_difference


def balanced_l1_loss(
    pred: torch.Tensor, target: torch.Tensor, beta: float = 1.0, alpha: float = 0.5, gamma: float = 1.5
) -> torch.Tensor:
    """Elementwise balanced L1 loss (Libra R-CNN, Pang et al. 2019, arXiv:1904.02701). With d = |pred - target| and b =
    exp(gamma / alpha) - 1::

        alpha / b (b d + 1) log(b d / beta + 1) - alpha d        where d < beta
        gamma d + gamma / b - alpha beta                         elsewhere

    Continuous; for beta = 1, which is the paper's form, its derivative is too. Other values follow mmdetection.

    Args:
        pred, target: same shape; a NaN target (unknown) gives 0. Half precision is computed, and returned, in float32.
        beta: where the gradient stops growing, above 0.
        alpha: above 0; smaller values give more gradient to small differences.
        gamma: gradient of large differences, above 0.
    Returns:
        The shape of ``pred``.
    Raises:
        InputError: different shapes or devices, a parameter that is not above 0.

    >>> balanced_l1_loss(torch.tensor([0.0, 0.1, 1.0, 3.0]), torch.zeros(4))
    tensor([0.0000, 0.0314, 1.0786, 4.0786])
    """
    _check_parameters("balanced_l1_loss", beta=beta, alpha=alpha, gamma=gamma)
    require_same_device("balanced_l1_loss", pred=pred, target=target)
    distance = code_difference(pred, target, loss_name="balanced_l1_loss").abs()
    b = math.exp(gamma / alpha) - 1
    small = distance.clamp(max=beta)  # so that the branch that is not taken cannot overflow
    curved = alpha / b * (b * small + 1) * torch.log(b * small / beta + 1) - alpha * small
    return torch.where(distance < beta, curved, gamma * distance + (gamma / b - alpha * beta))


@register_loss("BalancedL1Loss")
class BalancedL1Loss(ReducedLoss):
    """``balanced_l1_loss`` as a module with mmdetection's arguments.

    >>> # 7 times 1.0786
    >>> BalancedL1Loss(reduction="sum")(torch.ones(2, 7), torch.zeros(2, 7), weight=torch.tensor([[1.0], [0.0]]))
    tensor(7.5502)
    """

    shown = ("alpha", "gamma", "beta")

    def __init__(
        self,
        alpha: float = 0.5,
        gamma: float = 1.5,
        beta: float = 1.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            alpha, gamma, beta: see ``balanced_l1_loss``.
            reduction, loss_weight: see ReducedLoss.
        """
        super().__init__(reduction, loss_weight)
        _check_parameters(type(self).__name__, beta=beta, alpha=alpha, gamma=gamma)
        self.alpha, self.gamma, self.beta = alpha, gamma, beta

    def forward(
        self,
        pred: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
    ) -> torch.Tensor:
        """As ReducedLoss's; without elements, weights and avg_factor the result is a scalar 0 with a gradient path."""
        if isinstance(target, torch.Tensor) and target.numel() == 0 and weight is None and avg_factor is None:
            choose_reduction(self.reduction, reduction_override, type(self).__name__)
            return at_least_float32(pred)[0].flatten()[:0].sum()
        return super().forward(pred, target, weight, avg_factor, reduction_override)

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Same shape twice, for example (N, D) box codes; a NaN target is ignored -> that shape."""
        return balanced_l1_loss(pred, target, self.beta, self.alpha, self.gamma)


def _check_parameters(name: str, **parameters: float) -> None:
    for argument, value in parameters.items():
        require_number(name, argument, value, low_allowed=False)
    ratio = parameters["gamma"] / parameters["alpha"]
    if not ratio <= 80:
        raise InputError(
            f"{name}: gamma / alpha = {ratio:.4g} is not allowed: its exponential must fit a float32, so 80 at most."
        )
