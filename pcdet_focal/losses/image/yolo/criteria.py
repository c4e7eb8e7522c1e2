"""2-D detection, for no head of this package: YOLOv5's label smoothing and focal wrappers of a criterion."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ....errors import InputError
from ...arguments import require_number
from ...numerics import at_least_float32, power
from ...reduction import choose_reduction, require_same_device, weight_reduce_loss
from ...sigmoid_focal import focal_factor
from ...weights import require_same_shape


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:
    """Targets of positives and negatives under label smoothing: ``(1 - eps / 2, eps / 2)`` (Szegedy et al. 2016,
    arXiv:1512.00567, with two classes).

    >>> smooth_BCE(0.1)
    (0.95, 0.05)
    """
    require_number("smooth_BCE", "eps", eps, high=1.0)
    return 1.0 - 0.5 * eps, 0.5 * eps


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
