"""Every one-stage model that a file of cfgs/ describes: its keys, and what it computes, against OpenPCDet's."""

import json

import numpy as np
import pytest
import torch
from easydict import EasyDict
from golden_data import record
from model_data import dataset_like
from openpcdet import needs_openpcdet, peer_folder
from tiny_models import (
    CHANGES,
    TRAJECTORIES,
    calmed,
    configurations,
    load_cfg,
    measure,
    recorded,
    tiny_batch,
    tiny_dataset,
    trajectory,
)

from pcdet_focal.config import cfg_from_yaml_file
from pcdet_focal.errors import InputError
from pcdet_focal.models import build_network

ONE_STAGE = ("second", "pointpillar", "pillarnet", "centerpoint", "pp_multihead")


def recorded_lists():
    """The recorded lists of keys that belong to a one-stage model, as 'folder/name'."""
    names = [p.stem.replace("__", "/") for p in sorted(record("04_state_dicts").glob("*__*.json"))]
    return [name for name in names if any(kind in name for kind in ONE_STAGE) and not name.endswith("second_iou")]


def check_against_list(name, cfg):
    want = json.loads(record(f"04_state_dicts/{name.replace('/', '__')}.json").read_text())
    net = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset_like(want))
    state = net.state_dict()
    assert {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()} == want[
        "state_dict"
    ]
    assert list(state) == list(want["state_dict"])
    assert [key for key, _ in net.named_parameters()] == want["parameters"]
    assert sum(p.numel() for p in net.parameters()) == want["n_params"]


@pytest.mark.parametrize("name", recorded_lists())
def test_keys_shapes_and_order_are_the_recorded_ones(name):
    check_against_list(name, load_cfg(name))


@needs_openpcdet
@pytest.mark.parametrize("name", recorded_lists())
def test_openpcdets_own_files_build_the_same(name, monkeypatch):
    monkeypatch.chdir(peer_folder() / "tools")
    check_against_list(name, cfg_from_yaml_file(f"cfgs/{name}.yaml", EasyDict()))


def differences(got, want, where=""):
    """Lines for numbers that are not the recorded ones to 2e-7: some weights are float32 here as well."""
    if isinstance(want, dict):
        assert sorted(got) == sorted(want), where
        return [line for key in want for line in differences(got[key], want[key], f"{where}/{key}")]
    if isinstance(want, list):
        assert len(got) == len(want), where
        return [line for i, entry in enumerate(want) for line in differences(got[i], entry, f"{where}/{i}")]
    return [] if got == pytest.approx(want, rel=2e-7, abs=1e-9) else [f"{where}: {got}, recorded {want}"]


@pytest.mark.parametrize("name", [*configurations(), *CHANGES])
def test_loss_gradients_and_detections_are_openpcdets_in_float64(name):
    cfg = load_cfg(name)
    dataset = tiny_dataset(cfg)
    net = calmed(build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset))
    batch = tiny_batch(name, cfg, dataset)
    boxes = batch["gt_boxes"].clone()
    got = measure(net, batch)
    want = recorded()[name]
    want.pop("trajectory", None)
    assert differences(got, want) == []
    assert torch.equal(batch["gt_boxes"], boxes)
    assert not [p for p, value in net.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert sum(sample["count"] for sample in got["detections"]) >= 20


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_the_first_steps_of_a_training_are_openpcdets_in_float64(name):
    cfg = load_cfg(name)
    dataset = tiny_dataset(cfg)
    net = calmed(build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset))
    steps, tolerance = TRAJECTORIES[name]
    got, want = trajectory(net, tiny_batch(name, cfg, dataset)), recorded()[name]["trajectory"]
    assert want["losses"][-1] < 0.5 * want["losses"][0]
    for key in ("losses", "norms"):
        assert got[key][:steps] == pytest.approx(want[key][:steps], rel=tolerance), key


@pytest.mark.parametrize(
    "name",
    ["waymo_models/pillarnet", "nuscenes_models/cbgs_dyn_pp_centerpoint", "nuscenes_models/cbgs_second_multihead"],
)
def test_a_sample_without_points_and_objects_trains_and_one_alone_is_evaluated(name):
    cfg = load_cfg(name)
    dataset = tiny_dataset(cfg)
    net = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset)
    batch = {
        key: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in tiny_batch(name, cfg, dataset).items()
    }
    first, points = batch["voxel_coords"][:, 0] == 0, batch["points"][:, 0] == 0
    held = {"voxels": first, "voxel_coords": first, "voxel_num_points": first, "points": points}
    batch = {key: value[held[key]] if key in held else value for key, value in batch.items()}
    batch["gt_boxes"][1] = 0
    loss, _, _ = net.train()(dict(batch))
    loss["loss"].backward()
    assert loss["loss"].isfinite() and all(p.grad.isfinite().all() for p in net.parameters())
    empty = {**batch, **{key: batch[key][:0] for key in held}, "batch_size": 1, "gt_boxes": batch["gt_boxes"][1:]}
    found, recall = net.eval()(empty)
    assert len(found) == 1 and found[0]["pred_boxes"].shape[1] in (7, 9) and recall["gt"] == 0


def test_what_is_not_supported_is_named_with_what_is():
    cfg = load_cfg("waymo_models/centerpoint")
    dataset = tiny_dataset(cfg)

    def message(section, name):
        changed = EasyDict(cfg.MODEL)
        node = changed[section] if section else changed
        old, node.NAME = node.NAME, name
        with pytest.raises(InputError) as caught:
            build_network(changed, 3, dataset)
        node.NAME = old
        return str(caught.value)

    assert message("", "PVRCNN").startswith("MODEL.NAME: 'PVRCNN'") and "PointPillar, SECONDNet" in message(
        "", "PVRCNN"
    )
    assert "VoxelBackBone8x, VoxelResBackBone8x" in message("BACKBONE_3D", "DSVT")
    assert "AnchorHeadMulti" in message("DENSE_HEAD", "VoxelNeXtHead")
    assert "DynPillarVFE" in message("VFE", "DynamicVoxelVFE")
    assert "PointPillarScatter" in message("MAP_TO_BEV", "Conv2DCollapse")
    assert "BaseBEVResBackbone" in message("BACKBONE_2D", "SSFA")
    changed = EasyDict(cfg.MODEL)
    for section in ("PFE", "POINT_HEAD", "ROI_HEAD"):
        changed[section] = {"NAME": "PVRCNNHead"}
        with pytest.raises(InputError, match=rf"MODEL\.{section}\.NAME: 'PVRCNNHead' .* none"):
            build_network(changed, 3, dataset)
        del changed[section]


def test_a_pillar_encoder_of_another_width_is_named():
    cfg = load_cfg("waymo_models/pillarnet")
    cfg.MODEL.VFE.NUM_FILTERS = [64]
    with pytest.raises(InputError, match=r"MODEL\.VFE\.NUM_FILTERS.* 32"):
        build_network(cfg.MODEL, 3, tiny_dataset(cfg))
    cfg.MODEL.VFE.NUM_FILTERS = [32]
    cfg.MODEL.BACKBONE_2D.NUM_UPSAMPLE_FILTERS = [128, 64]
    with pytest.raises(InputError, match=r"NUM_UPSAMPLE_FILTERS \[128, 64\] must add up to NUM_FILTERS\[0\], 256"):
        build_network(cfg.MODEL, 3, tiny_dataset(cfg))


@pytest.mark.parametrize("name", ["kitti_models/pillarnet", "nuscenes_models/cbgs_voxel01_res3d_centerpoint"])
def test_float32_and_autocast_stay_close_to_float64(name):
    cfg = load_cfg(name)
    dataset = tiny_dataset(cfg)
    net = calmed(build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset)).float().train()
    batch = {
        key: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in tiny_batch(name, cfg, dataset).items()
    }
    want = recorded()[name]["loss"]
    assert net(dict(batch))[0]["loss"].item() == pytest.approx(want, rel=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net(dict(batch))[0]["loss"]
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(want, rel=0.1)
    assert np.isfinite(float(loss.detach()))
