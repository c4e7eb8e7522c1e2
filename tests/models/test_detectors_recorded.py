"""SECOND and PointPillars against recorded runs of OpenPCDet: keys, forward, detections, loss, gradients
(``test_trajectories_recorded`` has the steps).
"""

import numpy as np
import pytest
import torch
from golden_data import assert_matches_samples, cases, needs_golden, needs_kitti_sample
from model_data import build, dataset_like, load_cfg, make_batch, recorded_model, set_recorded_weights
from torch.nn.utils import clip_grad_norm_

from pcdet_focal.engine.optimization import build_optimizer, build_scheduler
from pcdet_focal.models import build_network

MODELS = ["second", "pointpillar"]


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_has_the_recorded_keys_and_shapes(name):
    recorded = recorded_model(name)
    net = build(name)
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == {
        k: tuple(v[0]) for k, v in recorded["state_dict"].items()
    }
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
    # The recorded run's own IoU has a margin of 1 cm, so the NMS keeps a few other boxes: the sets agree to a
    # few boxes in a hundred.
    boxes, want = found[0]["pred_boxes"].numpy(), case["pred0_boxes"]
    common = sum((np.abs(boxes[:, :6] - box[:6]).max(1) < 1e-2).any() for box in want)
    assert common >= 0.95 * len(want) and len(boxes) <= 1.05 * len(want) + 1
    assert recall["gt"] == 1 and recall["rcnn_0.3"] == 0


@pytest.mark.slow
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
    # SECOND's 35 float32 layers: our own gradient norms in float64 are up to 1 % from the recorded float32 ones, 0.06 %
    # in the median.
    most, median = {"pointpillar": (2e-3, 2e-4), "second": (2e-2, 1e-3)}[name]
    errors = {}
    for key, parameter in net.named_parameters():
        recorded = float(case["grad_norm__" + key.replace(".", "/")])
        errors[key] = abs(parameter.grad.double().norm().item() / recorded - 1)
    assert max(errors.values()) < most, max(errors, key=errors.get)
    assert np.median(list(errors.values())) < median
    sampled = [key[len("grad__") : -len("__idx")] for key in case if key.startswith("grad__") and key.endswith("__idx")]
    assert len(sampled) >= 4
    for key in sampled:
        got = (
            net.get_parameter(key.replace("/", "."))
            .grad.reshape(-1)[case[f"grad__{key}__idx"].astype(np.int64)]
            .numpy()
        )
        largest = max(abs(float(case[f"grad__{key}__max"])), abs(float(case[f"grad__{key}__min"])))
        np.testing.assert_allclose(got, case[f"grad__{key}__val"], rtol=0, atol=2 * most * largest, err_msg=key)
    for key in (key for key in case if key.startswith("stat__")):
        np.testing.assert_allclose(
            net.state_dict()[key[len("stat__") :].replace("/", ".")], case[key], rtol=1e-4, atol=1e-6, err_msg=key
        )
    if name == "pointpillar":  # one optimiser step, and what the next batch's loss is then
        recorded = cases("08_training_extras/pointpillar_4_steps.npz")["steps"]
        cfg = load_cfg(name).OPTIMIZATION
        optimizer = build_optimizer(net, cfg)
        build_scheduler(optimizer, 50, 2, -1, cfg)[0].step(0)
        assert float(clip_grad_norm_(net.parameters(), cfg.GRAD_NORM_CLIP)) == pytest.approx(
            recorded["grad_norm"][0], rel=1e-3
        )
        optimizer.step()
        with torch.no_grad():
            loss = float(
                net(
                    make_batch(
                        name, ["000000", "000001"], recorded_model(name)["point_cloud_range"], case["gt_boxes"], 16000
                    )
                )[0]["loss"]
            )
        assert loss == pytest.approx(recorded["loss"][1], rel=2e-2)


def test_an_empty_scan_gives_no_detections_and_no_error():
    cfg = load_cfg("pointpillar")
    meta = dict(
        class_names=cfg.CLASS_NAMES,
        grid_size=[64, 64, 1],
        voxel_size=[0.16, 0.16, 4],
        point_cloud_range=[0, -5.12, -3, 10.24, 5.12, 1],
        num_point_features=4,
    )
    net = build_network(cfg.MODEL, 3, dataset_like(meta)).eval()
    batch = {
        "voxels": torch.zeros(0, 32, 4),
        "voxel_coords": torch.zeros(0, 4, dtype=torch.int32),
        "voxel_num_points": torch.zeros(0, dtype=torch.int32),
        "batch_size": 1,
        "gt_boxes": torch.zeros(1, 0, 8),
    }
    with torch.no_grad():
        found, recall = net(batch)
    assert len(found) == 1 and found[0]["pred_boxes"].shape == (0, 7) and recall["gt"] == 0
