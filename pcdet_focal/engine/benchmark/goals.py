"""What is to be reached. A figure below its goal is shown as such; a goal is never bent to the figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Goal:
    """One goal of one row.

    ``measure`` is the name of another side (its time divided by ours), ``time`` (ours, seconds), ``extra_memory``
    (ours, bytes) or ``rate`` (ours, a second); ``inverse`` turns the ratio round: our time divided by the other side's.
    """

    suite: str
    row: str
    case: str
    device: str
    measure: str
    at_least: float | None = None
    below: float | None = None
    inverse: bool = False

    def found(self, row: Mapping[str, Any]) -> float | None:
        """The figure in a row of a JSON file, None where it is not in there."""
        if self.measure == "time":
            return row["sides"]["ours"]["median"]
        if self.measure == "extra_memory":
            return row["sides"]["ours"].get("extra_memory")
        if self.measure == "rate":
            return 1 / row["sides"]["ours"]["median"]
        ratio = row["ratios"].get(self.measure)
        return None if ratio is None else 1 / ratio["median"] if self.inverse else ratio["median"]

    def met(self, value: float) -> bool:
        return value >= self.at_least if self.at_least is not None else value <= self.below

    def text(self) -> str:
        """In words.

        >>> Goal("losses", "classification", "SECOND KITTI", "cpu", "copy", below=5, inverse=True).text()
        'at most 5 times the time of copy'
        """
        if self.measure == "time":
            return f"at most {self.figure(self.below)}"
        if self.measure == "extra_memory":
            return f"at most {self.figure(self.below)} beyond the gradient"
        if self.measure == "rate":
            return f"at least {self.figure(self.at_least)}"
        if self.inverse:
            return f"at most {self.below:g} times the time of {self.measure}"
        return f"at least {f'{self.at_least:g} times ' if self.at_least != 1 else ''}as fast as {self.measure}"

    def figure(self, value: float) -> str:
        """A value as the page shows it."""
        if self.measure == "time":
            return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.2g} s"
        if self.measure == "extra_memory":
            return f"{value / MEGABYTE:.3g} MB"
        if self.measure == "rate":
            return f"{value:.0f} a second"
        return f"{value:.3g} x"


_CLASSIFICATION = "losses", "classification", "SECOND KITTI"
GOALS = (
    Goal(*_CLASSIFICATION, "cpu", "eager", at_least=12),
    Goal(*_CLASSIFICATION, "cpu", "copy", below=8, inverse=True),
    Goal(*_CLASSIFICATION, "cpu", "extra_memory", below=1 * MEGABYTE),
    Goal(*_CLASSIFICATION, "cuda", "eager", at_least=15),
    Goal(*_CLASSIFICATION, "cuda", "compiled", at_least=3),
    Goal(*_CLASSIFICATION, "cuda", "copy", below=1.5, inverse=True),
    Goal(*_CLASSIFICATION, "cuda", "extra_memory", below=1 * MEGABYTE),
    Goal("losses", "box_and_direction", "SECOND KITTI", "cpu", "eager", at_least=40),
    Goal("losses", "box_and_direction", "SECOND KITTI", "cpu", "extra_memory", below=5 * MEGABYTE),
    Goal("losses", "whole_head", "SECOND KITTI", "cpu", "eager", at_least=30),
    Goal("losses", "drop_in", "SECOND KITTI", "cpu", "eager", at_least=6),
    Goal("ops", "target_assignment", "SECOND KITTI", "cpu", "eager", at_least=50),
    Goal("ops", "rotated_nms", "threshold 0.01, 70 x 70 m", "cpu", "time", below=0.015),
    Goal("ops", "rotated_nms", "threshold 0.01, 70 x 70 m", "cpu", "shapely loop", at_least=200),
    Goal("ops", "kitti_ap", "validation set", "cpu", "time", below=4),
    Goal("ops", "voxels", "at most 16,000 voxels", "cpu", "spconv", at_least=1),
    Goal("ops", "voxels", "at most 40,000 voxels", "cpu", "spconv", at_least=1),
    Goal("step", "train", "pointpillar", "cpu", "openpcdet", at_least=1.6),
    Goal("step", "train", "second", "cpu", "openpcdet", at_least=1.15),
    Goal("step", "evaluate", "pointpillar", "cpu", "openpcdet", at_least=1.35),
    Goal("step", "evaluate", "second", "cpu", "openpcdet", at_least=1.2),
    Goal("step", "evaluate, bfloat16", "pointpillar", "cpu", "openpcdet", at_least=2.2),
    Goal("step", "evaluate, bfloat16", "second", "cpu", "openpcdet", at_least=2.0),
    Goal("data", "pipeline", "second.yaml, 360 degrees", "cpu", "rate", at_least=150),
)


def judge(suite: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The goals of a row, as the JSON file keeps them: goal, found, met (both None where it was not measured)."""
    judged = []
    for goal in GOALS:
        if (goal.suite, goal.row, goal.case, goal.device) == (suite, row["row"], row["case"], row["device"]):
            value = goal.found(row)
            judged.append({"goal": goal.text(), "found": value, "met": None if value is None else goal.met(value)})
    return judged
