"""What can be said of scans without their labels: features, voxels that overflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...ops.voxelize import dynamic_voxelize, grid_size
from .findings import Finding, some


def check_features(samples: Mapping[str, np.ndarray], feature_names: Sequence[str]) -> list[Finding]:
    """Whether intensities are within 0 ... 1, and no feature is the same everywhere."""
    findings: list[Finding] = []
    points = [scan for scan in samples.values() if len(scan)]
    if not points:
        return findings
    values = np.concatenate(points)
    for column, name in enumerate(feature_names):
        low, high = float(values[:, column].min()), float(values[:, column].max())
        where, key = f"column {column} ({name}) of all scans", f"points[:, {column}]"
        if low == high:
            findings.append(
                Finding(
                    "warning",
                    "constant feature",
                    f"{name} is {low:g} at every point",
                    where,
                    f"leave {name} out of POINT_FEATURE_ENCODING.used_feature_list (NUM_POINT_FEATURES stays)",
                )
            )
        elif name in ("intensity", "reflectance") and (high > 1.001 or low < -0.001):
            whole = next((scale for scale in (255, 65535) if high <= scale), high)
            what = f"{name} runs from {low:g} to {high:g}; networks and OpenPCDet's weights expect 0 to 1"
            findings.append(
                Finding("warning", "intensity range", what, where, f"write {key} / {whole:g} into the arrays")
            )
    return findings


def check_voxels(
    scans: Mapping[str, np.ndarray], point_cloud_range: Sequence[float], step: Mapping, mode: str
) -> list[Finding]:
    """How many points the limits of the voxel step (an entry of DATA_PROCESSOR) leave out in ``mode``, train or test.

    ``scans``: x, y, z of the points that reach the voxels. Above MAX_NUMBER_OF_VOXELS the order of the points, which
    training shuffles, decides which
    voxels are left out: the sparse ones, mostly.
    """
    max_voxels, max_points = int(step["MAX_NUMBER_OF_VOXELS"][mode]), int(step["MAX_POINTS_PER_VOXEL"])
    nx, ny, _ = grid_size(step["VOXEL_SIZE"], point_cloud_range)
    lost_voxels, lost_points, voxels = {}, [], []
    outside = 0
    for frame_id, points in scans.items():
        cells = dynamic_voxelize(points, step["VOXEL_SIZE"], point_cloud_range)  # z, y, x
        cells = cells[cells[:, 0] >= 0].astype(np.int64)
        outside += not len(cells)
        if not len(cells):
            continue
        _, counts = np.unique((cells[:, 0] * ny + cells[:, 1]) * nx + cells[:, 2], return_counts=True)
        voxels.append(len(counts))
        lost_points.append(np.maximum(counts - max_points, 0).sum() / counts.sum())
        if len(counts) > max_voxels:
            lost_voxels[frame_id] = 1 - max_voxels / len(counts)
    findings = []
    if outside:
        what = f"{outside} of {len(scans)} scans have no point inside POINT_CLOUD_RANGE"
        change = "choose a range that holds the scene; do the scans' axes and units agree with it?"
        findings.append(Finding("error", "empty grid", what, "DATA_CONFIG.POINT_CLOUD_RANGE", change))
    if lost_voxels:
        lost = np.sum(list(lost_voxels.values())) / len(scans)
        what = (
            f"{len(lost_voxels)} of {len(scans)} scans have more than {max_voxels} voxels, up to {max(voxels)}; "
            f"{lost:.0%} of all voxels are lost"
        )
        where = f"MAX_NUMBER_OF_VOXELS.{mode}; frames {some(list(lost_voxels))}"
        change = (
            f"set MAX_NUMBER_OF_VOXELS.{mode} to {int(np.ceil(max(voxels) * 1.2 / 1000)) * 1000}, or take larger voxels"
        )
        findings.append(
            Finding("warning", "too many voxels", what, where, change)
            if lost > 0.1
            else Finding("note", "too many voxels", what, where)
        )
    if lost_points and np.mean(lost_points) > 0.02:
        lost = float(np.mean(lost_points))
        what, where = f"voxels with more than {max_points} points lose {lost:.0%} of the points", "MAX_POINTS_PER_VOXEL"
        change = f"set MAX_POINTS_PER_VOXEL to {2 * max_points}, or take smaller voxels"
        findings.append(
            Finding("warning", "full voxels", what, where, change)
            if lost > 0.5
            else Finding("note", "full voxels", what, where)
        )
    return findings
