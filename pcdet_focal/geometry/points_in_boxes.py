"""Which points lie in boxes, in float64 (numba, one thread: it runs inside data-loader workers).

The answers are those of exact geometry except within rounding of a face. ``ops.points_in_boxes`` is another definition,
OpenPCDet's compiled kernel: float32, one label a point.
"""

from __future__ import annotations

import math

import numba
import numpy as np

_SQUARES = 128  # a power of two
_FAR = 2.0**20  # metres, whole rounds of the table: what is farther, or not a number, is compared with every box


@numba.njit(cache=True, nogil=True)
def _index_in_box(points, box, margin):
    half_x, half_y, half_z = box[3] / 2 + margin, box[4] / 2 + margin, box[5] / 2
    reach = math.sqrt(half_x * half_x + half_y * half_y)
    c, s = math.cos(box[6]), math.sin(box[6])
    indices = np.empty(points.shape[0], np.int64)
    n = 0
    for i in range(points.shape[0]):
        x, y = points[i, 0] - box[0], points[i, 1] - box[1]
        if abs(x) > reach or abs(y) > reach or abs(points[i, 2] - box[2]) > half_z:
            continue
        if abs(x * c + y * s) <= half_x and abs(y * c - x * s) <= half_y:
            indices[n] = i
            n += 1
    return indices[:n].copy()


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
    """Mask (N,) bool of the points (N, 3+C) that are in none of the boxes (M, 7+): ``margin`` metres are added to their
    length and width on each side (1 cm is what OpenPCDet's CPU operator adds), none to their height; only the faces
    above and below count as inside.
    """
    return _outside_boxes(
        np.ascontiguousarray(points), np.ascontiguousarray(boxes[:, :7], dtype=np.float64), float(margin)
    )
