"""Selecting among annotations, their difficulty, and IoU of image boxes, with the names that OpenPCDet's
``kitti_common`` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .rules import MAX_OCCLUSION, MAX_TRUNCATION, MIN_HEIGHT


def select_objects(anno: Mapping, mask: np.ndarray) -> dict:
    """A copy of one frame's annotations with the objects of a (N,) bool mask. Entries that have no row for each object
    stay as they are.
    """
    count = len(anno["name"])
    return {
        key: np.asarray(value)[mask] if np.ndim(value) and len(value) == count else value for key, value in anno.items()
    }


def filter_kitti_anno(
    image_anno: Mapping,
    used_classes: str | Sequence[str],
    used_difficulty: Sequence[int] | None = None,
    dontcare_iou: float | None = None,
) -> dict:
    """The objects of one frame that belong to ``used_classes`` (exact names).

    Args:
        image_anno: annotations of a frame.
        used_classes: one name or several.
        used_difficulty: keep only objects whose ``difficulty`` is among these.
        dontcare_iou: with 'DontCare' among the classes, drop every object (the regions too) whose image box has a
            greater IoU with a region.
    """
    if isinstance(used_classes, str):
        used_classes = [used_classes]
    chosen = select_objects(image_anno, np.isin(np.asarray(image_anno["name"]).astype(str), used_classes))
    if used_difficulty is not None:
        chosen = select_objects(chosen, np.isin(chosen["difficulty"], list(used_difficulty)))
    if "DontCare" in used_classes and dontcare_iou is not None:
        regions = chosen["bbox"][chosen["name"] == "DontCare"]
        if len(regions):
            chosen = select_objects(chosen, iou(chosen["bbox"], regions).max(axis=1) <= dontcare_iou)
    return chosen


def filter_annos_low_score(image_annos: Sequence[Mapping], thresh: float) -> list[dict]:
    """The annotations of each frame whose score is at least ``thresh``."""
    return [select_objects(anno, np.asarray(anno["score"]) >= thresh) for anno in image_annos]


def add_difficulty_to_annos(info: Mapping) -> list[int]:
    """The easiest difficulty that each object of ``info['annos']`` satisfies (0 easy, 1 moderate, 2 hard, -1 none).

    Returned, and, as OpenPCDet does, also written to ``info['annos']['difficulty']`` (N,) int32.
    """
    annos = info["annos"]
    heights = annos["bbox"][:, 3] - annos["bbox"][:, 1]
    difficulty = np.full(len(heights), -1, dtype=np.int32)
    for level in (2, 1, 0):
        fits = (
            (annos["occluded"] <= MAX_OCCLUSION[level])
            & (annos["truncated"] <= MAX_TRUNCATION[level])
            & (heights > MIN_HEIGHT[level])
        )
        difficulty[fits] = level
    annos["difficulty"] = difficulty
    return difficulty.tolist()


def area(boxes: np.ndarray, add1: bool = False) -> np.ndarray:
    """Areas of image boxes (N, 4) x1 y1 x2 y2: (N,). ``add1``: corners are pixels that belong to the box."""
    extra = 1.0 if add1 else 0.0
    return (boxes[:, 2] - boxes[:, 0] + extra) * (boxes[:, 3] - boxes[:, 1] + extra)


def intersection(boxes1: np.ndarray, boxes2: np.ndarray, add1: bool = False) -> np.ndarray:
    """Areas shared by image boxes (N, 4) and (M, 4): (N, M)."""
    extra = 1.0 if add1 else 0.0
    upper = np.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    lower = np.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    return np.maximum(upper - lower + extra, 0.0).prod(axis=-1)


def iou(boxes1: np.ndarray, boxes2: np.ndarray, add1: bool = False) -> np.ndarray:
    """Intersection over union of image boxes (N, 4) and (M, 4): (N, M); 0 where both are empty."""
    shared = intersection(boxes1, boxes2, add1)
    union = area(boxes1, add1)[:, None] + area(boxes2, add1)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared, dtype=np.float64), where=shared > 0)
