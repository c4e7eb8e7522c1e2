"""From a detector's boxes to KITTI annotations, in memory and as result files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...geometry.calibration import Calibration
from ...geometry.camera_boxes import boxes3d_kitti_camera_to_imageboxes, boxes3d_lidar_to_kitti_camera


def generate_prediction_dicts(
    batch_dict: dict[str, Any],
    pred_dicts: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    output_path: Path | None = None,
) -> list[dict[str, Any]]:
    """The detections of a batch as KITTI annotations, one dict a frame.

    Args:
        batch_dict: ``frame_id``, ``calib`` and ``image_shape`` (height, width), each indexed by the frame's place in
            the batch.
        pred_dicts: one a frame: tensors pred_boxes (N, 7 or more), pred_scores (N,), pred_labels (N,) 1-based.
        output_path: a folder; where given, ``<frame_id>.txt`` is written there in KITTI's result format.

    Returns:
        name; truncated and occluded (zeros); alpha = ry - atan2(-y, x) of the LiDAR box, not wrapped, as in OpenPCDet;
        bbox (N, 4) pixels clipped to the image; dimensions (N, 3) l, h, w; location (N, 3) rectified camera frame;
        rotation_y; score; boxes_lidar; frame_id.
    """
    annos = []
    for index, prediction in enumerate(pred_dicts):
        boxes, scores, labels = (
            prediction[key].detach().cpu().numpy() for key in ("pred_boxes", "pred_scores", "pred_labels")
        )
        names = np.array(class_names)[labels.astype(np.int64) - 1]
        anno = kitti_annotation(boxes, scores, names, batch_dict["calib"][index], batch_dict["image_shape"][index])
        anno["frame_id"] = batch_dict["frame_id"][index]
        annos.append(anno)
        if output_path is not None:
            write_result_file(anno, Path(output_path) / f"{anno['frame_id']}.txt")
    return annos


def kitti_annotation(
    boxes: np.ndarray, scores: np.ndarray, names: np.ndarray, calib: Calibration, image_shape: Sequence[int]
) -> dict[str, Any]:
    """One frame's LiDAR boxes (N, 7 or more) as a KITTI annotation, see ``generate_prediction_dicts``."""
    boxes_camera = boxes3d_lidar_to_kitti_camera(boxes, calib)
    image_shape = [int(side) for side in image_shape]
    return {
        "name": names,
        "truncated": np.zeros(len(boxes)),
        "occluded": np.zeros(len(boxes)),
        "alpha": -np.arctan2(-boxes[:, 1], boxes[:, 0]) + boxes_camera[:, 6],
        "bbox": boxes3d_kitti_camera_to_imageboxes(boxes_camera, calib, image_shape=image_shape),
        "dimensions": boxes_camera[:, 3:6],
        "location": boxes_camera[:, 0:3],
        "rotation_y": boxes_camera[:, 6],
        "score": scores,
        "boxes_lidar": boxes,
    }


def write_result_file(anno: dict[str, Any], path: Path) -> None:
    """One frame's detections as a file in KITTI's result format."""
    path.parent.mkdir(parents=True, exist_ok=True)  # a frame "0000/000042" has a folder
    path.write_text(result_lines(anno), encoding="utf-8")


def result_lines(anno: dict[str, Any]) -> str:
    """KITTI's result format, a line a box: type -1 -1 alpha x1 y1 x2 y2 h w l x y z rotation_y score."""
    lines = []
    for i, name in enumerate(anno["name"]):
        length, height, width = anno["dimensions"][i]
        numbers = [
            anno["alpha"][i],
            *anno["bbox"][i],
            height,
            width,
            length,
            *anno["location"][i],
            anno["rotation_y"][i],
            anno["score"][i],
        ]
        lines.append(" ".join([str(name), "-1", "-1", *(f"{number:.4f}" for number in numbers)]) + "\n")
    return "".join(lines)
