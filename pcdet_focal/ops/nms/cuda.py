"""Greedy NMS on the GPU (Triton), any number of groups at once; the host waits once, for the number of boxes
kept.

The boxes of a group stand in tiles of 64 slots, best first. One kernel compares them: for each box and each later tile
of its group a word of 64 bits says which boxes of that tile it would suppress. Tiles whose circles do not meet cost a
comparison a pair. A second kernel, one program a group, goes through the tiles in order: within a tile it settles the
64 boxes one after the other in one register, then it reads the words of those that stay, all at once, into the words of
what is suppressed. It stops where a group has enough.

The overlap is that of ``rotated_iou.cuda``, in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..backend import small_table
from ..rotated_iou.cuda import circles_meet, measure, prepare

SLOTS = tl.constexpr(64)  # in a tile: the bits of a word
_ROWS = 4  # boxes that a program compares with a tile: two pairs a thread with four warps
_WORDS_AT_ONCE = 2048


def nms_rotated(
    boxes: torch.Tensor, group: torch.Tensor | None, thresh: list[float], pre: list[int], post: list[int]
) -> torch.Tensor:
    """Positions (K,) int64 of the boxes that stay, group by group, best first.

    Args:
        boxes: (N, 7) float64, best first.
        group: (N,) int64, 0 .. G - 1; with any other number a box takes no part. None: all in group 0.
        thresh, pre, post: for each of the G groups the overlap from above which a box goes, how many enter and how many
            stay at most.
    """
    pre = [min(len(boxes), limit) for limit in pre]  # what the host knows of the groups' sizes
    if max(pre, default=0) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    slots = _arrange(group, len(boxes), pre, boxes.device)
    prepared = prepare(torch.where((slots.box >= 0)[:, None], boxes[slots.box.clamp(min=0)], float("nan")))
    thresh_of_tile = small_table(thresh, boxes.device)[slots.group_of_tile]
    words = triton.cdiv(max(pre), SLOTS.value)
    padded = triton.next_power_of_2(words)
    suppresses = torch.empty(len(slots.box), words, dtype=torch.int64, device=boxes.device)
    stays = torch.zeros(len(slots.box), dtype=torch.int8, device=boxes.device)
    with torch.cuda.device_of(boxes):
        _compare[(len(slots.box) // _ROWS, words)](
            prepared,
            slots.end_of_tile,
            thresh_of_tile,
            suppresses,
            len(slots.box),
            words,
            _ROWS,
            enable_fp_fusion=False,
        )
        _settle[(len(pre),)](
            suppresses,
            slots.first_tile,
            slots.size,
            small_table(post, boxes.device),
            stays,
            words,
            padded,
            max(1, min(SLOTS.value, _WORDS_AT_ONCE // padded)),
        )
    return slots.box[stays.nonzero().view(-1)]


class _Slots(NamedTuple):
    """Boxes in tiles of slots, a group in tiles of its own, one group behind the other; there may be unused tiles at
    the end.
    """

    box: torch.Tensor  # (tiles * SLOTS,) position of the box, -1 where there is none
    first_tile: torch.Tensor  # (G,) of each group
    size: torch.Tensor  # (G,) boxes of each group
    group_of_tile: torch.Tensor  # (tiles,)
    end_of_tile: torch.Tensor  # (tiles,) int32, the tile behind the last one of its group, 0 for an unused tile


def _arrange(group: torch.Tensor | None, count: int, pre: list[int], device: torch.device) -> _Slots:
    """``count`` boxes, best first; at most ``pre`` of each group enter. The host does not learn the groups' sizes."""
    position, limits, groups = torch.arange(count, device=device), small_table(pre, device), len(pre)
    if group is None:
        size, group, rank, order = limits, torch.zeros_like(position), position, position
    else:
        group, order = torch.sort(torch.where((group >= 0) & (group < groups), group, groups), stable=True)
        start = torch.searchsorted(group, torch.arange(groups + 1, device=device))
        size, rank = torch.minimum(start.diff(), limits), position - start[group]
    tiles = (size + SLOTS.value - 1) // SLOTS.value
    end = tiles.cumsum(0)

    # what takes no part shares one slot behind the last tile
    all_tiles = min(count, sum(pre)) // SLOTS.value + groups
    known = group.clamp(max=groups - 1)
    enters = (group < groups) & (rank < size[known])
    slot = torch.where(enters, (end - tiles)[known] * SLOTS.value + rank, all_tiles * SLOTS.value)
    box = torch.full((all_tiles * SLOTS.value + 1,), -1, device=device)
    box[slot] = torch.where(enters, order, -1)

    group_of_tile = torch.searchsorted(end, torch.arange(all_tiles, device=device), right=True)
    known = group_of_tile.clamp(max=groups - 1)
    return _Slots(box[:-1], end - tiles, size, known, torch.where(group_of_tile < groups, end[known], 0).int())


@triton.jit(do_not_specialize=["slots", "words"])
def _compare(boxes, end_of_tile, thresh_of_tile, suppresses, slots, words, ROWS: tl.constexpr):
    """Word ``later`` of the ROWS boxes of this program: which boxes of the tile that many tiles after their own they
    would suppress.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tile = tl.program_id(0) * ROWS // SLOTS
    later = tl.program_id(1)
    if tile + later < tl.load(end_of_tile + tile):
        bit = tl.arange(0, SLOTS)
        i, j = row[:, None], ((tile + later) * SLOTS + bit)[None, :]
        near = (j > i) & circles_meet(boxes, i, slots, boxes, j, slots)
        word = tl.zeros([ROWS], tl.int64)
        if tl.max(near.to(tl.int32), axis=None) > 0:
            # the later box moves, as in cpu.py: the same bits
            above = near & (measure(boxes, j, slots, boxes, i, slots, 1) > tl.load(thresh_of_tile + tile))
            # different bits: their sum is their union
            word = tl.sum(above.to(tl.int64) << bit.to(tl.int64)[None, :], axis=1)
        tl.store(suppresses + row.to(tl.int64) * words + later, word)


@triton.jit
def _union(a, b):
    return a | b


@triton.jit(do_not_specialize=["words"])
def _settle(suppresses, first_tile, size, post, stays, words, WORDS: tl.constexpr, ROWS: tl.constexpr):
    """One group: 1 into ``stays`` for the slots of the boxes that stay. ``WORDS`` is ``words`` or the power of two
    above it.
    """
    first, count, limit = (
        tl.load(first_tile + tl.program_id(0)),
        tl.load(size + tl.program_id(0)),
        tl.load(post + tl.program_id(0)),
    )
    tiles = (count + SLOTS - 1) // SLOTS
    word = tl.arange(0, WORDS)
    bit = tl.arange(0, SLOTS).to(tl.int64)
    suppressed = tl.zeros([WORDS], tl.int64)
    number, tile = count * 0, count * 0
    while (tile < tiles) & (number < limit):
        gone = tl.sum(tl.where(word == tile, suppressed, 0))
        kept, one = gone * 0, gone * 0 + 1
        rows = suppresses + (first + tile) * SLOTS * words
        for k in tl.static_range(64):
            reach = tl.load(rows + k * words)  # does not wait for the boxes before
            alive = (((gone >> k) & 1) == 0) & (tile * SLOTS + k < count) & (number < limit)
            gone = tl.where(alive, gone | reach, gone)
            kept = tl.where(alive, kept | (one << k), kept)
            number += alive.to(tl.int64)
        for k in range(0, SLOTS, ROWS):
            row = k + tl.arange(0, ROWS)
            stay = ((kept >> row.to(tl.int64)) & 1) == 1
            needed = stay[:, None] & (word > tile)[None, :] & (word < tiles)[None, :]
            of_kept = tl.load(rows + row[:, None] * words + (word[None, :] - tile), mask=needed, other=0)
            suppressed = suppressed | tl.reduce(of_kept, 0, _union)
        tl.store(stays + (first + tile) * SLOTS + bit, ((kept >> bit) & 1).to(tl.int8))
        tile += 1
