"""Models, weights and batches as the recorded runs of OpenPCDet used them."""

import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from easydict import EasyDict
from golden_data import KITTI_SAMPLE, record

from pcdet_focal.config import cfg_from_yaml_file
from pcdet_focal.datasets.kitti.kitti_dataset import KittiDataset
from pcdet_focal.geometry.calibration import Calibration
from pcdet_focal.models import build_network
from pcdet_focal.ops.voxelize import voxelize

REPOSITORY = Path(__file__).resolve().parents[1]
VOXELS = {"second": ([0.05, 0.05, 0.1], 5), "pointpillar": ([0.16, 0.16, 4], 32)}


def load_cfg(name: str) -> EasyDict:
    return cfg_from_yaml_file(REPOSITORY / f"cfgs/kitti_models/{name}.yaml", EasyDict())


def recorded_model(name: str) -> dict:
    """What the recorded model list says of cfgs/kitti_models/<name>.yaml: state_dict, grid_size, ..."""
    return json.loads(record(f"04_state_dicts/kitti_models__{name}.json").read_text())


def dataset_like(meta: dict) -> SimpleNamespace:
    """The attributes of a data set that building a model reads."""
    return SimpleNamespace(
        class_names=meta["class_names"],
        grid_size=np.array(meta["grid_size"], np.int64),
        voxel_size=meta["voxel_size"],
        point_cloud_range=np.array(meta["point_cloud_range"], np.float32),
        point_feature_encoder=SimpleNamespace(num_point_features=meta["num_point_features"]),
        depth_downsample_factor=None,
    )


def build(name: str, **overrides):
    cfg = load_cfg(name)
    return build_network(
        model_cfg=cfg.MODEL, num_class=len(cfg.CLASS_NAMES), dataset=dataset_like({**recorded_model(name), **overrides})
    )


def set_recorded_weights(net) -> None:
    """The deterministic weights of the recorded runs: for each state-dict key a normal sample seeded by the key's
    CRC-32, then scaled.
    """
    state = net.state_dict()
    for key, value in state.items():
        if not value.is_floating_point():
            state[key] = torch.zeros_like(value)
            continue
        shape = tuple(value.shape)
        z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
        if key.endswith("running_var"):
            w = 1 + np.abs(0.05 * z)
        elif key.endswith("running_mean"):
            w = 0.05 * z
        elif value.dim() >= 2:
            w = z * np.sqrt(2 / np.prod(shape[1:]))
        else:
            w = 0.05 * z + key.endswith(".weight")
        w = (
            w
            * {5: 1.6}.get(value.dim(), 1.0)
            * {"dense_head.conv_cls.weight": 0.5, "dense_head.conv_box.weight": 0.2}.get(key, 1.0)
        )
        state[key] = torch.from_numpy(np.asarray(w - 4.5 * (key == "dense_head.conv_cls.bias"), np.float32)).reshape(
            value.shape
        )
    net.load_state_dict(state)


def frame_points(frame: str) -> np.ndarray:
    """The points of a real frame that the camera sees, in file order, (N, 4) float32."""
    points = np.fromfile(KITTI_SAMPLE / f"training/velodyne/{frame}.bin", np.float32).reshape(-1, 4)
    shape = json.loads((KITTI_SAMPLE / "image_shapes.json").read_text())[frame]
    calib = Calibration(KITTI_SAMPLE / f"training/calib/{frame}.txt")
    return points[KittiDataset.get_fov_flag(calib.lidar_to_rect(points[:, :3]), np.array(shape), calib)]


def make_batch(name: str, frames, point_cloud_range, gt_boxes, max_voxels: int, dtype=torch.float32) -> dict:
    size, max_points = VOXELS[name]
    low, high = np.asarray(point_cloud_range[:2], np.float32), np.asarray(point_cloud_range[3:5], np.float32)
    parts = []
    for frame in frames:
        points = frame_points(str(frame))
        points = points[((points[:, :2] >= low) & (points[:, :2] <= high)).all(1)]
        parts.append(voxelize(points, size, point_cloud_range, max_points, max_voxels))
    coords = [np.c_[np.full(len(p[1]), b, np.int32), p[1]] for b, p in enumerate(parts)]
    return {
        "voxels": torch.from_numpy(np.concatenate([p[0] for p in parts])).to(dtype),
        "voxel_coords": torch.from_numpy(np.concatenate(coords).astype(np.int32)),
        "voxel_num_points": torch.from_numpy(np.concatenate([p[2] for p in parts])),
        "gt_boxes": torch.from_numpy(np.array(gt_boxes)).to(dtype),
        "batch_size": len(frames),
    }
