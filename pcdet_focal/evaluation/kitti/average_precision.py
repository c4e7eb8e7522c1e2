"""KITTI average precision from annotations in memory.

The precision at recall k / 40 (k = 0 ... 40) is the best precision at that score threshold or any lower one. R11
averages k = 0, 4, ... 40 (the benchmark until 2019), R40 averages k = 1 ... 40 (since then). AOS does the same with the
true positives weighted by (1 + cos(difference of alpha)) / 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...errors import InputError
from . import rules
from .annotations import FlatAnnotations, flatten_detections, flatten_ground_truth
from .matching import NUM_RECALLS, count_at_thresholds, keep_pairs, matched_scores, score_thresholds
from .overlaps import Overlaps, compute_overlaps
from .report import KittiCounts, KittiResult


def average_precision_r11(curves: np.ndarray) -> np.ndarray:
    """Average of 11 of the 41 points, in percent: (..., 41) -> (...,)."""
    return np.asarray(curves)[..., 0::4].sum(axis=-1) / 11 * 100


def average_precision_r40(curves: np.ndarray) -> np.ndarray:
    """Average of all points but recall 0, in percent: (..., 41) -> (...,)."""
    return np.asarray(curves)[..., 1:].sum(axis=-1) / 40 * 100


def evaluate_kitti(
    gt_annos: Sequence[Mapping],
    dt_annos: Sequence[Mapping],
    classes: str | int | Iterable[str | int],
    overlap_sets: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    compute_aos: bool | None = None,
    num_threads: int | None = None,
) -> KittiResult:
    """Average precision of detections by the rules of KITTI's object benchmark.

    Args:
        gt_annos: one dict for each frame, see :mod:`pcdet_focal.evaluation.kitti.annotations`.
        dt_annos: the same for the detections of the same frames in the same order; each has a ``score`` too.
        classes: which of Car, Pedestrian, Cyclist, Van, Person_sitting, Truck to evaluate (names, or positions in this
            list).
        overlap_sets: {name of the set: {class: (bbox, bev, 3d)}}, the overlaps that a detection must exceed; default
            'strict' and 'loose' as OpenPCDet has them.
        compute_aos: orientation similarity too; None as OpenPCDet decides it: unless the first detection of all has
            alpha -10.
        num_threads: default all cores that this process may use.

    Returns:
        KittiResult with the average precisions, the curves, and the counts behind them.

    Raises:
        InputError: no frames, not as many frames of detections as of ground truth, an annotation without a key or with
            arrays of different lengths, an unknown class, an overlap outside [0, 1).
    """
    classes = rules.resolve_classes(classes)
    unique = tuple(dict.fromkeys(classes))
    overlap_sets = _checked_overlap_sets(overlap_sets, unique)
    if len(gt_annos) != len(dt_annos):
        raise InputError(
            f"KITTI evaluation got {len(gt_annos)} frames of ground truth and {len(dt_annos)} frames of detections; "
            "it needs the same frames in the same order (a frame without detections has arrays of length 0)."
        )
    if len(gt_annos) == 0:
        raise InputError("KITTI evaluation got no frames; it needs at least one.")
    gt, dt = flatten_ground_truth(gt_annos), flatten_detections(dt_annos)
    if compute_aos is None:
        compute_aos = len(dt) > 0 and bool(dt.alpha[0] != rules.UNKNOWN_ALPHA)

    needed = {rules.CLASS_NAMES.index(name) for name in unique} | {
        rules.CLASS_NAMES.index(rules.NEIGHBOURS[name]) for name in unique if name in rules.NEIGHBOURS
    }
    overlaps = compute_overlaps(gt, dt, np.isin(gt.class_ids, list(needed)))
    states = {
        (name, level): (rules.ground_truth_states(gt, name, level), rules.detection_states(dt, name, level))
        for name in unique
        for level in range(len(rules.DIFFICULTIES))
    }
    # sets share overlaps (the image box's, mostly): each distinct one is matched once
    jobs = sorted(
        {
            (name, level, metric, float(overlap_sets[key][name][m]))
            for key in overlap_sets
            for name, level in states
            for m, metric in enumerate(rules.METRICS)
        }
    )

    def run(job: tuple[str, int, str, float]) -> tuple[np.ndarray, int]:
        name, level, metric, min_overlap = job
        return _curves(gt, dt, overlaps, *states[name, level], metric, min_overlap)

    with ThreadPoolExecutor(max_workers=num_threads or _cores()) as pool:  # the kernels release the GIL
        curves = dict(zip(jobs, pool.map(run, jobs)))
    return _assemble(gt, dt, classes, overlap_sets, compute_aos, states, curves)


def _curves(
    gt: FlatAnnotations,
    dt: FlatAnnotations,
    overlaps: Overlaps,
    gt_states: np.ndarray,
    dt_states: np.ndarray,
    metric: str,
    min_overlap: float,
) -> tuple[np.ndarray, int]:
    """(3, 41) float64: precision, orientation similarity and recall at the 41 points; and how many ground truths are
    found at any score.
    """
    first, pair_dt, values = keep_pairs(
        overlaps.first, overlaps.pair_dt, overlaps.values[metric], gt_states, dt_states, min_overlap
    )
    scores = matched_scores(first, pair_dt, gt_states, dt_states, dt.scores)
    thresholds = score_thresholds(scores, int((gt_states == rules.COUNTED).sum()))
    excused = overlaps.unlabelled > min_overlap if metric == "bbox" else np.zeros(len(dt), dtype=np.bool_)
    counts = count_at_thresholds(
        first, pair_dt, values, gt_states, dt_states, dt.scores, gt.alpha, dt.alpha, excused, thresholds
    )
    hits, false, missed, similarity = counts.T
    curves = np.zeros((3, NUM_RECALLS))
    for row, part, whole in ((0, hits, hits + false), (1, similarity, hits + false), (2, hits, hits + missed)):
        ratio = np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
        curves[row, : len(ratio)] = ratio if row == 2 else np.maximum.accumulate(ratio[::-1])[::-1]
    return curves, len(scores)


def _assemble(
    gt: FlatAnnotations,
    dt: FlatAnnotations,
    classes: tuple[str, ...],
    overlap_sets: dict[str, dict[str, tuple[float, ...]]],
    compute_aos: bool,
    states: dict,
    curves: dict,
) -> KittiResult:
    levels = range(len(rules.DIFFICULTIES))
    ap: dict = {}
    precision: dict = {}
    recall: dict = {}
    figures: dict = {}
    for name in dict.fromkeys(classes):
        for made in (ap, precision, recall, figures):
            made[name] = {metric: {} for metric in (*rules.METRICS, *(("aos",) if compute_aos else ()))}
        for key, table in overlap_sets.items():
            for m, metric in enumerate(rules.METRICS):
                results = [curves[name, level, metric, table[name][m]] for level in levels]
                stacked = np.stack([result[0] for result in results])  # (3 difficulties, 3 kinds, 41)
                for target, row in ((metric, 0), ("aos", 1)):
                    if target == metric or (compute_aos and metric == "bbox"):
                        precision[name][target][key] = stacked[:, row].copy()
                        recall[name][target][key] = stacked[:, 2].copy()
                        figures[name][target][key] = np.array([result[1] for result in results])
                        ap[name][target][key] = {
                            "R11": average_precision_r11(stacked[:, row]),
                            "R40": average_precision_r40(stacked[:, row]),
                        }
    counts = {name: _counts(gt, dt, name, [states[name, level] for level in levels]) for name in dict.fromkeys(classes)}
    return KittiResult(
        classes=classes,
        num_frames=gt.num_frames,
        overlap_sets=overlap_sets,
        has_aos=compute_aos,
        ap=ap,
        precision=precision,
        recall=recall,
        found=figures,
        counts=counts,
    )


def _counts(
    gt: FlatAnnotations, dt: FlatAnnotations, name: str, states: list[tuple[np.ndarray, np.ndarray]]
) -> KittiCounts:
    class_id = rules.CLASS_NAMES.index(name)
    same = dt.class_ids == class_id

    def each(of: int, state: int, mask: np.ndarray | bool = True) -> np.ndarray:
        return np.array([int(((pair[of] == state) & mask).sum()) for pair in states])

    of_class = gt.class_ids == class_id
    return KittiCounts(
        gt_counted=each(0, rules.COUNTED),
        gt_ignored=each(0, rules.IGNORED, of_class),
        gt_without_rectangle=int((of_class & ~(gt.bbox[:, 2:] > gt.bbox[:, :2]).all(axis=1)).sum()),
        gt_neighbours=each(0, rules.IGNORED, ~of_class),
        dt_counted=each(1, rules.COUNTED),
        dt_ignored=each(1, rules.IGNORED, same),
        dt_total=int(same.sum()),
        dt_above_zero=int((same & (dt.scores > 0)).sum()),
        dt_not_finite=int((same & ~dt.finite).sum()),
    )


def _checked_overlap_sets(
    overlap_sets: Mapping | None, classes: tuple[str, ...]
) -> dict[str, dict[str, tuple[float, ...]]]:
    if overlap_sets is None:
        overlap_sets = {"strict": rules.STRICT_OVERLAPS, "loose": rules.LOOSE_OVERLAPS}
    checked: dict[str, dict[str, tuple[float, ...]]] = {}
    for key, table in overlap_sets.items():
        checked[key] = {}
        for name in classes:
            values = tuple(float(value) for value in table.get(name, ()))
            if len(values) != len(rules.METRICS) or not all(0 <= value < 1 for value in values):
                raise InputError(
                    f"overlap_sets[{key!r}][{name!r}] must be three overlaps in [0, 1) for bbox, bev and 3d, not "
                    f"{values}."
                )
            checked[key][name] = values
    if not checked:
        raise InputError("overlap_sets is empty; give at least one set of overlaps, or None for 'strict' and 'loose'.")
    return checked


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
