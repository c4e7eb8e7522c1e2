"""Label smoothing, blurred BCE, and the two focal wrappers around any binary cross entropy criterion."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ...errors import InputError
from ..arguments import require_number
from ..cross_entropy import binary_cross_entropy_with_logits
from ..numerics import at_least_float32, power
from ..reduction import ReducedLoss, choose_reduction, require_same_device, weight_reduce_loss
from ..registry import register_loss
from ..sigmoid_focal import focal_factor
from ..weights import expand_anchor_weights, require_same_shape


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:
    """Targets of positives and negatives under label smoothing: ``(1 - eps / 2, eps / 2)`` (Szegedy et al. 2016,
    arXiv:1512.00567, with two classes).

    >>> smooth_BCE(0.1)
    (0.95, 0.05)
    """
    require_number("smooth_BCE", "eps", eps, high=1.0)
    return 1.0 - 0.5 * eps, 0.5 * eps


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


class _FocalWrapper(nn.Module):
    """A criterion made elementwise, times a factor, reduced as the criterion would have been."""

    def __init__(self, loss_fcn: nn.Module, gamma: float = 1.5, alpha: float = 0.25) -> None:
        """
        Args:
            loss_fcn: ``nn.BCEWithLogitsLoss(...)``, with or without pos_weight, or any module whose ``reduction`` is
                'mean', 'sum' or 'none'. Its reduction becomes the wrapper's; the module itself is not changed.
            gamma: focusing exponent >= 0.
            alpha: weight of positives in [0, 1], negatives get 1 - alpha.
        """
        super().__init__()
        name = type(self).__name__
        if not isinstance(loss_fcn, nn.Module) or not isinstance(getattr(loss_fcn, "reduction", None), str):
            raise InputError(
                f"{name}: loss_fcn={loss_fcn!r} has no reduction: a criterion such as torch.nn.BCEWithLogitsLoss() is "
                "needed."
            )
        require_number(name, "gamma", gamma)
        require_number(name, "alpha", alpha, high=1.0)
        self.reduction = choose_reduction(loss_fcn.reduction, None, name)
        self.loss_fcn = copy.copy(loss_fcn)  # shares its buffers; only the reduction differs
        self.loss_fcn.reduction = "none"
        self.gamma, self.alpha = gamma, alpha

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, alpha={self.alpha}, reduction={self.reduction!r}"

    def factor(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """What the elementwise criterion is multiplied by; same shape."""
        raise NotImplementedError

    def elementwise(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """The loss before its reduction, the shape of ``pred``."""
        require_same_shape(type(self).__name__, pred=pred, true=true)
        require_same_device(type(self).__name__, pred=pred, true=true)
        pred, true = at_least_float32(pred, true)
        return self.loss_fcn(pred, true) * self.factor(pred, true)

    def forward(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """
        Args:
            pred: logits, any shape. Half precision is computed, and returned, in float32.
            true: same shape, values in [0, 1].
        Returns:
            Scalar, or the shape of ``pred``, as the criterion's own reduction says.
        Raises:
            InputError: different shapes or devices.
        """
        loss = self.elementwise(pred, true)
        return weight_reduce_loss(loss, None, self.reduction, None, type(self).__name__, num_averaged=loss.numel())


class FocalLoss(_FocalWrapper):
    """Focal factor around a BCE criterion (Lin et al. 2017, arXiv:1708.02002). With p = sigmoid(x) and a target t in
    [0, 1], elementwise::

        criterion(x, t) * (t alpha + (1 - t) (1 - alpha)) * (t (1 - p) + (1 - t) p)^gamma

    Finite gradients at any logit, also for gamma below 1.

    >>> # (0.25 + 0.75) / 2 * 0.5^2 * log 2
    >>> FocalLoss(nn.BCEWithLogitsLoss(), gamma=2.0)(torch.zeros(2), torch.tensor([1.0, 0.0]))
    tensor(0.0866)
    """

    def factor(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        return focal_factor(pred, true, self.alpha, self.gamma)


class QFocalLoss(_FocalWrapper):
    """Quality focal factor around a BCE criterion (Li et al. 2020, arXiv:2006.04388). With p = sigmoid(x) and a soft
    target t, elementwise::

        criterion(x, t) * (t alpha + (1 - t) (1 - alpha)) * |t - p|^gamma

    Finite gradients at any logit, also for gamma below 1.

    >>> criterion = nn.BCEWithLogitsLoss(reduction="sum")
    >>> QFocalLoss(criterion, gamma=2.0, alpha=0.5)(torch.zeros(2), torch.tensor([0.5, 1.0]))  # 0 + 0.5 * 0.5^2 * log 2
    tensor(0.0866)
    """

    def factor(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        # t - p = t sigmoid(-x) - (1 - t) sigmoid(x): for t of 0 and 1 it keeps its digits where p is next to t
        distance = (true * torch.sigmoid(-pred) - (1 - true) * torch.sigmoid(pred)).abs()
        return (true * self.alpha + (1 - true) * (1 - self.alpha)) * power(distance, self.gamma)
