"""2-D detection, for no head of this package: distribution focal loss, a box side as a distribution over bins."""

from __future__ import annotations

import torch

from ...errors import InputError
from ..arguments import require_tensors, require_values_between
from ..numerics import at_least_float32, bounded
from ..reduction import ReducedLoss
from ..registry import register_loss
from ..weights import check_elementwise_weights


def distribution_focal_loss(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Distribution focal loss (Li et al. 2020, "Generalized Focal Loss", arXiv:2006.04388), one value a row.

    With S = softmax over the bins 0 .. n, and y between the bins i = floor(y) and i + 1::

        loss = -(i + 1 - y) log S_i - (y - i) log S_(i + 1)

    The last bin is included: y = n asks for bin n alone (mmdetection raises there).

    Args:
        pred: (..., n + 1) logits of the bins. Half precision is computed, and returned, in float32.
        target: (...) distances in bins, from 0 to n.
    Returns:
        Loss (...).
    Raises:
        InputError: shapes or devices that do not fit; on the CPU also for a distance outside [0, n].

    >>> distribution_focal_loss(torch.zeros(1, 4), torch.tensor([1.25]))                       # log 4
    tensor([1.3863])
    """
    require_tensors("distribution_focal_loss", pred=pred, target=target)
    if pred.dim() == 0 or pred.shape[-1] < 2 or tuple(target.shape) != tuple(pred.shape[:-1]):
        raise InputError(
            f"distribution_focal_loss: pred (..., bins) with at least 2 bins and target (...) are needed, but pred is "
            f"{tuple(pred.shape)} and target {tuple(target.shape)}."
        )
    last = pred.shape[-1] - 1
    require_values_between("distribution_focal_loss", "target", target, 0, last, f" (pred has {last + 1} bins)")
    pred, target = at_least_float32(pred, target)
    left = torch.where(target == last, last - 1, target.floor().long())
    weight_of_right = target - left
    log_probability = torch.log_softmax(bounded(pred), dim=-1)
    log_left, log_right = (log_probability.gather(-1, bin.unsqueeze(-1)).squeeze(-1) for bin in (left, left + 1))
    return -((1 - weight_of_right) * log_left + weight_of_right * log_right)


@register_loss("DistributionFocalLoss")
class DistributionFocalLoss(ReducedLoss):
    """``distribution_focal_loss`` with mmdetection's arguments and call; see ReducedLoss.

    >>> # 8 bins: distances from 0 to 7
    >>> pred, target = torch.zeros(5, 8), torch.tensor([0.0, 1.5, 3.2, 6.9, 7.0])
    >>> round(DistributionFocalLoss(loss_weight=0.25)(pred, target).item(), 4)                 # 0.25 log 8
    0.5199
    """

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(..., n + 1) logits of the bins, (...) distances in bins, from 0 to n -> (...)."""
        return distribution_focal_loss(pred, target)

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per row (N,)."""
        return check_elementwise_weights(weight, loss.shape, type(self).__name__)
