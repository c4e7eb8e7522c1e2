"""What can be said of labels without their scans: names, numbers, sizes, places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import nearest_names
from ...ops.rotated_iou import boxes_iou3d
from .collect import Boxes
from .findings import Finding, some


def check_names(boxes: Boxes, class_names: Sequence[str]) -> list[Finding]:
    """Classes in the labels that the configuration lacks, and the other way round."""
    if not len(boxes):
        change = "write a line for each object: x y z dx dy dz heading class"
        return [Finding("error", "no labels", "not one object is labelled", "the labels", change)]
    names, counts = np.unique(boxes.names, return_counts=True)
    absent = [name for name in class_names if name not in names]
    findings = []
    for name, count in zip(names.tolist(), counts):
        if name in class_names:
            continue
        called = f"{'1 box is' if count == 1 else f'{count} boxes are'} called {name!r}"
        where = boxes.where(np.flatnonzero(boxes.names == name))
        near = nearest_names(name, class_names, cutoff=0.8)
        if near and (near[0] in absent or name.lower() == near[0].lower()):
            change = (
                f"write {near[0]} in the labels, or {name} in CLASS_NAMES and wherever {near[0]} stands in the "
                "configuration"
            )
            findings.append(
                Finding(
                    "error", "class names", f"{called}, which CLASS_NAMES has not; it has {near[0]!r}", where, change
                )
            )
            absent = [other for other in absent if other != near[0]]
            continue
        share = count / len(boxes)
        what = f"{called} ({share:.0%}), which CLASS_NAMES has not: they count as background"
        change = f"to find them add {name} to CLASS_NAMES, MAP_CLASS_TO_KITTI and the anchors"
        findings.append(
            Finding("warning" if share >= 0.25 else "note", "class names", what, where, change if share >= 0.25 else "")
        )
    if absent:
        change = f"take them out of CLASS_NAMES and the anchors, or label some; the labels have: {some(names, 10)}"
        findings.append(
            Finding(
                "error", "class names", f"no label is called {' or '.join(map(repr, absent))}", "CLASS_NAMES", change
            )
        )
    return findings


def check_balance(boxes: Boxes, class_names: Sequence[str], sampled_classes: Sequence[str]) -> list[Finding]:
    """How many objects each class has; a class that is rare and not pasted by gt_sampling is hardly learnt."""
    counts = {name: int(np.count_nonzero(boxes.names == name)) for name in class_names}
    present = {name: count for name, count in counts.items() if count}
    if not present:
        return []
    most_frequent = max(present, key=present.get)
    table = f"boxes of each class: {', '.join(f'{name} {count}' for name, count in counts.items())}"
    rare = [name for name, count in present.items() if count * 30 < present[most_frequent]]
    unsampled = [name for name in rare if name not in sampled_classes]
    if not rare:
        return [Finding("note", "class balance", table, "the labels")]
    if not unsampled:
        return [
            Finding("note", "class balance", f"{table}; gt_sampling pastes more of {', '.join(rare)}", "the labels")
        ]
    what = f"{table}; {most_frequent} is more than 30 times as frequent as {', '.join(rare)}"
    groups = ", ".join(repr(f"{name}:15") for name in unsampled)
    change = (
        f"paste more of them: add {groups} to SAMPLE_GROUPS of gt_sampling, or label more frames; a loss for rare "
        "classes: docs/losses.md"
    )
    return [Finding("warning", "class imbalance", what, "the labels", change)]


def check_duplicates(boxes: Boxes) -> list[Finding]:
    """Objects of a class that are labelled twice: two boxes with a 3-D IoU above 0.5."""
    twice: list[int] = []
    starts = np.flatnonzero(boxes.frame_ids[1:] != boxes.frame_ids[:-1]) + 1  # boxes of a frame stand together
    for here in np.split(np.arange(len(boxes)), starts):
        overlaps = np.triu(boxes_iou3d(boxes.boxes[here], boxes.boxes[here]), 1)
        overlaps[boxes.names[here][:, None] != boxes.names[here][None]] = 0
        twice += [here[second] for second in np.flatnonzero((overlaps > 0.5).any(axis=0))]
    if not twice:
        return []
    rows = np.array(twice)
    what = f"{len(rows)} boxes share more than half of their volume with another of the same class"
    return [
        Finding(
            "error",
            "duplicate labels",
            what,
            boxes.where(rows),
            "leave one box an object in the labels",
            boxes.examples(rows[:3]),
        )
    ]


def check_range(boxes: Boxes, class_names: Sequence[str], point_cloud_range: Sequence[float]) -> list[Finding]:
    """Boxes whose centre is outside POINT_CLOUD_RANGE: training drops them, evaluation counts them as missed."""
    known = boxes[np.isin(boxes.names, class_names)]
    out = (known.boxes[:, :3] < point_cloud_range[:3]) | (known.boxes[:, :3] > point_cloud_range[3:])  # (M, 3)
    rows = np.flatnonzero(out.any(axis=1))
    if not len(rows):
        return []
    share = len(rows) / len(known)
    axes = ", ".join(
        f"{np.count_nonzero(out[:, axis])} along {name}" for axis, name in enumerate("xyz") if out[:, axis].any()
    )
    what = f"{len(rows)} of {len(known)} boxes ({share:.0%}) are outside of POINT_CLOUD_RANGE: {axes}"
    reach = np.percentile(known.boxes[:, :3], [1, 99], axis=0).T  # (3, 2)
    limits = "; ".join(f"{name} {low:.1f} to {high:.1f}" for name, (low, high) in zip("xyz", reach))
    severity = "error" if share >= 0.5 else "warning" if share >= 0.25 else "note"
    change = f"DATA_CONFIG.POINT_CLOUD_RANGE should hold the centres, 98 % of which are within {limits} m"
    return [
        Finding(
            severity,
            "boxes out of range",
            what,
            known.where(rows),
            "" if severity == "note" else change,
            known.examples(rows[:3]),
        )
    ]


def check_sizes(boxes: Boxes) -> list[Finding]:
    """Boxes four times as large or small as their class's median along an axis."""
    odd = np.zeros(len(boxes), dtype=bool)
    for name in np.unique(boxes.names):
        of_class = boxes.names == name
        ratio = boxes.boxes[of_class, 3:6] / np.median(boxes.boxes[of_class, 3:6], axis=0)
        odd[of_class] = ((ratio > 4) | (ratio < 0.25)).any(axis=1)
    rows = np.flatnonzero(odd)
    if not len(rows):
        return []
    what = f"{len(rows)} boxes are four times as large or as small as the median of their class"
    change = "look at the pictures; mend the sizes, or give such objects a class of their own"
    return [Finding("warning", "odd sizes", what, boxes.where(rows), change, boxes.examples(rows[:3]))]


def check_rectangles(infos: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> list[Finding]:
    """Objects of KITTI's layout without a rectangle in the image: evaluation and filter_by_difficulty ignore them."""
    without, total = [], 0
    for info in infos:
        annos = info["annos"]
        if "bbox" not in annos:
            continue
        of_classes = np.isin(annos["name"], class_names)
        bbox = np.asarray(annos["bbox"]).reshape(-1, 4)[of_classes]
        without += [info["point_cloud"]["lidar_idx"]] * int((~(bbox[:, 2:] > bbox[:, :2]).all(axis=1)).sum())
        total += int(of_classes.sum())
    if not without:
        return []
    what = (
        f"{len(without)} of {total} objects have no 2-D rectangle (x1 y1 x2 y2 in the label line), therefore no "
        "difficulty: KITTI's evaluation ignores them, and filter_by_difficulty drops them from the database"
    )
    change = (
        "write rectangles of at least 25 px height into fields 5 to 8 of the labels, for example those of the "
        "projected corners; or use the layout of custom data (docs/custom_data.md), whose evaluation needs none"
    )
    return [Finding("warning", "2-D rectangles", what, f"frames {some(without)}", change)]


def check_empty_frames(
    frame_ids: Sequence[str], boxes: Boxes, class_names: Sequence[str], data_cfg: Mapping[str, Any]
) -> list[Finding]:
    """Frames without an object of the wanted classes: training draws another frame in their place, unless
    ALLOW_EMPTY_FRAMES.
    """
    full = set(boxes.frame_ids[np.isin(boxes.names, class_names)])
    empty = [frame_id for frame_id in frame_ids if frame_id not in full]
    if not empty or data_cfg.get("ALLOW_EMPTY_FRAMES", False):
        return []
    share = len(empty) / len(frame_ids)
    what = (
        f"{len(empty)} of {len(frame_ids)} frames ({share:.0%}) have no object of the wanted classes; training takes "
        "others in their place"
    )
    change = "to train on them as background set DATA_CONFIG.ALLOW_EMPTY_FRAMES: True" if share > 0.5 else ""
    return [
        Finding("warning" if share > 0.5 else "note", "frames without objects", what, f"frames {some(empty)}", change)
    ]
