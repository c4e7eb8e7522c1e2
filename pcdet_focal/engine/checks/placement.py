"""Do boxes stand where objects stand, and hold points?"""

from __future__ import annotations

import numpy as np

from .collect import Boxes
from .evidence import Evidence, clearest
from .findings import Finding

LEAST_BOXES = 5  # for a median to mean something


def check_height(boxes: Boxes, evidence: Evidence) -> list[Finding]:
    """Whether z is the centre's: undersides should be at the ground, tops at the top of what stands there."""
    z, dz = boxes.boxes[:, 2], boxes.boxes[:, 5]
    below = (evidence.ground - (z - dz / 2)) / dz  # how far undersides are under the ground, in heights
    above = (evidence.top - (z + dz / 2)) / dz  # how far objects stick out, in heights
    known = np.flatnonzero(np.isfinite(below) & np.isfinite(above))
    if len(known) < LEAST_BOXES:
        return []
    sunk, out = np.median(below[known]), np.median(above[known])
    if not (abs(sunk) > 0.25 and abs(out) > 0.15 and sunk * out > 0):
        return []
    metres = float(np.median((below * dz)[known]))
    half = abs(abs(sunk) - 0.5) < 0.17
    raised = boxes.boxes.copy()
    raised[:, 2] += np.sign(sunk) * dz / 2 if half else metres
    examples = boxes.examples(clearest(known, evidence.around), raised)
    words = (
        f"boxes are {abs(metres):.2f} m too {'low' if metres > 0 else 'high'} ({abs(sunk):.2f} of their height; "
        f"median of {len(known)} boxes)"
    )
    if half:
        side, sign = ("underside", "+") if sunk > 0 else ("top", "-")
        what = f"{words}: z is that of the {side}, and should be that of the centre"
        return [Finding("error", "z origin", what, "the labels", f"write z {sign} dz/2 in place of z", examples)]
    what = f"{words}: scans and labels count heights from different places"
    return [
        Finding(
            "error",
            "z offset",
            what,
            "the labels",
            f"add {metres:.2f} to z of every label, or subtract it from z of every scan",
            examples,
        )
    ]


def check_size_order(boxes: Boxes, evidence: Evidence) -> list[Finding]:
    """Whether dz is the height: KITTI's own files give sizes as height, width, length."""
    height = evidence.top - evidence.ground
    known = np.flatnonzero(np.isfinite(height) & (height > 0.3))
    if len(known) < LEAST_BOXES:
        return []
    misfit = np.abs(np.log(boxes.boxes[known, 3:6] / height[known, None]))  # (K, 3)
    rows = known[misfit[:, 0] < misfit[:, 2] - 0.3]
    if len(rows) < 0.7 * len(known):
        return []
    what = f"what stands in {len(rows)} of {len(known)} boxes is as high as their dx, not as their dz"
    change = "write dx dy dz as length width height (KITTI's files have height width length)"
    examples = boxes.examples(clearest(rows, evidence.around), boxes.boxes[:, [0, 1, 2, 5, 4, 3, 6]])
    return [Finding("error", "order of sizes", what, boxes.where(rows), change, examples)]


def check_empty_boxes(boxes: Boxes, evidence: Evidence) -> list[Finding]:
    """How many boxes hold no point: they are trained on as well, and there is nothing to find in them."""
    empty = np.flatnonzero(evidence.inside == 0)
    if not len(empty):
        return []
    share = len(empty) / len(boxes)
    severity = "error" if share >= 0.5 else "warning" if share >= 0.1 and len(empty) >= 3 else "note"
    change = (
        "look at the pictures; objects that no point fell on are left out with DATA_CONFIG.FILTER_MIN_POINTS_IN_GT: 1 "
        "(custom data), or take "
        "them out of the labels"
    )
    what = f"{len(empty)} of {len(boxes)} boxes ({share:.0%}) hold no point"
    return [
        Finding(
            severity,
            "boxes without points",
            what,
            boxes.where(empty),
            "" if severity == "note" else change,
            boxes.examples(empty[:4]),
        )
    ]
