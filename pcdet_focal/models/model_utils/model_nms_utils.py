"""Non-maximum suppression as the detectors use it: thresholds, limits before and after, one class or many."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import InputError
from ...ops.backend import records_graph, small_table
from ...ops.nms import descending, nms_axis_aligned, nms_rotated
from ...registry import find_by_name

_NMS = {"nms_gpu": nms_rotated, "nms_normal_gpu": nms_axis_aligned}  # the names are OpenPCDet's; both run on any device


def score_thresholds(score_thresh: float | Sequence[float] | None, labels: Tensor) -> float | Tensor | None:
    """``SCORE_THRESH`` of a configuration for classes ``labels`` (N,), 0-based: one number, or of a list (one a class)
    those of the labels (N,) float64.
    """
    if not isinstance(score_thresh, (list, tuple)):
        return score_thresh
    return small_table([float(value) for value in score_thresh], labels.device)[labels]


def check_score_thresh(score_thresh: float | Sequence[float] | None, num_class: int, path: str) -> None:
    """Raises InputError where ``SCORE_THRESH`` is neither None, nor a number, nor a list with one a class."""
    if score_thresh is None:
        return
    values = score_thresh if isinstance(score_thresh, (list, tuple)) else [score_thresh] * num_class
    if len(values) != num_class or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise InputError(f"{path}: {score_thresh!r} must be a number, or a list of {num_class}, one for each class")


def class_agnostic_nms(
    box_scores: Tensor, box_preds: Tensor, nms_config, score_thresh: float | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Suppress boxes of all classes together.

    Args:
        box_scores: (N,) score of each box.
        box_preds: (N, 7+) boxes.
        nms_config: NMS_TYPE, NMS_THRESH, NMS_PRE_MAXSIZE (best boxes that enter), NMS_POST_MAXSIZE (max that leave).
        score_thresh: boxes below it are dropped first; one number, or one a box (N,).

    Returns:
        (K,) indices of the boxes kept, best first, and their scores (K,).
    """
    candidates = _best(box_scores, nms_config.NMS_PRE_MAXSIZE, score_thresh)
    keep = _nms_of(nms_config)(
        box_preds[candidates, :7],
        box_scores[candidates],
        nms_config.NMS_THRESH,
        post_maxsize=nms_config.NMS_POST_MAXSIZE,
    )
    selected = candidates[keep]
    return selected, box_scores[selected]


def multi_classes_nms(
    cls_scores: Tensor, box_preds: Tensor, nms_config, score_thresh: float | Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress each class on its own, all in one go: ``cls_scores`` (N, classes), ``box_preds`` (N, 7+) -> scores (K,),
    0-based labels (K,), boxes (K, 7+), class by class. The limits are each class's; ``score_thresh`` is one number, or
    one a class (classes,).
    """
    candidates, groups = (_best_of_classes_on_gpu if cls_scores.is_cuda else _best_of_classes)(
        cls_scores, nms_config.NMS_PRE_MAXSIZE, score_thresh
    )
    scores = cls_scores[candidates, groups.clamp(min=0)]
    keep = _nms_of(nms_config)(
        box_preds[candidates, :7],
        scores,
        [nms_config.NMS_THRESH] * cls_scores.shape[1],
        post_maxsize=nms_config.NMS_POST_MAXSIZE,
        groups=groups,
    )
    return scores[keep], groups[keep], box_preds[candidates[keep]]


def _best(scores: Tensor, max_num: int, score_thresh: float | Tensor | None) -> Tensor:
    """Indices (k,) of the at most ``max_num`` best scores (N,) that reach the threshold, best first."""
    candidates = (
        torch.arange(scores.shape[0], device=scores.device)
        if score_thresh is None
        else (scores >= _as_scores(score_thresh, scores)).nonzero().view(-1)
    )
    if records_graph():  # the number of candidates would be a constant of a trace
        return candidates[descending(scores[candidates])[:max_num]]
    # topk, not a stable sort: among equal scores (a sigmoid saturates) its order is OpenPCDet's, so the same boxes are
    # kept.
    return candidates[scores[candidates].topk(min(max_num, len(candidates))).indices]


def _as_scores(score_thresh: float | Tensor, scores: Tensor) -> float | Tensor:
    # a tensor of float64 would bring the comparison to float64, where 0.7 is more than the score 0.7
    return score_thresh.to(scores.dtype) if isinstance(score_thresh, Tensor) else score_thresh


def _best_of_classes(cls_scores: Tensor, max_num: int, score_thresh: float | Tensor | None) -> tuple[Tensor, Tensor]:
    """``_best`` of each column of (N, classes): indices (k,) and their classes (k,)."""
    thresholds = score_thresh if isinstance(score_thresh, Tensor) else [score_thresh] * cls_scores.shape[1]
    best = [_best(scores, max_num, threshold) for scores, threshold in zip(cls_scores.unbind(1), thresholds)]
    return torch.cat(best), torch.cat([torch.full_like(candidates, label) for label, candidates in enumerate(best)])


def _best_of_classes_on_gpu(
    cls_scores: Tensor, max_num: int, score_thresh: float | Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same without waiting for how many reach the threshold: those that do not are there too, in the class -1."""
    score_thresh = None if score_thresh is None else _as_scores(score_thresh, cls_scores)
    scores = (
        cls_scores if score_thresh is None else cls_scores.masked_fill(~(cls_scores >= score_thresh), float("-inf"))
    )
    scores, candidates = scores.topk(min(max_num, len(scores)), dim=0)  # (k, classes), columns in descending order
    labels = torch.arange(cls_scores.shape[1], device=cls_scores.device).expand_as(candidates)
    return candidates.flatten(), (
        labels if score_thresh is None else torch.where(scores >= score_thresh, labels, -1)
    ).flatten()


def class_specific_nms(
    box_scores: Tensor, box_preds: Tensor, box_labels: Tensor, nms_config, score_thresh=None
) -> tuple[Tensor, Tensor]:
    """Suppress each class with its own limits, all in one go: NMS_THRESH, NMS_PRE_MAXSIZE and NMS_POST_MAXSIZE are
    lists, one entry a class.

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
        box_preds[:, :7],
        box_scores,
        list(nms_config.NMS_THRESH),
        list(nms_config.NMS_PRE_MAXSIZE),
        list(nms_config.NMS_POST_MAXSIZE),
        groups,
    )
    return selected, box_scores[selected]


def _nms_of(nms_config):
    return find_by_name(_NMS, nms_config.NMS_TYPE, "MODEL.POST_PROCESSING.NMS_CONFIG.NMS_TYPE")
