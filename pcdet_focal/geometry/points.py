"""Points and voxel centres: range masks, and index helpers of sparse voxel tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..arrays import Array


def mask_points_by_range(points: Array, limit_range: Sequence[float]) -> Array:
    """Which points lie in the range, by x and y alone: the height is left to the voxeliser, as in OpenPCDet.

    Args:
        points: (N, 3 + C), metres.
        limit_range: x_min, y_min, z_min, x_max, y_max, z_max; both ends belong to the range, the two z values are not
            looked at.

    Returns:
        (N,) bool, numpy or torch like ``points``.
    """
    # plain floats, so that a range in float64 is compared in the points' own type
    x_min, y_min, x_max, y_max = (float(limit_range[i]) for i in (0, 1, 3, 4))
    x, y = points[:, 0], points[:, 1]
    return (x >= x_min) & (x <= x_max) & (y >= y_min) & (y <= y_max)


def get_voxel_centers(
    voxel_coords: Array,
    downsample_times: float | Sequence[float],
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
) -> Array:
    """Centres of voxels from their integer places.

    Args:
        voxel_coords: (N, 3) as z, y, x (no batch column), any integer or floating type.
        downsample_times: stride of the feature map the places belong to; one number, or three for x, y, z.
        voxel_size: x, y, z size of an original voxel, metres.
        point_cloud_range: starts with x_min, y_min, z_min, metres.

    Returns:
        (N, 3) x, y, z, metres; float32, or float64 where ``voxel_coords`` is float64; numpy or torch like
        ``voxel_coords``.

    Raises:
        ValueError: ``voxel_coords`` has not three columns.
    """
    if voxel_coords.ndim != 2 or voxel_coords.shape[1] != 3:
        raise ValueError(
            "voxel_coords must be (N, 3) as z, y, x without the batch column, got the shape "
            f"{tuple(voxel_coords.shape)}."
        )
    steps = np.asarray(voxel_size, dtype=np.float64) * np.asarray(downsample_times, dtype=np.float64)  # (3,)
    starts = [float(value) for value in point_cloud_range[0:3]]
    if isinstance(voxel_coords, torch.Tensor):
        coords = voxel_coords if voxel_coords.dtype == torch.float64 else voxel_coords.float()
        return torch.stack(
            [(coords[:, 2 - axis] + 0.5) * float(steps[axis]) + starts[axis] for axis in range(3)], dim=1
        )
    coords = voxel_coords if voxel_coords.dtype == np.float64 else voxel_coords.astype(np.float32)
    return np.stack([(coords[:, 2 - axis] + 0.5) * float(steps[axis]) + starts[axis] for axis in range(3)], axis=1)


def get_pad_params(desired_size: int, cur_size: int) -> tuple[int, int]:
    """How many values ``np.pad`` adds before and after an axis to bring it from ``cur_size`` to ``desired_size``: all
    of them after.

    Raises:
        ValueError: the axis is longer than wanted.
    """
    if desired_size < cur_size:
        raise ValueError(f"Padding cannot shorten an axis: it has {cur_size} entries, {desired_size} are wanted.")
    return 0, desired_size - cur_size


def scatter_point_inds(indices: torch.Tensor, point_inds: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Write ``point_inds`` (M,) at the places ``indices`` (M, D) of a dense tensor of this shape; -1 everywhere else.

    Returns:
        ``shape`` in the type and on the device of ``point_inds``.
    """
    dense = torch.full(tuple(shape), -1, dtype=point_inds.dtype, device=point_inds.device)
    places = indices.reshape(-1, indices.shape[-1]).long()
    dense[places.unbind(dim=1)] = point_inds
    return dense


def generate_voxel2pinds(sparse_tensor: Any) -> torch.Tensor:
    """For every cell of the dense grid, the row of its voxel in the sparse tensor, or -1 where it is empty.

    Args:
        sparse_tensor: anything with ``indices`` (M, 1 + D) batch first, ``batch_size`` and ``spatial_shape``.

    Returns:
        (batch_size, *spatial_shape) int32.
    """
    rows = torch.arange(sparse_tensor.indices.shape[0], device=sparse_tensor.indices.device, dtype=torch.int32)
    return scatter_point_inds(sparse_tensor.indices, rows, [sparse_tensor.batch_size, *sparse_tensor.spatial_shape])
