"""Do boxes lie along the objects in them?"""

from __future__ import annotations

import numpy as np

from .collect import Boxes
from .evidence import HEADINGS, Evidence, clearest, headings_of
from .findings import Finding

LEAST_POINTS = 15  # points of an object that tell how it lies
LEAST_RATIO = 1.4  # long to short side of a box whose heading matters
LEAST_VOTES = 5


def check_radians(boxes: Boxes) -> list[Finding]:
    """Whether headings are angles in radians: none should be beyond a whole turn."""
    size = np.abs(boxes.boxes[:, 6])
    rows = np.flatnonzero(size > 2 * np.pi + 0.1)
    if not len(rows):
        return []
    what = f"{len(rows)} of {len(boxes)} headings are beyond a whole turn, up to {size.max():g}"
    if size.max() <= 361 and len(rows) > 0.05 * len(boxes):
        turned = boxes.boxes.copy()
        turned[:, 6] = np.radians(turned[:, 6])
        change = "write headings in radians: heading * pi / 180"
        return [
            Finding("error", "heading in degrees", what, boxes.where(rows), change, boxes.examples(rows[:3], turned))
        ]
    return [
        Finding(
            "warning",
            "heading out of range",
            what,
            boxes.where(rows),
            "write headings within -pi ... pi",
            boxes.examples(rows[:3]),
        )
    ]


def check_headings(boxes: Boxes, evidence: Evidence) -> list[Finding]:
    """Whether the objects' points fit the boxes better with another heading: -heading, or turned by 90 degrees (dx and
    dy swapped).

    Half a turn cannot be told from points. Only long boxes with enough points vote, each for what holds clearly more of
    its object's points.
    """
    sizes = np.sort(boxes.boxes[:, 3:5], axis=1)
    long = (sizes[:, 1] >= LEAST_RATIO * sizes[:, 0]) & (evidence.around >= LEAST_POINTS)
    margin = np.maximum(3, 0.1 * evidence.around)[:, None]
    gain = evidence.by_heading - evidence.by_heading[:, :1]  # (M, 4)
    better, worse = (gain >= margin) & long[:, None], (gain <= -margin) & long[:, None]
    wins, losses = better.sum(axis=0), worse.sum(axis=0)
    best = int(np.argmax(wins - losses))
    if wins[best] < LEAST_VOTES or wins[best] < 3 * losses[best]:
        return _single(boxes, evidence, long)
    rows = np.flatnonzero(better[:, best])
    what = (
        f"{len(rows)} boxes hold clearly more of their objects' points with {HEADINGS[best]} in place of the heading "
        f"h, {losses[best]} hold fewer"
    )
    swapped = np.mean(boxes.boxes[rows, 3] < boxes.boxes[rows, 4]) > 0.5
    if best == 1:
        check, change = "heading sign", "write -heading: headings turn anticlockwise from +x to +y, seen from above"
    elif best == 3:
        check, change = (
            "heading convention",
            "write pi/2 - heading: headings are counted anticlockwise from +x, not clockwise from +y",
        )
    elif swapped:
        check, what = "length and width swapped", what + "; dx is their shorter side"
        change = (
            "swap dx and dy: a label is x y z dx dy dz heading with dx along the heading (length) and dy across it "
            "(width)"
        )
    else:
        check = "heading off by 90 degrees"
        change = (
            "write heading - pi/2 (or + pi/2): the heading points along dx, counted from +x; or swap dx and dy, if "
            "they are mixed up"
        )
    return [
        Finding(
            "error",
            check,
            what,
            boxes.where(rows),
            change,
            boxes.examples(clearest(rows, evidence.around), _turned(boxes, best)),
        )
    ]


def _single(boxes: Boxes, evidence: Evidence, long: np.ndarray) -> list[Finding]:
    """Boxes that lie across their objects though most do not."""
    across = evidence.by_heading[:, 2]
    clear = (
        long & (evidence.around >= 40) & (across >= 1.5 * evidence.by_heading[:, 0]) & (across >= 0.6 * evidence.around)
    )
    rows = np.flatnonzero(clear)
    if not len(rows):
        return []
    many = len(rows) >= max(3, 0.05 * np.count_nonzero(long))
    what = (
        f"{'1 box holds' if len(rows) == 1 else f'{len(rows)} boxes hold'} half as many points again when turned by "
        "90 degrees"
    )
    change = "look at the pictures: dx and dy of these may be swapped" if many else ""
    examples = boxes.examples(clearest(rows, evidence.around), _turned(boxes, 2))
    return [
        Finding("warning" if many else "note", "boxes across their objects", what, boxes.where(rows), change, examples)
    ]


def _turned(boxes: Boxes, hypothesis: int) -> np.ndarray:
    """The boxes (M, 7) with the headings that ``HEADINGS[hypothesis]`` says."""
    turned = boxes.boxes.copy()
    turned[:, 6] = headings_of(turned[:, 6])[hypothesis]
    return turned
