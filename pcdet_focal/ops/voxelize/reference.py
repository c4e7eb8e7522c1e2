"""Definition of the voxelisation, in plain torch on any device; what CUDA tensors use. The host waits once, for the
number of voxels.
"""

from __future__ import annotations

import numpy as np
import torch

from ..backend import small_table


def cells(points: torch.Tensor, low: np.ndarray, size: np.ndarray, grid: tuple[int, int, int]) -> torch.Tensor:
    """Cell of every point (N, 3+) float32: (N, 3) int32 as z, y, x, all -1 outside the grid and for NaN."""
    # tensors, not numbers: torch multiplies a CUDA tensor by the reciprocal of a number instead of dividing
    low, size = (small_table([float(v) for v in values], points.device).float() for values in (low, size))
    # (N, 3) x, y, z, still float32: huge numbers and NaN must not become integers
    cell = ((points[:, :3] - low) / size).floor()
    inside = ((cell >= 0) & (cell < small_table(grid, points.device))).all(dim=1, keepdim=True)
    return torch.where(inside, cell, -1.0).int().flip(1)


def voxelize(
    points: torch.Tensor,
    low: np.ndarray,
    size: np.ndarray,
    grid: tuple[int, int, int],
    max_points: int,
    max_voxels: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points (N, F) float32 -> voxels (M, P, F) float32, coords (M, 3) int32 z, y, x, num_points (M,) int32."""
    coords = cells(points, low, size, grid)
    z, y, x = coords.long().unbind(1)
    number, order, opens, start = _runs(torch.where(x >= 0, (z * grid[1] + y) * grid[0] + x, -1))
    # of a point in its voxel: how many earlier points have the same one
    slot = torch.arange(len(points), device=points.device) - start
    # voxels are numbered by their first points
    is_first = torch.zeros_like(order).scatter(0, order, opens.long())
    voxel = (is_first.cumsum(0) - 1)[order[start]]
    count = min(int(is_first.sum()), max_voxels)

    # what is left out goes into one more row, which is cut off
    has_room = (number >= 0) & (voxel < max_voxels)
    voxels = points.new_zeros(count * max_points + 1, points.shape[1])
    voxels[torch.where(has_room & (slot < max_points), voxel * max_points + slot, count * max_points)] = points[order]
    voxel = torch.where(has_room, voxel, count)
    per_voxel = torch.zeros(count + 1, dtype=torch.int64, device=points.device).index_add(
        0, voxel, torch.ones_like(voxel)
    )
    first = torch.where(opens, voxel, count)
    coords_of_voxel = coords.new_zeros(count + 1, 3).index_put((first,), coords[order])
    return (
        voxels[:-1].view(count, max_points, points.shape[1]),
        coords_of_voxel[:-1],
        per_voxel[:-1].clamp(max=max_points).int(),
    )


def group(number: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points with the same ``number`` (N,) int64, negative for a point of no group.

    Returns:
        the numbers that occur, ascending (M,), and which of them each point has (N,) int64, -1 for none.
    """
    number, order, opens, _ = _runs(number)
    rank = opens.cumsum(0) - 1  # -1 before the first group: there stand the points of none
    count = int(opens.sum())
    first_points = number.new_empty(count + 1).index_put((torch.where(opens, rank, count),), number)
    return first_points[:-1], torch.empty_like(order).scatter(0, order, torch.where(number >= 0, rank, -1))


def _runs(number: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """``number`` (N,) sorted, equal ones in the order given; the places they come from; whether one is the first of its
    kind (negative ones never are); and where, in sorted order, its kind begins."""
    number, order = number.sort(stable=True)
    opens = number >= 0
    opens[1:] &= number[1:] != number[:-1]
    position = torch.arange(len(number), device=number.device)
    return number, order, opens, torch.where(opens, position, 0).cummax(0).values if len(number) else position
