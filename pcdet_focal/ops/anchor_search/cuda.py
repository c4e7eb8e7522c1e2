"""The search on the GPU (Triton); ``reference.py`` is the definition.

A program takes a box through all anchors, a block at a time, and keeps what it needs in registers: no table of anchors
times boxes. The k nearest are k passes, each for the smallest (distance, index) behind the one before. The overlap is
that of ``rotated_iou.cuda``, and computed for blocks that the box's circle reaches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rotated_iou.cuda import circles_meet, measure, prepare

_NEAREST_BLOCK, _OVERLAP_BLOCK = 1024, 256


def search(anchors: Tensor, boxes: Tensor, selected: Tensor, topk: int, match_height: bool) -> tuple[Tensor, Tensor]:
    """See :func:`pcdet_focal.ops.anchor_search.search_anchors`; boxes (M, 7) float64."""
    flat = prepare(anchors.detach().reshape(-1, anchors.shape[-1])[:, :7].double())
    count, box_table = flat.shape[1], prepare(boxes)
    nearest = torch.zeros(len(boxes), min(topk, count), dtype=torch.int64, device=boxes.device)
    best = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    if len(boxes):
        selected = selected.to(torch.int8)
        with torch.cuda.device_of(boxes):
            _find_nearest[(len(boxes),)](
                flat,
                box_table,
                selected,
                nearest,
                count,
                len(boxes),
                nearest.shape[1],
                _NEAREST_BLOCK,
                enable_fp_fusion=False,
            )
            _find_most_overlapping[(len(boxes),)](
                flat,
                box_table,
                selected,
                best,
                count,
                len(boxes),
                2 if match_height else 1,
                _OVERLAP_BLOCK,
                enable_fp_fusion=False,
            )
    return nearest, best


@triton.jit(do_not_specialize=["count", "max_boxes", "topk"])
def _find_nearest(anchors, boxes, selected, nearest, count, max_boxes, topk, BLOCK: tl.constexpr):
    box = tl.program_id(0)
    if tl.load(selected + box) != 0:
        x, y, z = tl.load(boxes + box), tl.load(boxes + max_boxes + box), tl.load(boxes + 2 * max_boxes + box)
        beyond = float("inf")
        before, before_index = x * 0 - 1, -1  # the one found last
        k = 0
        while k < topk:
            smallest, index = x * 0 + beyond, 0
            start = 0
            while start < count:
                i = start + tl.arange(0, BLOCK)
                dx, dy = (
                    tl.load(anchors + i, i < count, beyond) - x,
                    tl.load(anchors + count + i, i < count, beyond) - y,
                )
                dz = tl.load(anchors + 2 * count + i, i < count, beyond) - z
                distance = dx * dx + dy * dy + dz * dz
                behind = (distance > before) | ((distance == before) & (i > before_index))
                distance = tl.where(behind, distance, beyond)
                here = tl.min(distance, axis=0)
                if here < smallest:
                    index = tl.min(tl.where(distance == here, i, count), axis=0)
                    smallest = here
                start += BLOCK
            tl.store(nearest + box * topk + k, index)
            before, before_index = smallest, index
            k += 1


@triton.jit(do_not_specialize=["count", "max_boxes"])
def _find_most_overlapping(anchors, boxes, selected, best, count, max_boxes, WHAT: tl.constexpr, BLOCK: tl.constexpr):
    box = tl.program_id(0)
    if tl.load(selected + box) != 0:
        largest, index = tl.load(boxes + box).to(tl.float32) * 0, 0
        start = 0
        while start < count:
            i = start + tl.arange(0, BLOCK)
            row = tl.minimum(i, count - 1)
            near = circles_meet(anchors, row, count, boxes, box + tl.arange(0, 1), max_boxes) & (i < count)
            if tl.max(near.to(tl.int32), axis=0) > 0:
                overlap = tl.where(
                    near, measure(anchors, row, count, boxes, box + tl.arange(0, 1), max_boxes, WHAT), 0.0
                ).to(tl.float32)
                here = tl.max(overlap, axis=0)
                if here > largest:
                    index = tl.min(tl.where(overlap == here, i, count), axis=0)
                    largest = here
            start += BLOCK
        tl.store(best + box, index)
