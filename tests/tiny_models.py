"""Every configured model on a grid of a few hundred cells, with a seeded batch of the right shape: what runs in a
second.

``data/tiny_models.json`` beside the model tests holds what OpenPCDet's own code (v0.6.0, commit 8caccce) gave for
exactly these grids, batches and the deterministic weights of ``model_data``, in float64 on a CPU: each part of the
training loss, the norm of each module's gradient, and sums over the evaluation's detections; for some also the first
steps of a training. Its CUDA parts were stood in for: spconv's native algorithm, torch_scatter written out, suppression
and rotated IoU exact; ``Tensor.float`` did nothing, so that no weight or Gaussian was rounded on the way.
"""

import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from easydict import EasyDict
from model_data import REPOSITORY, set_recorded_weights

from pcdet_focal.config import cfg_from_yaml_file
from pcdet_focal.engine.optimization import build_optimizer, build_scheduler

BATCH = 2


def recorded() -> dict:
    return json.loads((Path(__file__).parent / "models/data/tiny_models.json").read_text())


def with_iou_branch(cfg) -> None:
    head = cfg.MODEL.DENSE_HEAD
    head.SEPARATE_HEAD_CFG.HEAD_DICT["iou"] = {"out_channels": 1, "num_conv": 2}
    head.IOU_REG_LOSS = True
    head.POST_PROCESSING.update(USE_IOU_TO_RECTIFY_SCORE=True, IOU_RECTIFIER=[0.68, 0.71, 0.65])
    limits = {"NMS_THRESH": [0.5, 0.1, 0.3], "NMS_PRE_MAXSIZE": [40, 30, 20], "NMS_POST_MAXSIZE": [500, 500, 500]}
    head.POST_PROCESSING.NMS_CONFIG = EasyDict(NMS_TYPE="class_specific_nms", SCORE_THRESH=[0.2, 0.3, 0.1], **limits)


def with_residual_map(cfg) -> None:
    cfg.MODEL.BACKBONE_2D.update(NAME="BaseBEVResBackbone", LAYER_NUMS=[1, 1])


def with_dynamic_voxels(cfg) -> None:
    cfg.MODEL.VFE.NAME = "DynMeanVFE"


def with_all_classes_in_each_head(cfg) -> None:
    cfg.MODEL.DENSE_HEAD.SEPARATE_MULTIHEAD = False
    cfg.MODEL.POST_PROCESSING.NMS_CONFIG.MULTI_CLASSES_NMS = False  # OpenPCDet stops at it here


def with_layers_in_each_head(cfg) -> None:
    cfg.MODEL.DENSE_HEAD.USE_DIRECTION_CLASSIFIER = True
    cfg.MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.BOX_CODER_CONFIG.encode_angle_by_sincos = False
    cfg.MODEL.DENSE_HEAD.SEPARATE_REG_CONFIG.REG_LIST = ["reg:2", "height:1", "size:3", "angle:1"]
    cfg.MODEL.DENSE_HEAD.LOSS_CONFIG.LOSS_WEIGHTS.code_weights = [1.0, 1.0, 2.0, 1.0, 0.5, 1.0, 1.0]
    for head in cfg.MODEL.DENSE_HEAD.RPN_HEAD_CFGS:
        head.update(
            LAYER_NUMS=[1], LAYER_STRIDES=[1], NUM_FILTERS=[64], UPSAMPLE_STRIDES=[1], NUM_UPSAMPLE_FILTERS=[64]
        )


# What no file of OpenPCDet's one-stage models switches on: "file + change".
CHANGES = {
    "waymo_models/centerpoint + with_iou_branch": with_iou_branch,
    "waymo_models/second + with_residual_map": with_residual_map,
    "waymo_models/centerpoint_without_resnet + with_dynamic_voxels": with_dynamic_voxels,
    "kitti_models/second_multihead + with_all_classes_in_each_head": with_all_classes_in_each_head,
    "lyft_models/cbgs_second-nores_multihead + with_layers_in_each_head": with_layers_in_each_head,
}


def configurations():
    """'kitti_models/second' and so on: the recorded files of cfgs/, as they are."""
    return [name for name in recorded() if name not in CHANGES]


def load_cfg(name: str) -> EasyDict:
    return changed(name, cfg_from_yaml_file(REPOSITORY / f"cfgs/{name.split(' + ')[0]}.yaml", EasyDict()))


def changed(name: str, cfg: EasyDict) -> EasyDict:
    """The change that the name asks for; no more detections than the small maps have cells, and a threshold that random
    weights reach.
    """
    if name in CHANGES:
        CHANGES[name](cfg)
    if "POST_PROCESSING" in cfg.MODEL.DENSE_HEAD:
        cfg.MODEL.DENSE_HEAD.POST_PROCESSING.MAX_OBJ_PER_SAMPLE = 90
    else:
        cfg.MODEL.POST_PROCESSING.SCORE_THRESH = 0.012
    return cfg


def processor(cfg, prefix: str):
    return next(step for step in cfg.DATA_CONFIG.DATA_PROCESSOR if step.NAME.startswith(prefix))


def tiny_dataset(cfg) -> SimpleNamespace:
    """The attributes of a data set that building reads, for a grid of 128 x 96 voxels or 48 x 32 pillars."""
    size = [float(v) for v in processor(cfg, "transform_points_to_voxels").VOXEL_SIZE]
    low, high = cfg.DATA_CONFIG.POINT_CLOUD_RANGE[2], cfg.DATA_CONFIG.POINT_CLOUD_RANGE[5]
    nx, ny = (128, 96) if "BACKBONE_3D" in cfg.MODEL else (48, 32)
    x, y = -nx / 4 * size[0], -ny / 2 * size[1]
    return SimpleNamespace(
        class_names=list(cfg.CLASS_NAMES),
        grid_size=np.array([nx, ny, round((high - low) / size[2])], np.int64),
        voxel_size=size,
        point_cloud_range=np.array([x, y, low, x + nx * size[0], y + ny * size[1], high], np.float32),
        point_feature_encoder=SimpleNamespace(
            num_point_features=len(cfg.DATA_CONFIG.POINT_FEATURE_ENCODING.used_feature_list)
        ),
        depth_downsample_factor=None,
    )


def tiny_batch(name: str, cfg, dataset) -> dict:
    """Two samples of clustered voxels and points, with boxes of every class, as float64 tensors."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    limits, size, grid = dataset.point_cloud_range.astype(np.float64), np.array(dataset.voxel_size), dataset.grid_size
    features = dataset.point_feature_encoder.num_point_features
    width = min(processor(cfg, "transform_points_to_voxels").get("MAX_POINTS_PER_VOXEL", 5), 6)
    voxels, coords, counts, points = [], [], [], []
    for sample in range(BATCH):
        middles = rng.uniform(0, 1, (10, 3)) * grid
        cells = np.floor(middles[rng.integers(0, 10, 900)] + rng.normal(0, 2.5, (900, 3))).astype(np.int64)
        cells = np.unique(np.clip(cells, 0, grid - 1), axis=0)
        inside = np.concatenate(
            [rng.uniform(0.02, 0.98, (len(cells), width, 3)), rng.uniform(0, 1, (len(cells), width, features - 3))],
            axis=-1,
        )
        inside[..., :3] = limits[:3] + (cells[:, None] + inside[..., :3]) * size
        count = rng.integers(1, width + 1, len(cells))
        held = np.arange(width) < count[:, None]
        voxels.append(inside * held[..., None])
        coords.append(np.c_[np.full(len(cells), sample), cells[:, ::-1]])
        counts.append(count)
        rows = inside[held]
        points.append(np.c_[np.full(len(rows), sample), rows][rng.permutation(len(rows))])
    batch = {
        "voxels": torch.from_numpy(np.concatenate(voxels)),
        "voxel_coords": torch.from_numpy(np.concatenate(coords).astype(np.int32)),
        "voxel_num_points": torch.from_numpy(np.concatenate(counts)),
        "points": torch.from_numpy(np.concatenate(points)),
        "gt_boxes": torch.from_numpy(tiny_boxes(rng, cfg, dataset)),
        "batch_size": BATCH,
    }
    return batch


def tiny_boxes(rng, cfg, dataset) -> np.ndarray:
    """(2, T, 8 or 10) boxes well inside the range, every class among the first sample's; the second has two rows of
    padding.
    """
    head, classes = cfg.MODEL.DENSE_HEAD, len(dataset.class_names)
    rows, limits = max(6, classes), dataset.point_cloud_range
    anchors = {c["class_name"]: c for c in head.get("ANCHOR_GENERATOR_CONFIG", [])}
    velocities = (
        "vel" in head.get("SEPARATE_HEAD_CFG", {}).get("HEAD_ORDER", [])
        or head.get("TARGET_ASSIGNER_CONFIG", {}).get("BOX_CODER_CONFIG", {}).get("code_size") == 9
    )
    boxes = np.zeros((BATCH, rows, 10 if velocities else 8))
    for sample in range(BATCH):
        for row in range(rows - 2 * sample):
            label = row % classes
            anchor = anchors.get(dataset.class_names[label])
            dims = np.array(anchor["anchor_sizes"][0] if anchor else [4.2, 1.9, 1.6]) * rng.uniform(0.9, 1.1, 3)
            z = anchor["anchor_bottom_heights"][0] + dims[2] / 2 if anchor else limits[2] + 2.0
            xy = limits[:2] + rng.uniform(0.1, 0.9, 2) * (limits[3:5] - limits[:2])
            rest = rng.uniform(-2, 2, 2) if velocities else []
            boxes[sample, row] = [*xy, z + rng.normal(0, 0.1), *dims, rng.uniform(-np.pi, np.pi), *rest, label + 1]
    return boxes


CALM = {
    "dim.1.weight": 0.03,
    "conv_box.weight": 0.2,
    "center_z.1.weight": 0.05,
    "iou.1.weight": 0.02,
    "hm.1.weight": 0.1,
    "conv_cls.3.weight": 0.05,
    **{f"conv_box.conv_{part}.3.weight": 0.01 for part in ("reg", "height", "size", "angle", "velo")},
}


def calmed(net):
    """Weights as ``set_recorded_weights`` makes them, where scores do not saturate and boxes stay boxes: suppression is
    to be well conditioned.
    """
    labels = {key: value.clone() for key, value in net.state_dict().items() if key.endswith("head_label_indices")}
    set_recorded_weights(net)
    state = {**net.state_dict(), **labels}
    for key in state:
        for ending, factor in CALM.items():
            if key.endswith(ending):
                state[key] = state[key] * factor
    net.load_state_dict(state)
    return net.double()


def measure(net, batch: dict) -> dict:
    """What the record holds: {"loss", "parts", "gradients", "detections"}."""
    buffers = {key: value.clone() for key, value in net.named_buffers()}
    net.train()
    loss, logged, _ = net({key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()})
    loss["loss"].backward()
    gradients = {}
    for key, parameter in net.named_parameters():
        module = key.split(".")[0]
        gradients[module] = gradients.get(module, 0.0) + (
            0.0 if parameter.grad is None else parameter.grad.double().square().sum().item()
        )
    net.eval()
    with torch.no_grad():  # the step has moved the running statistics; evaluation is to depend on the weights alone
        for key, value in net.named_buffers():
            value.copy_(buffers[key])
    with torch.no_grad():
        found, recall = net({key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()})
    detections = []
    for sample in found:
        boxes, scores, labels = sample["pred_boxes"].double(), sample["pred_scores"].double(), sample["pred_labels"]
        detections.append(
            {
                "count": len(boxes),
                "scores": scores.sum().item(),
                "labels": int(labels.sum()),
                "boxes": boxes[:, :6].abs().sum().item(),
                "headings": boxes[:, 6].cos().sum().item(),
                "velocities": boxes[:, 7:].abs().sum().item(),
            }
        )
    return {
        "loss": float(loss["loss"].detach()),
        "parts": {key: float(value) for key, value in logged.items()},
        "gradients": {key: value**0.5 for key, value in gradients.items()},
        "detections": detections,
        "recall": {str(k): int(v) for k, v in recall.items()},
    }


# {model: (steps to compare, tolerance)}: Adam divides by the gradient's own size, so what anchor heads round in their
# weights (3e-8) grows fast.
TRAJECTORIES = {
    "kitti_models/second_multihead": (3, 1e-5),
    "kitti_models/pillarnet": (6, 1e-5),
    "waymo_models/centerpoint": (6, 1e-9),
    "nuscenes_models/cbgs_dyn_pp_centerpoint": (6, 1e-7),
}


def trajectory(net, batch: dict, steps: int = 6) -> dict:
    """Loss and gradient norm of each of the first steps of a one-cycle training: {"losses", "norms"}."""
    cfg = EasyDict(
        OPTIMIZER="adam_onecycle", LR=0.003, WEIGHT_DECAY=0.01, MOMS=[0.95, 0.85], PCT_START=0.4, DIV_FACTOR=10
    )
    optimizer = build_optimizer(net, cfg)
    schedule, _ = build_scheduler(optimizer, steps, 1, -1, cfg)
    net.train()
    losses, norms = [], []
    for step in range(steps):
        schedule.step(step)
        optimizer.zero_grad()
        loss = net({key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()})[0]["loss"]
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(net.parameters(), 10)))
        optimizer.step()
        losses.append(float(loss.detach()))
    return {"losses": losses, "norms": norms}
