"""Augmentations of single objects: each box and the points in it move, turn or grow, one box after the other.

The points of a box are those of :func:`get_points_in_box` (10 cm margin in the plane). A point in two boxes is moved
twice, as in OpenPCDet. One number per box is drawn from numpy's global generator, in box order. The arguments are never
changed. Arrays as in ``world.py``.
"""

from __future__ import annotations

import numpy as np

from ...geometry.points_in_boxes import index_in_box
from .world import check_boxes, rotate_xy


def get_points_in_box(points: np.ndarray, gt_box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points (M, 3+C) inside one box (7+) and their mask (M,) bool: 0.1 m margin on length and width, none on
    height.
    """
    mask = np.zeros(len(points), dtype=bool)
    mask[index_in_box(points, gt_box)] = True
    return points[mask], mask


def _translate(
    gt_boxes: np.ndarray, points: np.ndarray, offset_range: list[float], axis: int
) -> tuple[np.ndarray, np.ndarray]:
    gt_boxes, points = check_boxes(gt_boxes).copy(), points.copy()
    for box in gt_boxes:
        offset = float(np.random.uniform(offset_range[0], offset_range[1]))
        points[index_in_box(points, box), axis] += offset
        box[axis] += offset
    return gt_boxes, points


def random_local_translation_along_x(
    gt_boxes: np.ndarray, points: np.ndarray, offset_range: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Move each object along x by a distance drawn from ``offset_range`` [low, high] (metres). Returns ``(gt_boxes,
    points)``.
    """
    return _translate(gt_boxes, points, offset_range, 0)


def random_local_translation_along_y(
    gt_boxes: np.ndarray, points: np.ndarray, offset_range: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Move each object along y by a distance drawn from ``offset_range`` [low, high] (metres). Returns ``(gt_boxes,
    points)``.
    """
    return _translate(gt_boxes, points, offset_range, 1)


def random_local_translation_along_z(
    gt_boxes: np.ndarray, points: np.ndarray, offset_range: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Move each object along z by a distance drawn from ``offset_range`` [low, high] (metres). Returns ``(gt_boxes,
    points)``.
    """
    return _translate(gt_boxes, points, offset_range, 2)


def local_scaling(gt_boxes: np.ndarray, points: np.ndarray, scale_range: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Scale each object about its centre by a factor drawn from ``scale_range`` [low, high]; a range narrower than 1e-3
    does nothing.

    Returns ``(gt_boxes, points)``.
    """
    check_boxes(gt_boxes)
    if scale_range[1] - scale_range[0] < 1e-3:
        return gt_boxes, points
    gt_boxes, points = gt_boxes.copy(), points.copy()
    for box in gt_boxes:
        factor = float(np.random.uniform(scale_range[0], scale_range[1]))
        inside = index_in_box(points, box)
        points[inside, :3] = (points[inside, :3] - box[:3]) * factor + box[:3]
        box[3:6] *= factor
    return gt_boxes, points


def local_rotation(gt_boxes: np.ndarray, points: np.ndarray, rot_range: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Turn each object about its own vertical axis by an angle drawn from ``rot_range`` [low, high] (radians), its
    velocity too.

    Returns ``(gt_boxes, points)``.
    """
    gt_boxes, points = check_boxes(gt_boxes).copy(), points.copy()
    for box in gt_boxes:
        angle = float(np.random.uniform(rot_range[0], rot_range[1]))
        inside = index_in_box(points, box)
        points[inside, :2] = rotate_xy(points[inside, :2] - box[:2], angle) + box[:2]
        box[6] += angle
        if len(box) == 9:
            box[7:9] = rotate_xy(box[None, 7:9], angle)[0]
    return gt_boxes, points
