"""Voxelisation on the CPU (numba, one thread, releases the GIL); ``reference.py`` is the definition.

The voxels found so far are in a hash table that is made for each call and sized by what can be in it, not by the grid:
a KITTI grid of 5 cm voxels has 90 million cells, too many to clear for every scan and too many to keep for every
data-loader worker. No state stays between calls, so threads and forked workers cannot disturb each other.
"""

from __future__ import annotations

import numba
import numpy as np


def voxelize(
    points: np.ndarray, low: np.ndarray, size: np.ndarray, grid: tuple[int, int, int], max_points: int, max_voxels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, F) float32 -> voxels (M, P, F) float32, coords (M, 3) int32 z, y, x, num_points (M,) int32."""
    limit = min(len(points), max_voxels)
    bits = max(4, int(3 * limit).bit_length())  # three to six slots for each voxel keep the chains short
    keys = _keys(points, low, size, np.array(grid, dtype=np.float32))
    coords = np.empty((limit, 3), dtype=np.int32)
    num_points = np.zeros(limit, dtype=np.int32)
    voxel_of_point = np.empty(len(points), dtype=np.int32)
    number = _assign(keys, max_points, bits, coords, num_points, voxel_of_point)
    # only now is the size of the big array known
    voxels = np.zeros((number, max_points, points.shape[1]), dtype=np.float32)
    _fill(points, voxel_of_point, voxels)
    return voxels, coords[:number].copy(), num_points[:number].copy()


@numba.njit(cache=True, nogil=True)
def _keys(points, low, size, grid):
    """The cell of each point as one number (N,) int64: x, y and z in 20 bits each, -1 outside the grid.

    A loop of its own: it has no branches, and those of the search would keep it from running several points ahead.
    """
    keys = np.empty(points.shape[0], dtype=np.int64)
    low_x, low_y, low_z, size_x, size_y, size_z = low[0], low[1], low[2], size[0], size[1], size[2]
    for i in range(points.shape[0]):
        x, y, z = (points[i, 0] - low_x) / size_x, (points[i, 1] - low_y) / size_y, (points[i, 2] - low_z) / size_z
        # compared as float32 numbers: what is NaN or huge must not become an integer, and what is not below zero is
        # floored by becoming one
        inside = (x >= 0) & (x < grid[0]) & (y >= 0) & (y < grid[1]) & (z >= 0) & (z < grid[2])
        keys[i] = (np.int64(z) << 40) | (np.int64(y) << 20) | np.int64(x) if inside else np.int64(-1)
    return keys


@numba.njit(cache=True, nogil=True)
def _assign(keys, max_points, bits, coords, num_points, voxel_of_point):
    """Numbers the voxels in order of their first points; ``voxel_of_point`` gets -1 for a point that is left out.
    Returns their number.
    """
    slots = np.int64(1) << bits
    table = np.full(slots, -1, dtype=np.int32)  # slot -> voxel
    key_of_voxel = np.empty(coords.shape[0], dtype=np.int64)
    shift = np.uint64(64 - bits)
    number = 0
    for i in range(keys.shape[0]):
        voxel_of_point[i] = -1
        key = keys[i]
        if key < 0:
            continue
        slot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> shift)  # Fibonacci hashing
        voxel = table[slot]
        while voxel >= 0 and key_of_voxel[voxel] != key:
            slot = (slot + 1) & (slots - 1)
            voxel = table[slot]
        if voxel < 0:
            if number == coords.shape[0]:
                continue
            voxel = np.int32(number)
            table[slot] = voxel
            key_of_voxel[voxel] = key
            coords[voxel, 0], coords[voxel, 1], coords[voxel, 2] = key >> 40, (key >> 20) & 0xFFFFF, key & 0xFFFFF
            number += 1
        if num_points[voxel] < max_points:
            num_points[voxel] += 1
            voxel_of_point[i] = voxel
    return number


@numba.njit(cache=True, nogil=True)
def _fill(points, voxel_of_point, voxels):
    num_points = np.zeros(voxels.shape[0], dtype=np.int32)
    for i in range(points.shape[0]):
        voxel = voxel_of_point[i]
        if voxel >= 0:
            for f in range(points.shape[1]):
                voxels[voxel, num_points[voxel], f] = points[i, f]
            num_points[voxel] += 1
