"""Every overlap that the evaluation needs, each computed once: pairs of a ground truth and a detection of the same
frame that can meet.

The bird's-eye view of KITTI's camera frame is its x-z plane; a rotation about the y axis (which points down) by
rotation_y turns a box in that plane by -rotation_y, so the kernel for rotated rectangles in the LiDAR frame serves here
too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from ...ops.rotated_iou import OVERLAP_BEV
from ...ops.rotated_iou.cpu import iou_aligned
from .annotations import DONT_CARE, FlatAnnotations


@dataclass(frozen=True)
class Overlaps:
    """P pairs as a compressed row list: the pairs of ground truth g are ``first[g]:first[g + 1]``, their detections
    ascending.
    """

    first: np.ndarray  # (G + 1,) int64
    pair_dt: np.ndarray  # (P,) int64
    values: dict[str, np.ndarray]  # 'bbox', 'bev', '3d': (P,) float64 intersection over union
    # (D,) float64: the largest part of a detection's image box that one "DontCare" region covers
    unlabelled: np.ndarray


def compute_overlaps(gt: FlatAnnotations, dt: FlatAnnotations, evaluated: np.ndarray) -> Overlaps:
    """Intersection over union of all pairs inside a frame, in the image, from above and in 3-D.

    Args:
        gt, dt: annotations of the same frames.
        wanted: (G,) bool, the ground truths that any of the evaluated classes looks at.

    Returns:
        Overlaps; pairs that cannot overlap, neither in the image nor from above, are left out. Boxes that are not
        finite overlap nothing.
    """
    gt_plane, dt_plane = _plane_boxes(gt.bottom_boxes), _plane_boxes(dt.bottom_boxes)
    gt_circles, dt_circles = _circles(gt_plane), _circles(dt_plane)
    first, pair_gt, pair_dt = _pairs_that_may_meet(
        gt.starts, dt.starts, evaluated, dt.finite, gt.bbox, dt.bbox, gt_circles, dt_circles
    )

    a, b = gt.bottom_boxes[pair_gt], dt.bottom_boxes[pair_dt]  # (P, 7)
    shared = iou_aligned(gt_plane[pair_gt], dt_plane[pair_dt], OVERLAP_BEV)  # (P,) square metres
    with np.errstate(over="ignore"):  # a detector that diverges predicts sizes like 1e300
        bev = _ratio(shared, a[:, 3] * a[:, 5] + b[:, 3] * b[:, 5] - shared)
        # y points down, boxes stand on y
        height = np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 1] - a[:, 4], b[:, 1] - b[:, 4])
        shared = shared * np.maximum(height, 0.0)
        volume = _ratio(shared, a[:, 3] * a[:, 4] * a[:, 5] + b[:, 3] * b[:, 4] * b[:, 5] - shared)
    values = {"bbox": _image_iou(gt.bbox[pair_gt], dt.bbox[pair_dt]), "bev": bev, "3d": volume}
    unlabelled = _largest_cover(gt.starts, dt.starts, gt.class_ids == DONT_CARE, gt.bbox, dt.bbox)
    return Overlaps(first, pair_dt, values, unlabelled)


def _plane_boxes(bottom_boxes: np.ndarray) -> np.ndarray:
    """Camera boxes (N, 7: x, y, z, length, height, width, rotation_y) as boxes of the rotated IoU kernel lying in the
    x-z plane.
    """
    flat = np.zeros((len(bottom_boxes), 7))
    flat[:, 0], flat[:, 1] = bottom_boxes[:, 0], bottom_boxes[:, 2]
    flat[:, 3], flat[:, 4], flat[:, 5] = bottom_boxes[:, 3], bottom_boxes[:, 5], 1.0
    flat[:, 6] = -bottom_boxes[:, 6]
    return flat


def _circles(plane_boxes: np.ndarray) -> np.ndarray:
    """(N, 3): centre and radius of the circle around each box."""
    with np.errstate(over="ignore", invalid="ignore"):
        radius = np.hypot(plane_boxes[:, 3], plane_boxes[:, 4]) / 2
    return np.ascontiguousarray(np.column_stack([plane_boxes[:, :2], radius]))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=part > 0)


def _image_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of image boxes x1 y1 x2 y2, row by row: (P, 4), (P, 4) -> (P,)."""
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    shared = np.where((width > 0) & (height > 0), width * height, 0.0)
    sizes = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1]) + (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return _ratio(shared, sizes - shared)


@numba.njit(cache=True, nogil=True)
def _may_meet(a_box, b_box, a_circle, b_circle):
    if min(a_box[2], b_box[2]) > max(a_box[0], b_box[0]) and min(a_box[3], b_box[3]) > max(a_box[1], b_box[1]):
        return True
    dx, dy, reach = a_circle[0] - b_circle[0], a_circle[1] - b_circle[1], a_circle[2] + b_circle[2]
    return dx * dx + dy * dy < reach * reach


@numba.njit(cache=True, nogil=True)
def _pairs_that_may_meet(gt_starts, dt_starts, gt_wanted, dt_finite, gt_bbox, dt_bbox, gt_circles, dt_circles):
    """Compressed rows of the pairs whose image boxes or circles meet: first (G + 1,), pair_gt (P,), pair_dt (P,)."""
    first = np.zeros(gt_starts[-1] + 1, dtype=np.int64)
    pair_gt = np.empty(0, dtype=np.int64)
    pair_dt = np.empty(0, dtype=np.int64)
    for fill in range(2):  # the first round counts, the second writes
        if fill:
            pair_gt = np.empty(first[-1], dtype=np.int64)
            pair_dt = np.empty(first[-1], dtype=np.int64)
        count = 0
        for f in range(len(gt_starts) - 1):
            for g in range(gt_starts[f], gt_starts[f + 1]):
                if gt_wanted[g]:
                    for d in range(dt_starts[f], dt_starts[f + 1]):
                        if dt_finite[d] and _may_meet(gt_bbox[g], dt_bbox[d], gt_circles[g], dt_circles[d]):
                            if fill:
                                pair_gt[count] = g
                                pair_dt[count] = d
                            count += 1
                first[g + 1] = count
    return first, pair_gt, pair_dt


@numba.njit(cache=True, nogil=True)
def _largest_cover(gt_starts, dt_starts, is_region, gt_bbox, dt_bbox):
    """For each detection the largest share of its image box that one region covers: (D,) in [0, 1]."""
    cover = np.zeros(len(dt_bbox), dtype=np.float64)
    for f in range(len(gt_starts) - 1):
        for g in range(gt_starts[f], gt_starts[f + 1]):
            if not is_region[g]:
                continue
            region = gt_bbox[g]
            for d in range(dt_starts[f], dt_starts[f + 1]):
                box = dt_bbox[d]
                width = min(box[2], region[2]) - max(box[0], region[0])
                height = min(box[3], region[3]) - max(box[1], region[1])
                if width > 0 and height > 0:
                    cover[d] = max(cover[d], width * height / ((box[2] - box[0]) * (box[3] - box[1])))
    return cover
