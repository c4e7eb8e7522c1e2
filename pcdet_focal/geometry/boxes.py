"""Boxes in the LiDAR frame: corners, which of them and which points lie where, and the overlaps that need no polygon
clipping.

A box is (x, y, z, dx, dy, dz, heading, ...): metres, centre-based, heading in radians anticlockwise from +x; further
columns (velocity, class) are left alone. Rotated IoU is in ``ops.rotated_iou``. Names and results are those of
OpenPCDet's ``box_utils``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..arrays import Array, as_floating, numpy_or_torch
from .angles import limit_period


@numpy_or_torch
def boxes_to_corners_3d(boxes3d: Array) -> Array:
    """The eight corners of boxes.

    Corners 0 to 3 are the bottom, 4 to 7 the top above them; from the front left they go round clockwise seen from
    above: front left, front right, rear right, rear left.

    Args:
        boxes3d: (..., 7 + C), usually (N, 7).

    Returns:
        (..., 8, 3) x, y, z, metres, differentiable.
    """
    x, y, z = boxes3d[..., 0:3, None].unbind(dim=-2)  # (..., 1) each
    half_x, half_y, half_z = (boxes3d[..., 3:6] / 2).unbind(dim=-1)  # (...) each
    # stacked with their signs, not multiplied by a template, which would be copied from the host to the device on every
    # call
    along = torch.stack((half_x, half_x, -half_x, -half_x), dim=-1)  # (..., 4)
    across = torch.stack((half_y, -half_y, -half_y, half_y), dim=-1)
    cos, sin = torch.cos(boxes3d[..., 6:7]), torch.sin(boxes3d[..., 6:7])
    corner_x, corner_y = x + along * cos - across * sin, y + along * sin + across * cos
    bottom = torch.stack((corner_x, corner_y, (z - half_z[..., None]).expand_as(corner_x)), dim=-1)  # (..., 4, 3)
    top = torch.stack((corner_x, corner_y, (z + half_z[..., None]).expand_as(corner_x)), dim=-1)
    return torch.cat((bottom, top), dim=-2)


def mask_boxes_outside_range_numpy(
    boxes: np.ndarray, limit_range: Sequence[float], min_num_corners: int = 1, use_center_to_filter: bool = True
) -> np.ndarray:
    """Which boxes to keep (True) because they are in the range. numpy only, as the name says.

    Args:
        boxes: (N, 7 + C).
        limit_range: x_min, y_min, z_min, x_max, y_max, z_max, metres; both ends belong to the range.
        min_num_corners: without ``use_center_to_filter``, how many of the eight corners must be in the range of x and
            y.
        use_center_to_filter: True asks only whether the centre is in the range of x, y and z.

    Returns:
        (N,) bool.
    """
    boxes = as_floating(boxes)
    low, high = np.asarray(limit_range[0:3], dtype=boxes.dtype), np.asarray(limit_range[3:6], dtype=boxes.dtype)
    if use_center_to_filter:
        centres = boxes[:, 0:3]
        return ((centres >= low) & (centres <= high)).all(axis=1)
    corners = boxes_to_corners_3d(boxes[:, 0:7])[:, :, 0:2]  # (N, 8, 2)
    return ((corners >= low[0:2]) & (corners <= high[0:2])).all(axis=2).sum(axis=1) >= min_num_corners


def remove_points_in_boxes3d(points: Array, boxes3d: Array) -> Array:
    """The points that lie in none of the boxes, in their order.

    The test is that of OpenPCDet's CPU kernel: |z| <= dz / 2, and |x| < dx / 2 + 0.01, |y| < dy / 2 + 0.01 in the box's
    own frame. It runs on the CPU.

    Args:
        points: (N, 3 + C).
        boxes3d: (M, 7 + C'), numpy or torch whatever ``points`` is.

    Returns:
        (N', 3 + C), kind, device and type of ``points``.
    """
    from .points_in_boxes import outside_boxes  # only here, because importing numba takes a second

    xyz, boxes = (
        array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array for array in (points, boxes3d)
    )
    outside = outside_boxes(as_floating(xyz[:, 0:3]), boxes)
    return points[torch.from_numpy(outside).to(points.device)] if isinstance(points, torch.Tensor) else points[outside]


@numpy_or_torch
def enlarge_box3d(boxes3d: Array, extra_width: Sequence[float] = (0, 0, 0)) -> Array:
    """Boxes (N, 7 + C) whose sizes are larger by ``extra_width`` (three lengths in metres, in all, not on each
    side).
    """
    # column by column, so that plain numbers need no copy to the device
    sizes = torch.stack([boxes3d[:, 3 + axis] + extra_width[axis] for axis in range(3)], dim=1)
    return torch.cat((boxes3d[:, 0:3], sizes, boxes3d[:, 6:]), dim=1)


@numpy_or_torch
def boxes3d_lidar_to_aligned_bev_boxes(boxes3d: Array) -> Array:
    """Bird's-eye rectangles of boxes turned to the nearest axis.

    A heading within 45 degrees of the x axis (either way round) keeps dx along x, any other one puts dy along x.

    Args:
        boxes3d: (N, 7 + C).

    Returns:
        (N, 4) x1, y1, x2, y2, metres.
    """
    from_x_axis = limit_period(boxes3d[:, 6], offset=0.5, period=np.pi).abs()
    sizes = torch.where((from_x_axis < np.pi / 4)[:, None], boxes3d[:, 3:5], boxes3d[:, 3:5].flip(1))
    return torch.cat((boxes3d[:, 0:2] - sizes / 2, boxes3d[:, 0:2] + sizes / 2), dim=1)


@numpy_or_torch
def area(box: Array) -> Array:
    """Areas (N,) of rectangles (N, 4) given as x1, y1, x2, y2."""
    return (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])


@numpy_or_torch
def boxes_iou_normal(boxes_a: Array, boxes_b: Array) -> Array:
    """IoU of every rectangle in one set with every one in the other.

    Args:
        boxes_a: (N, 4) x1, y1, x2, y2.
        boxes_b: (M, 4).

    Returns:
        (N, M). The union is taken as at least 1e-6, so rectangles without an area give 0, not NaN.

    Raises:
        ValueError: the boxes have not four columns.
    """
    if boxes_a.shape[1] != 4 or boxes_b.shape[1] != 4:
        raise ValueError(
            f"boxes_iou_normal takes (N, 4) and (M, 4) as x1, y1, x2, y2; got {tuple(boxes_a.shape)} and "
            f"{tuple(boxes_b.shape)}."
        )
    intersection = _pairwise_intersection(boxes_a, boxes_b)
    return intersection / torch.clamp_min(area(boxes_a)[:, None] + area(boxes_b)[None, :] - intersection, 1e-6)


@numpy_or_torch
def pairwise_iou(boxes1: Array, boxes2: Array) -> Array:
    """IoU (N, M) of every rectangle (N, 4) with every one of (M, 4), x1, y1, x2, y2; 0 where they do not meet.

    Unlike ``boxes_iou_normal`` the union has no floor, so rectangles of any size in any unit come out right.
    """
    intersection = _pairwise_intersection(boxes1, boxes2)
    union = area(boxes1)[:, None] + area(boxes2)[None, :] - intersection
    meets = intersection > 0
    # dividing by 1 where they do not meet keeps the gradient finite for rectangles without an area
    return torch.where(meets, intersection, 0) / torch.where(meets, union, 1)


@numpy_or_torch
def boxes3d_nearest_bev_iou(boxes_a: Array, boxes_b: Array) -> Array:
    """Bird's-eye IoU after turning every box to the nearest axis: what anchors are matched with.

    Args:
        boxes_a: (N, 7 + C).
        boxes_b: (M, 7 + C).

    Returns:
        (N, M). Source: OpenPCDet ``box_utils.boxes3d_nearest_bev_iou``.
    """
    return boxes_iou_normal(boxes3d_lidar_to_aligned_bev_boxes(boxes_a), boxes3d_lidar_to_aligned_bev_boxes(boxes_b))


@numpy_or_torch
def center_to_corner2d(center: Array, dim: Array) -> Array:
    """Corners (N, 4, 2) of axis-aligned rectangles from centres (N, 2) and sizes (N, 2): (-, -), (-, +), (+, +), (+,
    -).
    """
    half = dim.to(center.dtype) / 2
    low, high = center - half, center + half  # (N, 2)
    x = torch.stack((low[:, 0], low[:, 0], high[:, 0], high[:, 0]), dim=1)
    y = torch.stack((low[:, 1], high[:, 1], high[:, 1], low[:, 1]), dim=1)
    return torch.stack((x, y), dim=2)


@numpy_or_torch
def bbox3d_overlaps_diou(pred_boxes: Array, gt_boxes: Array) -> Array:
    """Distance IoU of boxes pair by pair, their headings left out: 3-D IoU - (distance of centres / diagonal of the
    enclosing box)^2.

    Args:
        pred_boxes: (N, 7 + C).
        gt_boxes: (N, 7 + C).

    Returns:
        (N,), between -1 and 1. Two boxes of no volume at one place give 0.

    Raises:
        ValueError: different numbers of boxes.

    Source: Zheng et al., Distance-IoU Loss, AAAI 2020; OpenPCDet ``box_utils.bbox3d_overlaps_diou`` (from PillarNet).
    """
    if pred_boxes.shape[0] != gt_boxes.shape[0]:
        raise ValueError(
            f"bbox3d_overlaps_diou compares pair by pair, got {pred_boxes.shape[0]} and {gt_boxes.shape[0]} boxes."
        )
    centre_a, size_a = pred_boxes[:, 0:3], pred_boxes[:, 3:6]
    centre_b, size_b = gt_boxes[:, 0:3], gt_boxes[:, 3:6]
    low_a, high_a = centre_a - size_a / 2, centre_a + size_a / 2
    low_b, high_b = centre_b - size_b / 2, centre_b + size_b / 2

    shared = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp_min(0)  # (N, 3)
    intersection = _volume(shared)
    union = _volume(size_a) + _volume(size_b) - intersection
    enclosing = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).clamp_min(0)  # (N, 3)
    diagonal_squared = enclosing.square().sum(dim=1)
    distance_squared = (centre_a - centre_b).square().sum(dim=1)

    tiny = torch.finfo(intersection.dtype).tiny
    return (intersection / union.clamp_min(tiny) - distance_squared / diagonal_squared.clamp_min(tiny)).clamp(-1.0, 1.0)


def _volume(size: torch.Tensor) -> torch.Tensor:
    """(N,) products of (N, 3); ``prod`` would do, but its backward waits for the device to look for zeros."""
    return size[:, 0] * size[:, 1] * size[:, 2]


def _pairwise_intersection(boxes_a: torch.Tensor, boxes_b: torch.Tensor) -> torch.Tensor:
    """(N, M) intersection areas of rectangles (N, 4) and (M, 4)."""
    width = torch.minimum(boxes_a[:, None, 2], boxes_b[None, :, 2]) - torch.maximum(
        boxes_a[:, None, 0], boxes_b[None, :, 0]
    )
    height = torch.minimum(boxes_a[:, None, 3], boxes_b[None, :, 3]) - torch.maximum(
        boxes_a[:, None, 1], boxes_b[None, :, 1]
    )
    return width.clamp_min(0) * height.clamp_min(0)
