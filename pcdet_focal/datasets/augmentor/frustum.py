"""Dropping a slab of the scene, or of each object, from the top, bottom, left (+y) or right (-y).

The share that goes is drawn from ``intensity_range`` [low, high] with numpy's global generator: once for the scene,
once per box for objects. The arguments are never changed. Arrays as in ``world.py``.
"""

from __future__ import annotations

import numpy as np

from ...geometry.points_in_boxes import index_in_box
from .world import check_boxes

# axis, drop the high end
_DIRECTIONS = {"top": (2, True), "bottom": (2, False), "left": (1, True), "right": (1, False)}


def global_frustum_masks(
    gt_boxes: np.ndarray, points: np.ndarray, intensity_range: list[float], direction: str
) -> tuple[np.ndarray, np.ndarray]:
    """What stays when the scene loses a slab from ``direction``: masks of the boxes (N,) and of the points (M,).

    The threshold is measured over the extent of the points; a box goes with its centre.
    """
    check_boxes(gt_boxes)
    axis, high_end = _DIRECTIONS[direction]
    intensity = float(np.random.uniform(intensity_range[0], intensity_range[1]))
    values = points[:, axis]
    if not len(values):
        return np.ones(len(gt_boxes), dtype=bool), np.ones(0, dtype=bool)
    low, high = values.min(), values.max()
    if high_end:
        threshold = high - intensity * (high - low)
        return gt_boxes[:, axis] < threshold, values < threshold
    threshold = low + intensity * (high - low)
    return gt_boxes[:, axis] > threshold, values > threshold


def _global_dropout(gt_boxes, points, intensity_range, direction):
    keep_boxes, keep_points = global_frustum_masks(gt_boxes, points, intensity_range, direction)
    return gt_boxes[keep_boxes], points[keep_points]


def global_frustum_dropout_top(
    gt_boxes: np.ndarray, points: np.ndarray, intensity_range: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the highest part of the scene's z extent. Returns ``(gt_boxes, points)`` that stay, in order."""
    return _global_dropout(gt_boxes, points, intensity_range, "top")


def global_frustum_dropout_bottom(
    gt_boxes: np.ndarray, points: np.ndarray, intensity_range: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the lowest part of the scene's z extent. Returns ``(gt_boxes, points)`` that stay, in order."""
    return _global_dropout(gt_boxes, points, intensity_range, "bottom")


def global_frustum_dropout_left(
    gt_boxes: np.ndarray, points: np.ndarray, intensity_range: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the leftmost (+y) part of the scene's y extent. Returns ``(gt_boxes, points)`` that stay, in order."""
    return _global_dropout(gt_boxes, points, intensity_range, "left")


def global_frustum_dropout_right(
    gt_boxes: np.ndarray, points: np.ndarray, intensity_range: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the rightmost (-y) part of the scene's y extent. Returns ``(gt_boxes, points)`` that stay, in order."""
    return _global_dropout(gt_boxes, points, intensity_range, "right")


def _local_dropout(gt_boxes, points, intensity_range, direction):
    axis, high_end = _DIRECTIONS[direction]
    keep = np.ones(len(points), dtype=bool)
    for box in check_boxes(gt_boxes):
        intensity = float(np.random.uniform(intensity_range[0], intensity_range[1]))
        inside = index_in_box(points, box)
        centre, size = box[axis], box[3 + axis]
        if high_end:
            keep[inside[points[inside, axis] >= centre + size / 2 - intensity * size]] = False
        else:
            keep[inside[points[inside, axis] <= centre - size / 2 + intensity * size]] = False
    return gt_boxes, points[keep]


def local_frustum_dropout_top(
    gt_boxes: np.ndarray, points: np.ndarray, intensity_range: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the highest points of each object. Returns ``(gt_boxes, points)``; the boxes stay."""
    return _local_dropout(gt_boxes, points, intensity_range, "top")


def local_frustum_dropout_bottom(
    gt_boxes: np.ndarray, points: np.ndarray, intensity_range: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the lowest points of each object. Returns ``(gt_boxes, points)``; the boxes stay."""
    return _local_dropout(gt_boxes, points, intensity_range, "bottom")


def local_frustum_dropout_left(
    gt_boxes: np.ndarray, points: np.ndarray, intensity_range: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the leftmost points of each object: beyond a plane across the scene's y axis, ``dy`` wide whatever the
    heading (OpenPCDet's rule).
    """
    return _local_dropout(gt_boxes, points, intensity_range, "left")


def local_frustum_dropout_right(
    gt_boxes: np.ndarray, points: np.ndarray, intensity_range: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the rightmost points of each object: beyond a plane across the scene's y axis, ``dy`` wide whatever the
    heading (OpenPCDet's rule).
    """
    return _local_dropout(gt_boxes, points, intensity_range, "right")
