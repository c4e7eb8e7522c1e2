"""A handful of simulated frames in KITTI's layout and a detector of 32 x 32 pillars: a whole training run takes
seconds.
"""

import atexit
import functools
import importlib.util
import shutil
import tempfile
from pathlib import Path

import yaml

from pcdet_focal.config import Config, cfg_from_yaml_file
from pcdet_focal.datasets.kitti.create import create_kitti_infos
from pcdet_focal.datasets.synthetic import SyntheticConfig, write_kitti_folder

REPOSITORY = Path(__file__).resolve().parents[1]
NUM_TRAIN, NUM_VAL = 5, 3


def anchors(name: str, size: list, bottom: float, matched: float, unmatched: float, stride: int) -> dict:
    return {
        "class_name": name,
        "anchor_sizes": [size],
        "anchor_rotations": [0, 1.57],
        "anchor_bottom_heights": [bottom],
        "align_center": False,
        "feature_map_stride": stride,
        "matched_threshold": matched,
        "unmatched_threshold": unmatched,
    }


def config(data_path, **optimization) -> dict:
    """A PointPillar configuration as its YAML file would be: 25.6 m ahead, pillars of 0.8 m, 8 channels."""
    return {
        "CLASS_NAMES": ["Car", "Pedestrian", "Cyclist"],
        "DATA_CONFIG": {
            "_BASE_CONFIG_": "cfgs/dataset_configs/kitti_dataset.yaml",
            "DATA_PATH": str(data_path),
            "POINT_CLOUD_RANGE": [0, -12.8, -3, 25.6, 12.8, 1],
            "DATA_PROCESSOR": [
                {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True},
                {"NAME": "shuffle_points", "SHUFFLE_ENABLED": {"train": True, "test": False}},
                {
                    "NAME": "transform_points_to_voxels",
                    "VOXEL_SIZE": [0.8, 0.8, 4],
                    "MAX_POINTS_PER_VOXEL": 8,
                    "MAX_NUMBER_OF_VOXELS": {"train": 600, "test": 1024},
                },
            ],
            "DATA_AUGMENTOR": {
                "DISABLE_AUG_LIST": ["placeholder"],
                "AUG_CONFIG_LIST": [
                    {
                        "NAME": "gt_sampling",
                        "USE_ROAD_PLANE": True,
                        "DB_INFO_PATH": ["kitti_dbinfos_train.pkl"],
                        "PREPARE": {"filter_by_min_points": ["Car:5"], "filter_by_difficulty": [-1]},
                        "SAMPLE_GROUPS": ["Car:4"],
                        "NUM_POINT_FEATURES": 4,
                        "DATABASE_WITH_FAKELIDAR": False,
                        "REMOVE_EXTRA_WIDTH": [0.0, 0.0, 0.0],
                        "LIMIT_WHOLE_SCENE": False,
                    },
                    {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x"]},
                    {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [-0.78539816, 0.78539816]},
                ],
            },
        },
        "MODEL": {
            "NAME": "PointPillar",
            "VFE": {
                "NAME": "PillarVFE",
                "WITH_DISTANCE": False,
                "USE_ABSLOTE_XYZ": True,
                "USE_NORM": True,
                "NUM_FILTERS": [8],
            },
            "MAP_TO_BEV": {"NAME": "PointPillarScatter", "NUM_BEV_FEATURES": 8},
            "BACKBONE_2D": {
                "NAME": "BaseBEVBackbone",
                "LAYER_NUMS": [1],
                "LAYER_STRIDES": [2],
                "NUM_FILTERS": [8],
                "UPSAMPLE_STRIDES": [1],
                "NUM_UPSAMPLE_FILTERS": [8],
            },
            "DENSE_HEAD": {
                "NAME": "AnchorHeadSingle",
                "CLASS_AGNOSTIC": False,
                "USE_DIRECTION_CLASSIFIER": True,
                "DIR_OFFSET": 0.78539,
                "DIR_LIMIT_OFFSET": 0.0,
                "NUM_DIR_BINS": 2,
                "ANCHOR_GENERATOR_CONFIG": [
                    anchors("Car", [3.9, 1.6, 1.56], -1.78, 0.5, 0.35, 2),
                    anchors("Pedestrian", [0.8, 0.6, 1.73], -1.6, 0.3, 0.2, 2),
                    anchors("Cyclist", [1.76, 0.6, 1.73], -1.6, 0.3, 0.2, 2),
                ],
                "TARGET_ASSIGNER_CONFIG": {
                    "NAME": "AxisAlignedTargetAssigner",
                    "POS_FRACTION": -1.0,
                    "SAMPLE_SIZE": 512,
                    "NORM_BY_NUM_EXAMPLES": False,
                    "MATCH_HEIGHT": False,
                    "BOX_CODER": "ResidualCoder",
                },
                "LOSS_CONFIG": {
                    "LOSS_WEIGHTS": {"cls_weight": 1.0, "loc_weight": 2.0, "dir_weight": 0.2, "code_weights": [1.0] * 7}
                },
            },
            "POST_PROCESSING": {
                "RECALL_THRESH_LIST": [0.3, 0.5, 0.7],
                "SCORE_THRESH": 0.1,
                "OUTPUT_RAW_SCORE": False,
                "EVAL_METRIC": "kitti",
                "NMS_CONFIG": {
                    "MULTI_CLASSES_NMS": False,
                    "NMS_TYPE": "nms_gpu",
                    "NMS_THRESH": 0.01,
                    "NMS_PRE_MAXSIZE": 4096,
                    "NMS_POST_MAXSIZE": 100,
                },
            },
        },
        "OPTIMIZATION": {
            "BATCH_SIZE_PER_GPU": 2,
            "NUM_EPOCHS": 2,
            "OPTIMIZER": "adam_onecycle",
            "LR": 0.003,
            "WEIGHT_DECAY": 0.01,
            "MOMENTUM": 0.9,
            "MOMS": [0.95, 0.85],
            "PCT_START": 0.4,
            "DIV_FACTOR": 10,
            "DECAY_STEP_LIST": [35, 45],
            "LR_DECAY": 0.1,
            "LR_CLIP": 1e-7,
            "LR_WARMUP": False,
            "WARMUP_EPOCH": 1,
            "GRAD_NORM_CLIP": 10,
            **optimization,
        },
    }


def second(content: dict) -> dict:
    """The same with SECOND's sparse convolutions: 0.2 m voxels, 128 x 128 x 40 of them."""
    voxels = {
        "VOXEL_SIZE": [0.2, 0.2, 0.1],
        "MAX_POINTS_PER_VOXEL": 5,
        "MAX_NUMBER_OF_VOXELS": {"train": 3000, "test": 3000},
    }
    content["DATA_CONFIG"]["DATA_PROCESSOR"][-1].update(voxels)
    model = content["MODEL"]
    model.update(NAME="SECONDNet", VFE={"NAME": "MeanVFE"}, BACKBONE_3D={"NAME": "VoxelBackBone8x"})
    model["MAP_TO_BEV"] = {"NAME": "HeightCompression", "NUM_BEV_FEATURES": 256}
    model["BACKBONE_2D"].update(LAYER_STRIDES=[1])
    for entry in model["DENSE_HEAD"]["ANCHOR_GENERATOR_CONFIG"]:
        entry["feature_map_stride"] = 8
    return content


def write_config(path: Path, content: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    base = content["DATA_CONFIG"].get("_BASE_CONFIG_")
    if base is not None:
        content["DATA_CONFIG"]["_BASE_CONFIG_"] = str(REPOSITORY / base)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@functools.cache
def dataset() -> Path:
    """The KITTI folder, infos and database included; made once and removed at the end of the test run."""
    folder = Path(tempfile.mkdtemp(prefix="tiny_kitti_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    root = folder / "kitti"
    write_kitti_folder(root, NUM_TRAIN, NUM_VAL, SyntheticConfig(seed=3), progress=False)
    loaded = cfg_from_yaml_file(write_config(folder / "tiny.yaml", config(root)), Config())
    create_kitti_infos(loaded.DATA_CONFIG, loaded.CLASS_NAMES, root, root, workers=1)
    return root


@functools.cache
def tool(name: str):
    """The command's module."""
    return importlib.import_module(f"pcdet_focal.commands.{name}")
