"""Reading a data set for the checks: all labels, and some of the scans with what their points say about the boxes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ...datasets import DatasetTemplate
from ...datasets import __all__ as datasets
from ...errors import InputError
from .evidence import Evidence, box_evidence
from .findings import Example, Finding, some

_KEPT_POINTS = 200_000  # of all scans together, for the checks of coordinates and features


@dataclass(frozen=True)
class Boxes:
    """Labelled boxes of many frames, one row each: frame_ids (M,), boxes (M, 7) float64 x, y, z, dx, dy, dz, heading,
    names (M,).
    """

    frame_ids: np.ndarray
    boxes: np.ndarray
    names: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Any) -> Boxes:
        return Boxes(self.frame_ids[rows], self.boxes[rows], self.names[rows])

    def where(self, rows: np.ndarray) -> str:
        """The frames of some rows, in words."""
        return f"frames {some(self.frame_ids[rows])}"

    def examples(self, rows: np.ndarray, corrected: np.ndarray | None = None) -> tuple[Example, ...]:
        """Some rows as boxes to draw, each with its row of ``corrected`` (M, 7)."""
        return tuple(
            Example(self.frame_ids[i], self.names[i], self.boxes[i], None if corrected is None else corrected[i])
            for i in rows
        )

    @classmethod
    def joined(cls, parts: Sequence[Boxes]) -> Boxes:
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("frame_ids", "boxes", "names"))
        )


@dataclass(frozen=True)
class Collected:
    """What was read.

    frame_ids: the frames whose labels were read. boxes: all their labels. scanned: the rows of ``boxes`` whose scans
    were read, with their
    ``evidence``. samples: frame -> its scan, thinned (n, columns). model_points: frame -> x, y, z (N, 3) that reach the
    voxels. infos: the frames'
    infos, made anew. findings: files that cannot be read.
    """

    frame_ids: list[str]
    boxes: Boxes
    scanned: np.ndarray
    evidence: Evidence
    samples: dict[str, np.ndarray]
    model_points: dict[str, np.ndarray]
    infos: list[dict[str, Any]]
    findings: list[Finding]


def open_dataset(cfg: Any) -> DatasetTemplate:
    """The data set of a configuration, in test mode, whose samples are the points that reach the voxels: cropped, but
    no voxels made.
    """
    data_cfg = copy.deepcopy(cfg.DATA_CONFIG)
    data_cfg["DATA_PROCESSOR"] = [
        step for step in data_cfg.DATA_PROCESSOR if step["NAME"] == "mask_points_and_boxes_outside_range"
    ]
    if data_cfg.DATASET not in datasets or not hasattr(datasets[data_cfg.DATASET], "get_info"):
        known = ", ".join(name for name, kind in datasets.items() if hasattr(kind, "get_info"))
        raise InputError(f"DATA_CONFIG.DATASET: {data_cfg.DATASET!r} cannot be checked; these can: {known}")
    return datasets[data_cfg.DATASET](dataset_cfg=data_cfg, class_names=cfg.CLASS_NAMES, training=False)


def collect(dataset: DatasetTemplate, frame_ids: Sequence[str], num_scans: int, progress: bool = True) -> Collected:
    """Read the labels of ``frame_ids`` and ``num_scans`` scans, evenly spread over them. ``dataset`` then drops points
    that are not finite.
    """
    infos: list[dict[str, Any]] = []
    parts: list[Boxes] = [Boxes(np.zeros(0, str), np.zeros((0, 7)), np.zeros(0, str))]
    evidence: list[Evidence] = [box_evidence(np.zeros((0, 3)), np.zeros((0, 7)))]
    scanned: list[int] = []
    samples: dict[str, np.ndarray] = {}
    model_points: dict[str, np.ndarray] = {}
    faults: dict[str, list[tuple[str, str]]] = {check: [] for check in _REMEDY}
    chosen = set(np.linspace(0, len(frame_ids) - 1, min(num_scans, len(frame_ids))).round().astype(int).tolist())
    kept = max(_KEPT_POINTS // max(len(chosen), 1), 500)
    drop_nonfinite = bool(dataset.dataset_cfg.get("DROP_NONFINITE_POINTS", False))
    start = 0
    for index, frame_id in enumerate(
        tqdm(frame_ids, desc="checking", unit="frame", disable=not progress or None, leave=False)
    ):
        dataset.dataset_cfg["DROP_NONFINITE_POINTS"] = drop_nonfinite
        try:
            info = dataset.get_info(frame_id, count_inside_pts=False)
        except InputError as error:
            faults["unreadable file"].append((frame_id, str(error)))
            continue
        infos.append(info)
        parts.append(_boxes_of(info))
        points = _read_points(dataset, frame_id, faults) if index in chosen else None
        if points is not None:
            evidence.append(box_evidence(points, parts[-1].boxes))
            scanned += range(start, start + len(parts[-1]))
            samples[frame_id] = points[:: max(1, len(points) // kept)]
            try:
                model_points[frame_id] = _model_points(dataset, info)
            except InputError as error:
                faults["unreadable file"].append((frame_id, str(error)))
        start += len(parts[-1])
    dataset.dataset_cfg["DROP_NONFINITE_POINTS"] = True
    return Collected(
        frame_ids=[info["point_cloud"]["lidar_idx"] for info in infos],
        boxes=Boxes.joined(parts),
        scanned=np.array(scanned, dtype=np.int64),
        evidence=Evidence.joined(evidence),
        samples=samples,
        model_points=model_points,
        infos=infos,
        findings=[_fault(check, met) for check, met in faults.items() if met],
    )


def _boxes_of(info: dict[str, Any]) -> Boxes:
    annos = info["annos"]
    names = annos["name"][annos["name"] != "DontCare"].astype(str)
    boxes = np.asarray(annos["gt_boxes_lidar"], dtype=np.float64).reshape(-1, 7)
    return Boxes(np.array([info["point_cloud"]["lidar_idx"]] * len(names), dtype=str), boxes, names)


def _fault(check: str, met: list[tuple[str, str]]) -> Finding:
    """One finding of all frames that a fault was met in; met: (frame, message)."""
    more = f" (and {len(met) - 1} frames alike)" if len(met) > 1 else ""
    return Finding("error", check, met[0][1] + more, f"frames {some([frame for frame, _ in met])}", _REMEDY[check])


_REMEDY = {
    "unreadable file": "mend what the message names",
    "NaN points": "repair the scans, or set DATA_CONFIG.DROP_NONFINITE_POINTS: True",
    "empty scan": "take these frames out of ImageSets and make the infos anew",
}


def _read_points(
    dataset: DatasetTemplate, frame_id: str, faults: dict[str, list[tuple[str, str]]]
) -> np.ndarray | None:
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
