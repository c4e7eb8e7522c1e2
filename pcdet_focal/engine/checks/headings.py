"""Do boxes lie along the objects in them?"""
from __future__ import annotations

import numpy as np

from .collect import Boxes
from .evidence import HEADINGS, Evidence, clearest
from .findings import Example, Finding, some

LEAST_POINTS = 15  # points of an object that tell how it lies
LEAST_RATIO = 1.4  # long to short side of a box whose heading matters


def check_radians(boxes: Boxes) -> list[Finding]:
    """Whether headings are angles in radians: none should be beyond a whole turn."""
    beyond = np.abs(boxes.boxes[:, 6]) > 2 * np.pi + 0.1
    if not beyond.any():
        return []
    rows = np.flatnonzero(beyond)
    degrees = np.abs(boxes.boxes[:, 6]).max() <= 361 and np.mean(beyond) > 0.05
    what = f"{len(rows)} of {len(boxes)} headings are beyond a whole turn, up to {np.abs(boxes.boxes[:, 6]).max():g}"
    examples = tuple(Example(boxes.frame_ids[i], boxes.names[i], boxes.boxes[i], in_radians(boxes)[i] if degrees else None) for i in rows[:3])
    if degrees:
        return [Finding("error", "heading in degrees", what, f"frames {some(boxes.frame_ids[rows])}", "write headings in radians: heading * pi / 180", examples)]
    return [Finding("warning", "heading out of range", what, f"frames {some(boxes.frame_ids[rows])}", "write headings within -pi ... pi", examples)]


def in_radians(boxes: Boxes) -> np.ndarray:
    """The boxes (M, 7) with headings taken as degrees."""
    turned = boxes.boxes.copy()
    turned[:, 6] = np.radians(turned[:, 6])
    return turned


def check_headings(boxes: Boxes, evidence: Evidence) -> list[Finding]:
    """Whether the objects' points fit the boxes better with another heading: -heading, or turned by 90 degrees (dx and dy swapped).

    Half a turn cannot be told from points. Only long boxes with enough points vote, each for what holds clearly more of its object's points.
    """
    sizes = np.sort(boxes.boxes[:, 3:5], axis=1)
    long = (sizes[:, 1] >= LEAST_RATIO * sizes[:, 0]) & (evidence.around >= LEAST_POINTS)
    margin = np.maximum(3, 0.1 * evidence.around)[:, None]
    gain = evidence.by_heading - evidence.by_heading[:, :1]  # (M, 4)
    better, worse = (gain >= margin) & long[:, None], (gain <= -margin) & long[:, None]
    wins, losses = better.sum(axis=0), worse.sum(axis=0)
    best = int(np.argmax(wins - losses))
    if wins[best] >= 5 and wins[best] >= 3 * losses[best]:
        return [_systematic(best, boxes, evidence, np.flatnonzero(better[:, best]), int(losses[best]))]
    return _single(boxes, evidence, long)


def _systematic(best: int, boxes: Boxes, evidence: Evidence, rows: np.ndarray, losses: int) -> Finding:
    what = f"{len(rows)} boxes hold clearly more of their objects' points with {HEADINGS[best]} in place of the heading h, {losses} hold fewer"
    where = f"frames {some(boxes.frame_ids[rows])}"
    examples = tuple(Example(boxes.frame_ids[i], boxes.names[i], boxes.boxes[i], turned(boxes.boxes[i], best)) for i in clearest(rows, evidence.around))
    if best == 1:
        return Finding("error", "heading sign", what, where, "write -heading: headings turn anticlockwise from +x to +y, seen from above", examples)
    if best == 3:
        return Finding("error", "heading convention", what, where,
                       "write pi/2 - heading: headings are counted anticlockwise from +x, not clockwise from +y", examples)
    if np.mean(boxes.boxes[rows, 3] < boxes.boxes[rows, 4]) > 0.5:
        return Finding("error", "length and width swapped", what + "; dx is their shorter side", where,
                       "swap dx and dy: a label is x y z dx dy dz heading with dx along the heading (length) and dy across it (width)", examples)
    return Finding("error", "heading off by 90 degrees", what, where,
                   "write heading - pi/2 (or + pi/2): the heading points along dx, counted from +x", examples)


def turned(box: np.ndarray, hypothesis: int) -> np.ndarray:
    """The box (7,) with the heading that ``HEADINGS[hypothesis]`` says."""
    heading = (box[6], -box[6], box[6] + np.pi / 2, np.pi / 2 - box[6])[hypothesis]
    return np.array([*box[:6], heading])


def _single(boxes: Boxes, evidence: Evidence, long: np.ndarray) -> list[Finding]:
    """Boxes that lie across their objects though most do not."""
    across = evidence.by_heading[:, 2]
    rows = np.flatnonzero(long & (evidence.around >= 40) & (across >= 1.5 * evidence.by_heading[:, 0]) & (across >= 0.6 * evidence.around))
    if not len(rows):
        return []
    examples = tuple(Example(boxes.frame_ids[i], boxes.names[i], boxes.boxes[i], turned(boxes.boxes[i], 2)) for i in clearest(rows, evidence.around))
    severity = "warning" if len(rows) >= max(3, 0.05 * np.count_nonzero(long)) else "note"
    return [Finding(severity, "boxes across their objects", f"{len(rows)} boxes hold half as many points again when turned by 90 degrees",
                    f"frames {some(boxes.frame_ids[rows])}", "look at the pictures: dx and dy of these may be swapped" if severity == "warning" else "", examples)]
