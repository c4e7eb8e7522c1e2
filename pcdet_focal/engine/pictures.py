"""Pictures of a finished evaluation: scans with ground truth and detections, precision over recall, and the curves of
the training run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..evaluation.kitti import CLASS_NAMES, evaluate_kitti
from ..files import read_json
from ..safe_pickle import load_pickle
from ..visualization.bev import draw_bev
from ..visualization.precision_recall import draw_precision_recall
from ..visualization.reports import draw_training_curves
from .run_log import read_metrics


def draw_results(
    dataset, result_file: str | Path, out_dir: str | Path, count: int = 8, score_thresh: float = 0.3
) -> list[Path]:
    """Draw ``count`` frames, evenly spread, of a data set with the detections of a ``result.pkl``.

    Args:
        dataset: an evaluation data set with ``infos``, ``get_lidar`` and ``point_cloud_range``.
        result_file: what an evaluation wrote: one prediction dictionary a frame.
        score_thresh: weaker detections are left out.

    Returns:
        the PNG files, one a frame.

    Raises:
        InputError: no such file, or it is of other frames than the data set's.
    """
    infos = dataset.infos
    frames, results = _read_result(dataset, result_file)
    out_dir = Path(out_dir)
    paths = []
    for index in np.linspace(0, len(infos) - 1, min(count, len(infos))).round().astype(int):
        frame = frames[index]
        truth, anno = infos[index].get("annos"), results.get(frame)
        kept = anno["score"] >= score_thresh if anno is not None else np.zeros(0, bool)
        names = truth["name"][truth["name"] != "DontCare"] if truth is not None else None
        of_classes = np.isin(names, dataset.class_names) if truth is not None else None
        path = out_dir / f"{frame}.png"
        path.parent.mkdir(parents=True, exist_ok=True)  # a frame "0000/000042" has a folder
        draw_bev(
            dataset.get_lidar(frame),
            gt_boxes=truth["gt_boxes_lidar"][of_classes] if truth is not None else None,
            gt_names=names[of_classes] if truth is not None else None,
            pred_boxes=anno["boxes_lidar"][kept] if anno is not None else None,
            pred_scores=anno["score"][kept] if anno is not None else None,
            pred_names=anno["name"][kept] if anno is not None else None,
            point_cloud_range=dataset.point_cloud_range,
            title=f"frame {frame}: ground truth and detections with a score of at least {score_thresh}",
            path=path,
        )
        paths.append(path)
    return paths


def draw_curves(dataset, result_file: str | Path, path: str | Path) -> Path | None:
    """Draw precision over recall (3-D) of a ``result.pkl`` of a KITTI-style data set.

    Returns:
        ``path``, or None where KITTI's evaluation has nothing to compare: a frame without detections of its own or
        without labels that have image boxes, or none of KITTI's classes.

    Raises:
        InputError: no such file, or it is of other frames than the data set's.
    """
    frames, results = _read_result(dataset, result_file)
    classes = [name for name in dataset.class_names if name in CLASS_NAMES]
    if not classes or not all(
        "bbox" in info.get("annos", ()) and frame in results for info, frame in zip(dataset.infos, frames)
    ):
        return None
    result = evaluate_kitti([info["annos"] for info in dataset.infos], [results[frame] for frame in frames], classes)
    draw_precision_recall(result, path, title=f"precision over recall, {len(frames)} frames")
    return Path(path)


def _read_result(dataset, result_file: str | Path) -> tuple[list[str], dict[str, dict]]:
    """The frame ids of a data set, and {frame id: detections} of a ``result.pkl``."""
    if not Path(result_file).is_file():
        raise InputError(f"there is no {result_file}; evaluate first: pcdet-focal test --cfg_file ...")
    results = {anno["frame_id"]: anno for anno in load_pickle(result_file)}
    frames = [info["point_cloud"]["lidar_idx"] for info in dataset.infos]
    if not set(frames) & set(results):
        raise InputError(
            f"{result_file} holds no frame of this data set ({len(results)} frames, the first is "
            f"{next(iter(results), 'none')})"
        )
    return frames, results


def draw_run(run_dir: str | Path, path: str | Path) -> Path:
    """Draw the loss, its parts and the learning rate that a training run logged in ``metrics.jsonl``."""
    metrics = Path(run_dir) / "metrics.jsonl"
    if not metrics.is_file():
        raise InputError(f"there is no {metrics}: has this run trained?")
    names = {
        "train/loss": "loss",
        "train/rpn_loss_cls": "classification",
        "train/rpn_loss_loc": "box",
        "train/rpn_loss_dir": "direction",
        "meta_data/learning_rate": "learning rate",
    }
    series = read_metrics(metrics)
    draw_training_curves({label: series[name] for name, label in names.items() if series.get(name)}, path)
    return Path(path)


def read_figures(eval_dir: str | Path) -> dict[str, float]:
    """The figures of an evaluation, from the ``result.json`` beside its ``result.pkl``."""
    path = Path(eval_dir) / "result.json"
    if not path.is_file():
        raise InputError(f"there is no {path}: has this checkpoint been evaluated?")
    return read_json(path)
