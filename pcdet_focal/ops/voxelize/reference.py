"""Definition of the voxelisation, in plain torch on any device."""
from __future__ import annotations

import numpy as np
import torch


def cells(points: torch.Tensor, low: np.ndarray, size: np.ndarray, grid: tuple[int, int, int]) -> torch.Tensor:
    """Cell of every point (N, 3+) float32: (N, 3) int32 as z, y, x, all -1 outside the grid and for NaN."""
    low, size = torch.from_numpy(low).to(points.device), torch.from_numpy(size).to(points.device)
    cell = ((points[:, :3] - low) / size).floor()  # (N, 3) x, y, z, still float32: huge numbers and NaN must not become integers
    inside = ((cell >= 0) & (cell < torch.tensor(grid, device=points.device))).all(dim=1, keepdim=True)
    return torch.where(inside, cell, -1.0).int().flip(1)


def voxelize(points: torch.Tensor, low: np.ndarray, size: np.ndarray, grid: tuple[int, int, int], max_points: int,
             max_voxels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points (N, F) float32 -> voxels (M, P, F) float32, coords (M, 3) int32 z, y, x, num_points (M,) int32."""
    coords = cells(points, low, size, grid)
    inside = coords[:, 0] >= 0
    points, coords = points[inside], coords[inside]
    z, y, x = coords.long().unbind(1)
    _, voxel = torch.unique((z * grid[1] + y) * grid[0] + x, return_inverse=True)

    # number the voxels by their first points, and drop the points of those that come too late
    position = torch.arange(len(points), device=points.device)
    count = int(voxel.max()) + 1 if len(voxel) else 0
    first = position.new_full((count,), len(points)).scatter_reduce(0, voxel, position, "amin")
    by_age = first.argsort()
    age = torch.empty_like(by_age)
    age[by_age] = torch.arange(count, device=points.device)
    voxel = age[voxel]
    first = first[by_age][:max_voxels]
    coords = coords[first]
    points, voxel = points[voxel < max_voxels], voxel[voxel < max_voxels]

    # place of a point in its voxel: how many earlier points have the same one
    order = voxel.argsort(stable=True)
    per_voxel = torch.bincount(voxel, minlength=len(first))
    place = torch.arange(len(voxel), device=points.device) - (per_voxel.cumsum(0) - per_voxel)[voxel[order]]
    kept = place < max_points
    voxels = points.new_zeros(len(first), max_points, points.shape[1])
    voxels[voxel[order][kept], place[kept]] = points[order][kept]
    return voxels, coords, per_voxel.clamp(max=max_points).int()
