"""Inputs of the workloads: heads of the configurations, ground truth, random predictions, simulated scans. The same in
every run.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from ...config import Config, cfg_from_yaml_file
from ...datasets.synthetic import Frame, SyntheticConfig, simulate_frame
from ...models.dense_heads import AnchorHeadSingle

KITTI_MODELS = {"SECOND KITTI": "second", "PointPillars KITTI": "pointpillar"}
SMALL_RANGE = [0, -6.4, -3, 12.8, 6.4, 1]  # of --quick


@cache
def kitti_config(model: str, quick: bool) -> Config:
    """cfgs/kitti_models/<model>.yaml; with ``quick`` over 13 x 13 m only, with shallow stages."""
    cfg = cfg_from_yaml_file(f"kitti_models/{model}.yaml", Config())
    if quick:
        cfg.DATA_CONFIG.POINT_CLOUD_RANGE = list(SMALL_RANGE)
        cfg.MODEL.BACKBONE_2D.LAYER_NUMS = [1] * len(cfg.MODEL.BACKBONE_2D.LAYER_NUMS)
    return cfg


def grid_size(cfg: Config) -> np.ndarray:
    """Voxels along x, y, z."""
    limits, size = np.array(cfg.DATA_CONFIG.POINT_CLOUD_RANGE), np.array(cfg.DATA_CONFIG.DATA_PROCESSOR[-1].VOXEL_SIZE)
    return np.round((limits[3:] - limits[:3]) / size).astype(np.int64)


def kitti_head(model: str, quick: bool, device: torch.device) -> AnchorHeadSingle:
    """The model's head, for what comes after its convolutions."""
    cfg = kitti_config(model, quick)
    limits = np.array(cfg.DATA_CONFIG.POINT_CLOUD_RANGE, np.float32)
    head = AnchorHeadSingle(
        cfg.MODEL.DENSE_HEAD,
        1,
        len(cfg.CLASS_NAMES),
        cfg.CLASS_NAMES,
        grid_size(cfg),
        limits,
        predict_boxes_when_training=False,
    )
    return head.train().to(device)


def flat_anchors(head: AnchorHeadSingle) -> Tensor:
    """(A, 7), location by location."""
    return torch.cat(head.anchors, dim=-3).reshape(-1, 7)


def ground_truth(cfg: Config, batch_size: int, boxes: int, device: torch.device) -> Tensor:
    """(batch, boxes, 8): the classes in turn, sizes about those of their anchors, anywhere in the range."""
    rng = np.random.default_rng(0)
    low, high = np.array(cfg.DATA_CONFIG.POINT_CLOUD_RANGE[:2]), np.array(cfg.DATA_CONFIG.POINT_CLOUD_RANGE[3:5])
    result = np.zeros((batch_size, boxes, 8), np.float32)
    result[..., 7] = np.arange(boxes) % len(cfg.CLASS_NAMES) + 1
    for c, anchors in enumerate(cfg.MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG):
        of_class = result[..., 7] == c + 1
        count = int(of_class.sum())
        size = np.array(anchors.anchor_sizes[0])
        z = anchors.anchor_bottom_heights[0] + size[2] / 2 + rng.normal(0, 0.1, (count, 1))
        result[of_class, :7] = np.concatenate(
            [
                rng.uniform(low + 2, high - 2, (count, 2)),
                z,
                size * rng.uniform(0.85, 1.15, (count, 3)),
                rng.uniform(-np.pi, np.pi, (count, 1)),
            ],
            axis=1,
        )
    return torch.from_numpy(result).to(device)


def logits(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """As of a head in the middle of training: nearly all of them clearly below 0."""
    generator = torch.Generator().manual_seed(0)
    return (1.5 * torch.randn(*shape, generator=generator) - 4).to(device).requires_grad_()


def labels(batch_size: int, anchors: int, classes: int, device: torch.device, positives: int = 200) -> Tensor:
    """(batch, anchors) int32: in each sample so many positives (fewer among few anchors) and 1 % ignored anchors, at
    random places.
    """
    rng = np.random.default_rng(0)
    result = np.zeros((batch_size, anchors), np.int32)
    positives = min(positives, anchors // 4)
    for row in result:
        places = rng.permutation(anchors)[: positives + anchors // 100]
        row[places] = -1
        row[places[:positives]] = rng.integers(1, classes + 1, positives)
    return torch.from_numpy(result).to(device)


@lru_cache(maxsize=4)
def scan(index: int, full: bool) -> Frame:
    """A simulated scan: all 360 degrees (about 117,000 points), or the camera's sector."""
    return simulate_frame(SyntheticConfig(seed=0, full_scan=full), index)
