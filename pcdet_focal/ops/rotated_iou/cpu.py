"""Rotated overlap on the CPU (numba, one thread, releases the GIL). ``reference.py`` derives the formula.

The kernels of ``ops/nms`` and ``ops/anchor_search`` that need the overlap stand here too, because numba's cache does
not notice a change of a function in another file.
"""

from __future__ import annotations

import math

import numba
import numpy as np

_MAX_CELLS_PER_AXIS = 512
# the 3 x 3 cells around one, the likeliest first
_STEPS = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
_TOUCHING = 1 - 1e-12  # see reference.py


def iou_matrix(a: np.ndarray, b: np.ndarray, what: int) -> np.ndarray:
    """Boxes (N, 7) and (M, 7), float64 -> (N, M) float64. ``what``: 0 overlap in the plane, 1 IoU in the plane, 2 IoU
    of the volumes.
    """
    out = np.zeros((len(a), len(b)))
    _fill_matrix(_prepare(a), _prepare(b), what, out)
    return out


def iou_aligned(a: np.ndarray, b: np.ndarray, what: int) -> np.ndarray:
    """Boxes (K, 7) and (K, 7), float64 -> (K,) float64."""
    out = np.zeros(len(a))
    _fill_aligned(_prepare(a), _prepare(b), what, out)
    return out


def nms_rotated(boxes: np.ndarray, thresh: float) -> np.ndarray:
    """Greedy NMS of boxes (N, 7) float64 in the order given: positions that stay, (K,) int64, ascending."""
    prepared = _prepare(boxes)
    kept = np.empty(len(boxes), dtype=np.int64)
    return kept[: _suppress(prepared, float(thresh), kept)]


@numba.njit(cache=True, nogil=True)
def _prepare(boxes):
    """(N, 9) float64: x, y, z, dx/2, dy/2, dz/2, cos, sin, circumscribed radius. Infinite headings give nan, which
    overlaps nothing.
    """
    out = np.empty((boxes.shape[0], 9))
    for i in range(boxes.shape[0]):
        for k in range(3):
            out[i, k], out[i, 3 + k] = boxes[i, k], boxes[i, 3 + k] / 2
        out[i, 6], out[i, 7] = math.cos(boxes[i, 6]), math.sin(boxes[i, 6])
        out[i, 8] = math.hypot(out[i, 3], out[i, 4])
    return out


@numba.njit(cache=True, nogil=True)
def _edge(x0, y0, x1, y1, hx, hy):
    """Integral of X dY along one edge, both clamped to the rectangle ±hx, ±hy."""
    low = min(max(y0, -hy), hy)
    high = min(max(y1, -hy), hy)
    if low == high:
        return 0.0
    rise = y1 - y0
    xa, xb = x0, x1
    if low != y0:
        xa = x0 + min(max((low - y0) / rise, 0.0), 1.0) * (x1 - x0)
    if high != y1:
        xb = x0 + min(max((high - y0) / rise, 0.0), 1.0) * (x1 - x0)
    if xa > xb:
        left, right = xb, xa
    else:
        left, right = xa, xb
    if right <= -hx:
        mean = -hx
    elif left >= hx:
        mean = hx
    elif left >= -hx and right <= hx:
        mean = (left + right) * 0.5
    else:
        inner_left = max(left, -hx)
        inner_right = min(right, hx)
        mean = (
            (inner_right - inner_left) * (inner_left + inner_right) * 0.5
            - max(-hx - left, 0.0) * hx
            + max(right - hx, 0.0) * hx
        ) / (right - left)
    return (high - low) * mean


@numba.njit(cache=True, nogil=True)
def _overlap(a, i, b, j):
    """Area shared by box i of ``a`` and box j of ``b`` (both prepared), 0 where a number is not finite. Row views would
    cost 40 ns each.
    """
    dx, dy = a[i, 0] - b[j, 0], a[i, 1] - b[j, 1]
    reach = a[i, 8] + b[j, 8]
    if not dx * dx + dy * dy < reach * reach:
        return 0.0
    length, width = a[i, 3], a[i, 4]
    hx, hy = b[j, 3], b[j, 4]
    if not (length > 0 and width > 0 and hx > 0 and hy > 0):
        return 0.0
    # A's centre and half axes in B's frame
    cos_a, sin_a, cos_b, sin_b = a[i, 6], a[i, 7], b[j, 6], b[j, 7]
    x, y = dx * cos_b + dy * sin_b, dy * cos_b - dx * sin_b
    cos_t, sin_t = cos_a * cos_b + sin_a * sin_b, sin_a * cos_b - cos_a * sin_b
    ux, uy = length * cos_t, length * sin_t
    vx, vy = -width * sin_t, width * cos_t
    if not math.isfinite(x + y + ux + vy + hx + hy):
        return 0.0
    # separating axes: B's two, then A's two
    if abs(x) >= (abs(ux) + abs(vx) + hx) * _TOUCHING or abs(y) >= (abs(uy) + abs(vy) + hy) * _TOUCHING:
        return 0.0
    along, across = hx * abs(cos_t) + hy * abs(sin_t), hx * abs(sin_t) + hy * abs(cos_t)
    if (
        abs(dx * cos_a + dy * sin_a) >= (along + length) * _TOUCHING
        or abs(dy * cos_a - dx * sin_a) >= (across + width) * _TOUCHING
    ):
        return 0.0
    x0, y0 = x + ux - vx, y + uy - vy
    x1, y1 = x + ux + vx, y + uy + vy
    x2, y2 = x - ux + vx, y - uy + vy
    x3, y3 = x - ux - vx, y - uy - vy
    area = (
        _edge(x0, y0, x1, y1, hx, hy)
        + _edge(x1, y1, x2, y2, hx, hy)
        + _edge(x2, y2, x3, y3, hx, hy)
        + _edge(x3, y3, x0, y0, hx, hy)
    )
    return min(max(area, 0.0), 4.0 * length * width, 4.0 * hx * hy)


@numba.njit(cache=True, nogil=True)
def _measure(a, i, b, j, what):
    """Overlap in the plane (0), IoU in the plane (1) or IoU of the volumes (2)."""
    overlap = _overlap(a, i, b, j)
    if what == 0 or overlap == 0.0:
        return overlap
    size_a, size_b = 4.0 * a[i, 3] * a[i, 4], 4.0 * b[j, 3] * b[j, 4]
    if what == 2:
        height_a, height_b = 2.0 * a[i, 5], 2.0 * b[j, 5]
        top = min(a[i, 2] + a[i, 5], b[j, 2] + b[j, 5])
        bottom = max(a[i, 2] - a[i, 5], b[j, 2] - b[j, 5])
        height = min(top - bottom, height_a, height_b)
        if not (height > 0.0 and math.isfinite(a[i, 2] + b[j, 2] + height_a + height_b)):
            return 0.0
        overlap *= height
        size_a *= height_a
        size_b *= height_b
    return overlap / (size_a + size_b - overlap)


@numba.njit(cache=True, nogil=True)
def _fill_matrix(a, b, what, out):
    """``out`` comes zeroed. The circles are compared here already, on columns: most pairs of a scene are far apart."""
    xs, ys, radii = b[:, 0].copy(), b[:, 1].copy(), b[:, 8].copy()
    for i in range(a.shape[0]):
        x, y, radius = a[i, 0], a[i, 1], a[i, 8]
        for j in range(xs.shape[0]):
            dx, dy, reach = x - xs[j], y - ys[j], radius + radii[j]
            if dx * dx + dy * dy < reach * reach:
                out[i, j] = _measure(a, i, b, j, what)


@numba.njit(cache=True, nogil=True)
def _fill_aligned(a, b, what, out):
    for i in range(a.shape[0]):
        out[i] = _measure(a, i, b, i, what)


@numba.njit(cache=True, nogil=True)
def _suppress(boxes, thresh, kept):
    """Positions that stay into ``kept``, their number returned. ``boxes`` are prepared.

    Kept boxes lie in a grid of square cells as wide as the largest box's circle, so that a box meets only those of the
    3 x 3 cells around it; with boxes of very different sizes the cells get few and the search tends to all pairs, never
    to a wrong answer.
    """
    count = boxes.shape[0]
    low_x = low_y = np.inf
    high_x = high_y = -np.inf
    reach = 0.0
    solid = np.empty(count, dtype=np.bool_)  # whether the box can overlap anything
    for i in range(count):
        solid[i] = boxes[i, 3] > 0 and boxes[i, 4] > 0
        for value in range(9):
            solid[i] &= math.isfinite(boxes[i, value])
        if solid[i]:
            low_x, high_x = min(low_x, boxes[i, 0]), max(high_x, boxes[i, 0])
            low_y, high_y = min(low_y, boxes[i, 1]), max(high_y, boxes[i, 1])
            reach = max(reach, boxes[i, 8])
    # a hair wider, so that rounding never puts two boxes that meet two cells apart
    cell = max(2.0 * reach, (high_x - low_x) / _MAX_CELLS_PER_AXIS, (high_y - low_y) / _MAX_CELLS_PER_AXIS) * (
        1.0 + 1e-9
    )
    columns = rows = 1
    if 0.0 < cell < np.inf:
        columns, rows = int((high_x - low_x) / cell) + 1, int((high_y - low_y) / cell) + 1
    head = np.full(columns * rows, -1, dtype=np.int64)  # last kept box of each cell, as a position in kept
    following = np.empty(count, dtype=np.int64)  # the one kept before it in the same cell
    number = 0
    for i in range(count):
        if not solid[i]:
            kept[number] = i
            following[number] = -1
            number += 1
            continue
        column = row = 0
        if columns > 1 or rows > 1:
            column = min(int((boxes[i, 0] - low_x) / cell), columns - 1)
            row = min(int((boxes[i, 1] - low_y) / cell), rows - 1)
        area = boxes[i, 3] * boxes[i, 4]
        suppressed = False
        for step in range(9):
            r, c = row + _STEPS[step][0], column + _STEPS[step][1]
            if r < 0 or r >= rows or c < 0 or c >= columns:
                continue
            k = head[r * columns + c]
            while k >= 0:
                other = kept[k]
                other_area = boxes[other, 3] * boxes[other, 4]
                # the smaller area over the larger one bounds the IoU: often that settles it
                if (
                    min(area, other_area) > thresh * max(area, other_area)
                    and _measure(boxes, i, boxes, other, 1) > thresh
                ):
                    suppressed = True
                    break
                k = following[k]
            if suppressed:
                break
        if suppressed:
            continue
        kept[number] = i
        where = row * columns + column
        following[number] = head[where]
        head[where] = number
        number += 1
    return number


def most_overlapping(
    xs: np.ndarray,
    ys: np.ndarray,
    kinds: np.ndarray,
    per_height: int,
    boxes: np.ndarray,
    rows: np.ndarray,
    start: np.ndarray,
    what: int,
) -> np.ndarray:
    """Of anchors on a grid, flattened as (height, y, x, kind of that height), the first that has the largest IoU with a
    box, in float32.

    Args:
        xs, ys: (nx,) and (ny,) float64, ascending. kinds: (K, 7) float64, height by height, ``per_height`` each, x and
            y zero.
        boxes: (M, 7) float64. rows: which of them. start: (M,) an anchor to begin with. what: 1 IoU in the plane, 2 IoU
            of the volumes.

    Returns:
        (M,) int64, 0 where no anchor meets the box, and in other rows than ``rows``.
    """
    best = np.zeros(len(boxes), dtype=np.int64)
    _find_most_overlapping(xs, ys, _prepare(kinds), per_height, _prepare(boxes), rows, start, what, best)
    return best


@numba.njit(cache=True, nogil=True)
def _find_most_overlapping(xs, ys, kinds, per_height, boxes, rows, start, what, best):
    """The IoU is computed only where the upright rectangle around the anchor, in the box's frame, leaves room for more
    than was found.
    """
    nx, ny = len(xs), len(ys)
    anchor = np.empty((1, 9))
    for m in rows:
        x, y, hx, hy, cos_b, sin_b = boxes[m, 0], boxes[m, 1], boxes[m, 3], boxes[m, 4], boxes[m, 6], boxes[m, 7]
        where = start[m]
        k = where // (per_height * nx * ny) * per_height + where % per_height
        anchor[0] = kinds[k]
        anchor[0, 0], anchor[0, 1] = xs[where // per_height % nx], ys[where // (per_height * nx) % ny]
        largest = np.float32(_measure(anchor, 0, boxes, m, what))
        for k in range(kinds.shape[0]):
            anchor[0] = kinds[k]
            cos_t, sin_t = kinds[k, 6] * cos_b + kinds[k, 7] * sin_b, kinds[k, 7] * cos_b - kinds[k, 6] * sin_b
            wide, high = (
                abs(kinds[k, 3] * cos_t) + abs(kinds[k, 4] * sin_t),
                abs(kinds[k, 3] * sin_t) + abs(kinds[k, 4] * cos_t),
            )
            size_a, size_b, height = 4.0 * kinds[k, 3] * kinds[k, 4], 4.0 * hx * hy, 1.0
            if what == 2:
                height = min(kinds[k, 2] + kinds[k, 5], boxes[m, 2] + boxes[m, 5]) - max(
                    kinds[k, 2] - kinds[k, 5], boxes[m, 2] - boxes[m, 5]
                )
                size_a, size_b = size_a * 2.0 * kinds[k, 5], size_b * 2.0 * boxes[m, 5]
            if not (size_a > 0 and size_b > 0 and height > 0):
                continue
            reach = kinds[k, 8] + boxes[m, 8]
            first, last = np.searchsorted(xs, x - reach), np.searchsorted(xs, x + reach, side="right")
            for r in range(np.searchsorted(ys, y - reach), np.searchsorted(ys, y + reach, side="right")):
                for c in range(first, last):
                    dx, dy = xs[c] - x, ys[r] - y
                    u, v = dx * cos_b + dy * sin_b, dy * cos_b - dx * sin_b
                    room_u, room_v = min(hx, u + wide) - max(-hx, u - wide), min(hy, v + high) - max(-hy, v - high)
                    if room_u <= 0 or room_v <= 0:
                        continue
                    room = min(room_u * room_v * height, size_a, size_b)
                    if np.float32(room / (size_a + size_b - room) * (1 + 1e-9)) < largest:
                        continue
                    anchor[0, 0], anchor[0, 1] = xs[c], ys[r]
                    iou = np.float32(_measure(anchor, 0, boxes, m, what))
                    index = ((k // per_height * ny + r) * nx + c) * per_height + k % per_height
                    if iou > largest or (iou == largest and index < where):
                        largest, where = iou, index
        best[m] = where if largest > 0 else 0
