"""What an evaluation found: numbers to compute with, OpenPCDet's table, and a second table that explains an AP of 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .rules import DIFFICULTIES, METRICS, MIN_HEIGHT, NEIGHBOURS


@dataclass(frozen=True)
class KittiCounts:
    """Objects of one class behind its average precision; arrays are (3,) int for easy, moderate and hard."""

    gt_counted: np.ndarray  # ground truths that count
    gt_ignored: np.ndarray  # of the class, but too low, too occluded or too truncated
    gt_without_rectangle: int  # of the class, with a 2-D box of no width or height
    gt_neighbours: np.ndarray  # of the neighbour class (Van for Car, Person_sitting for Pedestrian)
    dt_counted: np.ndarray  # detections of the class that count
    dt_ignored: np.ndarray  # detections of the class whose image box is too low
    dt_total: int
    dt_above_zero: int  # with a score above 0
    dt_not_finite: int  # with NaN or inf in the box: they find nothing


@dataclass(frozen=True)
class KittiResult:
    """Average precisions (percent) with the curves and the counts behind them.

    ``ap[class][metric][overlap set]['R11' or 'R40']`` is (3,) for easy, moderate, hard; metrics are bbox, bev, 3d and,
    if ``has_aos``, aos; overlap sets are 'strict' and 'loose'. ``precision[class][metric][overlap set]`` is (3, 41):
    the value at recall k / 40 (for aos the orientation similarity), 0 where the detector never gets there; ``recall``
    (3, 41) is the recall at those score thresholds, near k / 40; ``found`` (3,) is how many counted ground truths are
    found when every score is accepted.
    """

    classes: tuple[str, ...]
    num_frames: int
    overlap_sets: dict[str, dict[str, tuple[float, ...]]]
    has_aos: bool
    ap: dict[str, dict[str, dict[str, dict[str, np.ndarray]]]]
    precision: dict[str, dict[str, dict[str, np.ndarray]]]
    recall: dict[str, dict[str, dict[str, np.ndarray]]]
    found: dict[str, dict[str, dict[str, np.ndarray]]]
    counts: dict[str, KittiCounts]

    def text(self) -> str:
        """OpenPCDet's table, then the counts."""
        return self.table() + "\n" + self.counts_text()

    def table(self) -> str:
        """The table in the exact format of OpenPCDet's evaluation."""
        lines = []
        for name in self.classes:
            for key, overlaps in self.overlap_sets.items():
                for kind, label in (("R11", "AP"), ("R40", "AP_R40")):
                    lines.append(f"{name} {label}@{', '.join(f'{value:.2f}' for value in overlaps[name])}:")
                    lines += [f"{metric:<4} AP:{_join(self.ap[name][metric][key][kind], '.4f')}" for metric in METRICS]
                    if self.has_aos:
                        lines.append(f"aos  AP:{_join(self.ap[name]['aos'][key][kind], '.2f')}")
        return "\n".join(lines) + "\n"

    def counts_text(self) -> str:
        """How many objects stand behind the table, and why an average precision is 0."""
        key = next(iter(self.overlap_sets))
        lines = [f"Objects behind the table: easy, moderate, hard; {self.num_frames} frames"]
        for name in dict.fromkeys(self.classes):
            counts, num_found = self.counts[name], self.found[name]
            neighbours = f"; {NEIGHBOURS[name]} {_join(counts.gt_neighbours)}" if name in NEIGHBOURS else ""
            lines += [
                f"{name} ground truth: {_join(counts.gt_counted)} count; ignored {_join(counts.gt_ignored)} "
                f"(too low, occluded or truncated){neighbours}",
                f"{name} detections: {counts.dt_total} in all, {counts.dt_above_zero} above score 0; "
                f"{_join(counts.dt_counted)} count; "
                f"ignored {_join(counts.dt_ignored)} (lower than {_join(MIN_HEIGHT)} px)",
                f"{name} found: "
                + "; ".join(
                    f"{metric} {_join(num_found[metric][key])} (overlap > {overlap:.2f})"
                    for metric, overlap in zip(METRICS, self.overlap_sets[key][name])
                ),
            ]
            if counts.gt_without_rectangle:
                lines.append(
                    f"{name} note: {counts.gt_without_rectangle} ground truths have no 2-D rectangle (bbox), therefore "
                    "no height in pixels; KITTI's rules ignore them in every metric. Write rectangles into the labels, "
                    "or evaluate as custom data"
                )
            if counts.dt_not_finite:
                lines.append(
                    f"{name} note: {counts.dt_not_finite} detections have NaN or inf in their boxes and find nothing"
                )
            reason = self._reason_of_zero(name, key)
            if reason:
                lines.append(f"{name} note: {reason}")
        return "\n".join(lines) + "\n"

    def _reason_of_zero(self, name: str, key: str) -> str:
        counts = self.counts[name]
        zero = np.flatnonzero(self.ap[name]["3d"][key]["R40"] == 0)
        if len(zero) == 0:
            return ""
        levels = ", ".join(DIFFICULTIES[level] for level in zero)
        if not (counts.gt_counted + counts.gt_ignored).any():
            return "the 3-D AP is 0 because no frame has a ground truth of this class"
        if counts.dt_total == 0:
            return "the 3-D AP is 0 because there is no detection of this class"
        reasons = {
            level: "no ground truth counts"
            if counts.gt_counted[level] == 0
            else "no detection overlaps a ground truth enough"
            if self.found[name]["3d"][key][level] == 0
            else "the few that are found stop before recall 1/40"
            for level in zero
        }
        if len(set(reasons.values())) == 1:
            return f"the 3-D AP is 0 ({levels}) because {reasons[zero[0]]}"
        return "the 3-D AP is 0 because " + "; ".join(
            f"{reason} ({DIFFICULTIES[level]})" for level, reason in reasons.items()
        )

    def as_dict(self) -> dict[str, float]:
        """OpenPCDet's dict: 'Car_3d/easy_R40' …, with aos, 3d, bev and image (its word for bbox), of the first overlap
        set, in percent.
        """
        key = next(iter(self.overlap_sets))
        words = ([("aos", "aos")] if self.has_aos else []) + [("3d", "3d"), ("bev", "bev"), ("bbox", "image")]
        return {
            f"{name}_{word}/{level}_R40": float(self.ap[name][metric][key]["R40"][i])
            for name in self.classes
            for metric, word in words
            for i, level in enumerate(DIFFICULTIES)
        }

    def curves_by_metric(self) -> dict[str, np.ndarray]:
        """The precision curves as OpenPCDet's ``PR_detail_dict`` holds them: metric -> (classes, 3 difficulties,
        overlap sets, 41).
        """
        return self._by_metric(self.precision)

    def recalls_by_metric(self) -> dict[str, np.ndarray]:
        """The recall reached at each point of ``curves_by_metric``: metric -> (classes, 3 difficulties, overlap sets,
        41).
        """
        return self._by_metric(self.recall)

    def _by_metric(self, curves: dict[str, dict[str, dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
        metrics = (*METRICS, "aos") if self.has_aos else METRICS
        return {
            metric: np.stack(
                [np.stack([curves[name][metric][key] for key in self.overlap_sets], axis=1) for name in self.classes]
            )
            for metric in metrics
        }


def _join(values, spec: str = "d") -> str:
    return ", ".join(format(value, spec) for value in values)
