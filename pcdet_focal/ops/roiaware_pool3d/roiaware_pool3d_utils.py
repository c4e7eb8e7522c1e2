"""OpenPCDet's names. Both functions work on any device and for numpy arrays."""

from __future__ import annotations

from ...arrays import Array
from ..points_in_boxes import CPU_MARGIN, CUDA_MARGIN, points_in_boxes_index, points_in_boxes_mask

__all__ = ["points_in_boxes_cpu", "points_in_boxes_gpu"]


def points_in_boxes_cpu(points: Array, boxes: Array) -> Array:
    """Points (N, 3), boxes (M, 7) -> (M, N) int32 of 0 and 1; margin 1e-2 m in the plane, none in height."""
    return points_in_boxes_mask(points, boxes, CPU_MARGIN)


def points_in_boxes_gpu(points: Array, boxes: Array) -> Array:
    """Points (B, N, 3), boxes (B, M, 7) -> (B, N) int32: the first box of each point, -1 for none; margin 1e-5 m."""
    return points_in_boxes_index(points, boxes, CUDA_MARGIN)
