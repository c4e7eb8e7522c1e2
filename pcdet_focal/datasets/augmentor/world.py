"""Augmentations of the whole scene: flips, rotation, scaling, and the mirrored camera image.

Boxes are (N, 7) ``x, y, z, dx, dy, dz, heading`` or (N, 9) with the velocity ``vx, vy`` after them; points are (M,
3+C); metres, radians, LiDAR frame. The arguments are never changed: what an augmentation moves is returned in new
arrays of the same dtype, what it leaves alone is returned as it is. Random numbers come from numpy's global generator
in OpenPCDet's order, so the same ``np.random.seed`` draws the same.
"""

from __future__ import annotations

import numpy as np

from ...errors import InputError


def check_boxes(gt_boxes: np.ndarray) -> np.ndarray:
    """``gt_boxes`` itself if it is (N, 7) or (N, 9); InputError otherwise (a class label in column 7 would be taken for
    a speed).
    """
    if gt_boxes.ndim != 2 or gt_boxes.shape[1] not in (7, 9):
        raise InputError(
            "Boxes to augment must be (N, 7) [x, y, z, dx, dy, dz, heading] or (N, 9) with [vx, vy] after them, not "
            f"{gt_boxes.shape}; "
            "append class labels after the augmentation."
        )
    return gt_boxes


def draw_flip() -> bool:
    """One fair coin, drawn as OpenPCDet draws it: what ``np.random.choice([False, True], replace=False, p=[0.5, 0.5])``
    does inside.
    """
    return bool(np.random.random_sample() >= 0.5)


def rotate_xy(vectors: np.ndarray, angle: float) -> np.ndarray:
    """(M, 2) vectors turned anticlockwise by ``angle`` radians, same dtype."""
    return np.stack(_turned(vectors, angle), axis=1)


def _turned(vectors: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """x (M,) and y (M,) of the first two columns turned by ``angle``."""
    c, s = float(np.cos(angle)), float(np.sin(angle))
    x, y = vectors[:, 0], vectors[:, 1]
    return x * c - y * s, x * s + y * c


def random_flip_along_x(
    gt_boxes: np.ndarray, points: np.ndarray, return_flip: bool = False, enable: bool | None = None
) -> tuple:
    """Mirror the scene at the x axis (y -> -y) with probability 1/2, or as ``enable`` says.

    Returns ``(gt_boxes, points)``, with ``return_flip`` also whether it was mirrored.
    """
    check_boxes(gt_boxes)
    enable = draw_flip() if enable is None else bool(enable)
    if enable:
        gt_boxes, points = gt_boxes.copy(), points.copy()
        columns = [1, 6, 8] if gt_boxes.shape[1] == 9 else [1, 6]
        gt_boxes[:, columns] = -gt_boxes[:, columns]
        points[:, 1] = -points[:, 1]  # not np.negative(..., out=): wrong on float32 columns in numpy 2.4.6
    return (gt_boxes, points, enable) if return_flip else (gt_boxes, points)


def random_flip_along_y(
    gt_boxes: np.ndarray, points: np.ndarray, return_flip: bool = False, enable: bool | None = None
) -> tuple:
    """Mirror the scene at the y axis (x -> -x) with probability 1/2, or as ``enable`` says.

    Returns ``(gt_boxes, points)``, with ``return_flip`` also whether it was mirrored.
    """
    check_boxes(gt_boxes)
    enable = draw_flip() if enable is None else bool(enable)
    if enable:
        gt_boxes, points = gt_boxes.copy(), points.copy()
        columns = [0, 7] if gt_boxes.shape[1] == 9 else [0]
        gt_boxes[:, columns] = -gt_boxes[:, columns]
        gt_boxes[:, 6] = -(gt_boxes[:, 6] + np.pi)
        points[:, 0] = -points[:, 0]
    return (gt_boxes, points, enable) if return_flip else (gt_boxes, points)


def global_rotation(
    gt_boxes: np.ndarray,
    points: np.ndarray,
    rot_range: list[float],
    return_rot: bool = False,
    noise_rotation: float | None = None,
) -> tuple:
    """Turn the scene about the z axis by an angle drawn from ``rot_range`` [low, high] (radians, anticlockwise), or by
    ``noise_rotation``.

    Returns ``(gt_boxes, points)``, with ``return_rot`` also the angle.
    """
    check_boxes(gt_boxes)
    if noise_rotation is None:
        noise_rotation = float(np.random.uniform(rot_range[0], rot_range[1]))
    gt_boxes, points = gt_boxes.copy(), points.copy()
    points[:, 0], points[:, 1] = _turned(points, noise_rotation)
    gt_boxes[:, 0:2] = rotate_xy(gt_boxes, noise_rotation)
    gt_boxes[:, 6] += noise_rotation
    if gt_boxes.shape[1] == 9:
        gt_boxes[:, 7:9] = rotate_xy(gt_boxes[:, 7:9], noise_rotation)
    return (gt_boxes, points, noise_rotation) if return_rot else (gt_boxes, points)


def _draw_scale(scale_range: list[float]) -> float:
    """A factor from ``scale_range``; exactly 1, and nothing drawn, for a range narrower than 1e-3 (OpenPCDet's
    rule).
    """
    return 1.0 if scale_range[1] - scale_range[0] < 1e-3 else float(np.random.uniform(scale_range[0], scale_range[1]))


def _scaled_points(points: np.ndarray, factor: float) -> np.ndarray:
    scaled = points * factor  # all columns and the others back: numpy takes ten times as long for three columns alone
    scaled[:, 3:] = points[:, 3:]
    return scaled


def _scaled_boxes(boxes: np.ndarray, factor: float) -> np.ndarray:
    """Boxes (..., 7 or 9) with all but the heading scaled."""
    boxes = boxes.copy()
    boxes[..., :6] *= factor
    boxes[..., 7:] *= factor
    return boxes


def global_scaling(
    gt_boxes: np.ndarray, points: np.ndarray, scale_range: list[float], return_scale: bool = False
) -> tuple:
    """Scale the scene (positions, sizes, speeds) by a factor drawn from ``scale_range`` [low, high].

    Returns ``(gt_boxes, points)``, with ``return_scale`` always also the factor (1.0 where the range is too narrow to
    draw from).
    """
    check_boxes(gt_boxes)
    factor = _draw_scale(scale_range)
    if factor != 1.0:
        gt_boxes, points = _scaled_boxes(gt_boxes, factor), _scaled_points(points, factor)
    return (gt_boxes, points, factor) if return_scale else (gt_boxes, points)


def global_scaling_with_roi_boxes(
    gt_boxes: np.ndarray,
    roi_boxes: np.ndarray,
    points: np.ndarray,
    scale_range: list[float],
    return_scale: bool = False,
) -> tuple:
    """:func:`global_scaling` for a scene that brings region proposals ``roi_boxes`` (frames, R, 7 or 9).

    Returns ``(gt_boxes, roi_boxes, points)``, with ``return_scale`` always also the factor.
    """
    check_boxes(gt_boxes)
    check_boxes(roi_boxes.reshape(-1, roi_boxes.shape[-1]))
    factor = _draw_scale(scale_range)
    if factor != 1.0:
        gt_boxes, roi_boxes, points = (
            _scaled_boxes(gt_boxes, factor),
            _scaled_boxes(roi_boxes, factor),
            _scaled_points(points, factor),
        )
    return (gt_boxes, roi_boxes, points, factor) if return_scale else (gt_boxes, roi_boxes, points)


def random_image_flip_horizontal(
    image: np.ndarray, depth_map: np.ndarray, gt_boxes: np.ndarray, calib, return_flip: bool = False
) -> tuple:
    """Mirror a camera image (H, W, 3) and its depth map left to right with probability 1/2; each box centre moves to
    the mirrored pixel at the same depth (through ``calib``), and its heading changes sign.

    Returns ``(image, depth_map, gt_boxes)``, with ``return_flip`` also whether they were mirrored. The images are
    views.
    """
    enable = draw_flip()
    if enable:
        width = image.shape[1]
        pixels, depth = calib.lidar_to_img(gt_boxes[:, :3])
        rect = calib.img_to_rect(u=width - pixels[:, 0], v=pixels[:, 1], depth_rect=depth)
        image, depth_map, gt_boxes = np.fliplr(image), np.fliplr(depth_map), gt_boxes.copy()
        gt_boxes[:, :3] = calib.rect_to_lidar(rect)
        gt_boxes[:, 6] = -gt_boxes[:, 6]
    return (image, depth_map, gt_boxes, enable) if return_flip else (image, depth_map, gt_boxes)
