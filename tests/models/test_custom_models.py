"""The models of cfgs/custom_models: the recorded state dict and grid of OpenPCDet's custom SECOND, and the grid that
fits PointPillars.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from golden_data import record
from model_data import REPOSITORY

from pcdet_focal.config import Config, cfg_from_yaml_file
from pcdet_focal.datasets.custom.custom_dataset import CustomDataset
from pcdet_focal.engine.checks.run import check_configuration
from pcdet_focal.models import build_network


def build(name, tmp_path):
    """(data set in test mode, network) of cfgs/custom_models/<name>.yaml."""
    cfg = cfg_from_yaml_file(REPOSITORY / f"cfgs/custom_models/{name}.yaml", Config())
    dataset = CustomDataset(cfg.DATA_CONFIG, cfg.CLASS_NAMES, training=False, root_path=tmp_path)
    return dataset, build_network(model_cfg=cfg.MODEL, num_class=len(cfg.CLASS_NAMES), dataset=dataset)


def test_second_has_the_recorded_keys_shapes_and_grid(tmp_path):
    recorded = json.loads(record("04_state_dicts/custom_models__second.json").read_text())
    dataset, network = build("second", tmp_path)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == {
        key: tuple(value[0]) for key, value in recorded["state_dict"].items()
    }
    assert sum(parameter.numel() for parameter in network.parameters()) == recorded["n_params"]
    assert dataset.grid_size.tolist() == recorded["grid_size"] and list(dataset.voxel_size) == recorded["voxel_size"]
    np.testing.assert_array_equal(dataset.point_cloud_range, np.float32(recorded["point_cloud_range"]))
    assert (
        dataset.class_names == recorded["class_names"]
        and dataset.point_feature_encoder.num_point_features == recorded["num_point_features"]
    )


def test_pointpillar_is_kittis_with_other_anchors(tmp_path):
    dataset, network = build("pointpillar", tmp_path)
    kitti = cfg_from_yaml_file(REPOSITORY / "cfgs/kitti_models/pointpillar.yaml", Config())
    like = SimpleNamespace(
        class_names=kitti.CLASS_NAMES,
        grid_size=np.array([432, 496, 1]),
        voxel_size=[0.16, 0.16, 4],
        depth_downsample_factor=None,
        point_cloud_range=np.float32(kitti.DATA_CONFIG.POINT_CLOUD_RANGE),
        point_feature_encoder=dataset.point_feature_encoder,
    )
    wanted = build_network(model_cfg=kitti.MODEL, num_class=3, dataset=like).state_dict()
    assert {key: value.shape for key, value in network.state_dict().items()} == {
        key: value.shape for key, value in wanted.items()
    }
    assert dataset.grid_size.tolist() == [752, 752, 1]


@pytest.mark.parametrize(
    "name",
    [
        "custom_models/second",
        "custom_models/pointpillar",
        "kitti_models/second",
        "kitti_models/pointpillar",
        "synthetic_models/second",
        "synthetic_models/pointpillar",
    ],
)
def test_no_shipped_configuration_has_a_misfit(name):
    assert check_configuration(cfg_from_yaml_file(REPOSITORY / f"cfgs/{name}.yaml", Config())) == []
