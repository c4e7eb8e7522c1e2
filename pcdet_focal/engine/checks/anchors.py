"""Do the anchors fit the objects?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...geometry.boxes import boxes3d_nearest_bev_iou
from ...models.dense_heads.target_assigner.anchor_generator import AnchorGenerator
from ...ops.rotated_iou import boxes_aligned_iou3d
from .collect import Boxes
from .findings import Finding
from .grid import head_map_sizes

LEAST_OBJECTS = 5  # of a class, for medians to mean something
MAX_OBJECTS = 2000  # of a class, whose overlaps are computed


def best_overlaps(
    boxes: np.ndarray,
    entry: Mapping[str, Any],
    grid: Sequence[int],
    point_cloud_range: Sequence[float],
    match_height: bool,
) -> np.ndarray:
    """The greatest IoU of each box (M, 7) with an anchor of its class as training computes it (M,): seen from above
    with both turned to the nearest axis, or of the volumes with ``match_height``. Only the anchors at the nine nearest
    places are looked at; the best is always among them.
    """
    laid, _ = AnchorGenerator(np.array(point_cloud_range, np.float32), [entry]).generate_anchors(
        [head_map_sizes(grid, entry)]
    )
    anchors = laid[0].numpy().astype(np.float64)  # (heights, ny, nx, sizes, rotations, 7)
    x, y = anchors[0, 0, :, 0, 0, 0], anchors[0, :, 0, 0, 0, 1]
    best = np.zeros(len(boxes))
    for i, box in enumerate(boxes):
        columns, rows = (_nearest_three(places, value) for places, value in ((x, box[0]), (y, box[1])))
        near = anchors[:, rows][:, :, columns].reshape(-1, 7)
        if match_height:
            best[i] = boxes_aligned_iou3d(np.repeat(box[None], len(near), axis=0), near).max()
        else:
            best[i] = boxes3d_nearest_bev_iou(box[None], near).max()
    return best


def _nearest_three(places: np.ndarray, value: float) -> slice:
    nearest = int(np.argmin(np.abs(places - value)))
    return slice(max(nearest - 1, 0), nearest + 2)


def check_anchors(
    boxes: Boxes, head: Mapping[str, Any], grid: Sequence[int], point_cloud_range: Sequence[float]
) -> list[Finding]:
    """Each entry of ANCHOR_GENERATOR_CONFIG against the objects of its class that are inside the range."""
    inside = ((boxes.boxes[:, :3] >= point_cloud_range[:3]) & (boxes.boxes[:, :3] <= point_cloud_range[3:])).all(axis=1)
    findings = []
    match_height = bool(head.get("TARGET_ASSIGNER_CONFIG", {}).get("MATCH_HEIGHT", False))
    for i, entry in enumerate(head.get("ANCHOR_GENERATOR_CONFIG", ())):
        class_boxes = boxes[inside & (boxes.names == entry["class_name"])]
        if len(class_boxes) >= LEAST_OBJECTS:
            findings += _check_entry(
                class_boxes,
                entry,
                f"MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG[{i}]",
                grid,
                point_cloud_range,
                match_height,
            )
    return findings


def _check_entry(
    class_boxes: Boxes,
    entry: Mapping[str, Any],
    path: str,
    grid: Sequence[int],
    point_cloud_range: Sequence[float],
    match_height: bool,
) -> list[Finding]:
    name, findings = entry["class_name"], []
    sizes = np.array(entry["anchor_sizes"], dtype=np.float64)
    median = np.median(class_boxes.boxes[:, 3:6], axis=0)
    nearest = sizes[np.argmin(np.abs(np.log(sizes / median)).sum(axis=1))]
    rounded = [round(float(value), 2) for value in median]
    as_anchors = class_boxes.boxes.copy()
    as_anchors[:, 3:6] = nearest
    examples = class_boxes.examples(np.arange(min(3, len(class_boxes))), as_anchors)
    if np.abs(np.log(median / nearest)).max() > np.log(1.4):
        what = f"the median {name} is {_metres(median)} m, its anchor {_metres(nearest)}"
        findings.append(
            Finding("warning", "anchor size", what, f"{path}.anchor_sizes", f"anchor_sizes: [{rounded}]", examples)
        )

    bottom = float(np.median(class_boxes.boxes[:, 2] - class_boxes.boxes[:, 5] / 2))
    gap = min((bottom - height for height in entry["anchor_bottom_heights"]), key=abs)
    if abs(gap) > 0.8 * median[2]:
        what = f"the median {name} stands at z = {bottom:.2f} m, its anchors at {entry['anchor_bottom_heights']}"
        where = f"{path}.anchor_bottom_heights"
        findings.append(
            Finding("warning", "anchor height", what, where, f"anchor_bottom_heights: [{bottom:.2f}]", examples)
        )
    if "matched_threshold" not in entry:  # an assigner that has none
        return findings
    return findings + _check_overlaps(
        class_boxes, entry, path, grid, point_cloud_range, match_height, rounded, round(bottom, 2)
    )


def _check_overlaps(
    class_boxes: Boxes,
    entry: Mapping[str, Any],
    path: str,
    grid: Sequence[int],
    point_cloud_range: Sequence[float],
    match_height: bool,
    median_size: list[float],
    median_bottom: float,
) -> list[Finding]:
    """How many boxes reach matched_threshold with these anchors, and would with anchors of their median size and
    height.
    """
    threshold = entry["matched_threshold"]
    class_boxes = class_boxes[:: -(-len(class_boxes) // MAX_OBJECTS)]
    fitted = {**entry, "anchor_sizes": [median_size], "anchor_bottom_heights": [median_bottom]}
    best, reachable = (
        best_overlaps(class_boxes.boxes, anchors, grid, point_cloud_range, match_height) for anchors in (entry, fitted)
    )
    missed, missed_fitted = float(np.mean(best < threshold)), float(np.mean(reachable < threshold))
    what = (
        f"{missed:.0%} of {len(class_boxes)} {entry['class_name']} boxes overlap no anchor by matched_threshold "
        f"{threshold:g} (median of the best IoU: {np.median(best):.2f})"
    )
    if missed <= 0.6:
        return [Finding("note", "anchor overlap", what, path)]
    if missed_fitted < missed - 0.2:
        what += f"; with anchors of their median size and height it would be {missed_fitted:.0%}"
        return [
            Finding(
                "warning",
                "anchor overlap",
                what,
                path,
                f"anchor_sizes: [{median_size}], anchor_bottom_heights: [{median_bottom}]",
            )
        ]
    cell = (point_cloud_range[3] - point_cloud_range[0]) / head_map_sizes(grid, entry)[0]
    return [
        Finding(
            "note",
            "anchor overlap",
            f"{what}: anchors every {cell:.2f} m are too far apart for them, each has only its best one",
            path,
            "to give them more, lower both thresholds, or take smaller voxels or a smaller feature_map_stride",
        )
    ]


def _metres(sizes: np.ndarray) -> str:
    return " x ".join(f"{value:.2f}" for value in sizes)
