"""Point-in-box test on the GPU (Triton); ``reference.py`` is the definition. Same arithmetic without fused
multiply-adds, so the same answers.

A program takes a block of points and goes through the boxes, whose numbers all its threads share. (The loops are
``while`` because Triton's interpreter cannot take a count that is known at run time for ``range`` with numpy 2.4.)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_POINTS = 256


def mask(points: torch.Tensor, boxes: torch.Tensor, margin: float) -> torch.Tensor:
    """Points (N, 3+) and boxes (M, 7), float32 -> (M, N) int32."""
    out = torch.empty(len(boxes), len(points), dtype=torch.int32, device=points.device)
    _launch(_fill_mask, points[None], boxes[None], margin, out)
    return out


def index(points: torch.Tensor, boxes: torch.Tensor, margin: float) -> torch.Tensor:
    """First box of each point or -1: points (N, 3+), boxes (M, 7) -> (N,) int32; of a batch (B, N, 3+), (B, M, 7) ->
    (B, N).
    """
    out = torch.full(points.shape[:-1], -1, dtype=torch.int32, device=points.device)
    batch = points.dim() == 3
    _launch(_fill_index, points if batch else points[None], boxes if batch else boxes[None], margin, out)
    return out


def count(points: torch.Tensor, boxes: torch.Tensor, margin: float) -> torch.Tensor:
    """Points in each box: (M,) int64."""
    partial = torch.empty(triton.cdiv(len(points), _POINTS), len(boxes), dtype=torch.int32, device=points.device)
    _launch(_fill_count, points[None], boxes[None], margin, partial)
    return partial.sum(dim=0)


def _launch(kernel, points: torch.Tensor, boxes: torch.Tensor, margin: float, out: torch.Tensor) -> None:
    """``kernel`` over blocks of points (B, N, 3+) and samples, with boxes (B, M, 7)."""
    (batch, count, width), num_boxes = points.shape, boxes.shape[1]
    if not batch * count * num_boxes:
        return
    # (B, M, 5)
    position = torch.cat(
        [boxes[..., :3], boxes[..., 6:].double().cos().float(), boxes[..., 6:].double().sin().float()], dim=-1
    )
    half = boxes[..., 3:6].double() / 2
    half = torch.cat([half[..., :2] + margin, half[..., 2:]], dim=-1)  # (B, M, 3)
    with torch.cuda.device_of(points):
        grid = (triton.cdiv(count, _POINTS), batch)
        kernel[grid](points.contiguous(), position, half, out, count, num_boxes, width, _POINTS, enable_fp_fusion=False)


@triton.jit
def _inside(x, y, z, position, half, box):
    """Whether points lie in one box: positions in float32, comparisons in float64. Comparisons with nan are false."""
    dx, dy, dz = (
        x - tl.load(position + box * 5),
        y - tl.load(position + box * 5 + 1),
        z - tl.load(position + box * 5 + 2),
    )
    cos, sin = tl.load(position + box * 5 + 3), tl.load(position + box * 5 + 4)
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    return (
        (tl.abs(dz).to(tl.float64) <= tl.load(half + box * 3 + 2))
        & (tl.abs(u).to(tl.float64) < tl.load(half + box * 3))
        & (tl.abs(v).to(tl.float64) < tl.load(half + box * 3 + 1))
    )


@triton.jit
def _load_points(points, i, count, width):
    """x, y, z of the points i of this program's sample, nan beyond the last one."""
    row = points + (tl.program_id(1).to(tl.int64) * count + i) * width
    outside = float("nan")
    return tl.load(row, i < count, outside), tl.load(row + 1, i < count, outside), tl.load(row + 2, i < count, outside)


@triton.jit(do_not_specialize=["count", "num_boxes", "width"])
def _fill_mask(points, position, half, out, count, num_boxes, width, POINTS: tl.constexpr):
    i = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    x, y, z = _load_points(points, i, count, width)
    row = out + i
    box = 0
    while box < num_boxes:
        tl.store(row, _inside(x, y, z, position, half, box).to(tl.int32), mask=i < count)
        row += count
        box += 1


@triton.jit(do_not_specialize=["count", "num_boxes", "width"])
def _fill_index(points, position, half, out, count, num_boxes, width, POINTS: tl.constexpr):
    i = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    x, y, z = _load_points(points, i, count, width)
    sample = tl.program_id(1).to(tl.int64)
    index = tl.full([POINTS], -1, tl.int32)
    box = 0
    while box < num_boxes:
        inside = _inside(x, y, z, position, half, sample * num_boxes + box)
        index = tl.where((index < 0) & inside, box, index)
        box += 1
    tl.store(out + sample * count + i, index, mask=i < count)


@triton.jit(do_not_specialize=["count", "num_boxes", "width"])
def _fill_count(points, position, half, out, count, num_boxes, width, POINTS: tl.constexpr):
    """How many of this program's points each box holds; the blocks are added up afterwards."""
    i = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    x, y, z = _load_points(points, i, count, width)
    box = 0
    while box < num_boxes:
        tl.store(
            out + tl.program_id(0).to(tl.int64) * num_boxes + box,
            tl.sum(_inside(x, y, z, position, half, box).to(tl.int32), axis=0),
        )
        box += 1
