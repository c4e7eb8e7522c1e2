"""The loops of the augmentation over points and boxes (numba, one thread: they run inside data-loader workers).

Arithmetic is float64 whatever the input type, so the answers are those of exact geometry except within rounding of a
face.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from ...geometry.rectangles import rectangles_apart

_SQUARES = 128  # a power of two
_FAR = 2.0**20  # metres, whole rounds of the table: what is farther, or not a number, is compared with every box


@numba.njit(cache=True, nogil=True)
def _index_in_box(points, box, margin):
    half_x, half_y, half_z = box[3] / 2 + margin, box[4] / 2 + margin, box[5] / 2
    reach = math.sqrt(half_x * half_x + half_y * half_y)
    c, s = math.cos(box[6]), math.sin(box[6])
    found = np.empty(points.shape[0], np.int64)
    n = 0
    for i in range(points.shape[0]):
        x, y = points[i, 0] - box[0], points[i, 1] - box[1]
        if abs(x) > reach or abs(y) > reach or abs(points[i, 2] - box[2]) > half_z:
            continue
        if abs(x * c + y * s) <= half_x and abs(y * c - x * s) <= half_y:
            found[n] = i
            n += 1
    return found[:n].copy()


def index_in_box(points: np.ndarray, box: np.ndarray, margin: float = 0.1) -> np.ndarray:
    """Indices (K,) int64, ascending, of the points (N, 3+C) inside one box (7+): ``margin`` metres are added to its
    length and width on each side, none to its height; faces count as inside."""
    return _index_in_box(np.ascontiguousarray(points), np.ascontiguousarray(box[:7], dtype=np.float64), float(margin))


@numba.njit(cache=True, nogil=True)
def _outside_boxes(points, boxes, margin):
    m = boxes.shape[0]
    frame = np.empty((m, 6))  # cos, sin, half length, half width, half height, reach
    for j in range(m):
        frame[j, 0], frame[j, 1] = math.cos(boxes[j, 6]), math.sin(boxes[j, 6])
        frame[j, 2], frame[j, 3], frame[j, 4] = boxes[j, 3] / 2 + margin, boxes[j, 4] / 2 + margin, boxes[j, 5] / 2
        frame[j, 5] = math.sqrt(frame[j, 2] ** 2 + frame[j, 3] ** 2)
    # Square metres of ground that a box may reach, in a table that repeats itself: most points are on none and need no
    # look at the boxes. int(x + _FAR) is floor(x) but for whole rounds, and takes a fraction of its time.
    squares = np.zeros((_SQUARES, _SQUARES), np.bool_)
    for j in range(m):
        x, y, reach = boxes[j, 0], boxes[j, 1], frame[j, 5] + 1e-6
        if abs(x) < _FAR and abs(y) < _FAR and reach < _SQUARES / 2 - 1:
            for column in range(int(x - reach + _FAR), int(x + reach + _FAR) + 1):
                for row in range(int(y - reach + _FAR), int(y + reach + _FAR) + 1):
                    squares[column & (_SQUARES - 1), row & (_SQUARES - 1)] = True
        else:
            squares[:] = True
    outside = np.ones(points.shape[0], np.bool_)
    for i in range(points.shape[0]):
        px, py, pz = np.float64(points[i, 0]), np.float64(points[i, 1]), points[i, 2]
        if (
            abs(px) < _FAR
            and abs(py) < _FAR
            and not squares[int(px + _FAR) & (_SQUARES - 1), int(py + _FAR) & (_SQUARES - 1)]
        ):
            continue
        for j in range(m):
            x, y = px - boxes[j, 0], py - boxes[j, 1]
            if abs(x) > frame[j, 5] or abs(y) > frame[j, 5] or abs(pz - boxes[j, 2]) > frame[j, 4]:
                continue
            c, s = frame[j, 0], frame[j, 1]
            if abs(x * c + y * s) < frame[j, 2] and abs(y * c - x * s) < frame[j, 3]:
                outside[i] = False
                break
    return outside


def outside_boxes(points: np.ndarray, boxes: np.ndarray, margin: float = 0.01) -> np.ndarray:
    """Mask (N,) bool of the points (N, 3+C) that are in none of the boxes (M, 7+); ``margin`` metres are added to
    length and width on each side (1 cm is what OpenPCDet's CPU operator adds)."""
    return _outside_boxes(
        np.ascontiguousarray(points), np.ascontiguousarray(boxes[:, :7], dtype=np.float64), float(margin)
    )


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
    found = np.empty(points.shape[0], np.int64)
    n = 0
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        for j in range(low.shape[0]):
            if low[j, 0] <= x <= high[j, 0] and low[j, 1] <= y <= high[j, 1] and low[j, 2] <= z <= high[j, 2]:
                found[n] = i
                n += 1
                break
    return found[:n].copy()


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
