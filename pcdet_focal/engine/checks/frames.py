"""Are labels and scans in one frame, with z up, in metres?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .collect import Boxes
from .evidence import FRAMES, Evidence, clearest, flattest_axis
from .findings import Finding

LEAST_BOXES = 5  # for a share to mean something
ENOUGH_POINTS = 5  # points that an object shows


def check_frame(boxes: Boxes, evidence: Evidence) -> list[Finding]:
    """Whether the boxes lie where the objects are, or would if their axes were others; ``boxes`` are the rows of
    ``evidence``.
    """
    if len(boxes) < LEAST_BOXES:
        return []
    share = np.mean(evidence.in_body >= ENOUGH_POINTS)
    shares = np.mean(evidence.by_frame >= ENOUGH_POINTS, axis=0)  # (frames, 2)
    frame, bottom = np.unravel_index(np.argmax(shares), shares.shape)
    best = shares[frame, bottom]
    many = best >= 0.5 and best >= share + 0.3
    # a sensor of few beams: most boxes have hardly a point
    few_but_far_more = best >= max(0.25, 3 * share) and best * len(boxes) >= LEAST_BOXES
    if share >= 0.5 or not (many or few_but_far_more):
        return []
    right = list(FRAMES.values())[frame]
    corrected = boxes.boxes.copy()
    corrected[:, :3] = boxes.boxes[:, :3] @ right.axes.T
    corrected[:, 2] += bottom * boxes.boxes[:, 5] / 2
    corrected[:, 6] = right.heading[0] * boxes.boxes[:, 6] + right.heading[1]
    examples = boxes.examples(clearest(np.arange(len(boxes)), evidence.by_frame[:, frame, bottom]), corrected)
    conversion = right.conversion.format(bottom=" + dz/2 (they give the middle of the underside)" if bottom else "")
    return [
        Finding(
            "error",
            "wrong frame",
            f"only {share:.0%} of the boxes hold an object's points as they are; {best:.0%} would if the labels' axes "
            f"were: {right.words}",
            boxes.where(np.arange(len(boxes))),
            f"write the labels in the scans' frame, x ahead, y left, z up, about the centre: {conversion}",
            examples,
        )
    ]


def check_flat_axis(scans: Iterable[np.ndarray]) -> list[Finding]:
    """Whether z is the scans' vertical: a scene around a sensor is wide in two directions and low in the third."""
    axis, spreads = flattest_axis(scans)
    if axis == 2 or spreads[2] < 1.5 * spreads[axis]:
        return []
    turned = {
        0: "x, y, z = y_old, z_old, x_old",
        1: "x, y, z = z_old, x_old, y_old (y up) or z_old, -x_old, -y_old (y down, a camera's frame)",
    }[axis]
    spread = ", ".join(f"{value:.1f}" for value in spreads)
    return [
        Finding(
            "error",
            "z is not up",
            f"the middle 90 % of the points span {spread} m along x, y, z: the flat direction is {'xyz'[axis]}",
            "all scans",
            f"turn points and labels so that z is up: {turned}",
        )
    ]


def check_units(scans: Iterable[np.ndarray], boxes: Boxes) -> list[Finding]:
    """Whether points and boxes can be in metres."""
    findings = []
    reach = np.median([np.percentile(np.abs(scan[:, :2]), 99) for scan in scans if len(scan)] or [10.0])
    if reach > 1000 or reach < 0.5:
        findings.append(
            Finding(
                "error",
                "units",
                f"points reach {reach:g} from the sensor (99 % of them)",
                "all scans",
                "write x, y, z in metres: points[:, :3] /= 1000 for millimetres",
            )
        )
    if len(boxes):
        size = np.median(boxes.boxes[:, 3:6])
        if size > 40 or size < 0.02:
            what = f"the median size of all boxes is {size:g}"
            findings.append(Finding("error", "units", what, "all labels", "write positions and sizes in metres"))
    return findings
