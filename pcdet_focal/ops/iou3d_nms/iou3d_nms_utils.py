"""OpenPCDet's names. Everything works on any device, whatever the name says, and for numpy arrays too."""

from __future__ import annotations

from typing import Any

from ...arrays import Array
from ..nms import nms_axis_aligned, nms_rotated
from ..rotated_iou import boxes_aligned_iou3d, boxes_iou3d, boxes_iou_bev

__all__ = [
    "boxes_bev_iou_cpu",
    "boxes_iou_bev",
    "boxes_iou3d_gpu",
    "boxes_aligned_iou3d_gpu",
    "paired_boxes_iou3d_gpu",
    "nms_gpu",
    "nms_normal_gpu",
]

boxes_bev_iou_cpu = boxes_iou_bev
boxes_iou3d_gpu = boxes_iou3d
paired_boxes_iou3d_gpu = boxes_aligned_iou3d


def boxes_aligned_iou3d_gpu(boxes_a: Array, boxes_b: Array) -> Array:
    """3-D IoU of box i with box i: (N, 7+) and (N, 7+) -> (N, 1), the column that OpenPCDet returns
    (``boxes_aligned_iou3d`` gives (N,)).
    """
    return boxes_aligned_iou3d(boxes_a, boxes_b)[:, None]


def nms_gpu(
    boxes: Array, scores: Array, thresh: float, pre_maxsize: int | None = None, **kwargs: Any
) -> tuple[Array, None]:
    """``nms_rotated`` as OpenPCDet returns it: (indices, None). Like there, a caller may pass its whole NMS config; the
    rest is not used.
    """
    return nms_rotated(boxes, scores, thresh, pre_maxsize), None


def nms_normal_gpu(
    boxes: Array, scores: Array, thresh: float, pre_maxsize: int | None = None, **kwargs: Any
) -> tuple[Array, None]:
    """``nms_axis_aligned`` in the same form."""
    return nms_axis_aligned(boxes, scores, thresh, pre_maxsize), None
