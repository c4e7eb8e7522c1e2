"""Corner loss: distance of the eight box corners, blind to a heading that is wrong by half a turn."""

from __future__ import annotations

import math

import torch

from ..errors import InputError
from ..geometry.boxes import boxes_to_corners_3d
from .numerics import at_least_float32
from .reduction import ReducedLoss
from .registry import register_loss
from .smooth_l1 import smooth_l1


def get_corner_loss_lidar(pred_bbox3d: torch.Tensor, gt_bbox3d: torch.Tensor) -> torch.Tensor:
    """Corner loss of Frustum PointNets (Qi et al. 2018, arXiv:1711.08488, equation 3) for paired boxes in the LiDAR
    frame::

        mean over the 8 corners k of huber(min(|p_k - g_k|, |p_k - g'_k|)),    huber with beta = 1 m,

    g' being the ground truth turned by pi.

    Args:
        pred_bbox3d: (N, 7) x, y, z, dx, dy, dz, heading in metres and radians.
        gt_bbox3d: (N, 7).
    Returns:
        (N,) loss in float32 or better. Neither input is changed.
    Raises:
        InputError: anything but two (N, 7) tensors.

    >>> box = torch.tensor([[10.0, 2.0, -1.0, 3.9, 1.6, 1.56, 0.3]])
    >>> shifted = box + torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    >>> round(get_corner_loss_lidar(shifted, box).item(), 4), get_corner_loss_lidar(box, box).item()
    (1.5, 0.0)
    """
    if pred_bbox3d.shape != gt_bbox3d.shape or pred_bbox3d.dim() != 2 or pred_bbox3d.shape[1] != 7:
        raise InputError(
            f"get_corner_loss_lidar: pred_bbox3d {tuple(pred_bbox3d.shape)} and gt_bbox3d {tuple(gt_bbox3d.shape)} "
            "must both be (N, 7)."
        )
    pred, gt = at_least_float32(pred_bbox3d, gt_bbox3d)
    turned = torch.cat([gt[:, :6], gt[:, 6:7] + math.pi], dim=1)
    pred_corners = boxes_to_corners_3d(pred)  # (N, 8, 3)
    distance = torch.minimum(
        torch.linalg.vector_norm(pred_corners - boxes_to_corners_3d(gt), dim=2),
        torch.linalg.vector_norm(pred_corners - boxes_to_corners_3d(turned), dim=2),
    )  # (N, 8)
    return smooth_l1(distance, beta=1.0).mean(dim=1)


@register_loss("CornerLoss")
class CornerLoss(ReducedLoss):
    """``get_corner_loss_lidar`` as a module, with mmdetection's reduction and call (see ReducedLoss):
    ``{NAME: CornerLoss}`` as a head's REG_LOSS.

    >>> box = torch.tensor([[10.0, 2.0, -1.0, 3.9, 1.6, 1.56, 0.3]])
    >>> round(CornerLoss()(box + torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), box).item(), 4)
    1.5
    """

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(N, 7+) decoded boxes, twice; further columns are ignored -> (N,)."""
        return get_corner_loss_lidar(pred[:, :7], target[:, :7])
