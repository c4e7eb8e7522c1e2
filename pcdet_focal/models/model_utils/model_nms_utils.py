"""Non-maximum suppression as the detectors use it: thresholds, limits before and after, one class or many."""
from __future__ import annotations

import torch
from torch import Tensor

from ...ops.arrays import small_table
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
    # topk, not a stable sort: among equal scores (a sigmoid saturates) its order is OpenPCDet's, so the same boxes are kept.
    candidates = candidates[box_scores[candidates].topk(min(nms_config.NMS_PRE_MAXSIZE, len(candidates))).indices]
    keep = _nms_of(nms_config)(
        box_preds[candidates, :7], box_scores[candidates], nms_config.NMS_THRESH, post_maxsize=nms_config.NMS_POST_MAXSIZE
    )
    selected = candidates[keep]
    return selected, box_scores[selected]


def multi_classes_nms(cls_scores: Tensor, box_preds: Tensor, nms_config, score_thresh: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress each class on its own, all in one go: ``cls_scores`` (N, classes), ``box_preds`` (N, 7+) -> scores (K,), 0-based labels (K,),
    boxes (K, 7+), class by class. The limits are each class's."""
    count, classes = cls_scores.shape
    if score_thresh is not None:
        cls_scores = cls_scores.masked_fill(~(cls_scores >= score_thresh), float("-inf"))
    scores, candidates = cls_scores.topk(min(nms_config.NMS_PRE_MAXSIZE, count), dim=0)  # (k, classes), columns in descending order
    labels = torch.arange(classes, device=cls_scores.device).expand_as(candidates)
    scores, candidates, labels = (t.flatten() for t in (scores, candidates, labels))
    groups = labels if score_thresh is None else torch.where(scores >= score_thresh, labels, -1)
    keep = _nms_of(nms_config)(
        box_preds[candidates, :7], scores, [nms_config.NMS_THRESH] * classes, post_maxsize=nms_config.NMS_POST_MAXSIZE, groups=groups
    )
    return scores[keep], labels[keep], box_preds[candidates[keep]]


def class_specific_nms(box_scores: Tensor, box_preds: Tensor, box_labels: Tensor, nms_config, score_thresh=None) -> tuple[Tensor, Tensor]:
    """Suppress each class with its own limits, all in one go: NMS_THRESH, NMS_PRE_MAXSIZE and NMS_POST_MAXSIZE are lists, one entry a class.

    Args:
        box_scores: (N,). box_preds: (N, 7+). box_labels: (N,) 0-based.
        score_thresh: None, one number, or one a class; only scores above it count.

    Returns:
        (K,) indices kept, class by class, and their scores (K,).
    """
    groups = box_labels.long()
    if score_thresh is not None:
        classes = len(nms_config.NMS_THRESH)
        thresholds = score_thresh if isinstance(score_thresh, (list, tuple)) else [score_thresh] * classes
        thresholds = small_table([float(t) for t in thresholds], box_scores.device).to(box_scores.dtype)
        groups = torch.where(box_scores > thresholds[groups.clamp(0, classes - 1)], groups, -1)
    selected = nms_rotated(
        box_preds[:, :7], box_scores, list(nms_config.NMS_THRESH), list(nms_config.NMS_PRE_MAXSIZE), list(nms_config.NMS_POST_MAXSIZE), groups
    )
    return selected, box_scores[selected]


def _nms_of(nms_config):
    return find_by_name(_NMS, nms_config.NMS_TYPE, "MODEL.POST_PROCESSING.NMS_CONFIG.NMS_TYPE")
