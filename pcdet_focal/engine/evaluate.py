"""Running a detector over a data set and scoring what it finds."""

from __future__ import annotations

import json
import pickle
import time
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from ..models import load_data_to_device
from ..models.model_utils.model_nms_utils import check_score_thresh
from .checkpoint import atomic_write
from .distributed import get_dist_info, is_main_process, merge_results_dist
from .inference import prepare_for_inference
from .run_log import AverageMeter


def check_settings(cfg) -> None:
    """Ask for the keys that evaluation will need, so that a typo in one ends a run before the training and not after
    it.

    A head with post-processing of its own (CenterHead) asks for those when it is built; behind a ROI_HEAD the
    detector suppresses all the same.
    """
    settings = cfg.MODEL.POST_PROCESSING
    required = [(settings, ("RECALL_THRESH_LIST", "EVAL_METRIC"))]
    if "POST_PROCESSING" not in cfg.MODEL.get("DENSE_HEAD", {}) or cfg.MODEL.get("ROI_HEAD"):
        required.append((settings, ("SCORE_THRESH", "OUTPUT_RAW_SCORE")))
        required.append(
            (
                settings.NMS_CONFIG,
                ("MULTI_CLASSES_NMS", "NMS_TYPE", "NMS_THRESH", "NMS_PRE_MAXSIZE", "NMS_POST_MAXSIZE"),
            )
        )
        check_score_thresh(settings.SCORE_THRESH, len(cfg.CLASS_NAMES), "MODEL.POST_PROCESSING.SCORE_THRESH")
    for section, keys in required:
        for key in keys:
            section[key]


@torch.no_grad()
def predict(
    model: nn.Module,
    dataloader,
    output_path: Path | None = None,
    infer_time: AverageMeter | None = None,
    precision: str = "float32",
) -> tuple[list[dict], Counter]:
    """Run ``model`` in evaluation mode over this process's share of a loader.

    Args:
        output_path: a folder for one result file a frame (KITTI: label files), or None.
        infer_time: filled with milliseconds a batch, forward and post-processing.
        precision: see ``inference.prepare_for_inference``.

    Returns:
        the data set's prediction dictionaries, in the loader's order, and the recall counts.
    """
    device = next(model.parameters()).device
    model = prepare_for_inference(model, precision)
    annos: list[dict] = []
    recall: Counter = Counter()
    dataset = dataloader.dataset
    for batch in tqdm(
        dataloader,
        desc="evaluating",
        unit="batch",
        disable=not is_main_process() or None,
        dynamic_ncols=True,
        leave=False,
    ):
        load_data_to_device(batch, device)
        started = time.perf_counter()
        pred_dicts, recall_dict = model(batch)
        if infer_time is not None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            infer_time.update((time.perf_counter() - started) * 1000)
        recall.update(recall_dict)
        annos += dataset.generate_prediction_dicts(batch, pred_dicts, dataset.class_names, output_path=output_path)
    return annos, recall


def eval_one_epoch(
    cfg,
    model: nn.Module,
    dataloader,
    epoch_id,
    logger,
    result_dir: Path,
    save_to_file: bool = False,
    measure_time: bool = False,
    precision: str = "float32",
) -> dict[str, float]:
    """Evaluate a model on a whole data set, log the table and return the figures (empty on ranks above 0).

    Args:
        epoch_id: only named in the log.
        result_dir: gets result.pkl (detections), result.json (figures) and, with ``save_to_file``, final_result/data
            with one file a frame.
        measure_time: also log the milliseconds a batch.
        precision: see ``inference.prepare_for_inference``.
    """
    rank, world_size = get_dist_info()
    result_dir = Path(result_dir)
    result_dir.mkdir(parents=True, exist_ok=True)
    files = result_dir / "final_result" / "data"
    if save_to_file:
        files.mkdir(parents=True, exist_ok=True)
    meter = AverageMeter() if measure_time else None

    logger.info("evaluating epoch %s on %d frames", epoch_id, len(dataloader.dataset))
    started = time.monotonic()
    annos, recall = predict(model, dataloader, files if save_to_file else None, meter, precision)
    annos = merge_results_dist(annos, len(dataloader.dataset))
    recalls = merge_results_dist([recall], world_size)
    if rank != 0:
        return {}
    num_boxes = sum(len(anno["name"]) for anno in annos)
    logger.info(
        "%.2f boxes and %.4f s a frame",
        num_boxes / max(len(annos), 1),
        (time.monotonic() - started) / max(len(annos), 1),
    )
    if meter is not None:
        logger.info("inference: %.2f ms a batch", meter.avg)

    # where the processes share frames unevenly, those that are dealt twice count twice here
    recall = sum(recalls, Counter())
    figures = {}
    for threshold in cfg.MODEL.POST_PROCESSING.RECALL_THRESH_LIST:
        for stage in ("roi", "rcnn"):
            figures[f"recall/{stage}_{threshold}"] = recall[f"{stage}_{threshold}"] / max(recall["gt"], 1)
        logger.info("recall at IoU %s: %.4f of %d boxes", threshold, figures[f"recall/rcnn_{threshold}"], recall["gt"])

    with atomic_write(result_dir / "result.pkl") as part, open(part, "wb") as file:
        pickle.dump(annos, file)
    text, scores = dataloader.dataset.evaluation(
        annos, dataloader.dataset.class_names, eval_metric=cfg.MODEL.POST_PROCESSING.EVAL_METRIC, output_path=files
    )
    logger.info("results of epoch %s:\n%s", epoch_id, text or "the frames have no labels to compare with")
    logger.info("saved to %s", result_dir)
    figures.update(scores)
    with atomic_write(result_dir / "result.json") as part:
        part.write_text(json.dumps({key: float(value) for key, value in figures.items()}, indent=1), encoding="utf-8")
    return figures
