"""Rotated overlap on the GPU (Triton). ``reference.py`` derives the formula, ``differentiable.py`` that of the
gradient.

The operations of ``cpu.py`` in the same order, in float64 and without fused multiply-adds, so that both give the same
bits but for the device's sine and cosine. A pair lives in registers; a tile of pairs of which no circles meet costs one
comparison a pair.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TOUCHING = tl.constexpr(1 - 1e-12)  # see reference.py
INFINITY = tl.constexpr(float("inf"))
PARALLEL = tl.constexpr(1e-9)  # see differentiable.py
_TILE_A, _TILE_B = 8, 32  # two pairs a thread with four warps: all that the registers hold in float64
_PAIRS = 128


def iou_matrix(a: torch.Tensor, b: torch.Tensor, what: int, dtype: torch.dtype) -> torch.Tensor:
    """Boxes (N, 7) and (M, 7), float64 -> (N, M) of ``dtype``. ``what``: 0 overlap in the plane, 1 IoU in the plane, 2
    IoU of the volumes.
    """
    out = torch.empty(len(a), len(b), dtype=dtype, device=a.device)
    if out.numel():
        tiles = triton.cdiv(len(a), _TILE_A) * triton.cdiv(len(b), _TILE_B)
        with torch.cuda.device_of(a):
            _fill_matrix[(tiles,)](
                prepare(a), prepare(b), out, len(a), len(b), what, _TILE_A, _TILE_B, enable_fp_fusion=False
            )
    return out


def iou_aligned(a: torch.Tensor, b: torch.Tensor, what: int, dtype: torch.dtype) -> torch.Tensor:
    """Boxes (K, 7) and (K, 7), float64 -> (K,) of ``dtype``."""
    out = torch.empty(len(a), dtype=dtype, device=a.device)
    if len(a):
        with torch.cuda.device_of(a):
            _fill_aligned[(triton.cdiv(len(a), _PAIRS),)](
                prepare(a), prepare(b), out, len(a), what, _PAIRS, enable_fp_fusion=False
            )
    return out


def overlap_with_derivative(pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 8) float64: x and y of A relative to B, dx, dy, heading of A, dx, dy, heading of B -> shared area (N,) and
    its derivative (N, 8).
    """
    area, derivative = pairs.new_empty(len(pairs)), torch.empty_like(pairs, memory_format=torch.contiguous_format)
    if len(pairs):
        grid = (triton.cdiv(len(pairs), _PAIRS),)
        with torch.cuda.device_of(pairs):
            _fill_overlap_and_derivative[grid](
                pairs.contiguous(), area, derivative, len(pairs), _PAIRS, enable_fp_fusion=False
            )
    return area, derivative


def prepare(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes (N, 7) -> (9, N): x, y, z, dx/2, dy/2, dz/2, cos, sin, circumscribed radius. Infinite headings give nan,
    which overlaps nothing.
    """
    out = boxes.new_empty(9, len(boxes))
    out[:3] = boxes[:, :3].T
    out[3:6] = boxes[:, 3:6].T / 2
    out[6], out[7] = boxes[:, 6].cos(), boxes[:, 6].sin()
    out[8] = torch.hypot(out[3], out[4])
    return out


# ---------------------------------------------------------------- overlap of a pair
@triton.jit
def _clamped(value, limit):
    return tl.minimum(tl.maximum(value, -limit), limit)


@triton.jit
def _edge(x0, y0, x1, y1, hx, hy):
    """Integral of X dY along one edge, both clamped to the rectangle ±hx, ±hy."""
    low, high = _clamped(y0, hy), _clamped(y1, hy)
    rise = tl.where(y1 == y0, 1.0, y1 - y0)  # a flat edge contributes nothing, whatever its x
    xa = tl.where(low == y0, x0, x0 + tl.minimum(tl.maximum((low - y0) / rise, 0.0), 1.0) * (x1 - x0))
    xb = tl.where(high == y1, x1, x0 + tl.minimum(tl.maximum((high - y0) / rise, 0.0), 1.0) * (x1 - x0))
    left, right = tl.minimum(xa, xb), tl.maximum(xa, xb)
    inner_left, inner_right = tl.maximum(left, -hx), tl.minimum(right, hx)
    length = tl.where(right == left, 1.0, right - left)
    mean = (
        (inner_right - inner_left) * (inner_left + inner_right) * 0.5
        - tl.maximum(-hx - left, 0.0) * hx
        + tl.maximum(right - hx, 0.0) * hx
    ) / length
    mean = tl.where((left >= -hx) & (right <= hx), (left + right) * 0.5, mean)
    mean = tl.where(left >= hx, hx, mean)
    mean = tl.where(right <= -hx, -hx, mean)
    return tl.where(low == high, 0.0, (high - low) * mean)


@triton.jit
def _overlap(dx, dy, length, width, cos_a, sin_a, hx, hy, cos_b, sin_b):
    """Shared area of rectangles A and B, the centre of A at (dx, dy) from B's, half sizes, axes; 0 where a number is
    not finite.
    """
    # A's centre and half axes in B's frame
    x, y = dx * cos_b + dy * sin_b, dy * cos_b - dx * sin_b
    cos_t, sin_t = cos_a * cos_b + sin_a * sin_b, sin_a * cos_b - cos_a * sin_b
    ux, uy = length * cos_t, length * sin_t
    vx, vy = -width * sin_t, width * cos_t
    # separating axes: B's two, then A's two; comparisons with nan are false
    along, across = hx * tl.abs(cos_t) + hy * tl.abs(sin_t), hx * tl.abs(sin_t) + hy * tl.abs(cos_t)
    meets = (
        (length > 0)
        & (width > 0)
        & (hx > 0)
        & (hy > 0)
        & (tl.abs(x + y + ux + vy + hx + hy) < INFINITY)
        & (tl.abs(x) < (tl.abs(ux) + tl.abs(vx) + hx) * TOUCHING)
        & (tl.abs(y) < (tl.abs(uy) + tl.abs(vy) + hy) * TOUCHING)
        & (tl.abs(dx * cos_a + dy * sin_a) < (along + length) * TOUCHING)
        & (tl.abs(dy * cos_a - dx * sin_a) < (across + width) * TOUCHING)
    )
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
    area = tl.minimum(tl.minimum(tl.maximum(area, 0.0), 4.0 * length * width), 4.0 * hx * hy)
    return tl.where(meets, area, 0.0)


@triton.jit
def circles_meet(a, i, n, b, j, m):
    """Whether the circles around the boxes i of ``a`` and j of ``b`` (both prepared, of n and m boxes) meet; i and j
    broadcast.
    """
    dx, dy = tl.load(a + i) - tl.load(b + j), tl.load(a + n + i) - tl.load(b + m + j)
    reach = tl.load(a + 8 * n + i) + tl.load(b + 8 * m + j)
    return dx * dx + dy * dy < reach * reach


@triton.jit
def measure(a, i, n, b, j, m, WHAT: tl.constexpr):
    """Overlap in the plane (0), IoU in the plane (1) or IoU of the volumes (2) of the boxes i of ``a`` and j of ``b``;
    i and j broadcast.
    """
    length, width, hx, hy = (
        tl.load(a + 3 * n + i),
        tl.load(a + 4 * n + i),
        tl.load(b + 3 * m + j),
        tl.load(b + 4 * m + j),
    )
    overlap = _overlap(
        tl.load(a + i) - tl.load(b + j),
        tl.load(a + n + i) - tl.load(b + m + j),
        length,
        width,
        tl.load(a + 6 * n + i),
        tl.load(a + 7 * n + i),
        hx,
        hy,
        tl.load(b + 6 * m + j),
        tl.load(b + 7 * m + j),
    )
    if WHAT == 0:
        return overlap
    size_a, size_b = 4.0 * length * width, 4.0 * hx * hy
    if WHAT == 2:
        za, half_a, zb, half_b = (
            tl.load(a + 2 * n + i),
            tl.load(a + 5 * n + i),
            tl.load(b + 2 * m + j),
            tl.load(b + 5 * m + j),
        )
        height_a, height_b = 2.0 * half_a, 2.0 * half_b
        height = tl.minimum(za + half_a, zb + half_b) - tl.maximum(za - half_a, zb - half_b)
        height = tl.minimum(tl.minimum(height, height_a), height_b)
        overlap = tl.where((height > 0) & (tl.abs(za + zb + height_a + height_b) < INFINITY), overlap * height, 0.0)
        size_a, size_b = size_a * height_a, size_b * height_b
    return tl.where(overlap > 0, overlap / tl.where(overlap > 0, size_a + size_b - overlap, 1.0), 0.0)


# ---------------------------------------------------------------- kernels
@triton.jit(do_not_specialize=["n", "m"])
def _fill_matrix(a, b, out, n, m, WHAT: tl.constexpr, TILE_A: tl.constexpr, TILE_B: tl.constexpr):
    columns = tl.cdiv(m, TILE_B)
    i = (tl.program_id(0) // columns * TILE_A + tl.arange(0, TILE_A))[:, None]
    j = (tl.program_id(0) % columns * TILE_B + tl.arange(0, TILE_B))[None, :]
    inside = (i < n) & (j < m)
    row, column = tl.minimum(i, n - 1), tl.minimum(j, m - 1)
    near = circles_meet(a, row, n, b, column, m)
    value = tl.zeros([TILE_A, TILE_B], tl.float64)
    if tl.max(near.to(tl.int32), axis=None) > 0:
        value = tl.where(near, measure(a, row, n, b, column, m, WHAT), 0.0)
    tl.store(out + i.to(tl.int64) * m + j, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n"])
def _fill_aligned(a, b, out, n, WHAT: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.minimum(i, n - 1)
    near = circles_meet(a, row, n, b, row, n)
    value = tl.where(near, measure(a, row, n, b, row, n, WHAT), 0.0)
    tl.store(out + i, value.to(out.dtype.element_ty), mask=i < n)


@triton.jit
def _part_inside(middle_x, middle_y, step_x, step_y, half_length, limit_x, limit_y, tolerance):
    """Length of the part of an edge inside ±limit, and its first moment about the edge's middle: the edge is middle + s
    step, |s| <= half_length.
    """
    low, high = -half_length, half_length
    flat_x, flat_y = tl.abs(step_x) < PARALLEL, tl.abs(step_y) < PARALLEL
    steep_x, steep_y = tl.where(flat_x, 1.0, step_x), tl.where(flat_y, 1.0, step_y)
    one, other = (-limit_x - middle_x) / steep_x, (limit_x - middle_x) / steep_x
    low, high = (
        tl.where(flat_x, low, tl.maximum(low, tl.minimum(one, other))),
        tl.where(flat_x, high, tl.minimum(high, tl.maximum(one, other))),
    )
    one, other = (-limit_y - middle_y) / steep_y, (limit_y - middle_y) / steep_y
    low, high = (
        tl.where(flat_y, low, tl.maximum(low, tl.minimum(one, other))),
        tl.where(flat_y, high, tl.minimum(high, tl.maximum(one, other))),
    )
    # an edge parallel to the other's side is inside or outside as a whole, or runs along it
    beyond_x, beyond_y = tl.abs(middle_x) - limit_x, tl.abs(middle_y) - limit_y
    share_x = tl.where(tl.abs(beyond_x) <= tolerance, 0.5, tl.where(beyond_x < 0, 1.0, 0.0))
    share_y = tl.where(tl.abs(beyond_y) <= tolerance, 0.5, tl.where(beyond_y < 0, 1.0, 0.0))
    length = tl.maximum(high - low, 0.0) * tl.where(flat_x, share_x, 1.0) * tl.where(flat_y, share_y, 1.0)
    return length, length * (low + high) / 2


@triton.jit
def _border_inside(x, y, hx, hy, cos, sin, limit_x, limit_y, other_cos, other_sin):
    """What of the border of a rectangle (centre, half sizes, axes) lies inside another one about the origin: lengths on
    the edges +x, +y, -x, -y and the sum of the four first moments."""
    cos_t, sin_t = cos * other_cos + sin * other_sin, sin * other_cos - cos * other_sin
    u, v = x * other_cos + y * other_sin, y * other_cos - x * other_sin
    tolerance = PARALLEL * (tl.maximum(hx, hy) + 2 * tl.maximum(limit_x, limit_y))
    ahead, moment0 = _part_inside(u + hx * cos_t, v + hx * sin_t, -sin_t, cos_t, hy, limit_x, limit_y, tolerance)
    left, moment1 = _part_inside(u - hy * sin_t, v + hy * cos_t, -cos_t, -sin_t, hx, limit_x, limit_y, tolerance)
    behind, moment2 = _part_inside(u - hx * cos_t, v - hx * sin_t, sin_t, -cos_t, hy, limit_x, limit_y, tolerance)
    right, moment3 = _part_inside(u + hy * sin_t, v - hy * cos_t, cos_t, sin_t, hx, limit_x, limit_y, tolerance)
    return ahead, left, behind, right, moment0 + moment1 + moment2 + moment3


@triton.jit(do_not_specialize=["n"])
def _fill_overlap_and_derivative(pairs, area, derivative, n, BLOCK: tl.constexpr):
    i = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    valid = i < n
    row = pairs + tl.where(valid, i, 0) * 8
    dx, dy, length, width = tl.load(row), tl.load(row + 1), tl.load(row + 2) / 2, tl.load(row + 3) / 2
    heading_a, hx, hy, heading_b = tl.load(row + 4), tl.load(row + 5) / 2, tl.load(row + 6) / 2, tl.load(row + 7)
    cos_a, sin_a, cos_b, sin_b = tl.cos(heading_a), tl.sin(heading_a), tl.cos(heading_b), tl.sin(heading_b)
    tl.store(area + i, _overlap(dx, dy, length, width, cos_a, sin_a, hx, hy, cos_b, sin_b), mask=valid)

    ahead, left, behind, right, moment = _border_inside(dx, dy, length, width, cos_a, sin_a, hx, hy, cos_b, sin_b)
    out = derivative + i * 8
    along, across = ahead - behind, left - right
    tl.store(out, along * cos_a - across * sin_a, mask=valid)
    tl.store(out + 1, along * sin_a + across * cos_a, mask=valid)
    tl.store(out + 2, (ahead + behind) / 2, mask=valid)
    tl.store(out + 3, (left + right) / 2, mask=valid)
    tl.store(out + 4, -moment, mask=valid)
    ahead, left, behind, right, moment = _border_inside(-dx, -dy, hx, hy, cos_b, sin_b, length, width, cos_a, sin_a)
    tl.store(out + 5, (ahead + behind) / 2, mask=valid)
    tl.store(out + 6, (left + right) / 2, mask=valid)
    tl.store(out + 7, -moment, mask=valid)
