"""Point-in-box test on the CPU (numba, one thread, releases the GIL); ``reference.py`` is the definition."""

from __future__ import annotations

import numba
import numpy as np
import torch


def mask(points: torch.Tensor, boxes: torch.Tensor, margin: float) -> np.ndarray:
    """Points (N, 3+) and boxes (M, 7), float32 -> (M, N) int32."""
    points, boxes = points.cpu().numpy(), boxes.cpu().numpy()
    out = np.zeros((len(boxes), len(points)), dtype=np.int32)
    _fill_mask(points, _prepare(boxes, margin), out)
    return out


def index(points: torch.Tensor, boxes: torch.Tensor, margin: float) -> np.ndarray:
    """First box of each point or -1: (N,) int32."""
    points, boxes = points.cpu().numpy(), boxes.cpu().numpy()
    out = np.full(len(points), -1, dtype=np.int32)
    _fill_index(points, _prepare(boxes, margin), out)
    return out


def count(points: torch.Tensor, boxes: torch.Tensor, margin: float) -> np.ndarray:
    """Points in each box: (M,) int64."""
    points, boxes = points.cpu().numpy(), boxes.cpu().numpy()
    out = np.zeros(len(boxes), dtype=np.int64)
    _fill_count(points, _prepare(boxes, margin), out)
    return out


def _prepare(boxes: np.ndarray, margin: float) -> np.ndarray:
    """(M, 9) float64: x, y, z, dx/2 + margin, dy/2 + margin, dz/2, cos, sin, half the side of the upright square around
    the box.
    """
    out = np.empty((len(boxes), 9))
    out[:, :6] = boxes[:, :6]
    out[:, 3:6] /= 2
    out[:, 3:5] += margin
    with np.errstate(invalid="ignore"):  # an infinite heading gives nan, and such a box holds nothing
        out[:, 6] = np.cos(boxes[:, 6].astype(np.float64))
        out[:, 7] = np.sin(boxes[:, 6].astype(np.float64))
    out[:, 8] = (np.abs(out[:, 3]) + np.abs(out[:, 4])) * (1 + 1e-5) + 1e-3
    return out


@numba.njit(cache=True, nogil=True)
def _inside(points, j, boxes, i):
    dz = points[j, 2] - np.float32(boxes[i, 2])
    if not abs(dz) <= boxes[i, 5]:
        return False
    dx, dy = points[j, 0] - np.float32(boxes[i, 0]), points[j, 1] - np.float32(boxes[i, 1])
    if abs(dx) > boxes[i, 8] or abs(dy) > boxes[i, 8]:
        return False
    cos, sin = np.float32(boxes[i, 6]), np.float32(boxes[i, 7])
    return abs(dx * cos + dy * sin) < boxes[i, 3] and abs(dy * cos - dx * sin) < boxes[i, 4]


@numba.njit(cache=True, nogil=True)
def _fill_mask(points, boxes, out):
    for i in range(boxes.shape[0]):
        for j in range(points.shape[0]):
            if _inside(points, j, boxes, i):
                out[i, j] = 1


@numba.njit(cache=True, nogil=True)
def _fill_index(points, boxes, out):
    for j in range(points.shape[0]):
        for i in range(boxes.shape[0]):
            if _inside(points, j, boxes, i):
                out[j] = i
                break


@numba.njit(cache=True, nogil=True)
def _fill_count(points, boxes, out):
    for i in range(boxes.shape[0]):
        for j in range(points.shape[0]):
            if _inside(points, j, boxes, i):
                out[i] += 1
