"""OpenPCDet's names for KITTI average precision; the work is done in :mod:`pcdet_focal.evaluation.kitti`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ....evaluation.kitti.average_precision import evaluate_kitti
from ....evaluation.kitti.coco_style import coco_style_text

__all__ = ["get_official_eval_result", "get_coco_eval_result"]


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
