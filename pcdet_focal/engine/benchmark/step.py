"""Whole training steps and evaluated frames of a detector, by stage, if wanted beside OpenPCDet's code on a CPU.

A stage is a module of the detector, then ``losses``, ``backward`` and ``optimizer`` in training, ``post_processing`` in
evaluation; target assignment belongs to the head. Everything is measured on the same simulated scans.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from ...config import Config, cfg_from_yaml_file
from ...errors import InputError
from ...models import build_network
from ...ops import sparse_conv
from ...ops.voxelize import voxelize
from ..inference import has_bfloat16, prepare_for_inference
from ..optimization import build_optimizer
from . import goals, openpcdet, workloads
from .measure import spread

MODELS = ("pointpillar", "second", "centerpoint-pillar")
BFLOAT16 = "evaluate, bfloat16"
MODES = {
    "train": "A training step of two frames: forward, losses, backward, clipping and the optimiser.",
    "evaluate": "One frame evaluated: forward and post-processing.",
    BFLOAT16: "The same with the 2-D part in bfloat16 (`--precision bfloat16`), where the processor has it. OpenPCDet "
    "computes in float32.",
}
FRAMES = {"train": 2, "evaluate": 1, BFLOAT16: 1}
ROUNDS = 5
QUICK_EVERY = 20


def run(
    models: Sequence[str] | None = None,
    checkout: str | Path | None = None,
    rounds: int | None = None,
    quick: bool = False,
    cpu_time: bool = False,
    report: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Measure; ``report`` gets the lines of a case.

    Args:
        models: of ``MODELS``; None for all of them.
        checkout: a folder of OpenPCDet, whose code on a CPU is then the side ``openpcdet``, in turns with ours.
        rounds: steps that are counted, after one that is not; default ``ROUNDS``.
        quick: a small area and few points.
        cpu_time: on the CPU count the seconds computed instead of those that passed.

    Returns:
        the ``rows`` of the JSON file (see ``results``): for each model and mode the whole, then its stages. The stages'
        medians need not add up to the whole's.

    Raises:
        InputError: an unknown model, a checkout that does not work, or no package for sparse convolutions on this GPU.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and checkout is None else "cpu")
    rows = []
    for model in models or MODELS:
        cfg = config(model, quick)
        if "BACKBONE_3D" in cfg.MODEL:
            sparse_conv.select_backend(device)
        for mode, frames in FRAMES.items():
            if mode == BFLOAT16 and (device.type != "cpu" or not has_bfloat16()):
                continue
            batch = simulated_batch(cfg, frames, device, every=QUICK_EVERY if quick else 1, full=True)
            measured = _measure(cfg, batch, mode, device, checkout, rounds or (1 if quick else ROUNDS), cpu_time)
            step_rows = _rows(model, mode, f"{frames} x {len(batch['voxels']) // frames:,} voxels", device, *measured)
            rows += step_rows
            report("\n".join(_lines(step_rows)))
    return rows


def config(model: str, quick: bool) -> Config:
    """``pointpillar`` and ``second`` of cfgs/kitti_models; ``centerpoint-pillar`` is the former with the head of
    waymo_models/centerpoint_pillar_1x.yaml. Raises InputError for another name.
    """
    if model not in MODELS:
        raise InputError(f"--models {model}: there is no such model; there are {', '.join(MODELS)}")
    if model != "centerpoint-pillar":
        return workloads.kitti_config(model, quick)
    cfg = copy.deepcopy(workloads.kitti_config("pointpillar", quick))
    center = cfg_from_yaml_file("waymo_models/centerpoint_pillar_1x.yaml", Config()).MODEL
    cfg.MODEL.NAME, cfg.MODEL.DENSE_HEAD = center.NAME, center.DENSE_HEAD
    cfg.MODEL.DENSE_HEAD.CLASS_NAMES_EACH_HEAD = [list(cfg.CLASS_NAMES)]
    cfg.MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE = 2
    return cfg


def _measure(
    cfg: Config, batch: dict, mode: str, device: torch.device, checkout, rounds: int, cpu_time: bool
) -> tuple[dict[str, list[dict[str, float]]], str]:
    """Side -> the seconds of each stage in each round, the first of which does not count; and what the losses were."""
    torch.manual_seed(0)
    net = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset_like(cfg)).to(device).train(mode == "train")
    state = {key: value.clone() for key, value in net.state_dict().items()}
    if mode != "train":
        net = prepare_for_inference(net, "bfloat16" if mode == BFLOAT16 else "float32")
    peer = None
    if checkout is not None:
        peer = openpcdet.Peer(checkout, openpcdet.Task(cfg, state, batch, mode, cpu_time, torch.get_num_threads()))
    optimizer = build_optimizer(net, cfg.OPTIMIZATION) if mode == "train" else None
    now = clock(device, cpu_time)
    sides = {"ours": lambda: staged(net, batch, now, optimizer, cfg.OPTIMIZATION.GRAD_NORM_CLIP)}
    times: dict[str, list[dict[str, float]]] = {"ours": []}
    if peer is not None:
        sides["openpcdet"], times["openpcdet"] = peer.step, []
    try:
        for turn in range(rounds + 1):
            for name in sides if turn % 2 == 0 else reversed(sides):
                times[name].append(sides[name]())
    finally:
        if peer is not None:
            peer.close()
    losses = {name: steps[0].pop("loss") for name, steps in times.items() if "loss" in steps[0]}
    for step in (step for steps in times.values() for step in steps):
        step.pop("loss", None)
    return times, ", ".join(f"{name}'s first loss {value:.5g}" for name, value in losses.items())


def clock(device: torch.device, cpu_time: bool) -> Callable[[], float]:
    """Seconds; on a GPU of work that is finished."""
    if device.type != "cuda":
        return time.process_time if cpu_time else time.perf_counter

    def finished() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return finished


def staged(
    net: nn.Module, batch: dict, now: Callable[[], float], optimizer=None, max_norm: float = 10.0
) -> dict[str, float]:
    """One step of training as ``engine.train`` does it, or, of a net in evaluation mode, the forward pass.

    ``net`` is a detector of this package or of OpenPCDet. Returns the seconds of each stage, in order, and ``loss``.
    """
    seconds: dict[str, float] = {}
    modules = {id(module) for module in net.module_list}

    def lap(stage: str) -> None:
        nonlocal mark
        at = now()
        seconds[stage], mark = at - mark, at

    hooks = [
        module.register_forward_hook(lambda *_, name=name: lap(name.removesuffix("_module")))
        for name, module in net.named_children()
        if id(module) in modules
    ]
    gc.collect()
    mark = now()
    try:
        with torch.set_grad_enabled(net.training):
            result = net(dict(batch))
    finally:
        for hook in hooks:
            hook.remove()
    if not net.training:
        lap("post_processing")
        return seconds
    lap("losses")
    loss = result[0]["loss"]
    loss.backward()
    lap("backward")
    clip_grad_norm_(net.parameters(), max_norm)
    optimizer.step()
    optimizer.zero_grad()
    lap("optimizer")
    return {**seconds, "loss": float(loss.detach())}


def _rows(model, mode, shape, device, times, note) -> list[dict[str, Any]]:
    """The whole, then the stages."""
    rows = []
    for stage in (None, *times["ours"][0]):
        values = {
            name: [sum(step.values()) if stage is None else step[stage] for step in steps]
            for name, steps in times.items()
        }
        sides = {
            name: {**spread(own[1:]), "n": len(own) - 1, "calls": 1, "first_call": own[0]}
            for name, own in values.items()
        }
        ratios = {
            name: spread([other / ours for other, ours in zip(own[1:], values["ours"][1:])])
            for name, own in values.items()
            if name != "ours"
        }
        row = {
            "row": mode,
            "case": model if stage is None else f"{model}, {stage}",
            "shape": shape,
            "device": device.type,
            "note": note if stage is None else "",
            "kept_bytes": 0,
            "sides": sides,
            "ratios": ratios,
        }
        rows.append({**row, "goals": goals.judge("step", row)})
    return rows


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    whole = rows[0]
    lines = [f"{whole['row']}: {whole['case']}, {whole['shape']}, {whole['device']}"]
    for row in rows:
        stage = row["case"].removeprefix(whole["case"]).removeprefix(", ") or "whole"
        parts = [f"{name} {1000 * side['median']:9.1f} ms" for name, side in row["sides"].items()]
        parts += [f"{ratio['median']:.3g} x ours" for ratio in row["ratios"].values()]
        lines.append(f"  {stage:16} {'  '.join(parts)}")
    lines += [f"  {whole['note']}"] if whole["note"] else []
    lines += [f"  goal: {g['goal']}: {_verdict(g['met'])}" for g in whole["goals"]]
    return lines


def _verdict(met: bool | None) -> str:
    return "not measured" if met is None else "reached" if met else "MISSED"


def simulated_batch(cfg: Config, frames: int, device: torch.device, every: int = 1, full: bool = False) -> dict:
    """Voxels and ground truth of simulated scans, as the data loader would hand them on; of the points only ``every``
    so many.
    """
    data, settings = cfg.DATA_CONFIG, cfg.DATA_CONFIG.DATA_PROCESSOR[-1]
    low, high = np.array(data.POINT_CLOUD_RANGE[:3]), np.array(data.POINT_CLOUD_RANGE[3:])
    voxels, coords, counts, boxes = [], [], [], []
    for index in range(frames):
        frame = workloads.scan(index, full)
        v, c, n = voxelize(
            frame.points[::every],
            settings.VOXEL_SIZE,
            data.POINT_CLOUD_RANGE,
            settings.MAX_POINTS_PER_VOXEL,
            settings.MAX_NUMBER_OF_VOXELS["train"],
        )
        voxels.append(v)
        coords.append(np.concatenate([np.full((len(c), 1), index, np.int32), c], axis=1))
        counts.append(n)
        boxes.append(
            np.array(
                [
                    [*item.box, cfg.CLASS_NAMES.index(item.name) + 1]
                    for item in frame.objects
                    if item.name in cfg.CLASS_NAMES and (item.box[:3] >= low).all() and (item.box[:3] <= high).all()
                ]
            ).reshape(-1, 8)
        )
    gt_boxes = np.zeros((frames, max(map(len, boxes)), 8), np.float32)
    for row, frame_boxes in zip(gt_boxes, boxes):
        row[: len(frame_boxes)] = frame_boxes
    arrays = {
        key: np.concatenate(parts)
        for key, parts in (("voxels", voxels), ("voxel_coords", coords), ("voxel_num_points", counts))
    }
    return {
        **{key: torch.from_numpy(value).to(device) for key, value in {**arrays, "gt_boxes": gt_boxes}.items()},
        "batch_size": frames,
    }


def dataset_like(cfg: Config) -> SimpleNamespace:
    return SimpleNamespace(
        class_names=cfg.CLASS_NAMES,
        grid_size=workloads.grid_size(cfg),
        voxel_size=cfg.DATA_CONFIG.DATA_PROCESSOR[-1].VOXEL_SIZE,
        point_cloud_range=np.array(cfg.DATA_CONFIG.POINT_CLOUD_RANGE, np.float32),
        point_feature_encoder=SimpleNamespace(num_point_features=4),
        depth_downsample_factor=None,
    )
