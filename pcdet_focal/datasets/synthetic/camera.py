"""The KITTI-like camera beside the sensor: its calibration, and the projection of boxes into its image.

Frames: LiDAR (x ahead, y left, z up) -> camera 0 by Tr_velo_to_cam -> rectified camera (x right, y down, z ahead) by
R0_rect -> image 2 by P2.
"""

from __future__ import annotations

import math

import numpy as np

IMAGE_HEIGHT, IMAGE_WIDTH = 375, 1242
NEAR = 0.1  # metres before the camera: what is nearer is cut off before projecting


def _rotation(x: float, y: float, z: float) -> np.ndarray:
    cx, sx, cy, sy, cz, sz = math.cos(x), math.sin(x), math.cos(y), math.sin(y), math.cos(z), math.sin(z)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def calibration() -> dict[str, np.ndarray]:
    """The matrices of a KITTI calib file (float64): P0 .. P3 (3, 4), R0_rect (3, 3), Tr_velo_to_cam and Tr_imu_to_velo
    (3, 4).
    """
    intrinsics = np.array([[721.5, 0.0, 609.6], [0.0, 721.5, 172.9], [0.0, 0.0, 1.0]])
    shifts = {"P0": (0.0, 0.0, 0.0), "P1": (-387.6, 0.0, 0.0), "P2": (44.9, 0.22, 0.0027), "P3": (-339.5, 2.2, 0.0027)}
    calib = {name: np.hstack([intrinsics, np.array(shift)[:, None]]) for name, shift in shifts.items()}
    axes = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    calib["R0_rect"] = _rotation(0.004, -0.008, 0.009)
    calib["Tr_velo_to_cam"] = np.hstack(
        [_rotation(-0.002, 0.007, -0.008) @ axes, np.array([[-0.004], [-0.076], [-0.272]])]
    )
    calib["Tr_imu_to_velo"] = np.hstack([_rotation(0.0148, 0.002, -0.0008), np.array([[-0.809], [0.32], [-0.8]])])
    return calib


def lidar_to_rect(points: np.ndarray, calib: dict[str, np.ndarray]) -> np.ndarray:
    """(N, 3) LiDAR frame -> (N, 3) rectified camera frame."""
    return (points @ calib["Tr_velo_to_cam"][:, :3].T + calib["Tr_velo_to_cam"][:, 3]) @ calib["R0_rect"].T


def in_image(points: np.ndarray, calib: dict[str, np.ndarray]) -> np.ndarray:
    """(N,) bool: which points (N, 3) of the LiDAR frame lie before the camera and inside image 2."""
    image = lidar_to_rect(points, calib) @ calib["P2"][:, :3].T + calib["P2"][:, 3]
    ahead = image[:, 2] > NEAR
    u, v = image[:, 0] / np.where(ahead, image[:, 2], 1.0), image[:, 1] / np.where(ahead, image[:, 2], 1.0)
    return ahead & (u >= 0) & (u < IMAGE_WIDTH) & (v >= 0) & (v < IMAGE_HEIGHT)


def plane_to_rect(ground: tuple[float, float, float], calib: dict[str, np.ndarray]) -> np.ndarray:
    """Road plane z = z0 + slope_x x + slope_y y of the LiDAR frame as (a, b, c, d) with a x + b y + c z + d = 0 in the
    rectified camera frame, unit normal, pointing up (b < 0), as KITTI's plane files have it."""
    normal = np.array([-ground[1], -ground[2], 1.0])
    length = np.linalg.norm(normal)
    rotation = calib["R0_rect"] @ calib["Tr_velo_to_cam"][:, :3]
    shift = calib["R0_rect"] @ calib["Tr_velo_to_cam"][:, 3]
    turned = rotation @ (normal / length)
    return np.append(turned, -ground[0] / length - turned @ shift)


_EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])


def project_box(
    location: np.ndarray, hwl: tuple[float, float, float], ry: float, calib: dict[str, np.ndarray]
) -> tuple[np.ndarray, float] | None:
    """2-D box and truncation of a KITTI label's 3-D box.

    Args:
        location: (3,) bottom centre in the rectified camera frame; ``hwl`` height, width, length; ``ry`` radians about
            the camera's y

    Returns:
        (left, top, right, bottom) in pixels, clipped to the image, and the share of the unclipped projection that lies
        outside the image; None where nothing of it is in the image
    """
    height, width, length = hwl
    x = np.array([1, 1, -1, -1, 1, 1, -1, -1]) * (length / 2)
    z = np.array([1, -1, -1, 1, 1, -1, -1, 1]) * (width / 2)
    y = np.array([0.0, 0.0, 0.0, 0.0, -height, -height, -height, -height])
    corners = np.stack([math.cos(ry) * x + math.sin(ry) * z, y, math.cos(ry) * z - math.sin(ry) * x], axis=1) + location
    ahead = corners[:, 2] > NEAR
    if not ahead.any():
        return None
    visible = corners[ahead]
    if not ahead.all():  # add the points where edges pierce the near plane
        start, end = corners[_EDGES[:, 0]], corners[_EDGES[:, 1]]
        crossing = (start[:, 2] > NEAR) != (end[:, 2] > NEAR)
        start, end = start[crossing], end[crossing]
        share = (NEAR - start[:, 2:]) / (end[:, 2:] - start[:, 2:])
        visible = np.concatenate([visible, start + share * (end - start)])
    image = visible @ calib["P2"][:, :3].T + calib["P2"][:, 3]
    pixels = image[:, :2] / image[:, 2:]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    clipped_low = np.clip(low, 0.0, [IMAGE_WIDTH - 1, IMAGE_HEIGHT - 1])
    clipped_high = np.clip(high, 0.0, [IMAGE_WIDTH - 1, IMAGE_HEIGHT - 1])
    inside = np.prod(clipped_high - clipped_low)
    if inside <= 0.0:
        return None
    return np.concatenate([clipped_low, clipped_high]), float(np.clip(1.0 - inside / np.prod(high - low), 0.0, 1.0))
