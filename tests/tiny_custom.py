"""A handful of simulated frames in the layout of custom data, and a detector for them: tiny_kitti's, with Vehicle in
place of Car.
"""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tiny_kitti

from pcdet_focal.datasets.synthetic import SyntheticConfig, simulate_frame

NAMES = {"Car": "Vehicle", "Pedestrian": "Pedestrian", "Cyclist": "Cyclist", "Van": "Vehicle"}


@functools.cache
def frame(index: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(points (N, 4) float32, boxes (M, 7), names) of a simulated frame: the objects that have points in the camera's
    view.
    """
    simulated = simulate_frame(SyntheticConfig(seed=seed), index)
    seen = [item for item in simulated.objects if item.num_points > 0]
    return (
        simulated.points,
        np.array([item.box for item in seen]).reshape(-1, 7),
        tuple(NAMES[item.name] for item in seen),
    )


def write_frame(root: Path, frame_id: str, points: np.ndarray, boxes: np.ndarray, names) -> None:
    np.save(root / "points" / f"{frame_id}.npy", points)
    lines = [" ".join([*(f"{value:.4f}" for value in box), name]) for box, name in zip(boxes, names)]
    (root / "labels" / f"{frame_id}.txt").write_text("".join(line + "\n" for line in lines))


def write_folder(
    root: Path, num_train: int = tiny_kitti.NUM_TRAIN, num_val: int = tiny_kitti.NUM_VAL, change=None
) -> Path:
    """``change(index, points, boxes, names)`` returns what is written instead."""
    for folder in ("points", "labels", "ImageSets"):
        (root / folder).mkdir(parents=True)
    ids = [f"{index:06d}" for index in range(num_train + num_val)]
    for index, frame_id in enumerate(ids):
        points, boxes, names = frame(index)
        points, boxes, names = points.copy(), boxes.copy(), list(names)
        write_frame(root, frame_id, *(change(index, points, boxes, names) if change else (points, boxes, names)))
    for split, part in (("train", ids[:num_train]), ("val", ids[num_train:])):
        (root / "ImageSets" / f"{split}.txt").write_text("".join(name + "\n" for name in part))
    return root


def config(data_path) -> dict:
    """As its YAML file would be."""
    content = tiny_kitti.config(data_path)
    data = content["DATA_CONFIG"]
    content["CLASS_NAMES"] = ["Vehicle", "Pedestrian", "Cyclist"]
    data["_BASE_CONFIG_"] = "cfgs/dataset_configs/custom_dataset.yaml"
    data["DATA_AUGMENTOR"]["AUG_CONFIG_LIST"][0].update(
        USE_ROAD_PLANE=False,
        DB_INFO_PATH=["custom_dbinfos_train.pkl"],
        PREPARE={"filter_by_min_points": ["Vehicle:5"]},
        SAMPLE_GROUPS=["Vehicle:4"],
    )
    content["MODEL"]["DENSE_HEAD"]["ANCHOR_GENERATOR_CONFIG"][0]["class_name"] = "Vehicle"
    return content


@functools.cache
def dataset() -> Path:
    """The folder without infos, made once and removed at the end of the test run; tests copy it."""
    folder = Path(tempfile.mkdtemp(prefix="tiny_custom_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_folder(folder / "custom")
