"""The KITTI calibration of one frame: LiDAR <-> rectified camera <-> image of the left colour camera."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..arrays import Array, as_floating
from ..errors import InputError
from ..files import finite_number, read_lines

# matrix -> its shape and the names it has in calib files (of the object benchmark, then of the tracking benchmark)
SHAPES = {"P2": (3, 4), "P3": (3, 4), "R0": (3, 3), "Tr_velo2cam": (3, 4)}
FILE_NAMES = {
    "P2": ("P2",),
    "P3": ("P3",),
    "R0": ("R0_rect", "R_rect"),
    "Tr_velo2cam": ("Tr_velo_to_cam", "Tr_velo_cam"),
}


def get_calib_from_file(calib_file: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a KITTI calib file: lines ``P2: <12 numbers>``, ``R0_rect: <9 numbers>``, ``Tr_velo_to_cam: <12 numbers>``
    in any order.

    Returns:
        float32 ``P2`` (3, 4), ``R0`` (3, 3), ``Tr_velo2cam`` (3, 4), and ``P3`` (3, 4) where the file has it. Other
        lines are passed over.

    Raises:
        InputError: no such file, a matrix is missing, or one has the wrong number of values or a value that is no
            finite number.
    """
    path = Path(calib_file)
    matrix_of = {name: matrix for matrix, names in FILE_NAMES.items() for name in names}
    matrices: dict[str, np.ndarray] = {}
    for number, line in enumerate(read_lines(path, "calibration file"), start=1):
        name, *values = line.replace(":", " ", 1).split() or [""]
        if name in matrix_of:
            matrix = matrix_of[name]
            where = f"{path}, line {number}"
            numbers = [finite_number(word, f"value {i} of {name}", where) for i, word in enumerate(values, start=1)]
            matrices[matrix] = _matrix(numbers, SHAPES[matrix], f"{where}: {name}")
    for matrix in ("P2", "R0", "Tr_velo2cam"):
        if matrix not in matrices:
            rows, columns = SHAPES[matrix]
            raise InputError(
                f"{path}: no line '{FILE_NAMES[matrix][0]}: ' with its {rows * columns} numbers; a KITTI calib file "
                "has one."
            )
    return matrices


class Calibration:
    """Coordinate changes of one KITTI frame.

    Frames: LiDAR (x forward, y left, z up), rectified camera "rect" (x right, y down, z forward), both in metres, and
    image pixels (u right, v down). Points may be numpy or torch, on any device; the result has their kind, and their
    type where that is float32 or float64.

    Args:
        calib_file: a KITTI calib text file, or a mapping with ``P2`` (3, 4), ``R0`` (3, 3) and ``Tr_velo2cam`` (3, 4).

    Attributes:
        P2, R0, V2C: (3, 4) rect -> image, (3, 3) camera -> rect, (3, 4) LiDAR -> camera; float32 from a file.
        cu, cv, fu, fv: principal point and focal lengths, pixels. tx, ty: offset of the left colour camera, metres.

    Raises:
        InputError: the file or the mapping is not as described; see ``get_calib_from_file``.

    Names and formulas are those of OpenPCDet's ``calibration_kitti``.
    """

    def __init__(self, calib_file: str | os.PathLike | Mapping[str, Any]) -> None:
        calib = calib_file if isinstance(calib_file, Mapping) else get_calib_from_file(calib_file)
        for key in ("P2", "R0", "Tr_velo2cam"):
            if key not in calib:
                raise InputError(
                    f"A calibration mapping needs the keys P2, R0 and Tr_velo2cam; {key} is missing, there are "
                    f"{sorted(calib)}."
                )
        self.P2, self.R0, self.V2C = (
            _matrix(calib[key], SHAPES[key], f"Calibration mapping, key {key}:") for key in ("P2", "R0", "Tr_velo2cam")
        )
        self.cu, self.cv = self.P2[0, 2], self.P2[1, 2]
        self.fu, self.fv = self.P2[0, 0], self.P2[1, 1]
        self.tx, self.ty = self.P2[0, 3] / -self.fu, self.P2[1, 3] / -self.fv

    def cart_to_hom(self, pts: Array) -> Array:
        """Append a column of ones: (N, K) -> (N, K + 1)."""
        if isinstance(pts, torch.Tensor):
            return torch.cat((pts, torch.ones_like(pts[:, :1])), dim=1)
        pts = as_floating(pts)
        return np.concatenate((pts, np.ones_like(pts[:, :1])), axis=1)

    def rect_to_lidar(self, pts_rect: Array) -> Array:
        """(N, 3) rect -> (N, 3) LiDAR. Inverted in float64, so that float64 points come back exactly."""
        forward = np.eye(4)
        forward[:3] = self._lidar_to_rect_matrix()
        return _affine(pts_rect, np.linalg.inv(forward)[:3])

    def lidar_to_rect(self, pts_lidar: Array) -> Array:
        """(N, 3) LiDAR -> (N, 3) rect."""
        return _affine(pts_lidar, self._lidar_to_rect_matrix())

    def rect_to_img(self, pts_rect: Array) -> tuple[Array, Array]:
        """(N, 3) rect -> pixels (N, 2) and depth along the camera's axis (N,), metres.

        The projection divides by z itself, not by z + P2[2, 3] (2.7 mm in KITTI): OpenPCDet does so, and what it calls
        inside the image depends on it. Points behind the camera are projected too; look at the depth.
        """
        projected = _affine(pts_rect, self.P2)  # (N, 3)
        return projected[:, 0:2] / pts_rect[:, 2:3], projected[:, 2] - float(self.P2[2, 3])

    def lidar_to_img(self, pts_lidar: Array) -> tuple[Array, Array]:
        """(N, 3) LiDAR -> pixels (N, 2) and depth (N,); see ``rect_to_img``."""
        return self.rect_to_img(self.lidar_to_rect(pts_lidar))

    def img_to_rect(self, u: Array, v: Array, depth_rect: Array) -> Array:
        """Pixels u (N,), v (N,) and depths (N,) -> (N, 3) rect."""
        x = (u - float(self.cu)) * depth_rect / float(self.fu) + float(self.tx)
        y = (v - float(self.cv)) * depth_rect / float(self.fv) + float(self.ty)
        stack = torch.stack if isinstance(x, torch.Tensor) else np.stack
        return stack((x.reshape(-1), y.reshape(-1), depth_rect.reshape(-1)), -1)

    def corners3d_to_img_boxes(self, corners3d: Array) -> tuple[Array, Array]:
        """Corners (N, 8, 3) in the rect frame -> image rectangles (N, 4) x1, y1, x2, y2 and the projected corners (N,
        8, 2), pixels.
        """
        projected = _affine(corners3d, self.P2)  # (N, 8, 3)
        pixels = projected[..., 0:2] / projected[..., 2:3]
        if isinstance(pixels, torch.Tensor):
            return torch.cat((pixels.amin(dim=1), pixels.amax(dim=1)), dim=1), pixels
        return np.concatenate((pixels.min(axis=1), pixels.max(axis=1)), axis=1), pixels

    def _lidar_to_rect_matrix(self) -> np.ndarray:
        """(3, 4) float64."""
        return self.R0.astype(np.float64) @ self.V2C.astype(np.float64)


def _affine(points: Array, matrix: np.ndarray) -> Array:
    """``matrix`` (R, K + 1) on points (..., K), whose last homogeneous coordinate is 1: (..., R) in the type of the
    points.
    """
    if isinstance(points, torch.Tensor):
        weights = torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
        # a sum of products rather than a matrix product: autocast and TF32 would round the coordinates
        return (points[..., None, :] * weights[:, :-1]).sum(dim=-1) + weights[:, -1]
    points = as_floating(points)
    weights = matrix.astype(points.dtype)
    return points @ weights[:, :-1].T + weights[:, -1]


def _matrix(values: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """The values as a floating matrix of this shape (float32 unless they are a float64 array); ``where`` opens the
    message if they are not.
    """
    try:
        array = (
            as_floating(np.asarray(values)) if isinstance(values, np.ndarray) else np.asarray(values, dtype=np.float32)
        )
    except (TypeError, ValueError):
        raise InputError(f"{where} must be numbers, a {shape[0]} x {shape[1]} matrix.") from None
    if array.size != shape[0] * shape[1]:
        raise InputError(
            f"{where} must have {shape[0] * shape[1]} values (a {shape[0]} x {shape[1]} matrix, row by row), it has "
            f"{array.size}."
        )
    if not np.isfinite(array).all():
        raise InputError(f"{where} has a value that is not finite: {array.reshape(-1).tolist()}.")
    return array.reshape(shape)
