"""Anchor target assignment on the CPU (numba; one thread matches, without the GIL, all clear the results);
``reference.py`` is the definition.

Turned to the nearest axis, anchors of one kind (height, size, rotation) are rectangles whose x borders depend on the
column of the grid alone and whose y borders on the row alone. Both grow, so the anchors that meet a box are a window of
the grid that four binary searches find, and the others need no look. Rectangles of boxes and anchors come from the
reference's own function, and the IoU is computed from them in the same order of operations and the same type: equal
overlaps are equal here too.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from ...geometry.boxes import boxes3d_lidar_to_aligned_bev_boxes
from .layout import LARGEST, class_view, grid_of, places
from .reference import AssignmentRules, keep_at_random

SMALLEST_UNION = 1e-6  # square metres, that of boxes_iou_normal
_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


def assign(all_anchors: list[Tensor], gt_boxes: Tensor, rules: AssignmentRules) -> dict[str, Tensor] | None:
    """See :func:`pcdet_focal.ops.anchor_targets.assign_anchor_targets`. None where only the reference can tell: see
    ``_can_serve``.
    """
    if not _can_serve(all_anchors, gt_boxes, rules):
        return None
    grids = [grid_of(anchors) for anchors in all_anchors]
    if any(grid is None for grid in grids):
        return None
    dtype, device = gt_boxes.dtype, gt_boxes.device
    batch, max_boxes = gt_boxes.shape[:2]
    total = sum(anchors[..., 0].numel() for anchors in all_anchors)
    flat_boxes = gt_boxes.detach().reshape(batch * max_boxes, gt_boxes.shape[2])
    rectangles = boxes3d_lidar_to_aligned_bev_boxes(flat_boxes[:, :7]).cpu().numpy().reshape(batch, max_boxes, 4)
    classes = flat_boxes[:, -1].int().cpu().numpy().reshape(batch, max_boxes)

    labels = torch.zeros((batch, total), dtype=torch.int32)
    label_weights = torch.ones(batch, total, dtype=dtype)
    kind = _DTYPES[dtype]
    largest = max(anchors[..., 0].numel() for anchors in all_anchors)
    scratch = np.zeros(largest, kind), np.empty(largest, np.int32), np.zeros(largest, np.bool_)
    positive_rows = []
    placed = places(tuple(tuple(anchors.shape[:5]) for anchors in all_anchors), rules.class_major)
    for grid, (in_result, in_class), class_id, matched, unmatched in zip(
        grids, placed, rules.class_ids, rules.matched, rules.unmatched
    ):
        borders = (border.cpu().numpy() for border in grid)
        finite, rows = _match(
            *borders,
            *in_result,
            *in_class,
            rectangles,
            classes,
            class_id,
            kind(matched),
            kind(unmatched),
            kind(SMALLEST_UNION),
            labels.numpy(),
            label_weights.numpy(),
            *scratch,
        )
        if not finite:
            return None
        positive_rows.append(torch.from_numpy(rows))  # (n, 3): index in the result, box, anchor of its class

    if rules.pos_fraction is not None:
        present = [(classes == class_id).any(axis=1) for class_id in rules.class_ids]
        views = [class_view(labels, all_anchors, i, rules.class_major) for i in range(len(all_anchors))]
        for b in range(batch):
            for view, here in zip(views, present):
                if here[b]:
                    class_labels = view[b].flatten().clone()
                    keep_at_random(class_labels, int(rules.pos_fraction * rules.sample_size), rules.sample_size)
                    view[b].copy_(class_labels.view_as(view[b]))
        positive_rows = [rows[labels.view(-1)[rows[:, 0]] > 0] for rows in positive_rows]
        label_weights = (labels >= 0).to(dtype)

    labels = labels.to(device)
    targets = gt_boxes.new_zeros((batch, total, rules.box_coder.code_size))
    weights = gt_boxes.new_zeros((batch, total))
    rows = torch.cat(positive_rows).to(device)
    if len(rows):
        positives = torch.cat(
            [
                anchors.reshape(-1, anchors.shape[-1])[class_rows[:, 2].to(device)]
                for anchors, class_rows in zip(all_anchors, positive_rows)
            ]
        )
        codes = rules.box_coder.encode_torch(flat_boxes[rows[:, 1], :-1], positives)
        targets.view(-1, targets.shape[-1])[rows[:, 0]] = codes.to(dtype)
        values = weights.new_ones(len(rows))
        if rules.norm_by_num_examples:
            # (B,) each
            examples = [
                (class_view(labels, all_anchors, i, rules.class_major) >= 0).flatten(1).sum(1)
                for i in range(len(all_anchors))
            ]
            values = values / torch.cat(
                [count[class_rows[:, 1].to(device) // max_boxes] for count, class_rows in zip(examples, positive_rows)]
            ).clamp(min=1)
        weights.view(-1)[rows[:, 0]] = values
    return {
        "box_cls_labels": labels,
        "box_reg_targets": targets,
        "reg_weights": weights,
        "label_weights": label_weights.to(device),
    }


def _can_serve(all_anchors: list[Tensor], gt_boxes: Tensor, rules: AssignmentRules) -> bool:
    """float32 or float64 throughout, thresholds above zero (an anchor that meets no box is background), bird's-eye
    overlap, one shape of grid.
    """
    shapes = {tuple(anchors.shape[:3]) for anchors in all_anchors}
    return (
        not rules.match_height
        and gt_boxes.dtype in _DTYPES
        and all(anchors.dtype == gt_boxes.dtype and anchors.numel() > 0 for anchors in all_anchors)
        and all(threshold > 0 for threshold in (*rules.matched, *rules.unmatched))
        and (rules.class_major or len(shapes) == 1)
        and len(gt_boxes) > 0
    )


# ---------------------------------------------------------------- kernels
@numba.njit(cache=True, nogil=True)
def _first_above(values, limit):
    """Index of the first of the non-decreasing ``values`` that is larger than ``limit``."""
    low, high = 0, values.shape[0]
    while low < high:
        middle = (low + high) // 2
        if values[middle] > limit:
            high = middle
        else:
            low = middle + 1
    return low


@numba.njit(cache=True, nogil=True)
def _first_reaching(values, limit):
    """Index of the first of the non-decreasing ``values`` that is ``limit`` or larger."""
    low, high = 0, values.shape[0]
    while low < high:
        middle = (low + high) // 2
        if values[middle] >= limit:
            high = middle
        else:
            low = middle + 1
    return low


@numba.njit(cache=True, nogil=True)
def _iou(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, smallest_union):
    """As boxes_iou_normal, operation by operation; 0 where the rectangles do not meet."""
    width = (ax2 if ax2 < bx2 else bx2) - (ax1 if ax1 > bx1 else bx1)
    height = (ay2 if ay2 < by2 else by2) - (ay1 if ay1 > by1 else by1)
    if not (width > 0 and height > 0):
        return width - width  # zero of the right type
    intersection = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
    return intersection / (union if union > smallest_union else smallest_union)


@numba.njit(cache=True, nogil=True)
def _match(
    low_x,
    high_x,
    low_y,
    high_y,
    in_result,
    result_row,
    result_column,
    in_class,
    class_row,
    class_column,
    rectangles,
    classes,
    class_id,
    matched,
    unmatched,
    smallest_union,
    labels,
    label_weights,
    best,
    owner,
    claimed,
):
    """One class of a batch: writes ``labels`` (B, N), and 0 into ``label_weights`` (B, N) where they are ignored.
    Returns whether all boxes were finite, and a row for each positive.

    ``best`` and ``claimed`` are scratch, zero before and after.
    """
    batch, max_boxes = classes.shape
    kinds = low_x.shape[0]
    total = labels.shape[1]
    positives = np.empty((256, 3), np.int64)
    count = 0
    best_of_box = np.zeros(max_boxes, best.dtype)
    window = np.zeros((max_boxes, kinds, 4), np.int64)  # first and last + 1 column, first and last + 1 row
    for b in range(batch):
        for t in range(max_boxes):
            if classes[b, t] != class_id:
                continue
            for side in range(4):
                if not abs(rectangles[b, t, side]) <= LARGEST:
                    return False, positives[:0]
            x1, y1, x2, y2 = rectangles[b, t, 0], rectangles[b, t, 1], rectangles[b, t, 2], rectangles[b, t, 3]
            best_of_box[t] = 0
            for k in range(kinds):
                window[t, k, 0], window[t, k, 1] = _first_above(high_x[k], x1), _first_reaching(low_x[k], x2)
                window[t, k, 2], window[t, k, 3] = _first_above(high_y[k], y1), _first_reaching(low_y[k], y2)
                for row in range(window[t, k, 2], window[t, k, 3]):
                    for column in range(window[t, k, 0], window[t, k, 1]):
                        iou = _iou(
                            low_x[k, column],
                            low_y[k, row],
                            high_x[k, column],
                            high_y[k, row],
                            x1,
                            y1,
                            x2,
                            y2,
                            smallest_union,
                        )
                        anchor = in_class[k] + row * class_row + column * class_column
                        if iou > best[anchor]:  # of equal boxes the first
                            best[anchor] = iou
                            owner[anchor] = t
                        if iou > best_of_box[t]:
                            best_of_box[t] = iou
        for t in range(max_boxes):
            if classes[b, t] != class_id or best_of_box[t] == 0:
                continue
            x1, y1, x2, y2 = rectangles[b, t, 0], rectangles[b, t, 1], rectangles[b, t, 2], rectangles[b, t, 3]
            for k in range(kinds):
                for row in range(window[t, k, 2], window[t, k, 3]):
                    for column in range(window[t, k, 0], window[t, k, 1]):
                        iou = _iou(
                            low_x[k, column],
                            low_y[k, row],
                            high_x[k, column],
                            high_y[k, row],
                            x1,
                            y1,
                            x2,
                            y2,
                            smallest_union,
                        )
                        if iou == best_of_box[t]:
                            claimed[in_class[k] + row * class_row + column * class_column] = True
        for t in range(max_boxes):
            if classes[b, t] != class_id:
                continue
            for k in range(kinds):
                for row in range(window[t, k, 2], window[t, k, 3]):
                    for column in range(window[t, k, 0], window[t, k, 1]):
                        anchor = in_class[k] + row * class_row + column * class_column
                        if best[anchor] == 0:  # meets no box, or was seen with an earlier one
                            continue
                        index = in_result[k] + row * result_row + column * result_column
                        if claimed[anchor] or best[anchor] >= matched:
                            labels[b, index] = class_id
                            if count == positives.shape[0]:
                                longer = np.empty((2 * count, 3), np.int64)
                                longer[:count] = positives
                                positives = longer
                            positives[count, 0], positives[count, 1], positives[count, 2] = (
                                b * total + index,
                                b * max_boxes + owner[anchor],
                                anchor,
                            )
                            count += 1
                        elif not best[anchor] < unmatched:
                            labels[b, index] = -1
                            label_weights[b, index] = 0
                        best[anchor] = 0
                        claimed[anchor] = False
    return True, positives[:count]
