"""IoU losses of CenterPoint-like heads: an IoU prediction branch, and a DIoU loss of the decoded boxes."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..geometry.boxes import bbox3d_overlaps_diou
from ..ops.rotated_iou import boxes_aligned_iou3d
from .centernet import _transpose_and_gather_feat
from .numerics import at_least_float32


def calculate_iou_loss_centerhead(
    iou_preds: torch.Tensor,
    batch_box_preds: torch.Tensor,
    mask: torch.Tensor,
    ind: torch.Tensor,
    gt_boxes: torch.Tensor,
) -> torch.Tensor:
    """L1 loss of the IoU branch against the rotated 3-D IoU rescaled to [-1, 1] (CIA-SSD, Zheng et al. 2021,
    arXiv:2012.03015)::

        sum |iou_pred - (2 IoU3D - 1)| / number of objects

    The IoU is a target: no gradient flows into the boxes. Without objects: a differentiable scalar 0.

    Args:
        iou_preds: (B, 1, H, W). batch_box_preds: (B, 7 or 9, H, W) decoded boxes, metres and radians, LiDAR frame.
        mask, ind: (B, M) used slots and their flat cells y * W + x.
        gt_boxes: (B, M, 7 or 9).
    Returns:
        Scalar, in float32 or better.

    >>> box = torch.tensor([10.0, 0.0, -1.0, 4.0, 2.0, 1.5, 0.3])
    >>> box_map = box.view(1, 7, 1, 1).expand(1, 7, 2, 2)
    >>> one = torch.ones(1, 1, dtype=torch.long)
    >>> # |0 - 1|
    >>> round(calculate_iou_loss_centerhead(torch.zeros(1, 1, 2, 2), box_map, one, one, box.view(1, 1, 7)).item(), 2)
    1.0
    """
    used = mask.bool()
    (iou_preds,) = at_least_float32(iou_preds)
    pred = _transpose_and_gather_feat(iou_preds, ind)[used].view(-1)  # (K,)
    boxes, gt_boxes = at_least_float32(batch_box_preds.detach(), gt_boxes)
    boxes = _transpose_and_gather_feat(boxes, ind)[used][:, :7]
    target = 2 * boxes_aligned_iou3d(boxes, gt_boxes[used][:, :7]).view(-1) - 1
    return F.l1_loss(pred, target.to(pred), reduction="sum") / used.sum().clamp(min=1)


def calculate_iou_reg_loss_centerhead(
    batch_box_preds: torch.Tensor, mask: torch.Tensor, ind: torch.Tensor, gt_boxes: torch.Tensor
) -> torch.Tensor:
    """Distance-IoU loss of the decoded boxes (Zheng et al. 2020, arXiv:1911.08287), the heading left out: ``sum (1 -
    DIoU) / number of objects``.

    Args:
        batch_box_preds: (B, 7 or 9, H, W) decoded boxes, metres, LiDAR frame.
        mask, ind: (B, M) used slots and their flat cells y * W + x.
        gt_boxes: (B, M, 7 or 9).
    Returns:
        Scalar, in float32 or better; a differentiable 0 without objects.

    >>> box = torch.tensor([10.0, 0.0, -1.0, 4.0, 2.0, 1.5, 0.3])
    >>> one = torch.ones(1, 1, dtype=torch.long)
    >>> calculate_iou_reg_loss_centerhead(box.view(1, 7, 1, 1).expand(1, 7, 2, 2), one, one, box.view(1, 1, 7)).item()
    0.0
    """
    used = mask.bool()
    boxes, gt_boxes = at_least_float32(batch_box_preds, gt_boxes)
    boxes = _transpose_and_gather_feat(boxes, ind)[used][:, :7]
    return (1 - bbox3d_overlaps_diou(boxes, gt_boxes[used][:, :7])).sum() / used.sum().clamp(min=1)
