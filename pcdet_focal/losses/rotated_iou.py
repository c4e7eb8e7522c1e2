"""IoU, GIoU and DIoU losses of rotated boxes, from above or in 3-D: the box as a whole instead of its seven codes."""

from __future__ import annotations

import torch

from ..errors import InputError
from ..ops.rotated_iou import paired_iou
from .reduction import ReducedLoss, box_weights, require_same_device
from .registry import register_loss
from .weights import require_same_shape

KINDS = ("iou", "giou", "diou")
SPACES = ("bev", "3d")


def rotated_iou_loss(pred: torch.Tensor, target: torch.Tensor, kind: str = "iou", space: str = "3d") -> torch.Tensor:
    """``1 - IoU``, ``1 - GIoU`` or ``1 - DIoU`` of paired rotated boxes (rotated IoU loss: Zhou et al. 2019,
    arXiv:1908.03851)::

        iou    1 - I / U                                  0..1; no gradient for boxes that are apart
        giou   1 - I / U + (C - U) / C                    0..2; C: area or volume of the enclosing box
        diou   1 - I / U + |centre - centre'|^2 / D^2     0..2; D: its diagonal

    The enclosing box and the gradients, which are exact and finite everywhere, are described in
    ``ops.rotated_iou.differentiable``. A heading that is wrong by half a turn costs nothing: the direction classifier
    decides that. A first stage that is far off learns nothing from 'iou': prefer 'diou' or 'giou', or keep a smooth L1
    loss beside it.

    Args:
        pred, target: (..., 7+) x, y, z, dx, dy, dz, heading[, ...] in metres and radians: decoded boxes, not codes.
            Further columns are ignored.
        kind: 'iou', 'giou' or 'diou'.
        space: 'bev' (from above; z and dz get no gradient) or '3d'.
    Returns:
        (...), in float32 or better.
    Raises:
        InputError: different shapes or devices, fewer than 7 columns, an unknown kind or space.

    >>> box = torch.tensor([[10.0, 5.0, -1.0, 4.0, 2.0, 1.5, 0.0]])
    >>> # C = 12 x 2, U = 2 x 4 x 2; D^2 = 12^2 + 2^2
    >>> apart = torch.tensor([[18.0, 5.0, -1.0, 4.0, 2.0, 1.5, 0.0]])
    >>> [rotated_iou_loss(box, apart, kind, "bev") for kind in ("iou", "giou", "diou")]
    [tensor([1.]), tensor([1.3333]), tensor([1.4324])]
    """
    _check_choice("rotated_iou_loss", kind, space)
    require_same_shape("rotated_iou_loss", pred=pred, target=target)
    require_same_device("rotated_iou_loss", pred=pred, target=target)
    if pred.dim() < 1 or pred.shape[-1] < 7:
        raise InputError(
            f"rotated_iou_loss: pred and target have shape {tuple(pred.shape)}, but (..., 7 or more) is needed: "
            f"x, y, z, dx, dy, dz, heading."
        )
    shape = (pred.shape[:-1].numel(), pred.shape[-1])
    return (1 - paired_iou(pred.reshape(shape), target.reshape(shape), kind, space)).reshape(pred.shape[:-1])


@register_loss("RotatedIoULoss")
class RotatedIoULoss(ReducedLoss):
    """``rotated_iou_loss`` as a module, with mmdetection's reduction and call. In a YAML file: ``{NAME: RotatedIoULoss,
    KIND: diou, SPACE: 3d}``.

    >>> box = torch.tensor([[10.0, 5.0, -1.0, 4.0, 2.0, 1.5, 0.3], [10.0, 5.0, -1.0, 4.0, 2.0, 1.5, 0.3]])
    >>> shorter = box * torch.tensor([1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0])
    >>> loss_func = RotatedIoULoss(kind="iou", space="3d", loss_weight=2.0)
    >>> loss_func(shorter, box, weight=torch.tensor([1.0, 0.0]), avg_factor=1)
    tensor(1.0000)
    """

    shown = ("kind", "space")

    def __init__(self, kind: str = "iou", space: str = "3d", reduction: str = "mean", loss_weight: float = 1.0) -> None:
        """
        Args:
            kind: 'iou', 'giou' or 'diou'. space: 'bev' or '3d'.
            reduction, loss_weight: see ReducedLoss.
        """
        super().__init__(reduction, loss_weight)
        _check_choice(type(self).__name__, kind, space)
        self.kind, self.space = kind, space

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(..., 7+) decoded boxes, twice -> (...)."""
        return rotated_iou_loss(pred, target, self.kind, self.space)

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per box (...), or one per box code (..., 7+), of which each box takes the mean."""
        return box_weights(weight, pred, type(self).__name__)


def _check_choice(name: str, kind: str, space: str) -> None:
    if kind not in KINDS:
        raise InputError(f"{name}: kind={kind!r} is not allowed: 'iou', 'giou' or 'diou'.")
    if space not in SPACES:
        raise InputError(f"{name}: space={space!r} is not allowed: 'bev' or '3d'.")
