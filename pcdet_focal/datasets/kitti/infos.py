"""The info of a frame: what training and evaluation need to know of it without its scan, in OpenPCDet's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...geometry.calibration import Calibration
from ...ops.points_in_boxes import count_points_in_boxes
from .object3d import Object3d


def frame_info(frame_id: str, image_shape: np.ndarray, calib: Calibration, num_features: int = 4) -> dict[str, Any]:
    """The part of an info that every frame has: ids, columns of a scan, image size (height, width) and the calibration
    as 4 x 4 matrices.
    """
    r0_rect = np.eye(4, dtype=calib.R0.dtype)
    r0_rect[:3, :3] = calib.R0
    last_row = np.array([[0.0, 0.0, 0.0, 1.0]])
    return {
        "point_cloud": {"num_features": num_features, "lidar_idx": frame_id},
        "image": {"image_idx": frame_id, "image_shape": image_shape},
        "calib": {
            "P2": np.concatenate([calib.P2, last_row]),
            "R0_rect": r0_rect,
            "Tr_velo_to_cam": np.concatenate([calib.V2C, last_row]),
        },
    }


def annotations(objects: Sequence[Object3d], calib: Calibration) -> dict[str, np.ndarray]:
    """The labels of a frame as arrays over its objects.

    Returns:
        name; truncated; occluded; alpha; bbox (N, 4) float32 pixels; dimensions (N, 3) length, height, width in metres;
        location (N, 3) float32, bottom centre in the rectified camera frame; rotation_y; score; difficulty (N,) int32
        (0 easy, 1 moderate, 2 hard, -1 none); index (N,) int32, -1 for DontCare; and gt_boxes_lidar (M, 7) float64
        without DontCare: x, y, z of the centre, l, w, h, heading = -(pi/2 + ry). DontCare objects stand last, so that
            the first M rows of everything are the boxes.
    """
    # KITTI's own files have this order; the sort is stable
    objects = sorted(objects, key=lambda obj: obj.cls_type == "DontCare")
    number = sum(obj.cls_type != "DontCare" for obj in objects)
    location = np.array([obj.loc for obj in objects], dtype=np.float32).reshape(-1, 3)
    dimensions = np.array([(obj.l, obj.h, obj.w) for obj in objects], dtype=np.float64).reshape(-1, 3)
    rotation_y = np.array([obj.ry for obj in objects], dtype=np.float64)

    centre = calib.rect_to_lidar(location[:number]).astype(np.float64)
    length, height, width = dimensions[:number].T
    centre[:, 2] += height / 2
    return {
        "name": np.array([obj.cls_type for obj in objects], dtype=str),
        "truncated": np.array([obj.truncation for obj in objects], dtype=np.float64),
        "occluded": np.array([obj.occlusion for obj in objects], dtype=np.float64),
        "alpha": np.array([obj.alpha for obj in objects], dtype=np.float64),
        "bbox": np.array([obj.box2d for obj in objects], dtype=np.float32).reshape(-1, 4),
        "dimensions": dimensions,
        "location": location,
        "rotation_y": rotation_y,
        "score": np.array([obj.score for obj in objects], dtype=np.float64),
        "difficulty": np.array([obj.level for obj in objects], dtype=np.int32),
        "index": np.array([*range(number), *[-1] * (len(objects) - number)], dtype=np.int32),
        "gt_boxes_lidar": np.column_stack([centre, length, width, height, -(np.pi / 2 + rotation_y[:number])]),
    }


def num_points_in_gt(annos: dict[str, np.ndarray], points: np.ndarray) -> np.ndarray:
    """int32 (N,): how many of ``points`` (K, 3 or more) lie in each object's box; -1 for DontCare."""
    counts = np.full(len(annos["name"]), -1, dtype=np.int32)
    boxes = annos["gt_boxes_lidar"]
    counts[: len(boxes)] = count_points_in_boxes(points[:, :3], boxes, margin=0.0)
    return counts
