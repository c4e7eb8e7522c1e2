"""Non-maximum suppression as the detectors use it: thresholds, limits before and after, one class or many."""
from __future__ import annotations

import torch
from torch import Tensor

from ...ops.nms import nms_axis_aligned, nms_rotated
from ..registry import find_by_name

_NMS = {"nms_gpu": nms_rotated, "nms_normal_gpu": nms_axis_aligned}  # the names are OpenPCDet's; both run on any device


def class_agnostic_nms(box_scores: Tensor, box_preds: Tensor, nms_config, score_thresh: float | None = None) -> tuple[Tensor, Tensor]:
    """Suppress boxes of all classes together.

    Args:
        box_scores: (N,) score of each box.
        box_preds: (N, 7+) boxes.
        nms_config: NMS_TYPE, NMS_THRESH, NMS_PRE_MAXSIZE (best boxes that enter), NMS_POST_MAXSIZE (most that leave).
        score_thresh: boxes below it are dropped first.

    Returns:
        (K,) indices of the boxes kept, best first, and their scores (K,).
    """
    candidates = torch.arange(len(box_scores), device=box_scores.device) if score_thresh is None else (box_scores >= score_thresh).nonzero().view(-1)
    nms = find_by_name(_NMS, nms_config.NMS_TYPE, "MODEL.POST_PROCESSING.NMS_CONFIG.NMS_TYPE")
    # topk, not a stable sort: among equal scores (a sigmoid saturates) its order is OpenPCDet's, so the same boxes are kept.
    candidates = candidates[box_scores[candidates].topk(min(nms_config.NMS_PRE_MAXSIZE, len(candidates))).indices]
    keep = nms(box_preds[candidates, :7], box_scores[candidates], nms_config.NMS_THRESH)
    selected = candidates[keep[: nms_config.NMS_POST_MAXSIZE]]
    return selected, box_scores[selected]


def multi_classes_nms(cls_scores: Tensor, box_preds: Tensor, nms_config, score_thresh: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress each class on its own: ``cls_scores`` (N, classes), ``box_preds`` (N, 7+) -> scores (K,), 0-based labels (K,), boxes (K, 7+)."""
    kept = []
    for label in range(cls_scores.shape[1]):
        selected, scores = class_agnostic_nms(cls_scores[:, label], box_preds, nms_config, score_thresh)
        kept.append((scores, torch.full_like(selected, label), box_preds[selected]))
    scores, labels, boxes = (torch.cat(part) for part in zip(*kept))
    return scores, labels, boxes


def class_specific_nms(box_scores: Tensor, box_preds: Tensor, box_labels: Tensor, nms_config, score_thresh=None) -> tuple[Tensor, Tensor]:
    """Suppress each class with its own limits: NMS_THRESH, NMS_PRE_MAXSIZE and NMS_POST_MAXSIZE are lists, one entry a class.

    Args:
        box_scores: (N,). box_preds: (N, 7+). box_labels: (N,) 0-based.
        score_thresh: None, one number, or one a class; only scores above it count.

    Returns:
        (K,) indices kept, class by class, and their scores (K,).
    """
    selected = [box_labels.new_zeros(0, dtype=torch.long)]
    for label in range(len(nms_config.NMS_THRESH)):
        mask = box_labels == label
        threshold = score_thresh[label] if isinstance(score_thresh, (list, tuple)) else score_thresh
        if threshold is not None:
            mask = mask & (box_scores > threshold)
        candidates = mask.nonzero().view(-1)
        keep = nms_rotated(box_preds[candidates, :7], box_scores[candidates], nms_config.NMS_THRESH[label], pre_maxsize=nms_config.NMS_PRE_MAXSIZE[label])
        selected.append(candidates[keep[: nms_config.NMS_POST_MAXSIZE[label]]])
    selected = torch.cat(selected)
    return selected, box_scores[selected]
