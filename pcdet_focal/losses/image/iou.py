"""2-D detection, for no head of this package: IoU losses of axis-aligned boxes, x1 y1 x2 y2, as in mmdetection.

Rotated boxes: ``losses.rotated_iou``.
"""

from __future__ import annotations

import math

import torch

from ...errors import InputError
from ..arguments import require_number
from ..numerics import at_least_float32
from ..reduction import ReducedLoss, box_weights, choose_reduction, require_same_device, without_positive_weight
from ..registry import register_loss
from ..weights import require_same_shape

IOU_MODES = ("linear", "square", "log")


def iou_loss(pred: torch.Tensor, target: torch.Tensor, mode: str = "log", eps: float = 1e-6) -> torch.Tensor:
    """IoU loss of paired boxes (UnitBox, Yu et al. 2016, arXiv:1608.01471)::

        IoU    = max(intersection / max(union, eps), eps)
        linear   1 - IoU
        square   1 - IoU^2
        log      -log(IoU)          at most -log(eps): boxes that do not meet have no gradient in any of the modes

    Args:
        pred, target: (N, 4) corners x1, y1, x2, y2, pixels or metres; also (4,) or (..., 4). Half precision is
            computed, and returned, in float32.
        mode: 'linear', 'square' or 'log'.
        eps: smallest union and smallest IoU, above 0.
    Returns:
        (N,).
    Raises:
        InputError: shapes that are not two times (..., 4), an unknown mode, eps that is not above 0.

    >>> box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    >>> # shifted by half its width: IoU 1/3
    >>> iou_loss(box, box + torch.tensor([1.0, 0.0, 1.0, 0.0]), mode="linear")
    tensor([0.6667])
    """
    if mode not in IOU_MODES:
        raise InputError(f"iou_loss: mode={mode!r} is not allowed: 'linear', 'square' or 'log'.")
    pred, target = _checked("iou_loss", pred, target, eps)
    overlap, union = _overlap_and_union(pred, target)
    iou = (overlap / union.clamp(min=eps)).clamp(min=eps)
    if mode == "linear":
        return 1 - iou
    return 1 - iou**2 if mode == "square" else -iou.log()


def giou_loss(pred: torch.Tensor, target: torch.Tensor, eps: float = 1e-7) -> torch.Tensor:
    """Generalised IoU loss of paired boxes (Rezatofighi et al. 2019, arXiv:1902.09630), in [0, 2]; C is the box that
    encloses both::

        1 - IoU + (C - union) / C           every area at least eps

    Args, result, errors: as ``iou_loss``; (N, 4), (N, 4) -> (N,).

    >>> # IoU 0; half of the enclosing box is empty
    >>> giou_loss(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]]))
    tensor([1.5000])
    """
    pred, target = _checked("giou_loss", pred, target, eps)
    overlap, union = _overlap_and_union(pred, target)
    union = union.clamp(min=eps)
    enclosing = _enclosing_size(pred, target).prod(dim=-1).clamp(min=eps)
    return 1 - overlap / union + (enclosing - union) / enclosing


def diou_loss(pred: torch.Tensor, target: torch.Tensor, eps: float = 1e-7) -> torch.Tensor:
    """Distance IoU loss of paired boxes (Zheng et al. 2020, arXiv:1911.08287), in [0, 2]::

        1 - IoU + |centre - centre'|^2 / (diagonal of the enclosing box)^2

    eps is added to the union and to the squared diagonal.

    Args, result, errors: as ``iou_loss``; (N, 4), (N, 4) -> (N,).

    >>> diou_loss(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]]))  # 1 + 9 / 17
    tensor([1.5294])
    """
    pred, target = _checked("diou_loss", pred, target, eps)
    iou, distance = _iou_and_distance(pred, target, eps)
    return 1 - iou + distance


def ciou_loss(pred: torch.Tensor, target: torch.Tensor, eps: float = 1e-7) -> torch.Tensor:
    """Complete IoU loss of paired boxes (Zheng et al. 2020, arXiv:1911.08287), in [0, 2]::

        v     = 4 / pi^2 (atan(w' / h') - atan(w / h))^2                            difference of the aspect ratios
        a     = v / (1 - IoU + v) where IoU > 0.5, else 0                           no gradient flows through a
        loss  = 1 - max(IoU - distance of diou_loss - a v, -1)

    Where 1 - IoU + v is 0 in floating point (identical boxes), a is 0, where the plain formula gives 0 / 0.

    Args, result, errors: as ``iou_loss``; (N, 4), (N, 4) -> (N,).

    >>> ciou_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 2.0]]))
    tensor([0.])
    """
    pred, target = _checked("ciou_loss", pred, target, eps)
    iou, distance = _iou_and_distance(pred, target, eps)
    v = 4 / math.pi**2 * (_aspect_angle(target, eps) - _aspect_angle(pred, eps)) ** 2
    with torch.no_grad():
        rest = 1 - iou + v
        a = torch.where((iou > 0.5) & (rest > 0), v / torch.where(rest > 0, rest, 1.0), 0.0)
    return 1 - (iou - distance - a * v).clamp(min=-1.0, max=1.0)


class _PairedBoxLoss(ReducedLoss):
    """Base of the four modules: (N, 4) corners x1, y1, x2, y2, twice -> (N,); see ReducedLoss."""

    shown = ("eps",)

    def __init__(self, eps: float, reduction: str, loss_weight: float) -> None:
        super().__init__(reduction, loss_weight)
        require_number(type(self).__name__, "eps", eps, low_allowed=False)
        self.eps = eps

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per box (N,), or one per coordinate (N, 4), of which each box takes the mean."""
        return box_weights(weight, pred, type(self).__name__)


@register_loss("IoULoss")
class IoULoss(_PairedBoxLoss):
    """``iou_loss`` as a module with mmdetection's arguments; note that the default mode is 'log', as there.

    >>> box = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    >>> IoULoss(mode="linear", reduction="sum")(box, box, weight=torch.tensor([1.0, 0.0]))
    tensor(0.)
    """

    shown = ("mode", "eps")

    def __init__(
        self,
        linear: bool = False,
        eps: float = 1e-6,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        mode: str = "log",
    ) -> None:
        """
        Args:
            linear: True is an old way to say ``mode='linear'``.
            eps: smallest union and IoU. reduction: 'none', 'mean', 'sum'. loss_weight: multiplies the result.
            mode: 'linear', 'square' or 'log'.
        """
        super().__init__(eps, reduction, loss_weight)
        self.mode = "linear" if linear else mode
        if self.mode not in IOU_MODES:
            raise InputError(f"IoULoss: mode={mode!r} is not allowed: 'linear', 'square' or 'log'.")

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return iou_loss(pred, target, self.mode, self.eps)


class _PairedBoxLossWithShortcut(_PairedBoxLoss):
    """The three losses that return mmdetection's scalar where no weight is positive."""

    def __init__(self, eps: float = 1e-6, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        """
        Args:
            eps: keeps areas and lengths away from 0; see the function. reduction: 'none', 'mean', 'sum'. loss_weight:
                multiplies the result.
        """
        super().__init__(eps, reduction, loss_weight)

    def forward(
        self,
        pred: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
    ) -> torch.Tensor:
        """As IoULoss's, but without a positive weight the result is mmdetection's scalar, for 'none' too:
        ``reduction.without_positive_weight``.
        """
        loss = super().forward(pred, target, weight, avg_factor, reduction_override)
        return without_positive_weight(
            loss, pred, weight, choose_reduction(self.reduction, reduction_override, type(self).__name__)
        )


@register_loss("GIoULoss")
class GIoULoss(_PairedBoxLossWithShortcut):
    """``giou_loss`` as a module with mmdetection's arguments.

    >>> GIoULoss(loss_weight=2.0)(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]]))
    tensor(3.)
    """

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return giou_loss(pred, target, self.eps)


@register_loss("DIoULoss")
class DIoULoss(_PairedBoxLossWithShortcut):
    """``diou_loss`` as a module with mmdetection's arguments.

    >>> DIoULoss()(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]]), avg_factor=2)
    tensor(0.7647)
    """

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return diou_loss(pred, target, self.eps)


@register_loss("CIoULoss")
class CIoULoss(_PairedBoxLossWithShortcut):
    """``ciou_loss`` as a module with mmdetection's arguments.

    >>> round(CIoULoss()(torch.tensor([[0.0, 0.0, 4.0, 1.0]]), torch.tensor([[0.0, 0.0, 4.0, 1.0]])).item(), 4)
    0.0
    """

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ciou_loss(pred, target, self.eps)


def _checked(name: str, pred: torch.Tensor, target: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
    require_same_shape(name, pred=pred, target=target)
    require_same_device(name, pred=pred, target=target)
    if pred.dim() == 0 or pred.shape[-1] != 4:
        raise InputError(
            f"{name}: pred and target have shape {tuple(pred.shape)}, but (..., 4) is needed: x1, y1, x2, y2."
        )
    require_number(name, "eps", eps, low_allowed=False)
    return at_least_float32(pred, target)


def _overlap_and_union(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Areas (N,) of boxes (N, 4). As in mmdetection, the area of a box given with both corners swapped stays
    positive.
    """
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    area_a, area_b = ((boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) for boxes in (a, b))
    return overlap, area_a + area_b - overlap


def _enclosing_size(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Width and height (N, 2) of the box around both."""
    return (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0)


def _iou_and_distance(pred: torch.Tensor, target: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU, and squared distance of the centres over the squared diagonal of the enclosing box: (N,) each."""
    overlap, union = _overlap_and_union(pred, target)
    shift = (pred[..., :2] + pred[..., 2:] - target[..., :2] - target[..., 2:]) / 2
    divisor = union + eps
    divisor = torch.where(divisor == 0, eps, divisor)  # a box with one corner beyond the other has a negative area
    return overlap / divisor, (shift**2).sum(-1) / ((_enclosing_size(pred, target) ** 2).sum(-1) + eps)


def _aspect_angle(boxes: torch.Tensor, eps: float) -> torch.Tensor:
    """atan(width / (height + eps)): (N,). A sum of exactly 0 (a height of -eps) is replaced by eps."""
    size = boxes[..., 2:] - boxes[..., :2]
    height = size[..., 1] + eps
    return torch.atan(size[..., 0] / torch.where(height == 0, eps, height))
