"""Cases of a whole training step: how much of it the losses are, and what faster losses change."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ...config import Config
from ...errors import InputError
from ...models import build_network
from ...ops import sparse_conv
from ...ops.voxelize import voxelize
from ..optimization import build_optimizer
from . import workloads
from .losses import eager_head_loss, head_sides, text
from .measure import Case, Side

FRAMES = {"cpu": 2, "cuda": 4}
QUICK_EVERY = 20


def training_step(device: torch.device, quick: bool) -> Iterator[Case]:
    """Forward, losses, backward and optimiser on simulated scans; and of this what the head does after its
    convolutions, alone.
    """
    for case, model in workloads.KITTI_MODELS.items():
        cfg = workloads.kitti_config(model, quick)
        try:
            if "BACKBONE_3D" in cfg.MODEL:
                sparse_conv.select_backend(device)
        except InputError as error:  # a GPU without a package for sparse convolutions
            warnings.warn(f"training_step, {case}, is left out on {device.type}: {error}", stacklevel=2)
            continue
        batch = simulated_batch(cfg, FRAMES[device.type], device, every=QUICK_EVERY if quick else 1)
        torch.manual_seed(0)
        net = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), _dataset_like(cfg)).to(device).train()
        plain = with_eager_losses(copy.deepcopy(net))
        head, _ = head_sides(workloads.kitti_head(model, quick, device), batch["gt_boxes"])
        sides = {
            "ours": step_of(net, cfg, batch),
            "eager": step_of(plain, cfg, batch),
            "head, ours": head["ours"],
            "head, eager": head["eager"],
        }
        shape = f"{text(len(batch['gt_boxes']), sum(a[..., 0].numel() for a in net.dense_head.anchors))} anchors, {len(batch['voxels']):,} voxels"
        yield Case("training_step", case, shape, sides, device)


def with_eager_losses(net: nn.Module) -> nn.Module:
    """Change the detector: its head assigns targets and computes its losses by the eager formulas."""
    head = net.dense_head

    def assign_targets(gt_boxes: Tensor) -> dict[str, Tensor]:
        return {"gt_boxes": gt_boxes}

    def get_loss() -> tuple[Tensor, dict[str, Tensor]]:
        ret = head.forward_ret_dict
        count = ret["gt_boxes"].shape[0]
        preds = (
            ret[key].view(count, -1, width)
            for key, width in (("cls_preds", head.num_class), ("box_preds", 7), ("dir_cls_preds", 2))
        )
        return eager_head_loss(head, ret["gt_boxes"], *preds), {}

    head.assign_targets, head.get_loss = assign_targets, get_loss
    return net


def step_of(net: nn.Module, cfg: Config, batch: dict) -> Side:
    """One step of training as ``engine.train`` does it."""
    optimizer = build_optimizer(net, cfg.OPTIMIZATION)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = net(dict(batch))[0]["loss"]
        loss.backward()
        clip_grad_norm_(net.parameters(), cfg.OPTIMIZATION.GRAD_NORM_CLIP)
        optimizer.step()
        return loss.detach()

    return step


def simulated_batch(cfg: Config, frames: int, device: torch.device, every: int = 1) -> dict:
    """Voxels and ground truth of simulated scans, as the data loader would hand them on; of the points only ``every``
    so many.
    """
    data, settings = cfg.DATA_CONFIG, cfg.DATA_CONFIG.DATA_PROCESSOR[-1]
    low, high = np.array(data.POINT_CLOUD_RANGE[:3]), np.array(data.POINT_CLOUD_RANGE[3:])
    voxels, coords, counts, boxes = [], [], [], []
    for index in range(frames):
        frame = workloads.scan(index, full=False)
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
    for row, own in zip(gt_boxes, boxes):
        row[: len(own)] = own
    arrays = {
        key: np.concatenate(parts)
        for key, parts in (("voxels", voxels), ("voxel_coords", coords), ("voxel_num_points", counts))
    }
    return {
        **{key: torch.from_numpy(value).to(device) for key, value in {**arrays, "gt_boxes": gt_boxes}.items()},
        "batch_size": frames,
    }


def _dataset_like(cfg: Config) -> SimpleNamespace:
    return SimpleNamespace(
        class_names=cfg.CLASS_NAMES,
        grid_size=workloads.grid_size(cfg),
        voxel_size=cfg.DATA_CONFIG.DATA_PROCESSOR[-1].VOXEL_SIZE,
        point_cloud_range=np.array(cfg.DATA_CONFIG.POINT_CLOUD_RANGE, np.float32),
        point_feature_encoder=SimpleNamespace(num_point_features=4),
        depth_downsample_factor=None,
    )


ROWS: dict[str, Callable[[torch.device, bool], Iterator[Case]]] = {"training_step": training_step}
