"""SECOND and PointPillars against recorded runs of OpenPCDet: keys, forward, detections, loss, gradients, optimiser steps."""
import numpy as np
import pytest
import torch
from easydict import EasyDict
from golden_data import assert_matches_samples, cases, needs_golden, needs_kitti_sample
from model_data import build, dataset_like, load_cfg, make_batch, recorded_model, set_recorded_weights

from pcdet_focal.engine.optimization import build_optimizer, build_scheduler
from pcdet_focal.models import build_network

MODELS = ["second", "pointpillar"]


@needs_golden
@pytest.mark.parametrize("name", MODELS)
def test_state_dict_has_the_recorded_keys_and_shapes(name):
    recorded = recorded_model(name)
    net = build(name)
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == {k: tuple(v[0]) for k, v in recorded["state_dict"].items()}
    assert [k for k, _ in net.named_parameters()] == recorded["parameters"]
    assert sum(p.numel() for p in net.parameters()) == recorded["n_params"]


@needs_golden
@needs_kitti_sample
@pytest.mark.parametrize("name", MODELS)
def test_evaluation_forward_and_detections(name):
    case = cases(f"05_forward/{name}_eval.npz")["f000000"]
    net = build(name)
    set_recorded_weights(net)
    net.eval()
    batch = make_batch(name, ["000000"], recorded_model(name)["point_cloud_range"], case["gt_boxes"], 40000)
    assert len(batch["voxels"]) == int(case["n_voxels"])
    with torch.no_grad():
        for module in net.module_list:
            batch = module(batch)
        found, recall = net.post_processing(batch)
    for key in ("spatial_features", "spatial_features_2d", "batch_cls_preds", "batch_box_preds"):
        scale = max(abs(float(case[f"{key}__max"])), abs(float(case[f"{key}__min"])))
        assert_matches_samples(batch[key].numpy(), case, key, rtol=1e-4, atol=1e-4 * scale)
    for key in ("cls_preds", "box_preds", "dir_cls_preds"):
        scale = max(abs(float(case[f"{key}__max"])), abs(float(case[f"{key}__min"])))
        assert_matches_samples(net.dense_head.forward_ret_dict[key].numpy(), case, key, rtol=1e-4, atol=1e-4 * scale)
    # The recorded run's own IoU has a margin of 1 cm, so some suppressions differ: the sets agree to a few boxes in a hundred.
    boxes, want = found[0]["pred_boxes"].numpy(), case["pred0_boxes"]
    common = sum((np.abs(boxes[:, :6] - box[:6]).max(1) < 1e-2).any() for box in want)
    assert common >= 0.95 * len(want) and len(boxes) <= 1.05 * len(want) + 1
    assert recall["gt"] == 1 and recall["rcnn_0.3"] == 0


@needs_golden
@needs_kitti_sample
@pytest.mark.parametrize("name", MODELS)
def test_training_loss_and_every_gradient_norm(name):
    case = cases(f"05_forward/{name}_train.npz")["step"]
    net = build(name)
    set_recorded_weights(net)
    net.train()
    batch = make_batch(name, ["000000", "000001"], recorded_model(name)["point_cloud_range"], case["gt_boxes"], 16000)
    ret, logged, _ = net(batch)
    ret["loss"].backward()
    np.testing.assert_allclose(float(ret["loss"].detach()), float(case["loss"]), rtol=1e-4)
    for key in ("loss_rpn", "rpn_loss_cls", "rpn_loss_loc", "rpn_loss_dir", "rpn_loss"):
        np.testing.assert_allclose(float(logged[key]), float(case[f"tb_{key}"]), rtol=1e-4)
    labels = net.dense_head.forward_ret_dict["box_cls_labels"]
    assert (labels > 0).sum(1).tolist() == case["n_pos_per_image"].tolist()
    assert (labels < 0).sum(1).tolist() == case["n_ign_per_image"].tolist()
    # SECOND's 35 float32 layers: our own gradient norms in float64 are up to 1 % from the recorded float32 ones, 0.06 % in the median.
    most, median = {"pointpillar": (2e-3, 2e-4), "second": (2e-2, 1e-3)}[name]
    errors = {}
    for key, parameter in net.named_parameters():
        recorded = float(case["grad_norm__" + key.replace(".", "/")])
        errors[key] = abs(parameter.grad.double().norm().item() / recorded - 1)
    assert max(errors.values()) < most, max(errors, key=errors.get)
    assert np.median(list(errors.values())) < median


@needs_golden
@needs_kitti_sample
@pytest.mark.parametrize("name, steps", [("pointpillar", 3), ("second", 2)])
def test_optimiser_steps_follow_the_recorded_trajectory_in_float64(name, steps):
    case = cases(f"09_training/{name}_trajectory_f64.npz")["crop_f64"]
    area = case["point_cloud_range"].astype(np.float64).round(4).tolist()
    net = build(name, point_cloud_range=area, grid_size=case["grid_size"].tolist())
    set_recorded_weights(net)
    net.double().train()
    batches = [make_batch(name, case[f"batch{i}_frames"], area, case[f"batch{i}_gt_boxes"], 16000, torch.float64) for i in range(2)]
    cfg = EasyDict(OPTIMIZER="adam_onecycle", LR=0.003, WEIGHT_DECAY=0.01, MOMS=[0.95, 0.85], PCT_START=0.4, DIV_FACTOR=10)
    optimizer = build_optimizer(net, cfg)
    schedule, _ = build_scheduler(optimizer, 10, 1, -1, cfg)
    for i in range(steps):
        schedule.step(i)
        optimizer.zero_grad()
        ret, _, _ = net(dict(batches[i % 2]))
        ret["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 10)
        optimizer.step()
        for what, got in (("loss", ret["loss"].item()), ("grad_norm", norm.item())):
            tolerance = max(1e-7, 10 * float(case[f"noise_{what}"][i]))
            assert got == pytest.approx(float(case[what][i]), rel=tolerance), f"step {i} {what}"
        if i == 0:
            sums = dict(zip(case["param_names"], case["after1__all_param_abssum"]))
            for key, parameter in net.named_parameters():
                assert parameter.detach().abs().sum().item() == pytest.approx(float(sums[key]), rel=1e-9), key


def test_an_empty_scan_gives_no_detections_and_no_error():
    cfg = load_cfg("pointpillar")
    meta = dict(class_names=cfg.CLASS_NAMES, grid_size=[64, 64, 1], voxel_size=[0.16, 0.16, 4], point_cloud_range=[0, -5.12, -3, 10.24, 5.12, 1], num_point_features=4)
    net = build_network(cfg.MODEL, 3, dataset_like(meta)).eval()
    batch = {
        "voxels": torch.zeros(0, 32, 4), "voxel_coords": torch.zeros(0, 4, dtype=torch.int32), "voxel_num_points": torch.zeros(0, dtype=torch.int32),
        "batch_size": 1, "gt_boxes": torch.zeros(1, 0, 8),
    }
    with torch.no_grad():
        found, recall = net(batch)
    assert len(found) == 1 and found[0]["pred_boxes"].shape == (0, 7) and recall["gt"] == 0
