"""Infos, database, samples and batches of a KITTI folder, as OpenPCDet's data set makes them."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .peer import config

CLASSES = ["Car", "Pedestrian", "Cyclist"]
MODELS = ("second", "pointpillar")
# model, frame as a place in the split, seed
TRAINING = [("second", 2, 91548), ("second", 4, 865113), ("pointpillar", 2, 825516), ("pointpillar", 4, 482983)]
TRAINING += [("pointpillar_newaugs", 2, 9), ("pointpillar_newaugs", 4, 11)]
TESTING = (0, 2)


def record(kitti_dataset: type, frames: Path, out: Path, training: list | None = None) -> None:
    """Write infos.json, dbinfos.json, dataset_item.npz and db_sampler.npz into ``out``.

    Args:
        kitti_dataset: OpenPCDet's class, see ``peer.open_checkout``.
        frames: a folder in KITTI's layout, read only.
        training: (model, frame id, seed) of the training samples; default: TRAINING.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        root = Path(folder)
        for path in frames.iterdir():
            if path.name in ("training", "ImageSets", "image_shapes.json"):
                (root / path.name).symlink_to(path.resolve())

        def opened(name: str, is_training: bool = False):
            return kitti_dataset(_config(name), CLASSES, training=is_training, root_path=root)

        dataset = opened("second")
        dataset.set_split("train")
        _record_infos(dataset, root, out)
        arrays: dict[str, np.ndarray] = {}
        for name in MODELS:
            dataset = opened(name)
            dataset.kitti_infos = pickle.loads((root / "kitti_infos_train.pkl").read_bytes())
            dataset.set_split("train")
            chosen = [_frame_id(dataset, place) for place in TESTING]
            items = [dataset[place] for place in TESTING]
            for frame_id, item in zip(chosen, items):
                arrays |= _prefixed(f"{name}_f{frame_id}", _item(dataset, frame_id, item))
            arrays |= _prefixed(f"{name}_collate", _batch(dataset.collate_batch(items)))
        np.savez_compressed(out / "dataset_item.npz", **arrays)
        arrays = {}
        for name, place, seed in training or TRAINING:
            dataset = opened(name, is_training=True)
            dataset.set_split("train")
            ids = [info["point_cloud"]["lidar_idx"] for info in dataset.kitti_infos]
            place = ids.index(place) if isinstance(place, str) else place
            np.random.seed(seed)
            arrays |= _prefixed(f"train_item_{name}_{ids[place]}", {**_training_item(dataset[place]), "seed": seed})
        for frame_id in ids:
            plane = dataset.get_road_plane(frame_id)
            arrays |= {} if plane is None else {f"road_plane_{frame_id}__plane": plane}
        np.savez_compressed(out / "db_sampler.npz", **arrays)


def _config(name: str) -> Any:
    cfg = config(name).DATA_CONFIG
    for step in cfg.DATA_PROCESSOR:
        if step.NAME == "shuffle_points":
            step.SHUFFLE_ENABLED = {"train": False, "test": False}
    return cfg


def _frame_id(dataset, place: int) -> str:
    return dataset.kitti_infos[place]["point_cloud"]["lidar_idx"]


def _record_infos(dataset, root: Path, out: Path) -> None:
    infos = dataset.get_infos(num_workers=1, has_label=True, count_inside_pts=True)
    (root / "kitti_infos_train.pkl").write_bytes(pickle.dumps(infos))
    first = infos[0]["point_cloud"]["lidar_idx"]
    uncounted = dataset.get_infos(num_workers=1, count_inside_pts=False, sample_id_list=[first])
    content = {
        "split": "train",
        "sample_ids": [info["point_cloud"]["lidar_idx"] for info in infos],
        "dtypes": {part: {k: _dtype(v) for k, v in infos[0][part].items()} for part in infos[0]},
        "infos": _plain(infos),
        "without_labels": _plain(dataset.get_infos(num_workers=1, has_label=False, sample_id_list=[first])),
        "keys_without_counting": sorted(uncounted[0]["annos"]),
    }
    (out / "infos.json").write_text(json.dumps(content))
    dataset.create_groundtruth_database(info_path=root / "kitti_infos_train.pkl", split="train")
    database = pickle.loads((root / "kitti_dbinfos_train.pkl").read_bytes())
    for entries in database.values():
        for entry in entries:
            points = np.fromfile(root / entry["path"], np.float32).reshape(-1, 4)
            entry |= {"n_points": len(points), "sum": points.astype(np.float64).sum(0)}
            entry |= {"first_points": points[:3], "last_point": points[-1:].reshape(-1)}
    content = {
        "split": "train",
        "class_order": list(database),
        "dbinfos": _plain(database),
        "files": sorted(path.name for path in (root / "gt_database").iterdir()),
    }
    (out / "dbinfos.json").write_text(json.dumps(content))


def _item(dataset, frame_id: str, item: dict) -> dict[str, Any]:
    points, calib = dataset.get_lidar(frame_id), dataset.get_calib(frame_id)
    flag = dataset.get_fov_flag(calib.lidar_to_rect(points[:, :3]), item["image_shape"], calib)
    kept = ("gt_boxes", "road_plane", "image_shape", "lidar_aug_matrix", "use_lead_xyz", "frame_id")
    return {
        **{key: item[key] for key in kept if key in item},
        **sampled("points", item["points"], 4000),
        **sampled("voxels", item["voxels"], 2000),
        "points_first20": item["points"][:20],
        "points_last20": item["points"][-20:],
        "voxel_coords": item["voxel_coords"].astype(np.int16),
        "voxel_num_points": item["voxel_num_points"].astype(np.uint8),
        "n_points": np.array([len(points), flag.sum(), len(item["points"])]),
        "fov_mask_packed": np.packbits(flag),
    }


def _batch(batch: dict) -> dict[str, Any]:
    made = {key: batch[key] for key in ("gt_boxes", "frame_id", "image_shape", "batch_size", "use_lead_xyz")}
    made["voxel_num_points_sum"] = batch["voxel_num_points"].sum()
    for key in ("points", "voxels", "voxel_coords"):
        made |= sampled(key, batch[key], 4000)
    return made


def _training_item(item: dict) -> dict[str, Any]:
    kept = ("flip_x", "noise_rot", "noise_scale", "lidar_aug_matrix", "gt_boxes")
    made = {key: item[key] for key in kept if key in item}
    made |= {"n_points": len(item["points"]), "n_voxels": len(item["voxels"])}
    made["voxel_num_points_sum"] = item["voxel_num_points"].sum()
    for key in ("points", "voxels", "voxel_coords"):
        made |= sampled(key, item[key], 2000)
    return made


def sampled(name: str, array: np.ndarray, count: int) -> dict[str, Any]:
    """Shape, sum, sum of absolute values and ``count`` values of a large array."""
    flat = np.asarray(array).reshape(-1)
    places = np.sort(np.random.default_rng(0).choice(len(flat), min(count, len(flat)), replace=False))
    wide = flat.astype(np.float64)
    return {
        f"{name}__shape": np.array(np.shape(array)),
        f"{name}__sum": wide.sum(),
        f"{name}__abssum": np.abs(wide).sum(),
        f"{name}__idx": places,
        f"{name}__val": flat[places],
    }


def _prefixed(case: str, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    return {f"{case}__{name}": np.asarray(value) for name, value in arrays.items()}


def _dtype(value: Any) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
