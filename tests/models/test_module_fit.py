"""Modules that do not fit each other are named before one of them is built."""

import pytest
from model_data import REPOSITORY
from tiny_models import configurations, load_cfg, tiny_dataset

from pcdet_focal.config import Config, MissingKeyError, cfg_from_yaml_file
from pcdet_focal.errors import InputError
from pcdet_focal.models import build_network
from pcdet_focal.models.backbones_2d.map_to_bev import HeightCompression
from pcdet_focal.models.module_fit import STAGES, Given, check_modules
from pcdet_focal.registry import MAP_TO_BEV

KEYS = frozenset(("points", "batch_size", "gt_boxes", "voxels", "voxel_num_points", "voxel_coords"))


def check(cfg, dataset, **known) -> Given:
    features = dataset.point_feature_encoder.num_point_features
    given = Given(**{"keys": KEYS, "grid": tuple(map(int, dataset.grid_size)), "num_point_features": features, **known})
    return check_modules(cfg.MODEL, given, tuple(STAGES))


@pytest.mark.parametrize("name", configurations())
def test_what_is_said_of_the_maps_is_what_the_built_modules_make(name):
    cfg = load_cfg(name)
    dataset = tiny_dataset(cfg)
    given = check(cfg, dataset)
    net = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset)
    assert given.channels == net.backbone_2d.num_bev_features
    assert given.keys >= {"spatial_features_2d"}


def at(tree, path: str):
    """The node that holds the last part of a dotted path, and that part."""
    *parts, last = path.split(".")
    for part in parts:
        tree = tree[int(part)] if part.isdigit() else tree[part]
    return tree, int(last) if last.isdigit() else last


SECOND, PILLARS, PILLARNET = (f"kitti_models/{name}" for name in ("second", "pointpillar", "pillarnet"))
CENTERPOINT = "waymo_models/centerpoint"
# each line: configuration, what is written wrongly, what the message must have
MISTAKES = [
    (SECOND, {"MAP_TO_BEV.NUM_BEV_FEATURES": 128}, r"MODEL\.MAP_TO_BEV\.NUM_BEV_FEATURES: 128 .* 256"),
    (PILLARS, {"MAP_TO_BEV.NUM_BEV_FEATURES": 32}, r"MAP_TO_BEV\.NUM_BEV_FEATURES: 32 .* 64"),
    (PILLARS, {"VFE.NUM_FILTERS": [32]}, r"MAP_TO_BEV\.NUM_BEV_FEATURES: 64 .* 32"),
    (PILLARNET, {"VFE.NUM_FILTERS": [64]}, r"MODEL\.VFE\.NUM_FILTERS, the last: 64 must be 32"),
    (PILLARNET, {"BACKBONE_2D.NUM_FILTERS.1": 128}, r"BACKBONE_2D\.NUM_FILTERS\[1\]: 128 .* 256.*x_conv5"),
    (PILLARNET, {"BACKBONE_2D.UPSAMPLE_STRIDES": [1, 1]}, r"UPSAMPLE_STRIDES: .*joined"),
    (SECOND, {"BACKBONE_2D.UPSAMPLE_STRIDES": [1, 1]}, r"BACKBONE_2D\.UPSAMPLE_STRIDES: .*joined"),
    (
        SECOND,
        {"DENSE_HEAD.ANCHOR_GENERATOR_CONFIG.1.feature_map_stride": 4},
        r"MODEL\.DENSE_HEAD\.ANCHOR_GENERATOR_CONFIG\[1\]\.feature_map_stride: 4 .*128 x 96.*16 x 12.* write 8",
    ),
    (
        CENTERPOINT,
        {"DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE": 2},
        r"TARGET_ASSIGNER_CONFIG\.FEATURE_MAP_STRIDE: 2 .* write 8",
    ),
    (
        "waymo_models/centerpoint_pillar_1x",
        {"DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE": 0},
        r"FEATURE_MAP_STRIDE: 0 .* write 1",
    ),
    (SECOND, {"VFE.NAME": "PillarVFE", "VFE.NUM_FILTERS": [64]}, r"MODEL\.BACKBONE_3D\.NAME: .*voxel_features"),
    (PILLARS, {"MAP_TO_BEV.NAME": "HeightCompression"}, r"MAP_TO_BEV\.NAME: .* reads encoded_spconv"),
    (SECOND, {"MAP_TO_BEV.NAME": "PointPillarScatter"}, r"MAP_TO_BEV\.NAME: .* reads pillar_features"),
    (PILLARNET, {"BACKBONE_2D.NAME": "BaseBEVBackbone"}, r"BACKBONE_2D\.NAME: .* reads spatial_features,"),
    (SECOND, {"BACKBONE_2D": None}, r"DENSE_HEAD\.NAME: AnchorHeadSingle reads spatial_features_2d"),
    (PILLARS, {"NAME": "CenterPoint"}, None),
    (CENTERPOINT, {"NAME": "SECONDNet"}, r"MODEL\.NAME: .*SECONDNet.*CenterHead.*write CenterPoint"),
]


@pytest.mark.parametrize(("name", "wrong", "told"), MISTAKES, ids=[f"{n}-{'-'.join(w)}" for n, w, _ in MISTAKES])
def test_one_sentence_before_anything_is_built(name, wrong, told, monkeypatch):
    cfg = load_cfg(name)
    dataset = tiny_dataset(cfg)
    for path, value in wrong.items():
        node, key = at(cfg.MODEL, path)
        if value is None:
            del node[key]
        else:
            node[key] = value
    if told is None:
        build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset)
        return
    with pytest.raises(InputError, match=told) as error:
        build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset)
    assert "\n" not in str(error.value)


def test_a_grid_that_leaves_no_layer():
    cfg = load_cfg("kitti_models/second")
    dataset = tiny_dataset(cfg)
    dataset.grid_size[2] = 4
    with pytest.raises(InputError, match="4 voxels of height leave no layer"):
        build_network(cfg.MODEL, 3, dataset)


def test_a_multihead_entry_has_the_stride_of_its_own_layers():
    name = "lyft_models/cbgs_second-nores_multihead"
    cfg = load_cfg(f"{name} + with_layers_in_each_head")
    dataset = tiny_dataset(cfg)
    check(cfg, dataset)
    cfg.MODEL.DENSE_HEAD.RPN_HEAD_CFGS[1].update(LAYER_STRIDES=[2])
    own = cfg.MODEL.DENSE_HEAD.RPN_HEAD_CFGS[1].HEAD_CLS_NAME[0]
    index = [entry["class_name"] for entry in cfg.MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG].index(own)
    with pytest.raises(InputError, match=rf"ANCHOR_GENERATOR_CONFIG\[{index}\]\.feature_map_stride: 8 .* write 16"):
        check(cfg, dataset)


@pytest.mark.parametrize(
    "name", ["nuscenes_models/cbgs_voxel0075_res3d_centerpoint", "nuscenes_models/cbgs_pp_multihead"]
)
def test_boxes_with_velocities_need_a_data_set_that_has_them(name):
    cfg = load_cfg(name)
    dataset = tiny_dataset(cfg)
    check(cfg, dataset, box_size=9)
    check(cfg, dataset, box_size=None)
    with pytest.raises(InputError, match=r"MODEL\.DENSE_HEAD\.\S+: 9 columns of a box are predicted, .* have 7 \(x, y"):
        check(cfg, dataset, box_size=7)


def test_nothing_is_said_of_modules_after_one_of_somebody_else(monkeypatch):
    class Own(HeightCompression):
        def forward(self, batch_dict):
            return batch_dict

    class Renamed(HeightCompression):
        """Nothing else."""

    cfg = load_cfg("kitti_models/second")
    dataset = tiny_dataset(cfg)
    cfg.MODEL.MAP_TO_BEV.NUM_BEV_FEATURES = 128
    for cls, refused in ((Own, False), (Renamed, True)):
        monkeypatch.setitem(MAP_TO_BEV, f"Fit{cls.__name__}", cls)
        cfg.MODEL.MAP_TO_BEV.NAME = f"Fit{cls.__name__}"
        if refused:
            with pytest.raises(InputError, match="NUM_BEV_FEATURES: 128"):
                check(cfg, dataset)
        else:
            given = check(cfg, dataset)
            assert given.keys is None and given.size is None


def test_a_missing_key_is_left_to_the_module_that_reads_it():
    dataset = tiny_dataset(load_cfg("kitti_models/second"))
    cfg = cfg_from_yaml_file(REPOSITORY / "cfgs/kitti_models/second.yaml", Config())
    cfg.MODEL.MAP_TO_BEV.pop("NUM_BEV_FEATURES")
    with pytest.raises(MissingKeyError, match=r"MODEL\.MAP_TO_BEV\.NUM_BEV_FEATURES.*HeightCompression"):
        build_network(cfg.MODEL, 3, dataset)
