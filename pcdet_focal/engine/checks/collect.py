"""Reading a data set for the checks: all labels, and some of the scans with what their points say about the boxes."""
from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field
from typing import Any, Callable, Sequence

import numpy as np
from tqdm import tqdm

from ...datasets import DatasetTemplate
from ...datasets import __all__ as datasets
from ...errors import InputError
from .evidence import Evidence, box_evidence
from .findings import Finding, some

_CELLS = 200_000  # points whose places are kept for the checks of coordinates, over all scans


@dataclass(frozen=True)
class Boxes:
    """Labelled boxes of many frames, one row each: frame_ids (M,), boxes (M, 7) float64 x, y, z, dx, dy, dz, heading, names (M,)."""

    frame_ids: np.ndarray
    boxes: np.ndarray
    names: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Any) -> "Boxes":
        return Boxes(self.frame_ids[rows], self.boxes[rows], self.names[rows])


@dataclass
class Collected:
    """frame_ids: the frames read; boxes: all their labels; scanned: the rows of ``boxes`` whose scans were read, with their ``evidence``;
    samples: one scan a frame, thinned (n, columns); model_points: the scans as the model gets them, their x, y, z; infos: the frames' infos, made anew;
    findings: files that cannot be read."""

    frame_ids: list[str] = field(default_factory=list)
    boxes: Boxes = None
    scanned: np.ndarray = None
    evidence: Evidence = None
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    model_points: dict[str, np.ndarray] = field(default_factory=dict)
    infos: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def open_dataset(cfg: Any) -> DatasetTemplate:
    """The data set of a configuration, in test mode, whose samples are the points that reach the voxels: cropped, but no voxels made."""
    data_cfg = copy.deepcopy(cfg.DATA_CONFIG)
    data_cfg["DATA_PROCESSOR"] = [step for step in data_cfg.DATA_PROCESSOR if step["NAME"] == "mask_points_and_boxes_outside_range"]
    if data_cfg.DATASET not in datasets or not hasattr(datasets[data_cfg.DATASET], "get_info"):
        known = ", ".join(name for name, kind in datasets.items() if hasattr(kind, "get_info"))
        raise InputError(f"DATA_CONFIG.DATASET: {data_cfg.DATASET!r} cannot be checked; these can: {known}")
    return datasets[data_cfg.DATASET](dataset_cfg=data_cfg, class_names=cfg.CLASS_NAMES, training=False)


def collect(dataset: DatasetTemplate, frame_ids: Sequence[str], num_scans: int, progress: bool = True) -> Collected:
    """Read the labels of ``frame_ids`` and ``num_scans`` scans, evenly spread over them."""
    result = Collected()
    parts: list[tuple[str, np.ndarray, np.ndarray]] = []
    evidence: list[Evidence] = []
    scanned: list[int] = []
    chosen = set(np.linspace(0, len(frame_ids) - 1, min(num_scans, len(frame_ids))).round().astype(int).tolist())
    kept = max(_CELLS // max(len(chosen), 1), 500)
    drop_nonfinite = bool(dataset.dataset_cfg.get("DROP_NONFINITE_POINTS", False))
    faults: dict[str, list[tuple[str, str]]] = {"unreadable file": [], "NaN points": [], "empty scan": []}
    start = 0
    for place, frame_id in enumerate(tqdm(frame_ids, desc="checking", unit="frame", disable=not progress or None, leave=False)):
        dataset.dataset_cfg["DROP_NONFINITE_POINTS"] = drop_nonfinite
        try:
            info = dataset.get_info(frame_id, count_inside_pts=False)
        except InputError as error:
            faults["unreadable file"].append((frame_id, str(error)))
            continue
        annos = info["annos"]
        names = annos["name"][annos["name"] != "DontCare"].astype(str)
        boxes = np.asarray(annos["gt_boxes_lidar"], dtype=np.float64).reshape(-1, 7)
        result.frame_ids.append(frame_id)
        result.infos.append(info)
        parts.append((frame_id, boxes, names))
        points = _read_points(dataset, frame_id, faults) if place in chosen else None
        if points is not None:
            evidence.append(box_evidence(points, boxes))
            scanned += range(start, start + len(boxes))
            result.samples[frame_id] = points[::max(1, len(points) // kept)]
            try:
                result.model_points[frame_id] = _model_points(dataset, info)
            except InputError as error:
                faults["unreadable file"].append((frame_id, str(error)))
        start += len(boxes)
    result.boxes = Boxes(
        np.array([frame_id for frame_id, _, names in parts for _ in names], dtype=str),
        np.concatenate([boxes for _, boxes, _ in parts]) if parts else np.zeros((0, 7)),
        np.concatenate([names for _, _, names in parts]) if parts else np.zeros(0, dtype=str),
    )
    result.scanned = np.array(scanned, dtype=np.int64)
    result.evidence = Evidence.joined(evidence or [box_evidence(np.zeros((0, 3)), np.zeros((0, 7)))])
    for check, met in faults.items():
        if met:
            more = f" (and {len(met) - 1} frames alike)" if len(met) > 1 else ""
            result.findings.append(Finding("error", check, met[0][1] + more, f"frames {some([frame for frame, _ in met])}", _REMEDY[check]))
    return result


_REMEDY = {
    "unreadable file": "mend what the message names",
    "NaN points": "repair the scans, or set DATA_CONFIG.DROP_NONFINITE_POINTS: True",
    "empty scan": "take these frames out of ImageSets and make the infos anew",
}


def _read_points(dataset: DatasetTemplate, frame_id: str, faults: dict[str, list[tuple[str, str]]]) -> np.ndarray | None:
    """The scan; where it has points that are not finite that is noted, and the others are returned."""
    try:
        points = _quietly(dataset.get_lidar, frame_id)
    except InputError as error:
        if "DROP_NONFINITE_POINTS" not in str(error):
            faults["unreadable file"].append((frame_id, str(error)))
            return None
        faults["NaN points"].append((frame_id, str(error)))
        dataset.dataset_cfg["DROP_NONFINITE_POINTS"] = True
        points = _quietly(dataset.get_lidar, frame_id)
    if not len(points):
        faults["empty scan"].append((frame_id, "the scan has no point"))
    return points


def _model_points(dataset: DatasetTemplate, info: dict[str, Any]) -> np.ndarray:
    """The x, y, z that reach the voxels."""
    dataset.infos[:] = [info]
    return _quietly(dataset.__getitem__, 0)["points"][:, :3]


def _quietly(function: Callable, *arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty scans, which are reported here
        return function(*arguments)
