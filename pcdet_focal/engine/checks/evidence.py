"""What the points around a box say about it: pure functions of one frame's points and boxes, all in metres of the LiDAR
frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ...geometry.points_in_boxes import index_in_box

ABOVE_GROUND = 0.2  # metres: points lower than this above the ground near the box are the ground's
EDGE = 0.05  # metres that a footprint is enlarged on each side: points lie on surfaces, with noise
# a rectangle's footprint tells a heading up to half a turn; these are all ways to get it wrong
HEADINGS = ("h", "-h", "h + 90", "90 - h")


@dataclass(frozen=True)
class Frame:
    """Axes that labels may have by mistake. words: for people. axes (3, 3): takes their coordinates to the points' (x
    ahead, y left, z up). heading: sign and offset of the usual heading there; conversion: the same as a formula,
    {bottom} where half a height may have to be added."""

    words: str
    axes: np.ndarray
    heading: tuple[float, float]
    conversion: str


FRAMES = {
    "camera": Frame(
        "x right, y down, z ahead (a camera's)",
        np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
        (-1, -np.pi / 2),
        "x, y, z = z_camera, -x_camera, -y_camera{bottom}; heading = -rotation_y - pi/2; better: by the sensors' "
        "calibration",
    ),
    "y up": Frame(
        "x right, y up, z ahead",
        np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]),
        (1, 0),
        "x, y, z = z_old, -x_old, y_old{bottom}",
    ),
    "y up, x ahead": Frame(
        "x ahead, y up, z right",
        np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
        (1, 0),
        "x, y, z = x_old, -z_old, y_old{bottom}",
    ),
    "y ahead": Frame(
        "x right, y ahead, z up",
        np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
        (1, -np.pi / 2),
        "x, y, z = y_old, -x_old, z_old{bottom}; heading = heading_old - pi/2",
    ),
    "y right": Frame(
        "x ahead, y right, z up (left-handed)",
        np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]]),
        (-1, 0),
        "y = -y_old{bottom}; heading = -heading_old",
    ),
    "x behind": Frame(
        "x behind, y right, z up (turned by 180 degrees)",
        np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1]]),
        (1, np.pi),
        "x, y, z = -x_old, -y_old, z_old{bottom}; heading = heading_old + pi",
    ),
    "x left": Frame(
        "x left, y behind, z up",
        np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]),
        (1, np.pi / 2),
        "x, y, z = -y_old, x_old, z_old{bottom}; heading = heading_old + pi/2",
    ),
}


@dataclass(frozen=True)
class Evidence:
    """One row a box.

    inside: points in the box. ground: height of the ground around it, NaN where it cannot be told. top: height of what
    stands in its footprint, NaN
    alike. around: points of an object (above the ground) within the box's circle. by_heading (M, 4): those of them in
    its footprint turned as
    ``HEADINGS`` say. in_body: points in the upper three quarters of an upright cylinder about the box. by_frame (M,
    frames, 2): the same were its centre given in each of ``FRAMES``, as the box's centre and as the middle of its
    underside.
    """

    inside: np.ndarray
    ground: np.ndarray
    top: np.ndarray
    around: np.ndarray
    by_heading: np.ndarray
    in_body: np.ndarray
    by_frame: np.ndarray

    @classmethod
    def joined(cls, parts: Iterable[Evidence]) -> Evidence:
        parts = list(parts)
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def box_evidence(points: np.ndarray, boxes: np.ndarray) -> Evidence:
    """The evidence of one frame: points (N, 3 or more), boxes (M, 7)."""
    points = np.asarray(points[:, :3], dtype=np.float64)
    points = points[np.argsort(points[:, 0], kind="stable")]
    number = len(boxes)
    evidence = Evidence(
        inside=np.zeros(number, int),
        ground=np.full(number, np.nan),
        top=np.full(number, np.nan),
        around=np.zeros(number, int),
        by_heading=np.zeros((number, 4), int),
        in_body=np.zeros(number, int),
        by_frame=np.zeros((number, len(FRAMES), 2), int),
    )
    for i, box in enumerate(np.asarray(boxes, dtype=np.float64)[:, :7]):
        reach = np.hypot(box[3], box[4]) / 2
        near = _near(points, box[:2], reach + 2.0)
        distance = np.hypot(near[:, 0] - box[0], near[:, 1] - box[1])
        evidence.inside[i] = len(index_in_box(near, box, 0.0))
        evidence.ground[i] = ground = _ground_height(near[distance > reach + EDGE], box)
        floor = (ground if np.isfinite(ground) else box[2] - box[5] / 2) + ABOVE_GROUND
        body = near[(near[:, 2] > floor) & (near[:, 2] < box[2] + 1.5 * box[5])]
        standing = body[in_footprint(body, box, EDGE), 2]
        if len(standing) >= 5:
            evidence.top[i] = np.percentile(standing, 95)
        circle = body[np.hypot(body[:, 0] - box[0], body[:, 1] - box[1]) <= reach + EDGE]
        evidence.around[i] = len(circle)
        for k, heading in enumerate(headings_of(box[6])):
            evidence.by_heading[i, k] = np.count_nonzero(in_footprint(circle, np.array([*box[:6], heading]), EDGE))
        evidence.in_body[i] = _count_in_body(points, box, box[:3])
        for k, frame in enumerate(FRAMES.values()):
            centre = frame.axes @ box[:3]
            evidence.by_frame[i, k] = [
                _count_in_body(points, box, centre),
                _count_in_body(points, box, centre + [0, 0, box[5] / 2]),
            ]
    return evidence


def headings_of(heading: Any) -> tuple[Any, Any, Any, Any]:
    """What ``HEADINGS`` say of one heading, or of an array of them."""
    return heading, -heading, heading + np.pi / 2, np.pi / 2 - heading


def in_footprint(points: np.ndarray, box: np.ndarray, margin: float) -> np.ndarray:
    """(N,) bool: which points lie within the box seen from above, ``margin`` metres wider on each side."""
    cos, sin = np.cos(box[6]), np.sin(box[6])
    x, y = points[:, 0] - box[0], points[:, 1] - box[1]
    return (np.abs(x * cos + y * sin) <= box[3] / 2 + margin) & (np.abs(y * cos - x * sin) <= box[4] / 2 + margin)


def _near(points: np.ndarray, centre: np.ndarray, reach: float) -> np.ndarray:
    """Points, sorted by x, within a square about the centre."""
    first, last = np.searchsorted(points[:, 0], [centre[0] - reach, centre[0] + reach])
    part = points[first:last]
    return part[np.abs(part[:, 1] - centre[1]) <= reach]


def _ground_height(around: np.ndarray, box: np.ndarray) -> float:
    """The lowest height that a twentieth of the points around the box reach, leaving out what hangs over it; NaN for
    fewer than 20 points.
    """
    z = around[around[:, 2] < box[2] + 1.5 * box[5], 2]
    return float(np.percentile(z, 5)) if len(z) >= 20 else np.nan


def _count_in_body(points: np.ndarray, box: np.ndarray, centre: np.ndarray) -> int:
    radius = max(np.hypot(box[3], box[4]) / 2, 0.5)
    near = _near(points, centre, radius)
    height = near[:, 2] - centre[2]
    near = near[(height > -box[5] / 4) & (height <= box[5] / 2)]
    return int(np.count_nonzero(np.hypot(near[:, 0] - centre[0], near[:, 1] - centre[1]) <= radius))


def clearest(rows: np.ndarray, points: np.ndarray, max_num: int = 4) -> np.ndarray:
    """Those of ``rows`` that have the most ``points`` (one number a row): the ones to draw."""
    return rows[np.argsort(-points[rows], kind="stable")][:max_num]


def flattest_axis(scans: Iterable[np.ndarray]) -> tuple[int, np.ndarray]:
    """The axis along which scans spread least, and the spreads (3,): the median over scans of the middle 90 % of each
    coordinate, metres.
    """
    spreads = np.median(
        [np.subtract(*np.percentile(scan[:, :3], [95, 5], axis=0)) for scan in scans if len(scan)] or [np.zeros(3)],
        axis=0,
    )
    return int(np.argmin(spreads)), spreads
