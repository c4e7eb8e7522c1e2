"""Do the entries of a configuration agree with each other, and the info files with the labels?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import nearest_or_all
from .findings import Finding, some


def sampling_step(data_cfg: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The gt_sampling entry of DATA_AUGMENTOR, unless it is switched off."""
    augmentor = data_cfg.get("DATA_AUGMENTOR", {})
    if "gt_sampling" in augmentor.get("DISABLE_AUG_LIST", ()):
        return None
    return next((step for step in augmentor.get("AUG_CONFIG_LIST", ()) if step.get("NAME") == "gt_sampling"), None)


def sampled_classes(data_cfg: Mapping[str, Any]) -> list[str]:
    """The classes that gt_sampling pastes."""
    step = sampling_step(data_cfg)
    return [str(entry).rpartition(":")[0] for entry in step.get("SAMPLE_GROUPS", ())] if step else []


def check_class_entries(
    class_names: Sequence[str], data_cfg: Mapping[str, Any], model: Mapping[str, Any]
) -> list[Finding]:
    """Whether every place that names classes names those of CLASS_NAMES."""
    findings = []

    def compare(named: Sequence[str], where: str, all_needed: bool, unknown: str = "error") -> None:
        for name in named:
            if name not in class_names:
                findings.append(
                    Finding(
                        unknown,
                        "class entries",
                        f"{name!r} is not in CLASS_NAMES",
                        where,
                        f"write it as in CLASS_NAMES, or remove it: {nearest_or_all(name, class_names)}",
                    )
                )
        missing = [name for name in class_names if name not in named]
        if missing and all_needed:
            what = f"there is no entry for {some(missing)}"
            findings.append(Finding("error", "class entries", what, where, "add one for each class of CLASS_NAMES"))

    anchors = model.get("DENSE_HEAD", {}).get("ANCHOR_GENERATOR_CONFIG")
    if anchors is not None:
        compare(
            [entry.get("class_name") for entry in anchors], "MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG", True, "warning"
        )
    step = sampling_step(data_cfg)
    if step is not None:
        path = "DATA_CONFIG.DATA_AUGMENTOR gt_sampling"
        compare(sampled_classes(data_cfg), f"{path}.SAMPLE_GROUPS", False)
        fewest = step.get("PREPARE", {}).get("filter_by_min_points", ())
        compare([str(entry).rpartition(":")[0] for entry in fewest], f"{path}.PREPARE.filter_by_min_points", False)
        columns = len(data_cfg["POINT_FEATURE_ENCODING"]["src_feature_list"])
        if step.get("NUM_POINT_FEATURES", columns) != columns:
            what = f"NUM_POINT_FEATURES is {step['NUM_POINT_FEATURES']}, and src_feature_list has {columns} columns"
            findings.append(
                Finding("error", "point features", what, f"{path}.NUM_POINT_FEATURES", f"NUM_POINT_FEATURES: {columns}")
            )
    return findings


def check_infos(
    made: Sequence[Mapping[str, Any]], fresh: Sequence[Mapping[str, Any]], names: Sequence[str], how_to_make: str
) -> list[Finding]:
    """Whether the info files (``made``, of the files ``names``) say what the labels say now (``fresh``)."""
    where = some(names)
    if not made:
        return [Finding("note", "info files", "there are none yet", where, f"make them: {how_to_make}")]
    old = {info["point_cloud"]["lidar_idx"]: info.get("annos", {}) for info in made}
    changed = []
    for info in fresh:
        annos, before = info["annos"], old.get(info["point_cloud"]["lidar_idx"])
        same = before is not None and np.array_equal(before["name"], annos["name"])
        if not same or not np.allclose(before["gt_boxes_lidar"], annos["gt_boxes_lidar"], atol=1e-4):
            changed.append(info["point_cloud"]["lidar_idx"])
    gone = set(old) - {info["point_cloud"]["lidar_idx"] for info in fresh}
    if not changed and not gone:
        return []
    what = (
        f"{len(changed)} frames have other labels now, {len(gone)} are not in the split any more: training would use "
        "the old ones"
    )
    return [
        Finding(
            "warning",
            "info files",
            what,
            f"{where}; frames {some([*changed, *sorted(gone)])}",
            f"make them anew: {how_to_make}",
        )
    ]
