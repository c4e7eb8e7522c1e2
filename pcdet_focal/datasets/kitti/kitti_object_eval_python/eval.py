"""OpenPCDet's names for KITTI average precision; the work is done in :mod:`pcdet_focal.evaluation.kitti`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ....evaluation.kitti.average_precision import average_precision_r11 as get_mAP
from ....evaluation.kitti.average_precision import average_precision_r40 as get_mAP_R40
from ....evaluation.kitti.average_precision import evaluate_kitti
from ....evaluation.kitti.coco_style import coco_style_text
from ....evaluation.kitti.matching import score_thresholds
from ....evaluation.kitti.report import KittiResult
from ....evaluation.kitti.rules import METRICS, resolve_classes
from .rotate_iou import rotate_iou_gpu_eval

__all__ = [
    "bev_box_overlap",
    "d3_box_overlap",
    "do_coco_style_eval",
    "do_eval",
    "eval_class",
    "get_coco_eval_result",
    "get_mAP",
    "get_mAP_R40",
    "get_official_eval_result",
    "get_thresholds",
    "image_box_overlap",
    "rotate_iou_gpu_eval",
]


def get_official_eval_result(
    gt_annos: Sequence[Mapping],
    dt_annos: Sequence[Mapping],
    current_classes: str | int | Iterable[str | int],
    PR_detail_dict: dict | None = None,
) -> tuple[str, dict[str, float]]:
    """OpenPCDet's result text (with the counts after it) and its dict of R40 average precisions, see
    :func:`evaluate_kitti`.

    A dict given as ``PR_detail_dict`` receives the precision curves: 'bbox', 'bev', '3d' and 'aos' -> (classes, 3
    difficulties, 2 overlaps, 41).
    """
    result = evaluate_kitti(gt_annos, dt_annos, current_classes)
    if PR_detail_dict is not None:
        PR_detail_dict.update(result.curves_by_metric())
    return result.text(), result.as_dict()


def get_coco_eval_result(
    gt_annos: Sequence[Mapping], dt_annos: Sequence[Mapping], current_classes: str | int | Iterable[str | int]
) -> str:
    """Result text of the average precision averaged over ten overlaps, see :func:`coco_style_text`."""
    return coco_style_text(gt_annos, dt_annos, current_classes)


def do_eval(
    gt_annos: Sequence[Mapping],
    dt_annos: Sequence[Mapping],
    current_classes: Sequence[int],
    min_overlaps: np.ndarray,
    compute_aos: bool = False,
    PR_detail_dict: dict | None = None,
) -> tuple[np.ndarray | None, ...]:
    """Average precision at overlaps of one's own.

    Args:
        gt_annos, dt_annos, current_classes: see :func:`evaluate_kitti`.
        min_overlaps: (sets, 3, classes) for bbox, bev and 3d.
        compute_aos: orientation similarity too.
        PR_detail_dict: receives the precision curves, (classes, 3 difficulties, sets, 41) for each metric.

    Returns:
        R11 of bbox, bev, 3d, aos, then R40 of the same: (classes, 3 difficulties, sets) in percent; None for aos
        without ``compute_aos``.
    """
    curves = _evaluate(gt_annos, dt_annos, current_classes, min_overlaps, compute_aos).curves_by_metric()
    if PR_detail_dict is not None:
        PR_detail_dict.update(curves)
    return tuple(
        average(curves[metric]) if metric in curves else None
        for average in (get_mAP, get_mAP_R40)
        for metric in (*METRICS, "aos")
    )


def do_coco_style_eval(
    gt_annos: Sequence[Mapping],
    dt_annos: Sequence[Mapping],
    current_classes: Sequence[int],
    overlap_ranges: np.ndarray,
    compute_aos: bool,
) -> tuple[np.ndarray | None, ...]:
    """The R11 average precision of :func:`do_eval`, averaged over overlaps from ``overlap_ranges`` (3: first, last,
    number; 3 metrics; classes): bbox, bev, 3d, aos, each (classes, 3 difficulties).
    """
    ranges = np.asarray(overlap_ranges)
    steps = [np.linspace(*column[:2], int(column[2])) for column in ranges.reshape(3, -1).T]
    min_overlaps = np.stack(steps, axis=1).reshape(-1, *ranges.shape[1:])
    figures = do_eval(gt_annos, dt_annos, current_classes, min_overlaps, compute_aos)[:4]
    return tuple(None if figure is None else figure.mean(-1) for figure in figures)


def eval_class(
    gt_annos: Sequence[Mapping],
    dt_annos: Sequence[Mapping],
    current_classes: Sequence[int],
    difficultys: Sequence[int],
    metric: int,
    min_overlaps: np.ndarray,
    compute_aos: bool = False,
    num_parts: int = 100,
) -> dict[str, np.ndarray]:
    """The curves of one metric (0 bbox, 1 bev, 2 3d): "precision", "recall", and with ``compute_aos`` "orientation",
    each (classes, difficulties, sets, 41).

    ``min_overlaps`` is that of :func:`do_eval`; ``num_parts`` is OpenPCDet's and not used. Metric 0 needs no 3-D
    boxes in the annotations.
    """
    if METRICS[metric] == "bbox":
        gt_annos, dt_annos = [_with_some_box(anno) for anno in gt_annos], [_with_some_box(anno) for anno in dt_annos]
    result = _evaluate(gt_annos, dt_annos, current_classes, min_overlaps, compute_aos)
    levels, name = list(difficultys), METRICS[metric]
    rising = np.maximum.accumulate(result.recalls_by_metric()[name][..., ::-1], axis=-1)  # OpenPCDet's running maximum
    curves = {"precision": result.curves_by_metric()[name], "recall": rising[..., ::-1]}
    if compute_aos:
        curves["orientation"] = result.curves_by_metric()["aos"]
    return {key: value[:, levels] for key, value in curves.items()}


def _with_some_box(anno: Mapping) -> dict:
    """The annotation with 3-D boxes of zeros where it has none."""
    count = len(anno["name"])
    return {"dimensions": np.zeros((count, 3)), "location": np.zeros((count, 3)), "rotation_y": np.zeros(count), **anno}


def _evaluate(gt_annos, dt_annos, current_classes, min_overlaps, compute_aos: bool) -> KittiResult:
    names = resolve_classes(current_classes)
    sets = {
        str(k): {name: tuple(float(v) for v in table[:, i]) for i, name in enumerate(names)}
        for k, table in enumerate(np.asarray(min_overlaps))
    }
    return evaluate_kitti(gt_annos, dt_annos, names, sets, compute_aos)


def get_thresholds(scores: np.ndarray, num_gt: int, num_sample_pts: int = 41) -> list[float]:
    """The scores at which recall passes the 41 points, see :func:`score_thresholds`."""
    return list(score_thresholds(np.asarray(scores, np.float64), num_gt))


def image_box_overlap(boxes: np.ndarray, query_boxes: np.ndarray, criterion: int = -1) -> np.ndarray:
    """Overlaps (N, K) of image boxes x1, y1, x2, y2 (N, 4), (K, 4). ``criterion``: -1 intersection over union, 0 over
    the area of the box, 1 over that of the query box, 2 one where they meet.
    """
    a, b = boxes[:, None], query_boxes[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.where((sides > 0).all(-1), sides.prod(-1), 0)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b))
    return _overlap(shared, area_a, area_b, criterion).astype(boxes.dtype)


def bev_box_overlap(boxes: np.ndarray, qboxes: np.ndarray, criterion: int = -1) -> np.ndarray:
    """See :func:`rotate_iou_gpu_eval`."""
    return rotate_iou_gpu_eval(boxes, qboxes, criterion)


def d3_box_overlap(boxes: np.ndarray, qboxes: np.ndarray, criterion: int = -1) -> np.ndarray:
    """Exact overlaps (N, K) of camera boxes x, y, z, l, h, w, rotation_y (N, 7), (K, 7), y at the bottom and downwards.
    ``criterion``: see :func:`image_box_overlap`, with volumes.
    """
    plane = [0, 2, 3, 5, 6]
    shared = rotate_iou_gpu_eval(boxes[:, plane].astype(np.float64), qboxes[:, plane].astype(np.float64), 2)
    a, b = boxes[:, None].astype(np.float64), qboxes[None].astype(np.float64)
    height = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 1] - a[..., 4], b[..., 1] - b[..., 4])
    shared = shared * np.maximum(height, 0)
    return _overlap(shared, a[..., 3:6].prod(-1), b[..., 3:6].prod(-1), criterion).astype(boxes.dtype)


def _overlap(shared: np.ndarray, size_a: np.ndarray, size_b: np.ndarray, criterion: int) -> np.ndarray:
    whole = {-1: size_a + size_b - shared, 0: size_a, 1: size_b}.get(criterion, shared)
    return np.divide(shared, whole, out=np.zeros(shared.shape), where=shared > 0)
