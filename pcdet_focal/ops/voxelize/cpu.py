"""Voxelisation on the CPU (numba, one thread, releases the GIL); ``reference.py`` is the definition.

The voxels found so far are in a hash table that is made for each call and sized by what can be in it, not by the grid: a KITTI grid of
5 cm voxels has 90 million cells, too many to clear for every scan and too many to keep for every data-loader worker. No state stays
between calls, so threads and forked workers cannot disturb each other.
"""
from __future__ import annotations

import numba
import numpy as np


def voxelize(points: np.ndarray, low: np.ndarray, size: np.ndarray, grid: tuple[int, int, int], max_points: int,
             max_voxels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, F) float32 -> voxels (M, P, F) float32, coords (M, 3) int32 z, y, x, num_points (M,) int32."""
    most = min(len(points), max_voxels)
    bits = max(4, int(3 * most).bit_length())  # three to six slots for each voxel keep the chains short
    coords = np.empty((most, 3), dtype=np.int32)
    num_points = np.zeros(most, dtype=np.int32)
    voxel_of_point = np.empty(len(points), dtype=np.int32)
    number = _assign(points, low, size, np.array(grid, dtype=np.int64), max_points, bits, coords, num_points, voxel_of_point)
    # only now is the size of the big array known
    voxels = np.zeros((number, max_points, points.shape[1]), dtype=np.float32)
    _fill(points, voxel_of_point, voxels)
    return voxels, coords[:number].copy(), num_points[:number].copy()


@numba.njit(cache=True, nogil=True)
def _assign(points, low, size, grid, max_points, bits, coords, num_points, voxel_of_point):
    """Numbers the voxels in order of their first points; ``voxel_of_point`` gets -1 for a point that is left out. Returns their number."""
    slots = np.int64(1) << bits
    keys = np.full(slots, -1, dtype=np.int64)
    values = np.empty(slots, dtype=np.int32)
    shift = np.uint64(64 - bits)
    number = 0
    for i in range(points.shape[0]):
        voxel_of_point[i] = -1
        # compared as float32 numbers: what is NaN or huge must not become an integer
        fx = np.floor((points[i, 0] - low[0]) / size[0])
        fy = np.floor((points[i, 1] - low[1]) / size[1])
        fz = np.floor((points[i, 2] - low[2]) / size[2])
        if not (fx >= 0 and fx < grid[0] and fy >= 0 and fy < grid[1] and fz >= 0 and fz < grid[2]):
            continue
        x, y, z = np.int64(fx), np.int64(fy), np.int64(fz)
        key = (z * grid[1] + y) * grid[0] + x
        slot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> shift)  # Fibonacci hashing
        while keys[slot] != key and keys[slot] != -1:
            slot = (slot + 1) & (slots - 1)
        if keys[slot] == -1:
            if number == coords.shape[0]:
                continue
            keys[slot] = key
            values[slot] = number
            coords[number, 0], coords[number, 1], coords[number, 2] = z, y, x
            number += 1
        voxel = values[slot]
        if num_points[voxel] < max_points:
            num_points[voxel] += 1
            voxel_of_point[i] = voxel
    return number


@numba.njit(cache=True, nogil=True)
def _fill(points, voxel_of_point, voxels):
    place = np.zeros(voxels.shape[0], dtype=np.int32)
    for i in range(points.shape[0]):
        voxel = voxel_of_point[i]
        if voxel >= 0:
            for f in range(points.shape[1]):
                voxels[voxel, place[voxel], f] = points[i, f]
            place[voxel] += 1
