"""Boxes in the KITTI camera frame: to and from the LiDAR frame, their corners, their rectangles in the image.

A camera box is (x, y, z, l, h, w, ry) in the rectified camera frame (x right, y down, z forward), metres, (x, y, z) at
the middle of the bottom face, ry in radians about y, 0 along +x and positive from +x towards -z. Names and results are
those of OpenPCDet's ``box_utils``; angles are not wrapped, as there. Overlaps, ranges and corners of LiDAR boxes are in
``boxes.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..arrays import Array, as_floating, numpy_or_torch
from .boxes import boxes_to_corners_3d
from .calibration import Calibration


def boxes3d_kitti_camera_to_lidar(boxes3d_camera: Array, calib: Calibration) -> Array:
    """(N, 7) camera boxes -> (N, 7) LiDAR boxes; heading = -(ry + pi / 2)."""
    boxes = as_floating(boxes3d_camera) if isinstance(boxes3d_camera, np.ndarray) else boxes3d_camera
    length, height, width, ry = (boxes[:, i : i + 1] for i in (3, 4, 5, 6))
    bottom = calib.rect_to_lidar(boxes[:, 0:3])
    return _columns(bottom[:, 0:2], bottom[:, 2:3] + height / 2, length, width, height, -(ry + np.pi / 2))


def boxes3d_lidar_to_kitti_camera(boxes3d_lidar: Array, calib: Calibration) -> Array:
    """(N, 7 + C) LiDAR boxes -> (N, 7) camera boxes; ry = -heading - pi / 2."""
    boxes = as_floating(boxes3d_lidar) if isinstance(boxes3d_lidar, np.ndarray) else boxes3d_lidar
    dx, dy, dz, heading = (boxes[:, i : i + 1] for i in (3, 4, 5, 6))
    bottom = _columns(boxes[:, 0:2], boxes[:, 2:3] - dz / 2)
    return _columns(calib.lidar_to_rect(bottom), dx, dz, dy, -heading - np.pi / 2)


@numpy_or_torch
def boxes3d_kitti_fakelidar_to_lidar(boxes3d_lidar: Array) -> Array:
    """Boxes of the old LiDAR convention (x, y, bottom z, w, l, h, r), (N, 7), -> LiDAR boxes (N, 7); heading = -(r + pi
    / 2).
    """
    width, length, height, r = (boxes3d_lidar[:, i : i + 1] for i in (3, 4, 5, 6))
    return torch.cat(
        (boxes3d_lidar[:, 0:2], boxes3d_lidar[:, 2:3] + height / 2, length, width, height, -(r + np.pi / 2)), dim=1
    )


@numpy_or_torch
def boxes3d_kitti_lidar_to_fakelidar(boxes3d_lidar: Array) -> Array:
    """LiDAR boxes (N, 7 + C) -> boxes (N, 7) of the old LiDAR convention: x, y, bottom z, w, l, h, r with r = -heading
    - pi / 2.
    """
    dx, dy, dz, heading = (boxes3d_lidar[:, i : i + 1] for i in (3, 4, 5, 6))
    return torch.cat((boxes3d_lidar[:, 0:2], boxes3d_lidar[:, 2:3] - dz / 2, dy, dx, dz, -heading - np.pi / 2), dim=1)


@numpy_or_torch
def boxes3d_to_corners3d_kitti_camera(boxes3d: Array, bottom_center: bool = True) -> Array:
    """The eight corners of camera boxes, in the camera frame.

    Args:
        boxes3d: (N, 7) x, y, z, l, h, w, ry.
        bottom_center: False if (x, y, z) is the middle of the box rather than of its bottom face.

    Returns:
        (N, 8, 3) x, y, z, metres; 0 to 3 the bottom, 4 to 7 the top above them.
    """
    length, height, width = boxes3d[:, 3:4], boxes3d[:, 4:5], boxes3d[:, 5:6]
    # A camera box seen with x right, z up the page and ry anticlockwise negative is a LiDAR box (l, w, h) with heading
    # -ry at the origin
    upright = torch.cat((torch.zeros_like(boxes3d[:, 0:3]), length, width, height, -boxes3d[:, 6:7]), dim=1)
    corners = boxes_to_corners_3d(upright)  # (N, 8, 3) as x, z, height above the middle
    middle = boxes3d[:, 1:2] - height / 2 if bottom_center else boxes3d[:, 1:2]  # (N, 1)
    return torch.stack(
        (corners[..., 0] + boxes3d[:, 0:1], middle - corners[..., 2], corners[..., 1] + boxes3d[:, 2:3]), dim=-1
    )


@numpy_or_torch
def corners_rect_to_camera(corners: Array) -> Array:
    """One camera box (7,) x, y, z, l, h, w, ry from its corners (8, 3) in the camera frame, numbered as by
    ``boxes_to_corners_3d``.
    """

    def mean_edge(pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
        return sum(torch.linalg.vector_norm(corners[a] - corners[b]) for a, b in pairs) / 4

    rear_to_front = ((0, 3), (1, 2), (4, 7), (5, 6))
    height = mean_edge(((0, 4), (1, 5), (2, 6), (3, 7)))
    width = mean_edge(((0, 1), (2, 3), (4, 5), (6, 7)))
    length = mean_edge(rear_to_front)
    along = sum(corners[a] - corners[b] for a, b in rear_to_front)
    ry = -torch.atan2(along[2], along[0])
    centre = corners.mean(dim=0)
    return torch.stack((centre[0], centre[1] + height / 2, centre[2], length, height, width, ry))


def boxes3d_kitti_camera_to_imageboxes(
    boxes3d: Array, calib: Calibration, image_shape: Sequence[int] | None = None
) -> Array:
    """Image rectangles around the projected corners of camera boxes.

    Corners behind the camera are projected like the others, so a box that reaches behind it has no meaningful rectangle
    (as in OpenPCDet).

    Args:
        boxes3d: (N, 7) x, y, z, l, h, w, ry.
        calib: the calibration of the frame.
        image_shape: (height, width) in pixels to clip to, at most height - 1 and width - 1; None leaves the rectangles
            as they are.

    Returns:
        (N, 4) x1, y1, x2, y2, pixels.
    """
    corners = boxes3d_to_corners3d_kitti_camera(boxes3d)  # (N, 8, 3)
    pixels, _ = calib.rect_to_img(corners.reshape(-1, 3))
    return _rectangles(pixels.reshape(-1, 8, 2), image_shape)


@numpy_or_torch
def _rectangles(pixels: Array, image_shape: Sequence[int] | None) -> Array:
    """(N, 8, 2) pixels -> (N, 4) rectangles around them, clipped to the image where its (height, width) is given."""
    low, high = pixels.amin(dim=1), pixels.amax(dim=1)  # (N, 2)
    if image_shape is None:
        return torch.cat((low, high), dim=1)
    height, width = int(image_shape[0]), int(image_shape[1])
    # (N, 2) each
    x, y = (torch.stack((low[:, i], high[:, i]), dim=1).clamp(0, size - 1) for i, size in ((0, width), (1, height)))
    return torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), dim=1)


def _columns(*parts: Array) -> Array:
    """The parts side by side."""
    return torch.cat(parts, dim=1) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts, axis=1)
