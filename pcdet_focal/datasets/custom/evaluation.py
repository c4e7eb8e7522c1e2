"""Scoring the classes of one's own data by the rules of KITTI's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InputError, nearest_or_all
from ...evaluation.kitti.average_precision import evaluate_kitti
from ...evaluation.kitti.filters import select_objects
from ...evaluation.kitti.rules import CLASS_NAMES
from ..kitti.kitti_utils import transform_annotations_to_kitti_format

KEY_PATH = "DATA_CONFIG.MAP_CLASS_TO_KITTI"


def check_class_map(map_class_to_kitti: Mapping[str, str], class_names: Sequence[str]) -> None:
    """Raise InputError unless the map gives each of ``class_names`` a class that KITTI's evaluation knows."""
    for name in class_names:
        if name not in map_class_to_kitti:
            raise InputError(
                f"{KEY_PATH} has no entry for the class {name!r} of CLASS_NAMES; it names the KITTI class "
                f"({', '.join(CLASS_NAMES)}) "
                "whose overlaps a detection must reach"
            )
        if map_class_to_kitti[name] not in CLASS_NAMES:
            raise InputError(
                f"{KEY_PATH}.{name} is {map_class_to_kitti[name]!r}; "
                f"{nearest_or_all(map_class_to_kitti[name], CLASS_NAMES)}"
            )


def evaluate_as_kitti(
    gt_annos: Sequence[Mapping[str, Any]],
    det_annos: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    map_class_to_kitti: Mapping[str, str],
    with_fakelidar: bool = False,
) -> tuple[str, dict[str, float]]:
    """KITTI average precision of boxes that have no image: every object counts as easy, so the three columns are equal.

    Args:
        gt_annos, det_annos: of the same frames in the same order; name (N,) and gt_boxes_lidar or boxes_lidar (N, 7 or
            more), detections with score.
        class_names: the classes to evaluate. map_class_to_kitti: each of them -> Car, Pedestrian, …; other names in it
            take part, too (a class mapped to Van is neither right nor wrong for Car). Objects whose name is not in it
            are left out.
        with_fakelidar: the ground truth is in the old LiDAR convention.

    Returns:
        OpenPCDet's table of the KITTI classes and its figures ('Car_3d/easy_R40', …). Where several of ``class_names``
        are mapped to one KITTI class, that class counts all of them, and a table and figures of each alone follow
        ('Truck_as_Car_3d/easy_R40').
    """
    check_class_map(map_class_to_kitti, class_names)

    def in_kitti_form(
        annos: Sequence[Mapping[str, Any]], names: Sequence[str], fakelidar: bool
    ) -> list[dict[str, Any]]:
        chosen = [select_objects(anno, np.isin(np.asarray(anno["name"]).astype(str), names)) for anno in annos]
        return transform_annotations_to_kitti_format(chosen, map_class_to_kitti, info_with_fakelidar=fakelidar)

    def evaluate(names: Sequence[str], kitti_names: Sequence[str]):
        return evaluate_kitti(
            in_kitti_form(gt_annos, names, with_fakelidar), in_kitti_form(det_annos, names, False), kitti_names
        )

    kitti_names = list(dict.fromkeys(map_class_to_kitti[name] for name in class_names))
    result = evaluate(list(map_class_to_kitti), kitti_names)
    text, figures = result.text(), result.as_dict()
    for name in class_names:
        kitti_name = map_class_to_kitti[name]
        if sum(map_class_to_kitti[other] == kitti_name for other in class_names) > 1:
            alone = evaluate([name], [kitti_name])
            text += f"\n{name} alone, by the rules of {kitti_name}:\n{alone.text()}"
            figures.update({f"{name}_as_{key}": value for key, value in alone.as_dict().items()})
    return text, figures
