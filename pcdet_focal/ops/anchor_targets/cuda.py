"""Anchor target assignment on the GPU (Triton): all samples and classes of a batch in two launches, and the host waits
for nothing.

As on the CPU, anchors of one kind (a class's height, size and rotation) are a grid of rectangles. One kernel finds for
each box the best overlap in the window of the grid that it meets, the other goes for each tile of a grid through the
boxes that meet it. No atomics: an anchor is written by one program, which sees the boxes in their order. The IoU is
computed operation by operation as in the reference, so equal overlaps are equal.

Overlap in height, and anchors that are no grid, take the dense way: the same batch in plain torch, every anchor against
every box.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...geometry.boxes import boxes3d_lidar_to_aligned_bev_boxes
from ..backend import small_table
from .layout import Grid, class_view, grid_of, merged, places
from .reference import AssignmentRules, overlaps

SMALLEST_UNION = tl.constexpr(1e-6)  # square metres, that of boxes_iou_normal
_CELLS = 128  # of a window that a program looks at together
_TILE_ROWS, _TILE_COLUMNS = 8, 32
_PAIRS_AT_ONCE = 1 << 25  # of the dense way: 128 MB of overlaps
# class, nx, ny, borders along x, borders along y, place of the first anchor, steps to the next row and column
_TABLE = tl.constexpr(8)


def assign(all_anchors: list[Tensor], gt_boxes: Tensor, rules: AssignmentRules) -> dict[str, Tensor]:
    """See :func:`pcdet_focal.ops.anchor_targets.assign_anchor_targets`."""
    gt_boxes = gt_boxes.detach()
    classes = gt_boxes[..., -1].int()  # (B, T)
    grids = [grid_of(anchors) for anchors in all_anchors] if _can_serve(all_anchors, gt_boxes, rules) else [None]
    if any(grid is None for grid in grids):
        labels, owner = _match_dense(all_anchors, gt_boxes, classes, rules)
    else:
        labels, owner = _match(all_anchors, grids, gt_boxes, classes, rules)
    if rules.pos_fraction is not None:
        for i, class_id in enumerate(rules.class_ids):
            class_labels = class_view(labels, all_anchors, i, rules.class_major)
            sampled = _kept_at_random(
                class_labels.flatten(1), int(rules.pos_fraction * rules.sample_size), rules.sample_size
            ).view_as(class_labels)
            class_labels.copy_(torch.where((classes == class_id).any(1)[:, None, None], sampled, class_labels))

    # without waiting for the number of positives: the codes of all anchors
    positive = labels > 0
    anchors = merged(all_anchors, rules.class_major)  # (N, 7+)
    owner = owner.long()[..., None].expand(-1, -1, gt_boxes.shape[2] - 1)
    # (B, N, 7+)
    boxes = gt_boxes[..., :-1].gather(1, owner) if gt_boxes.shape[1] else anchors.expand(len(gt_boxes), -1, -1)
    codes = rules.box_coder.encode_torch(boxes, anchors.expand(len(gt_boxes), -1, -1)).to(anchors.dtype)
    reg_weights = positive.to(anchors.dtype)
    if rules.norm_by_num_examples:
        for i in range(len(all_anchors)):
            examples = (class_view(labels, all_anchors, i, rules.class_major) >= 0).sum((1, 2), keepdim=True)
            class_view(reg_weights, all_anchors, i, rules.class_major).div_(examples.clamp(min=1))
    return {
        "box_cls_labels": labels,
        "box_reg_targets": torch.where(positive[..., None], codes, 0),
        "reg_weights": reg_weights,
        "label_weights": (labels >= 0).to(anchors.dtype),
    }


def _can_serve(all_anchors: list[Tensor], gt_boxes: Tensor, rules: AssignmentRules) -> bool:
    """Whether the kernels may be asked: float32 or float64 throughout, bird's-eye overlap, one shape of grid."""
    return (
        not rules.match_height
        and gt_boxes.dtype in (torch.float32, torch.float64)
        and all(anchors.dtype == gt_boxes.dtype and anchors.numel() > 0 for anchors in all_anchors)
        and (rules.class_major or len({anchors.shape[:3] for anchors in all_anchors}) == 1)
        and gt_boxes.numel() > 0
    )


def _match(
    all_anchors: list[Tensor], grids: list[Grid], gt_boxes: Tensor, classes: Tensor, rules: AssignmentRules
) -> tuple[Tensor, Tensor]:
    """Labels (B, N) int32, and of positive anchors the place of their box in the sample (B, N) int32."""
    batch, max_boxes = classes.shape
    device, dtype = gt_boxes.device, gt_boxes.dtype
    rectangles = boxes3d_lidar_to_aligned_bev_boxes(gt_boxes[..., :7].reshape(-1, 7)).contiguous()  # (B * T, 4)
    rows, thresholds, start_x, start_y = [], [], 0, 0
    shapes = tuple(tuple(anchors.shape[:5]) for anchors in all_anchors)
    for shape, (place, _), class_id, matched, unmatched in zip(
        shapes, places(shapes, rules.class_major), rules.class_ids, rules.matched, rules.unmatched
    ):
        nz, ny, nx, sizes, rotations = shape
        for kind in range(nz * sizes * rotations):
            rows += [class_id, nx, ny, start_x, start_y, int(place.first[kind]), place.row, place.column]
            thresholds += [float(matched), float(unmatched)]
            start_x, start_y = start_x + nx, start_y + ny
    table, thresholds = small_table(rows, device), small_table(thresholds, device).to(dtype)
    low_x, high_x, low_y, high_y = (torch.cat([border.flatten() for border in side]) for side in zip(*grids))

    kinds = len(rows) // _TABLE.value
    total = sum(anchors[..., 0].numel() for anchors in all_anchors)
    widest, highest = max(shape[2] for shape in shapes), max(shape[1] for shape in shapes)
    tiles = max(triton.cdiv(shape[1], _TILE_ROWS) * triton.cdiv(shape[2], _TILE_COLUMNS) for shape in shapes)
    best = torch.empty(batch * max_boxes, kinds, dtype=dtype, device=device)
    labels = torch.empty(batch, total, dtype=torch.int32, device=device)
    owner = torch.empty_like(labels)
    arguments = low_x, high_x, low_y, high_y, table, rectangles, classes.contiguous()
    with torch.cuda.device_of(gt_boxes):
        _find_best[(batch * max_boxes, kinds)](
            *arguments,
            best,
            triton.next_power_of_2(widest),
            triton.next_power_of_2(highest),
            _CELLS,
            enable_fp_fusion=False,
        )
        _label[(tiles, kinds, batch)](
            *arguments,
            thresholds,
            best.amax(1),
            labels,
            owner,
            max_boxes,
            total,
            triton.next_power_of_2(max_boxes),
            _TILE_ROWS,
            _TILE_COLUMNS,
            enable_fp_fusion=False,
        )
    return labels, owner


def _match_dense(
    all_anchors: list[Tensor], gt_boxes: Tensor, classes: Tensor, rules: AssignmentRules
) -> tuple[Tensor, Tensor]:
    """As ``_match``, from the dense overlaps of a class's anchors with the boxes of as many samples as memory should
    hold at once.
    """
    batch, max_boxes = classes.shape
    results = []
    for anchors, class_id, matched, unmatched in zip(all_anchors, rules.class_ids, rules.matched, rules.unmatched):
        flat = anchors.reshape(-1, anchors.shape[-1])
        if len(flat) * batch * max_boxes == 0:
            results.append([anchors.new_zeros((batch, *anchors.shape[:5]), dtype=torch.int32)] * 2)
            continue
        samples = max(1, _PAIRS_AT_ONCE // (len(flat) * max_boxes))
        parts = [
            _match_class(flat, boxes, of_class, class_id, matched, unmatched, rules.match_height)
            for boxes, of_class in zip(gt_boxes[..., :-1].split(samples), (classes == class_id).split(samples))
        ]
        results.append([torch.cat(part).view(batch, *anchors.shape[:5]) for part in zip(*parts)])
    return tuple(merged(list(parts), rules.class_major, batched=True) for parts in zip(*results))


def _match_class(
    anchors: Tensor,
    boxes: Tensor,
    of_class: Tensor,
    class_id: int,
    matched: float,
    unmatched: float,
    match_height: bool,
) -> tuple[Tensor, Tensor]:
    """Anchors (n, 7+), boxes (b, T, 7+) and which of them are of the class (b, T) -> labels and owners (b, n) int32."""
    overlap = overlaps(anchors, boxes.flatten(0, 1), match_height).view(-1, *of_class.shape)
    overlap = torch.where(of_class, overlap, -1.0)  # (n, b, T)
    best, owner = overlap.max(dim=2)
    best_of_box = overlap.amax(dim=0)  # (b, T)
    claimed = ((overlap == best_of_box) & (best_of_box > 0)).any(dim=2)
    label = torch.where(best < unmatched, 0, -1).masked_fill(claimed | (best >= matched), class_id)
    label = torch.where(of_class.any(1), label, 0)  # (n, b)
    return label.int().T, owner.int().T


def _kept_at_random(labels: Tensor, max_positives: int, total: int) -> Tensor:
    """``labels`` (B, n) with at most ``max_positives`` positives a row and as much background as fills ``total``; the
    rest becomes -1.
    """
    positives = (labels > 0).sum(1, keepdim=True).clamp(max=max_positives)
    for mask, limit in ((labels > 0, max_positives), (labels == 0, total - positives)):
        rank = torch.where(mask, torch.rand(labels.shape, device=labels.device), 2.0).argsort(1).argsort(1)
        labels = torch.where(mask & (rank >= limit), -1, labels)
    return labels


# ---------------------------------------------------------------- kernels
@triton.jit
def _iou(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    """As boxes_iou_normal, operation by operation; 0 where the rectangles do not meet."""
    width, height = tl.minimum(ax2, bx2) - tl.maximum(ax1, bx1), tl.minimum(ay2, by2) - tl.maximum(ay1, by1)
    intersection = width * height
    union = tl.maximum((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection, SMALLEST_UNION)
    if union.dtype == tl.float32:
        iou = tl.div_rn(intersection, union)  # `/` is not rounded correctly in float32
    else:
        iou = intersection / union
    return tl.where((width > 0) & (height > 0), iou, 0.0)


@triton.jit
def _find_best(
    low_x,
    high_x,
    low_y,
    high_y,
    table,
    rectangles,
    classes,
    best,
    WIDEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    CELLS: tl.constexpr,
):
    """The best overlap of one box with the anchors of one kind, 0 where the kind is not of the box's class."""
    box, kind = tl.program_id(0), tl.program_id(1)
    kind_table = table + kind * _TABLE
    largest = tl.zeros([CELLS], best.dtype.element_ty)
    if tl.load(classes + box) == tl.load(kind_table):
        nx, ny = tl.load(kind_table + 1), tl.load(kind_table + 2)
        low_x, high_x = low_x + tl.load(kind_table + 3), high_x + tl.load(kind_table + 3)
        low_y, high_y = low_y + tl.load(kind_table + 4), high_y + tl.load(kind_table + 4)
        x1, y1 = tl.load(rectangles + box * 4), tl.load(rectangles + box * 4 + 1)
        x2, y2 = tl.load(rectangles + box * 4 + 2), tl.load(rectangles + box * 4 + 3)
        # the borders grow, so counting those below tells where the box begins and ends; nan meets nothing
        column, row, beyond = tl.arange(0, WIDEST), tl.arange(0, HIGHEST), float("inf")
        first_column = tl.sum((tl.load(high_x + column, column < nx, beyond) <= x1).to(tl.int32))
        columns = tl.sum((tl.load(low_x + column, column < nx, beyond) < x2).to(tl.int32)) - first_column
        first_row = tl.sum((tl.load(high_y + row, row < ny, beyond) <= y1).to(tl.int32))
        rows = tl.sum((tl.load(low_y + row, row < ny, beyond) < y2).to(tl.int32)) - first_row
        cells = tl.maximum(columns, 0) * tl.maximum(rows, 0)
        start = 0
        while start < cells:
            cell = start + tl.arange(0, CELLS)
            inside = cell < cells
            c, r = first_column + cell % columns, first_row + cell // columns
            iou = _iou(
                tl.load(low_x + c, inside, 0.0),
                tl.load(low_y + r, inside, 0.0),
                tl.load(high_x + c, inside, 0.0),
                tl.load(high_y + r, inside, 0.0),
                x1,
                y1,
                x2,
                y2,
            )
            largest = tl.maximum(largest, tl.where(inside, iou, 0.0))
            start += CELLS
    tl.store(best + box * tl.num_programs(1) + kind, tl.max(largest, axis=0))


@triton.jit(do_not_specialize=["max_boxes", "total"])
def _label(
    low_x,
    high_x,
    low_y,
    high_y,
    table,
    rectangles,
    classes,
    thresholds,
    best_of_box,
    labels,
    owners,
    max_boxes,
    total,
    MOST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Label and box of a tile of anchors of one kind in one sample."""
    kind, sample = tl.program_id(1), tl.program_id(2)
    kind_table = table + kind * _TABLE
    class_id, nx, ny = (
        tl.load(kind_table).to(tl.int32),
        tl.load(kind_table + 1).to(tl.int32),
        tl.load(kind_table + 2).to(tl.int32),
    )
    across = tl.cdiv(nx, COLUMNS)
    first_row, first_column = tl.program_id(0) // across * ROWS, tl.program_id(0) % across * COLUMNS
    if first_row < ny:
        low_x, high_x = low_x + tl.load(kind_table + 3), high_x + tl.load(kind_table + 3)
        low_y, high_y = low_y + tl.load(kind_table + 4), high_y + tl.load(kind_table + 4)
        column, row = (first_column + tl.arange(0, COLUMNS))[None, :], (first_row + tl.arange(0, ROWS))[:, None]
        ax1, ax2 = tl.load(low_x + column, column < nx, 0.0), tl.load(high_x + column, column < nx, 0.0)
        ay1, ay2 = tl.load(low_y + row, row < ny, 0.0), tl.load(high_y + row, row < ny, 0.0)
        left, right = tl.load(low_x + first_column), tl.load(high_x + tl.minimum(first_column + COLUMNS, nx) - 1)
        bottom, top = tl.load(low_y + first_row), tl.load(high_y + tl.minimum(first_row + ROWS, ny) - 1)
        # the boxes of the class, and those of them that meet the tile: few, so only these are gone through
        t = tl.arange(0, MOST)
        box = sample * max_boxes + t
        known = t < max_boxes
        of_class = known & (tl.load(classes + box, known, 0) == class_id)
        x1, y1 = tl.load(rectangles + box * 4, known, 0.0), tl.load(rectangles + box * 4 + 1, known, 0.0)
        x2, y2 = tl.load(rectangles + box * 4 + 2, known, 0.0), tl.load(rectangles + box * 4 + 3, known, 0.0)
        meets = of_class & (x1 < right) & (x2 > left) & (y1 < top) & (y2 > bottom)
        first_box, number = tl.min(tl.where(of_class, t, MOST), axis=0), tl.min(tl.where(meets, t, MOST), axis=0)

        best = tl.zeros([ROWS, COLUMNS], best_of_box.dtype.element_ty)
        owner = tl.zeros([ROWS, COLUMNS], tl.int32) + first_box
        claimed = tl.zeros([ROWS, COLUMNS], tl.int32)
        while number < MOST:
            one = rectangles + (sample * max_boxes + number) * 4
            iou = _iou(ax1, ay1, ax2, ay2, tl.load(one), tl.load(one + 1), tl.load(one + 2), tl.load(one + 3))
            owner = tl.where(iou > best, number, owner)  # of equal boxes the first
            best = tl.maximum(best, iou)
            claimed = tl.where((iou > 0) & (iou == tl.load(best_of_box + sample * max_boxes + number)), 1, claimed)
            number = tl.min(tl.where(meets & (t > number), t, MOST), axis=0)
        label = tl.where(best < tl.load(thresholds + kind * 2 + 1), 0, -1)
        label = tl.where((claimed > 0) | (best >= tl.load(thresholds + kind * 2)), class_id, label)
        label = tl.where(owner == MOST, 0, label)  # no box of the class
        index = (
            sample.to(tl.int64) * total
            + tl.load(kind_table + 5)
            + row * tl.load(kind_table + 6)
            + column * tl.load(kind_table + 7)
        )
        inside = (row < ny) & (column < nx)
        tl.store(labels + index, label, mask=inside)
        tl.store(owners + index, tl.where(owner == MOST, 0, owner), mask=inside)
