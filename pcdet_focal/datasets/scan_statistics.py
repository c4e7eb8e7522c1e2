"""What the scans of a training are like, kept in its checkpoints, so that another sensor is noticed in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MIN_POINTS = 200
_SAMPLE = 20000  # points of a scan that are looked at
_MAX_STEP = 1.0  # metres between the grounds of two sensors that count as one
_RATIO_ABOVE, _RATIO_BELOW = 4.0, 20.0  # of the upper ends of a feature


class ScanStatistics:
    """Ranges of the features and the height of the ground in the first scans of a training.

    Args:
        feature_names: of the columns: x, y, z, then the others.
        num_scans: after so many nothing is added.
    """

    def __init__(self, feature_names: Sequence[str], num_scans: int = 20):
        self.feature_names, self.num_scans = list(feature_names), num_scans
        self._scans: list[dict[str, Any]] = []

    def add(self, points: np.ndarray) -> None:
        """Take one scan into account, (N, C)."""
        if len(self._scans) < self.num_scans and len(points) >= MIN_POINTS:
            self._scans.append(statistics(points, self.feature_names))

    def add_batch(self, batch: Mapping[str, Any]) -> None:
        """Take the scans of a collated batch into account."""
        if len(self._scans) < self.num_scans and batch.get("points") is not None:
            points = np.asarray(batch["points"])
            for index in range(batch["batch_size"]):
                self.add(points[points[:, 0] == index, 1:])

    def result(self) -> dict[str, Any] | None:
        """``{"scans": number, "ground": metres, "features": {name: [low, high]}}``: of every feature the widest range;
        None without a scan.
        """
        if not self._scans:
            return None
        return {
            "scans": len(self._scans),
            "ground": float(np.median([scan["ground"] for scan in self._scans])),
            "features": {
                name: [
                    min(scan["features"][name][0] for scan in self._scans),
                    max(scan["features"][name][1] for scan in self._scans),
                ]
                for name in self.feature_names
            },
        }


def statistics(points: np.ndarray, feature_names: Sequence[str]) -> dict[str, Any]:
    """Of one scan (N, C): ``features`` {name: [1st, 99th percentile]}, ``ground``: the 10th percentile of z."""
    sample = points[:: max(1, len(points) // _SAMPLE)]
    low, high = np.percentile(sample, (1, 99), axis=0)
    return {
        "ground": float(np.percentile(sample[:, 2], 10)),
        "features": {name: [float(a), float(b)] for name, a, b in zip(feature_names, low, high)},
    }


def differences(points: np.ndarray, feature_names: Sequence[str], trained: Mapping[str, Any]) -> list[str]:
    """A sentence for each way in which a scan (N, C) is not like those of ``trained`` (``ScanStatistics.result``)."""
    if len(points) < MIN_POINTS:
        return []
    scan = statistics(points, feature_names)
    sentences = []
    if abs(scan["ground"] - trained["ground"]) > _MAX_STEP:
        sentences.append(
            f"ground near z = {scan['ground']:.1f} m, in training near {trained['ground']:.1f} m: another height of "
            f"the sensor? Add {trained['ground'] - scan['ground']:.1f} to z"
        )
    for name in feature_names[3:]:
        if name == "timestamp" or name not in trained["features"]:
            continue
        high, trained_high = scan["features"][name][1], trained["features"][name][1]
        if trained_high > 0 and (high > _RATIO_ABOVE * trained_high or high < trained_high / _RATIO_BELOW):
            sentences.append(
                f"{name} reaches {high:.3g}, in training {trained_high:.3g}: bring it to the range of the training"
            )
    return sentences
