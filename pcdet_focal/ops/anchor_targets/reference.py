"""Definition of anchor target assignment, in plain torch on any device: every anchor against every box of its class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...geometry.boxes import boxes3d_nearest_bev_iou
from ..rotated_iou import boxes_iou3d


@dataclass(frozen=True)
class AssignmentRules:
    """What :func:`pcdet_focal.ops.anchor_targets.assign_anchor_targets` goes by.

    Attributes:
        class_ids: for each tensor of anchors the class (1-based, as in the last column of the boxes) that it looks for.
        matched: for each, the overlap from which an anchor is positive.
        unmatched: for each, the overlap below which it is background; between the two it is ignored.
        box_coder: has ``code_size`` and ``encode_torch(boxes, anchors)``, which treats its rows one by one.
        class_major: order of the anchors in the result, see there.
        match_height: overlap is the 3-D IoU, not the bird's-eye IoU of boxes turned to the nearest axis.
        pos_fraction: None, or keep at random at most ``pos_fraction * sample_size`` positives of a class in a sample
            ...
        sample_size: ... and as much background as fills this number. The other anchors are ignored.
        norm_by_num_examples: divide ``reg_weights`` by the number of anchors of the class in the sample that are not
            ignored.
    """

    class_ids: tuple[int, ...]
    matched: tuple[float, ...]
    unmatched: tuple[float, ...]
    box_coder: Any
    class_major: bool = False
    match_height: bool = False
    pos_fraction: float | None = None
    sample_size: int = 512
    norm_by_num_examples: bool = False


def assign(all_anchors: list[Tensor], gt_boxes: Tensor, rules: AssignmentRules) -> dict[str, Tensor]:
    """See :func:`pcdet_focal.ops.anchor_targets.assign_anchor_targets`: sample by sample, class by class."""
    samples = [_assign_sample(all_anchors, boxes, rules) for boxes in gt_boxes]
    result = {
        key: torch.stack([sample[key] for sample in samples])
        for key in ("box_cls_labels", "box_reg_targets", "reg_weights")
    }
    return {**result, "label_weights": (result["box_cls_labels"] >= 0).to(result["reg_weights"].dtype)}


def _assign_sample(all_anchors: list[Tensor], boxes: Tensor, rules: AssignmentRules) -> dict[str, Tensor]:
    classes = boxes[:, -1].int()
    targets = []
    for anchors, class_id, matched, unmatched in zip(all_anchors, rules.class_ids, rules.matched, rules.unmatched):
        of_class = classes == class_id
        grid = anchors.shape[:3]
        if rules.class_major:
            anchors = anchors.permute(3, 4, 0, 1, 2, 5)
        target = assign_single(
            anchors.reshape(-1, anchors.shape[-1]), boxes[of_class, :-1], classes[of_class], matched, unmatched, rules
        )
        if not rules.class_major:
            target = {key: value.view(*grid, -1, *value.shape[1:]) for key, value in target.items()}
        targets.append(target)
    axis = 0 if rules.class_major else 3
    merged = {key: torch.cat([t[key] for t in targets], dim=axis) for key in targets[0]}
    return {
        "box_cls_labels": merged["box_cls_labels"].reshape(-1),
        "box_reg_targets": merged["box_reg_targets"].reshape(-1, rules.box_coder.code_size),
        "reg_weights": merged["reg_weights"].reshape(-1),
    }


def assign_single(
    anchors: Tensor, boxes: Tensor, classes: Tensor, matched: float, unmatched: float, rules: AssignmentRules
) -> dict[str, Tensor]:
    """One sample, one class: anchors (N, 7+), boxes (M, 7+), classes (M,) int -> the same three entries, for N anchors
    in their order.
    """
    labels = torch.full((len(anchors),), -1, dtype=torch.int32, device=anchors.device)
    targets = anchors.new_zeros(len(anchors), rules.box_coder.code_size)
    if len(boxes) == 0 or len(anchors) == 0:
        labels.zero_()
        return {"box_cls_labels": labels, "box_reg_targets": targets, "reg_weights": anchors.new_zeros(len(anchors))}

    overlap = overlaps(anchors, boxes, rules.match_height)
    best, best_box = overlap.max(dim=1)  # (N,)
    best_of_box = overlap.amax(dim=0)  # (M,)
    # a box that no anchor meets claims none
    best_of_box = torch.where(best_of_box == 0, torch.full_like(best_of_box, -1), best_of_box)
    claimed = (overlap == best_of_box).any(dim=1)

    labels[best < unmatched] = 0
    positive = claimed | (best >= matched)
    labels[positive] = classes[best_box[positive]].int()
    if rules.pos_fraction is not None:
        keep_at_random(labels, int(rules.pos_fraction * rules.sample_size), rules.sample_size)

    positives = (labels > 0).nonzero().view(-1)
    targets[positives] = rules.box_coder.encode_torch(boxes[best_box[positives]], anchors[positives]).to(targets.dtype)
    reg_weights = (labels > 0).to(anchors.dtype)
    if rules.norm_by_num_examples:
        reg_weights = reg_weights / (labels >= 0).sum().clamp(min=1)
    return {"box_cls_labels": labels, "box_reg_targets": targets, "reg_weights": reg_weights}


def overlaps(anchors: Tensor, boxes: Tensor, match_height: bool) -> Tensor:
    """What decides, of anchors (N, 7+) with boxes (M, 7+): (N, M). A box with a number that is not finite overlaps
    nothing.
    """
    overlap = (boxes_iou3d if match_height else boxes3d_nearest_bev_iou)(anchors[:, :7], boxes[:, :7])
    return torch.where(overlap > 0, overlap, 0)


def keep_at_random(labels: Tensor, max_positives: int, total: int) -> None:
    """Change ``labels`` (N,): keep at most ``max_positives`` positives and as much background as fills ``total``; the
    rest becomes -1.
    """
    for mask, limit in (
        (labels > 0, max_positives),
        (labels == 0, total - min(int((labels > 0).sum()), max_positives)),
    ):
        indices = mask.nonzero().view(-1)
        if len(indices) > limit:
            labels[indices[torch.randperm(len(indices), device=labels.device)[limit:]]] = -1
