"""Annotations of many frames as flat arrays, checked once, so that everything after is arithmetic on arrays.

An annotation is a dict of arrays for one frame, as ``get_label_anno`` reads it and as a data set's infos hold it:
``name`` (N,), ``truncated`` (N,), ``occluded`` (N,), ``alpha`` (N,) radians, ``bbox`` (N, 4) pixels x1 y1 x2 y2,
``dimensions`` (N, 3) metres length height width, ``location`` (N, 3) metres in the rectified camera frame (x right, y
down, z forward; centre of the bottom face), ``rotation_y`` (N,) radians, and ``score`` (N,) for detections. Other keys
are left alone; nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError

_COLUMNS = {"alpha": 1, "bbox": 4, "dimensions": 3, "location": 3, "rotation_y": 1}
_GT_COLUMNS = {**_COLUMNS, "truncated": 1, "occluded": 1}
_DT_COLUMNS = {**_COLUMNS, "score": 1}
_CLASS_IDS = {"car": 0, "pedestrian": 1, "cyclist": 2, "van": 3, "person_sitting": 4, "truck": 5}
OTHER_CLASS, DONT_CARE = -1, -2


@dataclass(frozen=True)
class FlatAnnotations:
    """N objects of F frames in frame order; the objects of frame f are ``starts[f]:starts[f + 1]``."""

    starts: np.ndarray  # (F + 1,) int64
    class_ids: np.ndarray  # (N,) int8: index into CLASS_NAMES, -1 any other class, -2 a region that nobody labelled
    bbox: np.ndarray  # (N, 4) float64
    heights: np.ndarray  # (N,) float64: y2 - y1, subtracted in the type that the boxes came in
    alpha: np.ndarray  # (N,) float64
    bottom_boxes: np.ndarray  # (N, 7) float64: x, y, z of the bottom centre, length, height, width, rotation_y
    truncated: np.ndarray  # (N,) float64, zeros for detections
    occluded: np.ndarray  # (N,) float64, zeros for detections
    scores: np.ndarray  # (N,) float64, zeros for ground truth
    finite: np.ndarray  # (N,) bool: every number of the image box and of the 3-D box is finite

    def __len__(self) -> int:
        return len(self.class_ids)

    @property
    def num_frames(self) -> int:
        return len(self.starts) - 1


def flatten_ground_truth(annos: Sequence[Mapping]) -> FlatAnnotations:
    """Flat arrays of the ground truth of all frames.

    Raises:
        InputError: a frame without one of the keys, with arrays of different lengths, or with a number that is not
            finite.
    """
    flat = _flatten(annos, _GT_COLUMNS, "ground truth")
    regular = flat.class_ids >= 0
    if not flat.finite[regular].all():
        bad = int(np.flatnonzero(regular & ~flat.finite)[0])
        frame = int(np.searchsorted(flat.starts, bad, side="right")) - 1
        raise InputError(
            f"{_frame_label(annos, frame, 'ground truth')}: object {bad - flat.starts[frame]} has a box with a number "
            "that is "
            "not finite; ground truth boxes must be finite."
        )
    return flat


def flatten_detections(annos: Sequence[Mapping]) -> FlatAnnotations:
    """Flat arrays of the detections of all frames. Boxes may hold NaN or inf (they overlap nothing); scores may not.

    Raises:
        InputError: a frame without one of the keys, with arrays of different lengths, or with a score that is not
            finite.
    """
    flat = _flatten(annos, _DT_COLUMNS, "detections")
    if not np.isfinite(flat.scores).all():
        bad = int(np.flatnonzero(~np.isfinite(flat.scores))[0])
        frame = int(np.searchsorted(flat.starts, bad, side="right")) - 1
        raise InputError(
            f"{_frame_label(annos, frame, 'detections')}: detection {bad - flat.starts[frame]} has score "
            f"{flat.scores[bad]}; "
            "scores must be finite, since they rank the detections."
        )
    return flat


def _frame_label(annos: Sequence[Mapping], frame: int, what: str) -> str:
    name = annos[frame].get("frame_id")
    known = "" if name is None or np.ndim(name) else f" (frame {name})"
    return f"{what} [{frame}]{known}"


def _flatten(annos: Sequence[Mapping], columns: Mapping[str, int], what: str) -> FlatAnnotations:
    _check(annos, columns, what)
    starts = np.zeros(len(annos) + 1, dtype=np.int64)
    np.cumsum([len(anno["name"]) for anno in annos], out=starts[1:])
    total = int(starts[-1])

    def gather(key: str) -> np.ndarray:
        if key not in columns or total == 0:
            return np.zeros((total, _GT_COLUMNS[key]) if _GT_COLUMNS.get(key, 1) > 1 else total)
        parts = [anno[key] for anno in annos if len(anno["name"])]
        return np.concatenate(parts).astype(np.float64)

    ids = dict(_CLASS_IDS)
    class_ids = np.empty(total, dtype=np.int8)
    position = 0
    for anno in annos:
        for name in anno["name"]:
            known = ids.get(name)
            if known is None:
                # KITTI's program folds the case of class names, but knows the region's name in this spelling only
                known = DONT_CARE if name == "DontCare" else _CLASS_IDS.get(str(name).lower(), OTHER_CLASS)
                ids[name] = known
            class_ids[position] = known
            position += 1
    rectangles = [np.asarray(anno["bbox"]) for anno in annos if len(anno["name"])]
    heights = np.concatenate([np.zeros(0), *((box[:, 3] - box[:, 1]).astype(np.float64) for box in rectangles)])
    bbox = gather("bbox")
    bottom_boxes = np.concatenate(
        [gather("location"), gather("dimensions"), gather("rotation_y").reshape(-1, 1)], axis=1
    )
    return FlatAnnotations(
        starts=starts,
        class_ids=class_ids,
        bbox=bbox,
        heights=heights,
        alpha=gather("alpha"),
        bottom_boxes=bottom_boxes,
        truncated=gather("truncated"),
        occluded=gather("occluded"),
        scores=gather("score"),
        finite=np.isfinite(bbox).all(axis=1) & np.isfinite(bottom_boxes).all(axis=1),
    )


def _check(annos: Sequence[Mapping], columns: Mapping[str, int], what: str) -> None:
    for frame, anno in enumerate(annos):
        missing = [key for key in ("name", *columns) if key not in anno]
        if missing:
            raise InputError(
                f"{_frame_label(annos, frame, what)} has no {', '.join(repr(key) for key in missing)}; an annotation "
                "of "
                f"{what} needs the keys name, {', '.join(columns)}."
            )
        count = len(anno["name"])
        for key, width in columns.items():
            # an array without objects may come in any shape
            shape = np.shape(anno[key])
            if shape != ((count,) if width == 1 else (count, width)) and (count or 0 not in shape):
                expected = f"({count},)" if width == 1 else f"({count}, {width})"
                raise InputError(
                    f"{_frame_label(annos, frame, what)}: {key!r} has shape {shape}, but {count} names ask for "
                    f"{expected}."
                )
