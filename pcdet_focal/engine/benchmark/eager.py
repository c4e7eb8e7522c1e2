"""What a head computes without this package: OpenPCDet's formulas over dense tensors, one torch operation after the
other.

Only to compare with. The numbers are those of the package's own losses and targets, which the tests hold against each
other. Nothing here is clever, on purpose, and nothing slower than the formula asks for: no ``.item()`` for a log, no
copy that OpenPCDet makes by accident.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss(logits: Tensor, target: Tensor, weights: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Elementwise sigmoid focal loss: logits and target (B, A, C), weights (B, A) -> (B, A, C)."""
    p = torch.sigmoid(logits)
    alpha_t = target * alpha + (1 - target) * (1 - alpha)
    one_minus_pt = target * (1 - p) + (1 - target) * p
    bce = logits.clamp(min=0) - logits * target + torch.log1p(torch.exp(-logits.abs()))
    return alpha_t * torch.pow(one_minus_pt, gamma) * bce * weights.unsqueeze(-1)


def quality_focal_loss(logits: Tensor, target: Tensor, weights: Tensor, beta: float = 2.0) -> Tensor:
    """Elementwise ``|t - p|^beta bce`` (arXiv:2006.04388)."""
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (target - logits.sigmoid()).abs().pow(beta) * bce * weights.unsqueeze(-1)


def varifocal_loss(logits: Tensor, target: Tensor, weights: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Elementwise ``w bce``, w = t for positives and ``alpha |t - p|^gamma`` elsewhere (arXiv:2008.13367)."""
    positive = (target > 0).to(logits.dtype)
    focal_weight = target * positive + alpha * (logits.sigmoid() - target).abs().pow(gamma) * (1 - positive)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none") * focal_weight * weights.unsqueeze(-1)


def one_hot_and_weights(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """labels (B, A) -> one-hot targets (B, A, C) without the background; weights (B, A), 0 for ignored anchors, else 1
    / positives of the sample.
    """
    cared, positive = labels >= 0, labels > 0
    weights = cared.to(logits.dtype) / positive.sum(dim=1, keepdim=True).to(logits.dtype).clamp(min=1)
    target = logits.new_zeros(*labels.shape, logits.shape[-1] + 1)
    target.scatter_(-1, (labels * cared).long().unsqueeze(-1), 1.0)
    return target[..., 1:], weights


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal loss of a head: logits (B, A, C), labels (B, A), below 0 ignored, 0 background, 1..C -> scalar."""
    target, weights = one_hot_and_weights(logits, labels)
    return focal_loss(logits, target, weights).sum() / logits.shape[0]


def soft_classification_loss(
    formula: Callable[[Tensor, Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor, quality: Tensor
) -> Tensor:
    """The same with the quality (B, A) of each positive anchor's box in place of the 1 of its class; ``formula`` is one
    of the two above.
    """
    target, weights = one_hot_and_weights(logits, labels)
    return formula(logits, target * quality.unsqueeze(-1), weights).sum() / logits.shape[0]


def box_and_direction_loss(
    box_preds: Tensor,
    dir_logits: Tensor,
    targets: Tensor,
    labels: Tensor,
    anchors: Tensor,
    loc_weight: float = 2.0,
    dir_weight: float = 0.2,
    dir_offset: float = 0.78539,
    code_weights: Sequence[float] = (1.0,) * 7,
) -> Tensor:
    """Smooth L1 of box codes with the sine of the heading difference, and cross entropy of two heading sectors, over
    all anchors.

    box_preds and targets (B, A, 7), dir_logits (B, A, 2), labels (B, A), anchors (A, 7) -> scalar.
    """
    batch_size, beta = box_preds.shape[0], 1 / 9
    positive = (labels > 0).to(box_preds.dtype)
    weights = positive / positive.sum(dim=1, keepdim=True).clamp(min=1)

    a, b = box_preds[..., 6:7], targets[..., 6:7]
    pred = torch.cat([box_preds[..., :6], a.sin() * b.cos(), box_preds[..., 7:]], dim=-1)
    target = torch.cat([targets[..., :6], a.cos() * b.sin(), targets[..., 7:]], dim=-1)
    target = torch.where(target.isnan(), pred, target)
    error = ((pred - target) * box_preds.new_tensor(code_weights)).abs()
    box_loss = torch.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta) * weights.unsqueeze(-1)

    heading = targets[..., 6] + anchors.unsqueeze(0).repeat(batch_size, 1, 1)[..., 6] - dir_offset
    heading = heading - torch.floor(heading / (2 * math.pi)) * 2 * math.pi
    sector = torch.floor(heading / math.pi).long().clamp(min=0, max=1)
    dir_target = box_preds.new_zeros(*sector.shape, 2).scatter_(-1, sector.unsqueeze(-1), 1.0)
    dir_loss = F.cross_entropy(dir_logits.permute(0, 2, 1), dir_target.argmax(dim=-1), reduction="none") * weights
    return box_loss.sum() / batch_size * loc_weight + dir_loss.sum() / batch_size * dir_weight


def assign_targets(
    all_anchors: Sequence[Tensor],
    gt_boxes: Tensor,
    class_ids: Sequence[int],
    matched: Sequence[float],
    unmatched: Sequence[float],
) -> dict[str, Tensor]:
    """Every anchor of a class against every box of it, sample by sample and class by class.

    all_anchors: a class's (nz, ny, nx, sizes, rotations, 7) each; gt_boxes (B, T, 8), the class last, rows of zeros
    pad.
    """
    samples = []
    for boxes in gt_boxes:
        sets = []
        for anchors, class_id, high, low in zip(all_anchors, class_ids, matched, unmatched):
            class_boxes = boxes[boxes[:, 7] == class_id]
            labels, codes = _assign_class(anchors.reshape(-1, 7), class_boxes, high, low)
            grid = anchors.shape[:3]
            sets.append((labels.view(*grid, -1), codes.view(*grid, -1, 7)))
        samples.append(
            (
                torch.cat([labels for labels, _ in sets], dim=-1).view(-1),
                torch.cat([codes for _, codes in sets], dim=-2).view(-1, 7),
            )
        )
    labels, codes = (torch.stack(parts) for parts in zip(*samples))
    return {"box_cls_labels": labels, "box_reg_targets": codes, "reg_weights": (labels > 0).to(codes.dtype)}


def _assign_class(anchors: Tensor, boxes: Tensor, matched: float, unmatched: float) -> tuple[Tensor, Tensor]:
    """labels (N,) int32 and box codes (N, 7)."""
    count = len(anchors)
    labels = torch.full((count,), -1, dtype=torch.int32, device=anchors.device)
    codes = anchors.new_zeros(count, 7)
    if len(boxes) == 0:
        return labels.zero_(), codes
    overlap = _nearest_bev_iou(anchors, boxes)  # (N, M)
    best, best_box = overlap.max(dim=1)
    best_of_box = overlap.max(dim=0).values
    best_of_box[best_of_box == 0] = -1
    forced = (overlap == best_of_box).nonzero()[:, 0]
    positives = torch.cat([forced, (best >= matched).nonzero()[:, 0]]).unique()
    labels[best < unmatched] = 0
    labels[positives] = boxes[best_box[positives], 7].int()
    codes[positives] = _encode(boxes[best_box[positives], :7], anchors[positives])
    return labels, codes


def _nearest_bev_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Overlap from above of boxes turned to the nearest axis: (N, M)."""
    a, b = _standing(anchors), _standing(boxes)
    # (N, M, 2)
    side = (torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])).clamp(min=0)
    shared = side[..., 0] * side[..., 1]
    area_a, area_b = ((r[:, 2] - r[:, 0]) * (r[:, 3] - r[:, 1]) for r in (a, b))
    return shared / (area_a[:, None] + area_b - shared).clamp(min=1e-6)


def _standing(boxes: Tensor) -> Tensor:
    heading = boxes[:, 6]
    turned = (heading - torch.floor(heading / math.pi + 0.5) * math.pi).abs() >= math.pi / 4
    size = torch.where(turned.unsqueeze(1), boxes[:, [4, 3]], boxes[:, [3, 4]])
    return torch.cat([boxes[:, :2] - size / 2, boxes[:, :2] + size / 2], dim=1)


def _encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    diagonal = (anchors[:, 3:4] ** 2 + anchors[:, 4:5] ** 2).sqrt()
    return torch.cat(
        [
            (boxes[:, :2] - anchors[:, :2]) / diagonal,
            (boxes[:, 2:3] - anchors[:, 2:3]) / anchors[:, 5:6],
            torch.log(boxes[:, 3:6] / anchors[:, 3:6]),
            boxes[:, 6:7] - anchors[:, 6:7],
        ],
        dim=1,
    )
