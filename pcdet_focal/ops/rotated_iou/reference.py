"""Definition of the rotated overlap, in plain torch on any device.

Let F move every point of the plane to the nearest point of the rectangle B (in B's own frame: clamp x to ±hx and y to
±hy). F leaves the inside of B alone and sends everything else to B's border, so the closed curve F(border of A) winds
once around exactly the points that are inside both A and B. The overlap is therefore the signed area of that curve,

    area(A ∩ B) = ∮ X dY  along the border of A, anticlockwise, with X = clamp(x, -hx, hx), Y = clamp(y, -hy, hy).

Along one edge of A, Y changes only while |y| < hy, and there X is a clamped linear function whose mean has a closed
form. Unlike clipping by cases, the formula is continuous in its inputs: identical and nested boxes need no tolerance
and no special case.

Rounding would leave an overlap of 1e-17 between boxes that are apart, and callers ask whether an overlap is exactly 0
(placing sampled objects, NMS with threshold 0). So the four separating axes are tried first, and boxes that reach into
each other by less than 1e-12 of their size are taken as touching.
"""

from __future__ import annotations

import torch

_PAIRS_AT_ONCE = 1 << 19  # about 100 MB of float64 temporaries
_TOUCHING = 1 - 1e-12


def iou_matrix(a: torch.Tensor, b: torch.Tensor, what: int) -> torch.Tensor:
    """Boxes (N, 7) and (M, 7), float64 -> (N, M) float64. ``what``: 0 overlap in the plane, 1 IoU in the plane, 2 IoU
    of the volumes.
    """
    out = a.new_zeros(len(a), len(b))
    for i, j in pairs_that_may_meet(a, b):
        out[i, j] = iou_aligned(a[i], b[j], what)
    return out


def iou_aligned(a: torch.Tensor, b: torch.Tensor, what: int) -> torch.Tensor:
    """Boxes (K, 7) and (K, 7), float64 -> (K,) float64."""
    area_a, area_b = a[:, 3] * a[:, 4], b[:, 3] * b[:, 4]
    overlap = torch.minimum(overlap_of_pairs(a, b), torch.minimum(area_a, area_b))
    size_a, size_b = area_a, area_b
    if what == 2:
        top = torch.minimum(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2)
        bottom = torch.maximum(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2)
        overlap = overlap * torch.minimum((top - bottom).clamp(min=0), torch.minimum(a[:, 5], b[:, 5]))
        size_a, size_b = area_a * a[:, 5], area_b * b[:, 5]
    columns = slice(0, 7) if what == 2 else [0, 1, 3, 4, 6]
    meets = (overlap > 0) & torch.isfinite(a[:, columns]).all(1) & torch.isfinite(b[:, columns]).all(1)
    result = overlap if what == 0 else overlap / (size_a + size_b - overlap)
    return torch.where(meets, result, torch.zeros_like(result))


def overlap_of_pairs(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Area shared by the rectangles of ``a`` (K, 7) and ``b`` (K, 7), row by row: (K,). See the formula above."""
    half_a, half_b = a[:, 3:5] / 2, b[:, 3:5] / 2
    # centre and half axes of A in B's frame
    dx, dy = a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]
    cos_b, sin_b = b[:, 6].cos(), b[:, 6].sin()
    centre = torch.stack([dx * cos_b + dy * sin_b, dy * cos_b - dx * sin_b], dim=1)  # (K, 2)
    turn = a[:, 6] - b[:, 6]
    u = half_a[:, :1] * torch.stack([turn.cos(), turn.sin()], dim=1)
    v = half_a[:, 1:] * torch.stack([-turn.sin(), turn.cos()], dim=1)
    # (K, 4, 2), anticlockwise
    start = torch.stack([centre + u - v, centre + u + v, centre - u + v, centre - u - v], dim=1)
    end = start.roll(-1, dims=1)

    hx, hy = half_b[:, :1], half_b[:, 1:]  # (K, 1), against the four edges
    (x0, y0), (x1, y1) = start.unbind(2), end.unbind(2)
    rise = y1 - y0
    low, high = _clamp(y0, hy), _clamp(y1, hy)
    # x at the two heights; where the edge is flat the rise of Y is 0 and x does not matter
    safe = torch.where(rise == 0, torch.ones_like(rise), rise)
    xa = x0 + ((low - y0) / safe).clamp(0, 1) * (x1 - x0)
    xb = x0 + ((high - y0) / safe).clamp(0, 1) * (x1 - x0)
    area = ((high - low) * _mean_of_clamped(xa, xb, hx)).sum(dim=1).clamp(min=0)
    solid = (half_a > 0).all(1) & (half_b > 0).all(1)
    return torch.where(solid & ~_apart(a, b), area, torch.zeros_like(area))


def _apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Whether one of the axes of either rectangle separates ``a`` (K, 7) from ``b`` (K, 7), touching included: (K,)
    bool.
    """
    shift = b[:, None, :2] - a[:, None, :2]  # (K, 1, 2)
    result = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    # (K, 2, 2)
    axes = [
        torch.stack([torch.stack([r.cos(), r.sin()], 1), torch.stack([-r.sin(), r.cos()], 1)], 1)
        for r in (a[:, 6], b[:, 6])
    ]
    for axis in torch.cat(axes, dim=1).unbind(1):  # (K, 2)
        distance = (shift[:, 0] * axis).sum(1).abs()
        reach = sum(
            ((box_axes * axis[:, None, :]).sum(2).abs() * boxes[:, 3:5] / 2).sum(1)
            for box_axes, boxes in zip(axes, (a, b))
        )
        result |= distance >= reach * _TOUCHING
    return result


def pairs_that_may_meet(a: torch.Tensor, b: torch.Tensor):
    """Yields indices (i, j), each (K,), of the pairs whose circumscribed circles meet; row by row in ascending
    order.
    """
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(b)))
    reach_a, reach_b = torch.hypot(a[:, 3], a[:, 4]) / 2, torch.hypot(b[:, 3], b[:, 4]) / 2
    for first in range(0, len(a), rows):
        part = slice(first, first + rows)
        distance = torch.hypot(a[part, None, 0] - b[None, :, 0], a[part, None, 1] - b[None, :, 1])
        i, j = torch.nonzero(distance < reach_a[part, None] + reach_b[None, :], as_tuple=True)
        yield i + first, j


def _clamp(value: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    return torch.minimum(torch.maximum(value, -limit), limit)


def _mean_of_clamped(xa: torch.Tensor, xb: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Mean of clamp(x, -limit, limit) while x goes evenly from ``xa`` to ``xb``."""
    left, right = torch.minimum(xa, xb), torch.maximum(xa, xb)
    length = right - left
    below = (torch.minimum(right, -limit) - left).clamp(min=0)
    above = (right - torch.maximum(left, limit)).clamp(min=0)
    middle = (torch.minimum(right, limit) - torch.maximum(left, -limit)).clamp(min=0)
    total = below * -limit + above * limit + middle * (_clamp(left, limit) + _clamp(right, limit)) / 2
    return torch.where(length > 0, total / torch.where(length > 0, length, torch.ones_like(length)), _clamp(xa, limit))
