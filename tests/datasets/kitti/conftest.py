"""A KITTI folder of two or three made-up frames, and the real frames where they are at hand, both in a folder of the
test's own.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from golden_data import KITTI_SAMPLE

from pcdet_focal.config import Config, cfg_from_yaml_file

REPOSITORY = Path(__file__).resolve().parents[3]
CLASSES = ["Car", "Pedestrian", "Cyclist"]

# A camera at the LiDAR that looks along +x: rect x = -y, y = -z, z = x; focal length 100 pixels, centre (50, 20), image
# 100 x 40.
CALIB = """\
P0: 100 0 50 0 0 100 20 0 0 0 1 0
P1: 100 0 50 0 0 100 20 0 0 0 1 0
P2: 100 0 50 0 0 100 20 0 0 0 1 0
P3: 100 0 50 0 0 100 20 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
Tr_imu_to_velo: 1 0 0 0 0 1 0 0 0 0 1 0
"""
# A car 4 x 1.6 x 1.5 m whose bottom centre is at LiDAR (20, 1, -1.6), heading 0 (ry = -pi/2).
CAR = "Car 0.00 0 -1.52 40.00 10.00 60.00 55.00 1.50 1.60 4.00 -1.00 1.60 20.00 -1.5707963"
DONT_CARE = "DontCare -1 -1 -10 5.00 5.00 9.00 9.00 -1 -1 -1 -1000 -1000 -1000 -10"
FRAMES = {"train": ["000001", "000003", "000004"], "val": ["000002"]}
POINTS_IN_CAR = 37


def scan(seed: int, number: int = 400) -> np.ndarray:
    """float32 (number + 37, 4): points in front of the sensor and clear of the car, then 37 well inside the car."""
    random = np.random.RandomState(seed)
    ground = np.column_stack(
        [random.uniform(5, 15, number), random.uniform(-2, 2, number), random.uniform(-1.7, -1.5, number)]
    )
    car = np.array([20, 1, -0.85]) + random.uniform(-0.45, 0.45, (POINTS_IN_CAR, 3)) * [4, 1.6, 1.5]
    xyz = np.concatenate([ground, car])
    return np.column_stack([xyz, random.uniform(0, 1, len(xyz))]).astype(np.float32)


@pytest.fixture
def kitti_folder(tmp_path) -> Path:
    root = tmp_path / "kitti"
    for folder in ("ImageSets", "training/velodyne", "training/calib", "training/label_2", "training/planes"):
        (root / folder).mkdir(parents=True)
    for split, ids in FRAMES.items():
        (root / "ImageSets" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for frame_id in ids:
            scan(int(frame_id)).tofile(root / "training/velodyne" / f"{frame_id}.bin")
            (root / "training/calib" / f"{frame_id}.txt").write_text(CALIB)
            (root / "training/label_2" / f"{frame_id}.txt").write_text(f"{CAR}\n{DONT_CARE}\n")
    (root / "image_shapes.json").write_text(
        json.dumps({frame_id: [40, 100] for ids in FRAMES.values() for frame_id in ids})
    )
    (root / "training/planes/000001.txt").write_text("# Plane\nWidth 4\nHeight 1\n0 2 0 -3.2\n")
    return root


@pytest.fixture
def dataset_cfg() -> Config:
    """The KITTI data set's configuration with pillars and without pasting objects."""
    cfg = cfg_from_yaml_file(REPOSITORY / "cfgs/dataset_configs/kitti_dataset.yaml", Config())
    cfg.DATA_AUGMENTOR.AUG_CONFIG_LIST = [
        step for step in cfg.DATA_AUGMENTOR.AUG_CONFIG_LIST if step.NAME != "gt_sampling"
    ]
    cfg.DATA_PROCESSOR[-1].VOXEL_SIZE = [0.16, 0.16, 4]
    return cfg


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory) -> Path:
    """The real frames, linked into a folder that can be written to, with infos and database made of them."""
    from pcdet_focal.datasets.kitti.kitti_dataset import create_kitti_infos

    root = tmp_path_factory.mktemp("kitti_sample")
    for name in ("training", "ImageSets", "image_shapes.json"):
        (root / name).symlink_to(KITTI_SAMPLE / name)
    cfg = cfg_from_yaml_file(REPOSITORY / "cfgs/dataset_configs/kitti_dataset.yaml", Config())
    create_kitti_infos(cfg, CLASSES, root, root, workers=2)
    return root
