"""Do boxes stand where objects stand, and hold points?"""
from __future__ import annotations

import numpy as np

from .collect import Boxes
from .evidence import Evidence, clearest
from .findings import Example, Finding, some


def check_height(boxes: Boxes, evidence: Evidence) -> list[Finding]:
    """Whether z is the centre's: undersides should be at the ground, tops at the top of what stands there."""
    below = (evidence.ground - (boxes.boxes[:, 2] - boxes.boxes[:, 5] / 2)) / boxes.boxes[:, 5]  # how far undersides are under the ground, in heights
    above = (evidence.top - (boxes.boxes[:, 2] + boxes.boxes[:, 5] / 2)) / boxes.boxes[:, 5]  # how far objects stick out, in heights
    known = np.isfinite(below) & np.isfinite(above)
    if np.count_nonzero(known) < 5:
        return []
    sunk, out = np.median(below[known]), np.median(above[known])
    if not (abs(sunk) > 0.25 and abs(out) > 0.15 and sunk * out > 0):
        return []
    metres = float(np.median((below * boxes.boxes[:, 5])[known]))
    half = abs(abs(sunk) - 0.5) < 0.17
    shift = np.sign(sunk) * boxes.boxes[:, 5] / 2 if half else np.full(len(boxes), metres)
    examples = tuple(Example(boxes.frame_ids[i], boxes.names[i], boxes.boxes[i], boxes.boxes[i] + np.array([0, 0, shift[i], 0, 0, 0, 0]))
                     for i in clearest(np.flatnonzero(known), evidence.around))
    words = f"boxes are {abs(metres):.2f} m too {'low' if metres > 0 else 'high'} ({abs(sunk):.2f} of their height; median of {known.sum()} boxes)"
    if half:
        place, sign = ("underside", "+") if sunk > 0 else ("top", "-")
        return [Finding("error", "z origin", f"{words}: z is that of the {place}, and should be that of the centre", "the labels",
                        f"write z {sign} dz/2 in place of z", examples)]
    return [Finding("error", "z offset", f"{words}: scans and labels count heights from different places", "the labels",
                    f"add {metres:.2f} to z of every label, or subtract it from z of every scan", examples)]


def check_size_order(boxes: Boxes, evidence: Evidence) -> list[Finding]:
    """Whether dz is the height: KITTI's own files give sizes as height, width, length."""
    height = evidence.top - evidence.ground
    known = np.isfinite(height) & (height > 0.3)
    if np.count_nonzero(known) < 5:
        return []
    misfit = np.abs(np.log(boxes.boxes[known, 3:6] / height[known, None]))  # (K, 3)
    reversed_ = misfit[:, 0] < misfit[:, 2] - 0.3
    if np.mean(reversed_) < 0.7:
        return []
    rows = np.flatnonzero(known)[reversed_]
    examples = tuple(Example(boxes.frame_ids[i], boxes.names[i], boxes.boxes[i], boxes.boxes[i][[0, 1, 2, 5, 4, 3, 6]]) for i in clearest(rows, evidence.around))
    return [Finding("error", "order of sizes", f"what stands in {len(rows)} of {len(misfit)} boxes is as high as their dx, not as their dz",
                    f"frames {some(boxes.frame_ids[rows])}", "write dx dy dz as length width height (KITTI's files have height width length)", examples)]


def check_empty_boxes(boxes: Boxes, evidence: Evidence) -> list[Finding]:
    """How many boxes hold no point: they are trained on as well, and there is nothing to find in them."""
    empty = np.flatnonzero(evidence.inside == 0)
    if not len(empty):
        return []
    share = len(empty) / len(boxes)
    severity = "error" if share >= 0.5 else "warning" if share >= 0.1 and len(empty) >= 3 else "note"
    examples = tuple(Example(boxes.frame_ids[i], boxes.names[i], boxes.boxes[i]) for i in empty[:4])
    change = "" if severity == "note" else ("look at the pictures; objects that no point fell on are left out with "
                                            "DATA_CONFIG.FILTER_MIN_POINTS_IN_GT: 1 (custom data), or take them out of the labels")
    return [Finding(severity, "boxes without points", f"{len(empty)} of {len(boxes)} boxes ({share:.0%}) hold no point",
                    f"frames {some(boxes.frame_ids[empty])}", change, examples)]
