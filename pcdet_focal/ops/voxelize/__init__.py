"""Points into the voxels of a regular grid.

``voxelize`` gives the same voxels, in the same order, with the same points left out as spconv's PointToVoxel on a CPU,
which is what OpenPCDet's ``transform_points_to_voxels`` calls. ``dynamic_voxelize`` leaves no
point out. On CUDA tensors all are plain torch, around one sort: the same points in the same order as on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...arrays import Array, as_tensors, check_columns, like_input
from ...errors import InputError
from ..backend import choose_backend

__all__ = ["voxelize", "dynamic_voxelize", "grid_size"]


def voxelize(
    points: Array,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points_per_voxel: int,
    max_voxels: int,
) -> tuple[Array, Array, Array]:
    """First come, first served: points are taken in the order given.

    The cell of a point is floor((p - range_min) / voxel_size) per axis, in float32. A point outside the grid is left
    out, and so is one with a NaN or an infinite coordinate. A cell becomes a voxel when its first point arrives, as
    long as there are fewer than ``max_voxels``; after that, points of new cells are left out while existing voxels
    still fill. A voxel keeps its first ``max_points_per_voxel`` points.

    Args:
        points: (N, F) x, y, z in metres and any further features; float32 (other floating types are rounded to it),
            numpy or torch.
        voxel_size: 3 sizes x, y, z in metres.
        point_cloud_range: 6 limits x_min, y_min, z_min, x_max, y_max, z_max in metres.
        max_points_per_voxel: P, at least 1.
        max_voxels: at least 1.

    Returns:
        voxels (M, P, F) float32, zero where a voxel has fewer points; coords (M, 3) int32 as z, y, x; num_points (M,)
        int32. M may be 0. Voxels are in the order of their first points.

    Raises:
        InputError: wrong shapes, or sizes and limits that make no grid.
    """
    (points,), was_numpy = as_tensors(points=points)
    low, size, grid = _grid(voxel_size, point_cloud_range)
    check_columns("points", points, 3)
    if max_points_per_voxel < 1 or max_voxels < 1:
        raise InputError(
            f"max_points_per_voxel and max_voxels must be at least 1, not {max_points_per_voxel} and {max_voxels}."
        )
    points = points.float().contiguous()
    if choose_backend(points.device, "voxelize") == "cpu":
        from . import cpu

        arrays = cpu.voxelize(points.cpu().numpy(), low, size, grid, int(max_points_per_voxel), int(max_voxels))
        result = tuple(torch.from_numpy(array).to(points.device) for array in arrays)
    else:
        from . import reference

        result = reference.voxelize(points, low, size, grid, int(max_points_per_voxel), int(max_voxels))
    return tuple(like_input(array, was_numpy) for array in result)


def dynamic_voxelize(points: Array, voxel_size: Sequence[float], point_cloud_range: Sequence[float]) -> Array:
    """The cell of every point, none left out: (N, 3+) -> (N, 3) int32 as z, y, x, and -1, -1, -1 for a point outside
    the grid.

    Same rule for the cell, and same errors, as ``voxelize``.
    """
    from . import reference  # a few tensor operations: no kernel would be faster by much

    (points,), was_numpy = as_tensors(points=points)
    low, size, grid = _grid(voxel_size, point_cloud_range)
    check_columns("points", points, 3)
    return like_input(reference.cells(points.float(), low, size, grid), was_numpy)


def grid_size(voxel_size: Sequence[float], point_cloud_range: Sequence[float]) -> tuple[int, int, int]:
    """Number of cells along x, y, z: round((max - min) / size). Raises InputError where that makes no grid."""
    return _grid(voxel_size, point_cloud_range)[2]


def _grid(
    voxel_size: Sequence[float], point_cloud_range: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
    """Lower corner (3,) float32, voxel size (3,) float32, cells along x, y, z."""
    size, limits = np.asarray(voxel_size, dtype=np.float32), np.asarray(point_cloud_range, dtype=np.float32)
    if size.shape != (3,) or not np.isfinite(size).all() or not (size > 0).all():
        raise InputError(f"voxel_size must be three positive numbers (x, y, z in metres), not {voxel_size}.")
    if limits.shape != (6,) or not np.isfinite(limits).all() or not (limits[3:] > limits[:3]).all():
        raise InputError(
            "point_cloud_range must be six numbers x_min, y_min, z_min, x_max, y_max, z_max in metres with each max "
            "above its "
            f"min, not {point_cloud_range}."
        )
    cells = np.round((limits[3:] - limits[:3]) / size)
    if not ((cells >= 1) & (cells < 2**20)).all():  # 2^20: the number of a cell must fit in 63 bits
        raise InputError(
            f"voxel_size {voxel_size} in point_cloud_range {point_cloud_range} makes {cells.tolist()} cells along x, "
            "y, z: "
            "each must be between 1 and 1048575."
        )
    return limits[:3].copy(), size, tuple(int(n) for n in cells)
