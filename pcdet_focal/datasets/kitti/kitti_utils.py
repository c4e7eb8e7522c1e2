"""Annotations of other data sets in KITTI's form, so that KITTI's evaluator can score them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...geometry.calibration import Calibration
from ...geometry.camera_boxes import boxes3d_kitti_fakelidar_to_lidar


def transform_annotations_to_kitti_format(
    annos: Sequence[dict[str, Any]], map_name_to_kitti: Mapping[str, str], info_with_fakelidar: bool = False
) -> list[dict[str, Any]]:
    """Give annotations that have LiDAR boxes only the fields that KITTI's evaluator reads. Changes the dicts, not the
    arrays in them: its callers in OpenPCDet's data sets ignore what it returns.

    Args:
        annos: each with ``name`` or ``gt_names`` (N,), and ``boxes_lidar`` or ``gt_boxes_lidar`` (N, 7 or more).
        map_name_to_kitti: every name that occurs -> Car, Pedestrian, Cyclist, …
        info_with_fakelidar: the boxes are in the old LiDAR convention.

    Returns:
        The same dicts with name mapped; bbox (0, 0, 50, 50), so that every object counts as easy; truncated and
        occluded 0; location, dimensions (l, h, w), rotation_y and alpha of a camera at the LiDAR that looks along +x.
    """
    for anno in annos:
        _transform(anno, map_name_to_kitti, info_with_fakelidar)
    return list(annos)


def _transform(anno: dict[str, Any], map_name_to_kitti: Mapping[str, str], info_with_fakelidar: bool) -> None:
    names = anno["name"] if "name" in anno else anno.pop("gt_names")
    boxes = np.array(anno["boxes_lidar"] if "boxes_lidar" in anno else anno["gt_boxes_lidar"])
    if info_with_fakelidar and len(boxes):
        boxes = boxes3d_kitti_fakelidar_to_lidar(boxes)
    x, y, z, length, width, height, heading = boxes.reshape(len(names), -1)[:, :7].T if len(names) else np.zeros((7, 0))
    rotation_y = -heading - np.pi / 2
    anno.update(
        name=np.array([map_name_to_kitti[name] for name in names], dtype=str),
        bbox=np.tile([0.0, 0.0, 50.0, 50.0], (len(names), 1)),
        truncated=np.zeros(len(names)),
        occluded=np.zeros(len(names)),
        location=np.stack([-y, height / 2 - z, x], axis=1),
        dimensions=np.stack([length, height, width], axis=1),
        rotation_y=rotation_y,
        alpha=-np.arctan2(-y, x) + rotation_y,
    )


def calib_to_matricies(calib: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """The matrices (4, 4) from the LiDAR to the rectified camera frame and (3, 4) from there to pixels. The name is
    OpenPCDet's.
    """
    lidar_to_camera, rectify = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)
    lidar_to_camera[:3], rectify[:3, :3] = calib.V2C, calib.R0
    return rectify @ lidar_to_camera, calib.P2
