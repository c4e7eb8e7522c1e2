"""Every check on one data set and configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...datasets.info_files import load_infos
from ...errors import InputError
from ...ops.voxelize import grid_size
from . import anchors, frames, grid, headings, labels, placement, scans, settings
from .collect import Collected, collect, open_dataset
from .findings import Example, Finding

MAX_SCANS = 100


@dataclass(frozen=True)
class Report:
    """findings: what was found. num_frames, num_boxes, num_scans: what was read. examples: (title, box to draw), those
    of findings first, then ordinary ones. dataset: where their scans come from (``get_lidar``)."""

    findings: tuple[Finding, ...]
    num_frames: int
    num_boxes: int
    num_scans: int
    examples: tuple[tuple[str, Example], ...]
    dataset: Any

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    def scan(self, frame_id: str) -> np.ndarray:
        """The points to draw with the boxes of a frame, (N, 3 or more); none where they cannot be read, which the
        findings say.
        """
        try:
            return self.dataset.get_lidar(frame_id)
        except InputError:
            return np.zeros((0, 3))


def check_dataset(cfg: Any, split: str | None = None, num_scans: int = MAX_SCANS, progress: bool = True) -> Report:
    """Check the labels and scans of a split, and the configuration against them.

    Args:
        cfg: a whole configuration (CLASS_NAMES, DATA_CONFIG, MODEL); its data set must have ``get_info`` (KITTI's
            layout and custom data have).
        split: name of a file in ImageSets; None: DATA_SPLIT.train. num_scans: so many scans are read, evenly spread;
            labels are all read.

    Raises InputError where there is nothing to check: no folder, no such split, no frame.
    """
    dataset = open_dataset(cfg)
    split = split or cfg.DATA_CONFIG.DATA_SPLIT["train"]
    made_of_split = [
        name
        for mode, names in cfg.DATA_CONFIG.INFO_PATH.items()
        if cfg.DATA_CONFIG.DATA_SPLIT.get(mode) == split
        for name in names
    ]
    dataset.set_split(split)
    if not dataset.sample_id_list:
        path = dataset.root_path / "ImageSets" / f"{split}.txt"
        raise InputError(f"{path} is missing or lists no frame; --split names one of the files in ImageSets")
    collected = collect(dataset, dataset.sample_id_list, num_scans, progress)
    findings = [
        *collected.findings,
        *check_configuration(cfg),
        *check_labels(collected, cfg),
        *check_scans(collected, cfg),
    ]
    if made_of_split:
        made = load_infos(dataset.root_path, made_of_split, dataset.how_to_make_infos)
        findings += settings.check_infos(made, collected.infos, made_of_split, dataset.how_to_make_infos)
    ordinary = [("as labelled", example) for example in collected.boxes.examples(_ordinary(collected))]
    examples = [
        (finding.check, example) for finding in findings if finding.severity != "note" for example in finding.examples
    ]
    return Report(
        tuple(findings),
        len(collected.frame_ids),
        len(collected.boxes),
        len(collected.samples),
        tuple(examples + ordinary),
        dataset,
    )


def check_configuration(cfg: Any) -> list[Finding]:
    """What can be said without data: the grid, class names in all places, and modules that do not fit each other."""
    data_cfg, point_range = cfg.DATA_CONFIG, cfg.DATA_CONFIG.POINT_CLOUD_RANGE
    findings = settings.check_class_entries(cfg.CLASS_NAMES, data_cfg, cfg.MODEL)
    step = voxel_step(data_cfg)
    if step is not None:
        uneven = grid.check_divisible(
            point_range, step["VOXEL_SIZE"], f"DATA_CONFIG.DATA_PROCESSOR[{step['NAME']}].VOXEL_SIZE"
        )
        findings += uneven or grid.check_network(
            grid_size(step["VOXEL_SIZE"], point_range), point_range, step["VOXEL_SIZE"], cfg.MODEL
        )
        if not findings:
            findings += grid.check_modules(grid_size(step["VOXEL_SIZE"], point_range), data_cfg, cfg.MODEL)
    return findings


def check_labels(collected: Collected, cfg: Any) -> list[Finding]:
    """Labels, alone and against their scans. A finding that explains others (the frame, the origin, the units) comes
    without those.
    """
    boxes, names, data_cfg = collected.boxes, cfg.CLASS_NAMES, cfg.DATA_CONFIG
    findings = labels.check_names(boxes, names) + labels.check_rectangles(collected.infos, names)
    if any(finding.severity == "error" for finding in findings):
        return findings + _check_boxes(collected, cfg)
    findings += labels.check_balance(boxes, names, settings.sampled_classes(data_cfg))
    return (
        findings + labels.check_empty_frames(collected.frame_ids, boxes, names, data_cfg) + _check_boxes(collected, cfg)
    )


def _check_boxes(collected: Collected, cfg: Any) -> list[Finding]:
    boxes, point_range = collected.boxes, cfg.DATA_CONFIG.POINT_CLOUD_RANGE
    if not len(boxes):
        return []
    scanned, evidence = boxes[collected.scanned], collected.evidence
    turned = headings.check_radians(boxes)
    findings = labels.check_duplicates(boxes) + labels.check_sizes(boxes) + turned
    misplaced = frames.check_flat_axis(collected.samples.values()) + frames.check_units(
        collected.samples.values(), boxes
    )
    misplaced = misplaced or frames.check_frame(scanned, evidence)
    if misplaced:
        return findings + misplaced
    findings += labels.check_range(boxes, cfg.CLASS_NAMES, point_range)
    misshapen = placement.check_size_order(scanned, evidence)
    if not turned and not misshapen:
        misshapen = headings.check_headings(scanned, evidence)
    misfits = misshapen + placement.check_height(scanned, evidence)
    findings += misfits
    if any(finding.severity == "error" for finding in misfits):
        return findings
    findings += placement.check_empty_boxes(scanned, evidence)
    step = voxel_step(cfg.DATA_CONFIG)
    if step is not None and not turned:
        findings += anchors.check_anchors(
            boxes, cfg.MODEL.get("DENSE_HEAD", {}), grid_size(step["VOXEL_SIZE"], point_range), point_range
        )
    return findings


def check_scans(collected: Collected, cfg: Any) -> list[Finding]:
    """Scans, alone and against the voxel step."""
    findings = scans.check_features(collected.samples, cfg.DATA_CONFIG.POINT_FEATURE_ENCODING.src_feature_list)
    step = voxel_step(cfg.DATA_CONFIG)
    if step is not None and "MAX_NUMBER_OF_VOXELS" in step:
        findings += scans.check_voxels(collected.model_points, cfg.DATA_CONFIG.POINT_CLOUD_RANGE, step, "train")
    return findings


def voxel_step(data_cfg: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The entry of DATA_PROCESSOR that makes voxels."""
    return next((step for step in data_cfg.DATA_PROCESSOR if "VOXEL_SIZE" in step), None)


def _ordinary(collected: Collected, max_turns: int = 12) -> list[int]:
    """Rows of boxes that hold many points, in turns of the classes."""
    if not len(collected.scanned):
        return []
    names, inside = collected.boxes.names[collected.scanned], collected.evidence.inside
    queues = [
        [row for row in np.argsort(-inside, kind="stable") if names[row] == name and inside[row]]
        for name in np.unique(names)
    ]
    turns = [queue[turn] for turn in range(max_turns) for queue in queues if turn < len(queue)]
    return [int(collected.scanned[row]) for row in turns[:max_turns]]
