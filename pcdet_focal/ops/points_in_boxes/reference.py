"""Definition of the point-in-box test, in plain torch on any device."""

from __future__ import annotations

import torch


def mask(points: torch.Tensor, boxes: torch.Tensor, margin: float) -> torch.Tensor:
    """Points (N, 3+) and boxes (M, 7), float32 -> (M, N) int32. Positions in float32, comparisons in float64, as
    OpenPCDet does.
    """
    shift = points[None, :, :3] - boxes[:, None, :3]  # (M, N, 3)
    cos, sin = boxes[:, 6:7].double().cos().float(), boxes[:, 6:7].double().sin().float()
    u = shift[..., 0] * cos + shift[..., 1] * sin
    v = shift[..., 1] * cos - shift[..., 0] * sin
    half = boxes[:, None, 3:6].double() / 2
    inside = (
        (shift[..., 2].abs() <= half[..., 2]) & (u.abs() < half[..., 0] + margin) & (v.abs() < half[..., 1] + margin)
    )
    return inside.int()


def index(points: torch.Tensor, boxes: torch.Tensor, margin: float) -> torch.Tensor:
    """First box of each point or -1: (N,) int32."""
    if not len(boxes):
        return torch.full((len(points),), -1, dtype=torch.int32, device=points.device)
    inside, first = mask(points, boxes, margin).max(dim=0)  # of equal maxima the first
    return torch.where(inside > 0, first, -1).int()


def count(points: torch.Tensor, boxes: torch.Tensor, margin: float) -> torch.Tensor:
    """Points in each box: (M,) int64."""
    return mask(points, boxes, margin).sum(dim=1)
