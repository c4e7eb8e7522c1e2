"""The loops of the augmentation over points and boxes (numba, one thread: they run inside data-loader workers).

Arithmetic is float64 whatever the input type, so the answers are those of exact geometry except within rounding of a
face.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from ...geometry.rectangles import rectangles_apart


@numba.njit(cache=True, nogil=True)
def _rectangles_overlap(a, b):
    if a[3] <= 0 or a[4] <= 0 or b[3] <= 0 or b[4] <= 0:
        return False
    x, y = b[0] - a[0], b[1] - a[1]
    if 2 * math.sqrt(x * x + y * y) > math.sqrt(a[3] * a[3] + a[4] * a[4]) + math.sqrt(b[3] * b[3] + b[4] * b[4]):
        return False  # most pairs: not even the circles around them meet
    ca, sa, cb, sb = math.cos(a[6]), math.sin(a[6]), math.cos(b[6]), math.sin(b[6])
    return not rectangles_apart(x, y, a[3], a[4], ca, sa, b[3], b[4], cb, sb, 0.0)


@numba.njit(cache=True, nogil=True)
def _collides(boxes, others):
    hit = np.zeros(boxes.shape[0], np.bool_)
    for i in range(boxes.shape[0]):
        for j in range(others.shape[0]):
            if _rectangles_overlap(boxes[i], others[j]):
                hit[i] = True
                break
        if hit[i]:
            continue
        for j in range(boxes.shape[0]):
            if j != i and _rectangles_overlap(boxes[i], boxes[j]):
                hit[i] = True
                break
    return hit


def collides(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mask (N,) bool: does the bird's-eye rectangle of a box (N, 7+) share area with that of another of ``boxes`` or of
    ``others`` (M, 7+)?

    Separating axes, that is exactly "rotated IoU above 0"; touching is not overlapping, and a box without area overlaps
    nothing.
    """
    return _collides(
        np.ascontiguousarray(boxes[:, :7], dtype=np.float64), np.ascontiguousarray(others[:, :7], dtype=np.float64)
    )


@numba.njit(cache=True, nogil=True)
def _index_in_ranges(points, low, high):
    indices = np.empty(points.shape[0], np.int64)
    n = 0
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        for j in range(low.shape[0]):
            if low[j, 0] <= x <= high[j, 0] and low[j, 1] <= y <= high[j, 1] and low[j, 2] <= z <= high[j, 2]:
                indices[n] = i
                n += 1
                break
    return indices[:n].copy()


def index_near(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Indices (K,) int64, ascending, of the points (M, 3+C) in the axis-aligned bounds of any of N bodies, given by
    corners (N, P, 3).
    """
    corners = np.asarray(corners, dtype=np.float64)
    return _index_in_ranges(np.ascontiguousarray(points), corners.min(axis=1) - 1e-6, corners.max(axis=1) + 1e-6)


@numba.njit(cache=True, nogil=True)
def _in_pyramids(points, planes, low, high):
    inside = np.zeros((points.shape[0], planes.shape[0]), np.bool_)
    for j in range(planes.shape[0]):
        for i in range(points.shape[0]):
            x, y, z = points[i, 0], points[i, 1], points[i, 2]
            if x < low[j, 0] or x > high[j, 0] or y < low[j, 1] or y > high[j, 1] or z < low[j, 2] or z > high[j, 2]:
                continue
            ok = True
            for k in range(5):
                # so that NaN is outside
                if not planes[j, k, 0] * x + planes[j, k, 1] * y + planes[j, k, 2] * z >= planes[j, k, 3]:
                    ok = False
                    break
            inside[i, j] = ok
    return inside


def in_pyramids(points: np.ndarray, pyramids: np.ndarray) -> np.ndarray:
    """Mask (M, N) bool: which points (M, 3+C) are in which pyramids (N, 5, 3), given as apex and four base corners in
    cyclic order.

    Faces count as inside (to 1e-9 m); a pyramid without volume contains nothing.
    """
    corners = np.asarray(pyramids, dtype=np.float64).reshape(-1, 5, 3)
    apex, base = corners[:, :1], corners[:, 1:]
    sides = np.cross(base - apex, np.roll(base, -1, axis=1) - apex)
    normals = np.concatenate([sides, np.cross(base[:, 1:2] - base[:, :1], base[:, 3:4] - base[:, :1])], axis=1)
    length = np.linalg.norm(normals, axis=2, keepdims=True)
    normals = normals / np.where(length > 0, length, 1.0)
    on_plane = np.concatenate([np.repeat(apex, 4, axis=1), base[:, :1]], axis=1)
    centre = corners.mean(axis=1, keepdims=True)
    # how far the centre is inside each plane, up to sign
    depth = ((centre - on_plane) * normals).sum(axis=2, keepdims=True)
    normals = np.where(depth < 0, -normals, normals)
    offset = (on_plane * normals).sum(axis=2, keepdims=True) - 1e-9
    flat = (np.abs(depth) <= 1e-12).any(axis=1, keepdims=True)
    planes = np.concatenate([normals, np.where(flat, np.inf, offset)], axis=2)  # (N, 5, 4): inside is n . p >= d
    return _in_pyramids(np.ascontiguousarray(points), planes, corners.min(axis=1), corners.max(axis=1))
