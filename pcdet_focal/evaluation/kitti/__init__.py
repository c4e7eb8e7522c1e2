"""KITTI average precision, its label files, and a report that explains a zero.

``evaluate_kitti(gt_annos, dt_annos, ["Car", "Pedestrian", "Cyclist"])`` returns a :class:`KittiResult`;
``print(result.text())`` shows OpenPCDet's table and the counts behind it. Annotations come from
``get_label_annos(folder)`` or from a data set's infos.

The way through the files: ``labels`` (text files) -> ``annotations`` (dicts of frames -> flat arrays) -> ``rules``
(what counts at which difficulty) -> ``overlaps`` (pairs inside a frame) -> ``matching`` (who finds whom) ->
``average_precision`` -> ``report``.
"""

from .average_precision import average_precision_r11, average_precision_r40, evaluate_kitti
from .labels import get_label_anno, get_label_annos, kitti_result_line
from .report import KittiCounts, KittiResult
from .rules import CLASS_NAMES, DIFFICULTIES, LOOSE_OVERLAPS, STRICT_OVERLAPS

__all__ = [
    "CLASS_NAMES",
    "DIFFICULTIES",
    "LOOSE_OVERLAPS",
    "STRICT_OVERLAPS",
    "KittiCounts",
    "KittiResult",
    "average_precision_r11",
    "average_precision_r40",
    "evaluate_kitti",
    "get_label_anno",
    "get_label_annos",
    "kitti_result_line",
]
