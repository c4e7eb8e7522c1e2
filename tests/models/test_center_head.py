"""CenterHead: targets against OpenPCDet's, decoding of hand-made maps, suppression, losses, mistakes in its
configuration.
"""

import math
from pathlib import Path

import center_cases as C
import numpy as np
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import calculate_iou_loss_centerhead, calculate_iou_reg_loss_centerhead
from pcdet_focal.models.dense_heads import CenterHead
from pcdet_focal.models.model_utils import centernet_utils, model_nms_utils

BRANCHES = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}


def make_head(training_boxes=False, names=C.NAMES, seed=0, **changes):
    torch.manual_seed(seed)
    return CenterHead(
        C.head_cfg(**changes),
        4,
        len(names),
        names,
        np.array([80, 64, 20]),
        C.RANGE,
        C.VOXEL,
        predict_boxes_when_training=training_boxes,
    )


def random_maps(batch=2, iou=False, seed=0, dtype=torch.float64, grad=False):
    """What three heads predict, everywhere."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for names in C.HEADS:
        widths = {**BRANCHES, **({"iou": 1} if iou else {}), "hm": len(names)}
        made.append(
            {
                key: (0.5 * torch.randn(batch, n, C.HEIGHT, C.WIDTH, generator=generator, dtype=torch.float64))
                .to(dtype)
                .requires_grad_(grad)
                for key, n in widths.items()
            }
        )
    return made


def test_targets_are_openpcdets():
    recorded = np.load(Path(__file__).parent / "data/center_targets.npz")
    boxes = torch.from_numpy(C.boxes())
    before = boxes.clone()
    targets = make_head().assign_targets(boxes, feature_map_size=(C.HEIGHT, C.WIDTH))
    assert torch.equal(boxes, before)  # OpenPCDet writes the class in the head into them
    for i, names in enumerate(C.HEADS):
        heat = targets["heatmaps"][i].numpy()
        assert heat.shape == (2, len(names), C.HEIGHT, C.WIDTH) and targets["heatmaps"][i].is_contiguous()
        np.testing.assert_array_equal(np.flatnonzero(heat), recorded[f"hm{i}_idx"])
        np.testing.assert_allclose(heat.ravel()[recorded[f"hm{i}_idx"]], recorded[f"hm{i}_val"], rtol=2e-7)
        np.testing.assert_array_equal(heat.ravel()[recorded[f"hm{i}_idx"]] == 1, recorded[f"hm{i}_val"] == 1)
        for key, name in (("inds", "inds"), ("masks", "masks"), ("target_boxes", "boxes"), ("target_boxes_src", "src")):
            got = targets[key][i].numpy()
            assert got.shape[:2] == (2, 50) and not got[:, C.SLOTS :].any()
            np.testing.assert_allclose(
                got[:, : C.SLOTS], recorded[f"{name}{i}"], rtol=1e-6, atol=1e-6, err_msg=f"{key} of head {i}"
            )


def test_a_class_goes_to_its_own_head_whatever_the_order_of_the_heads():
    head = make_head(CLASS_NAMES_EACH_HEAD=[["cone", "pedestrian"], ["truck"], ["car", "bus"]])
    boxes = torch.zeros(1, 5, 10)
    for row in range(5):
        boxes[0, row] = torch.tensor([row - 2.0, 0.3, -1.0, 2.0, 1.0, 1.0, 0.5, 0.0, 0.0, row + 1.0])
    targets = head.assign_targets(boxes, feature_map_size=(C.HEIGHT, C.WIDTH))
    labels = [targets["target_boxes_src"][i][0, : int(targets["masks"][i].sum()), -1].tolist() for i in range(3)]
    assert labels == [[2, 1], [1], [1, 2]]  # pedestrian, cone; truck; car, bus: counted in their heads
    peaks = [[tuple(cell) for cell in (targets["heatmaps"][i][0] == 1).nonzero().tolist()] for i in range(3)]
    cells = {name: (16, int((row - 2.0 + 10) / 0.5)) for row, name in enumerate(C.NAMES)}
    assert peaks == [
        [(0, *cells["cone"]), (1, *cells["pedestrian"])],
        [(0, *cells["truck"])],
        [(0, *cells["car"]), (1, *cells["bus"])],
    ]


def test_objects_beyond_the_slots_are_left_out():
    head = make_head(
        TARGET_ASSIGNER_CONFIG={"FEATURE_MAP_STRIDE": 2, "NUM_MAX_OBJS": 3, "GAUSSIAN_OVERLAP": 0.1, "MIN_RADIUS": 2}
    )
    boxes = torch.tensor([[[x, 1.0, -1.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0] for x in (-8.0, -4.0, 0.0, 4.0, 8.0)]])
    targets = head.assign_targets(boxes, feature_map_size=(C.HEIGHT, C.WIDTH))
    assert targets["masks"][0].tolist() == [[1, 1, 1]] and int((targets["heatmaps"][0] == 1).sum()) == 3
    assert targets["target_boxes_src"][0][0, :, 0].tolist() == [-8, -4, 0]


def test_boxes_that_are_not_finite_are_no_objects():
    boxes = torch.from_numpy(C.boxes())[:1, :3].clone()
    boxes[0, 0, 0], boxes[0, 1, 6] = math.nan, math.inf
    boxes[0, :, -1] = 1
    targets = make_head().assign_targets(boxes, feature_map_size=(C.HEIGHT, C.WIDTH))
    assert targets["masks"][0][0, :4].tolist() == [0, 0, 1, 0] and int((targets["heatmaps"][0] == 1).sum()) == 1
    assert targets["target_boxes"][0].isfinite().all() and targets["heatmaps"][0].isfinite().all()


@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.7])
def test_the_radius_is_the_least_of_three_roots(overlap):
    rng = np.random.default_rng(0)
    height, width = rng.uniform(0.3, 40, (2, 50))
    got = centernet_utils.gaussian_radius(torch.from_numpy(height), torch.from_numpy(width), overlap).numpy()
    for h, w, radius in zip(height, width, got):
        equations = (  # a r^2 - b r + c = 0: both corners move out, both in, one of each
            (1, h + w, w * h * (1 - overlap) / (1 + overlap)),
            (4, 2 * (h + w), (1 - overlap) * w * h),
            (4 * overlap, -2 * overlap * (h + w), (overlap - 1) * w * h),
        )
        assert radius == pytest.approx(min(a * max(np.roots([a, -b, c]).real) for a, b, c in equations), rel=1e-9)


def test_gaussians_are_drawn_as_their_formula_says():
    rng = np.random.default_rng(1)
    cells, radius, maps = rng.integers(0, [13, 9], (30, 2)), rng.integers(0, 6, 30), rng.integers(0, 4, 30)
    valid = rng.uniform(size=30) < 0.8
    want = np.zeros((4, 9, 13))
    for (cx, cy), r, m, drawn in zip(cells, radius, maps, valid):
        for y in range(9):
            for x in range(13):
                if drawn and abs(x - cx) <= r and abs(y - cy) <= r:
                    want[m, y, x] = max(
                        want[m, y, x], math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * ((2 * r + 1) / 6) ** 2))
                    )
    tensors = [torch.from_numpy(a) for a in (cells, radius, maps, valid)]
    got = centernet_utils.draw_gaussians(*tensors, (4, 9, 13), torch.float64).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert (got[maps[valid], cells[valid, 1], cells[valid, 0]] == 1).all()
    assert not centernet_utils.draw_gaussians(*[t[:0] for t in tensors], (4, 9, 13), torch.float64).any()


def test_one_gaussian_is_drawn_in_place():
    heat = torch.full((9, 13), 0.4)
    assert centernet_utils.draw_gaussian_to_heatmap(heat, torch.tensor([12.7, 1.2]), 2) is heat
    # sigma is 5/6: one cell beside the peak exp(-0.72), a cell across from it exp(-1.44) < 0.4
    raised = (heat - 0.4).abs() > 1e-6
    assert sorted(map(tuple, raised.nonzero().tolist())) == [(0, 12), (1, 11), (1, 12), (2, 12)]
    assert heat[1, 12] == 1 and heat[1, 11].item() == pytest.approx(math.exp(-0.72), rel=1e-6)
    np.testing.assert_allclose(
        centernet_utils.gaussian2D((3, 5), sigma=2)[0], [math.exp(-(1 + d * d) / 8) for d in (-2, -1, 0, 1, 2)]
    )


def hand_made(peaks, iou=None):
    """Maps of three heads with scores of 1e-3 but at ``peaks``: (sample, head, class in the head, y, x, score)."""
    maps = [
        {key: torch.zeros(2, n, C.HEIGHT, C.WIDTH, dtype=torch.float64) for key, n in BRANCHES.items()} for _ in C.HEADS
    ]
    for names, head in zip(C.HEADS, maps):
        head["hm"] = torch.full((2, len(names), C.HEIGHT, C.WIDTH), math.log(1e-3 / (1 - 1e-3)), dtype=torch.float64)
        head["rot"][:, 0] = 1
        if iou is not None:
            head["iou"] = torch.full((2, 1, C.HEIGHT, C.WIDTH), 2 * iou - 1, dtype=torch.float64)
    for sample, head, label, y, x, score in peaks:
        maps[head]["hm"][sample, label, y, x] = math.log(score / (1 - score))
    return maps


def test_decoding_a_hand_made_map():
    maps = hand_made([(0, 1, 1, 20, 30, 0.9), (0, 1, 0, 3, 4, 0.6), (1, 2, 0, 10, 11, 0.7), (1, 0, 0, 5, 5, 0.05)])
    maps[1]["center"][0, :, 20, 30] = torch.tensor([0.25, 0.75])
    maps[1]["center_z"][0, 0, 20, 30] = -1.5
    maps[1]["dim"][0, :, 20, 30] = torch.tensor([4.0, 2.0, 1.5]).log()
    maps[1]["rot"][0, :, 20, 30] = 3 * torch.tensor([math.cos(2.5), math.sin(2.5)])
    maps[1]["vel"][0, :, 20, 30] = torch.tensor([7.0, -2.0])
    first, second = make_head().double().generate_predicted_boxes(2, maps)
    want = [
        [-10 + 30.25 * 0.5, -8 + 20.75 * 0.5, -1.5, 4.0, 2.0, 1.5, 2.5, 7.0, -2.0],
        [-10 + 4 * 0.5, -8 + 3 * 0.5, 0, 1, 1, 1, 0, 0, 0],
    ]
    np.testing.assert_allclose(first["pred_boxes"].numpy(), want, atol=1e-6)
    np.testing.assert_allclose(first["pred_scores"].numpy(), [0.9, 0.6])
    assert first["pred_labels"].tolist() == [3, 2]  # bus, truck
    assert second["pred_labels"].tolist() == [4] and second["pred_boxes"].shape == (1, 9)


def test_centres_outside_the_limits_are_dropped():
    head = make_head(
        POST_PROCESSING={
            "SCORE_THRESH": 0.1,
            "POST_CENTER_LIMIT_RANGE": [-10, -10, -1, 10, 10, 1],
            "MAX_OBJ_PER_SAMPLE": 60,
            "NMS_CONFIG": {"NMS_TYPE": "nms_gpu", "NMS_THRESH": 0.2, "NMS_PRE_MAXSIZE": 1000, "NMS_POST_MAXSIZE": 83},
        }
    ).double()
    maps = hand_made([(0, 0, 0, 4, 4, 0.9), (0, 0, 0, 20, 20, 0.8)])
    maps[0]["center_z"][0, 0, 4, 4] = 1.5
    found, _ = head.generate_predicted_boxes(2, maps)
    assert found["pred_scores"].tolist() == pytest.approx([0.8])
    for height in (1.0, -1.0):  # the borders belong
        maps[0]["center_z"][0, 0, 4, 4] = height
        found, _ = head.generate_predicted_boxes(2, maps)
        assert found["pred_scores"].tolist() == pytest.approx([0.9, 0.8])


def post_processing(**nms):
    return {
        "SCORE_THRESH": 0.1,
        "POST_CENTER_LIMIT_RANGE": [-12.0, -12.0, -5.0, 12.0, 12.0, 5.0],
        "MAX_OBJ_PER_SAMPLE": 60,
        "NMS_CONFIG": nms,
    }


def test_circle_suppression_goes_by_squared_distance_for_each_head():
    head = make_head(
        POST_PROCESSING=post_processing(NMS_TYPE="circle_nms", MIN_RADIUS=[4.0, 1.0, 0.2], NMS_POST_MAXSIZE=2)
    ).double()
    # cells of 0.5 m: 2 m and 3 m from the best
    peaks = [(0, 0, 0, 10, x, s) for x, s in ((10, 0.9), (14, 0.8), (16, 0.7))]
    # 1 m apart: the threshold itself suppresses
    peaks += [(0, 1, 0, 10, x, s) for x, s in ((20, 0.5), (22, 0.6), (24, 0.55))]
    peaks += [(0, 2, 0, 10, x, s) for x, s in ((30, 0.5), (32, 0.6), (34, 0.55))]  # three stay, two are allowed
    found, _ = head.generate_predicted_boxes(2, hand_made(peaks))
    assert found["pred_scores"].tolist() == pytest.approx([0.9, 0.7, 0.6, 0.6, 0.55])
    # Cells beside a peak are no peaks, though they are further away than the radius.
    head = make_head(
        POST_PROCESSING=post_processing(NMS_TYPE="circle_nms", MIN_RADIUS=0.0, NMS_POST_MAXSIZE=50)
    ).double()
    found, _ = head.generate_predicted_boxes(
        2, hand_made([(0, 0, 0, 10, 10, 0.9), (0, 0, 0, 11, 11, 0.8), (0, 0, 0, 13, 13, 0.7)])
    )
    assert found["pred_scores"].tolist() == pytest.approx([0.9, 0.7])


def test_circle_nms_against_a_plain_loop():
    rng = np.random.default_rng(2)
    rows = np.c_[rng.uniform(0, 10, (200, 2)), np.round(rng.uniform(0, 1, 200), 2)]
    kept: list[int] = []
    for i in np.argsort(-rows[:, 2], kind="stable"):
        if all(((rows[i, :2] - rows[j, :2]) ** 2).sum() > 1.7 for j in kept):
            kept.append(i)
    assert centernet_utils.circle_nms(torch.from_numpy(rows), 1.7).tolist() == kept
    assert centernet_utils._circle_nms(torch.from_numpy(rows), 1.7, post_max_size=5).tolist() == kept[:5]
    assert centernet_utils.circle_nms(torch.zeros(0, 3), 1.0).shape == (0,)


def test_class_specific_suppression_has_limits_of_its_own():
    lists = dict(
        NMS_THRESH=[0.5] * 5,
        NMS_PRE_MAXSIZE=[60] * 5,
        NMS_POST_MAXSIZE=[60, 1, 60, 60, 60],
        SCORE_THRESH=[0.2, 0.2, 0.65, 0.2, 0.2],
    )
    head = make_head(POST_PROCESSING=post_processing(NMS_TYPE="class_specific_nms", **lists)).double()
    maps = hand_made(
        [
            (0, 1, 0, 3, 4, 0.6),
            (0, 1, 0, 3, 20, 0.7),
            (0, 1, 1, 3, 4, 0.6),
            (0, 1, 1, 20, 20, 0.8),
            (0, 0, 0, 9, 9, 0.15),
            (0, 0, 0, 9, 19, 0.3),
        ]
    )
    found, _ = head.generate_predicted_boxes(2, maps)
    assert list(zip(found["pred_labels"].tolist(), found["pred_scores"].round(decimals=6).tolist())) == [
        (1, 0.3),
        (2, 0.7),
        (3, 0.8),
    ]


def test_a_score_threshold_for_each_class():
    cfg = {
        **post_processing(NMS_TYPE="nms_gpu", NMS_THRESH=0.2, NMS_PRE_MAXSIZE=99, NMS_POST_MAXSIZE=99),
        "SCORE_THRESH": [0.1, 0.65, 0.75, 0.4, 0.1],
    }
    head = make_head(POST_PROCESSING=cfg).double()
    peaks = [(0, 1, 0, 3, 4, 0.6), (0, 1, 0, 3, 20, 0.7), (0, 1, 1, 9, 4, 0.7), (0, 1, 1, 20, 20, 0.8)]
    found, _ = head.generate_predicted_boxes(2, hand_made([*peaks, (0, 0, 0, 9, 9, 0.15)]))
    rows = list(zip(found["pred_labels"].tolist(), found["pred_scores"].round(decimals=6).tolist()))
    assert sorted(rows) == [(1, 0.15), (2, 0.7), (3, 0.8)]
    with pytest.raises(InputError, match=r"POST_PROCESSING\.SCORE_THRESH: \[0\.1, 0\.2\] must be .*a list of 5"):
        make_head(POST_PROCESSING={**cfg, "SCORE_THRESH": [0.1, 0.2]})


def test_predicted_iou_rectifies_the_score():
    cfg = {
        **post_processing(NMS_TYPE="nms_gpu", NMS_THRESH=0.2, NMS_PRE_MAXSIZE=99, NMS_POST_MAXSIZE=99),
        "USE_IOU_TO_RECTIFY_SCORE": True,
    }
    maps = hand_made([(0, 0, 0, 4, 4, 0.8), (0, 2, 1, 9, 9, 0.5)], iou=0.64)
    for rectifier, want in (
        (0.5, [(0.8 * 0.64) ** 0.5, (0.5 * 0.64) ** 0.5]),
        ([0.0, 0.5, 0.5, 0.5, 1.0], [0.8, 0.64]),
    ):
        head = make_head(POST_PROCESSING={**cfg, "IOU_RECTIFIER": rectifier}).double()
        found, _ = head.generate_predicted_boxes(2, maps)
        assert found["pred_scores"].tolist() == pytest.approx(want)


def trained_head(iou=False, dtype=torch.float64, boxes=None, **changes):
    """A head with predictions and targets, as after a forward pass."""
    if iou:
        branches = {name: {"out_channels": n, "num_conv": 2} for name, n in {**BRANCHES, "iou": 1}.items()}
        changes["SEPARATE_HEAD_CFG"] = {"HEAD_ORDER": list(BRANCHES), "HEAD_DICT": branches}
    head = make_head(**changes).to(dtype).train()
    boxes = torch.from_numpy(C.boxes()).to(dtype) if boxes is None else boxes
    targets = head.assign_targets(boxes, feature_map_size=(C.HEIGHT, C.WIDTH))
    head.forward_ret_dict = {"pred_dicts": random_maps(iou=iou, dtype=dtype, grad=True), "target_dicts": targets}
    return head


def test_the_loss_is_its_formula_and_can_be_asked_for_twice():
    head = trained_head()
    loss, parts = head.get_loss()
    again, _ = head.get_loss()
    assert torch.equal(loss, again)  # OpenPCDet puts scores in place of the logits
    total = 0.0
    for i, (maps, heat) in enumerate(
        zip(head.forward_ret_dict["pred_dicts"], head.forward_ret_dict["target_dicts"]["heatmaps"])
    ):
        p, g = maps["hm"].sigmoid().clamp(1e-4, 1 - 1e-4), heat
        centres = g == 1
        focal = (
            -(((1 - p) ** 2 * p.log())[centres].sum() + ((1 - g) ** 4 * p**2 * (1 - p).log())[~centres].sum())
            / centres.sum()
        )
        code_weights, box = [1.0] * 6 + [0.2] * 2 + [1.0] * 2, 0.0
        targets, count = head.forward_ret_dict["target_dicts"], 0
        for b in range(2):
            for slot in targets["masks"][i][b].nonzero().flatten().tolist():
                cell = int(targets["inds"][i][b, slot])
                codes = torch.cat([maps[name][b, :, cell // C.WIDTH, cell % C.WIDTH] for name in BRANCHES])
                box += (
                    (codes - targets["target_boxes"][i][b, slot]).abs()
                    * torch.tensor(code_weights, dtype=torch.float64)
                ).sum()
                count += 1
        assert parts[f"hm_loss_head_{i}"].item() == pytest.approx(focal.item(), rel=1e-9)
        assert parts[f"loc_loss_head_{i}"].item() == pytest.approx(0.25 * box.item() / count, rel=1e-7)
        total += focal.item() + 0.25 * box.item() / count
    assert loss.item() == pytest.approx(total, rel=1e-7) and parts["rpn_loss"].item() == loss.item()
    assert not any(value.requires_grad for value in parts.values())


def test_loss_weights_scale_their_parts_and_gradients():
    plain = trained_head()
    weights = {"cls_weight": 3.0, "loc_weight": 0.5, "code_weights": [2.0] * 6 + [0.4] * 2 + [2.0] * 2}
    weighted = trained_head(LOSS_CONFIG={"LOSS_WEIGHTS": weights})
    (loss, parts), (plain_loss, plain_parts) = weighted.get_loss(), plain.get_loss()
    loss.backward()
    plain_loss.backward()
    for key, value in plain_parts.items():  # the box weights are doubled twice
        factor = 3.0 if key.startswith("hm") else 4.0
        assert key == "rpn_loss" or parts[key].item() == pytest.approx(factor * value.item(), rel=1e-6)
    for maps, plain_maps in zip(weighted.forward_ret_dict["pred_dicts"], plain.forward_ret_dict["pred_dicts"]):
        for name, value in maps.items():
            factor = 3.0 if name == "hm" else 4.0
            torch.testing.assert_close(value.grad, factor * plain_maps[name].grad, rtol=1e-6, atol=1e-12)
            assert value.grad.any()


@pytest.mark.parametrize("iou, iou_reg", [(True, True), (True, False), (False, True)])
def test_iou_losses_are_those_of_the_whole_map(iou, iou_reg):
    head = trained_head(iou=iou, IOU_REG_LOSS=iou_reg)  # OpenPCDet's IOU_REG_LOSS needs the branch
    loss, parts = head.get_loss()
    predicted, targets = head.forward_ret_dict["pred_dicts"], head.forward_ret_dict["target_dicts"]
    assert (
        sum(f"iou_loss_head_{i}" in parts for i in range(3)) == 3 * iou
        and sum(f"iou_reg_loss_head_{i}" in parts for i in range(3)) == 3 * iou_reg
    )
    leaves = [maps[name] for maps in predicted for name in ("center", "dim", "center_z", "rot")]
    want = torch.zeros((), dtype=torch.float64)
    for i, maps in enumerate(predicted):
        boxes = centernet_utils.decode_bbox_from_pred_dicts(maps, C.RANGE, C.VOXEL, C.STRIDE).permute(0, 3, 1, 2)
        where = targets["masks"][i], targets["inds"][i], targets["target_boxes_src"][i]
        if iou:
            value = calculate_iou_loss_centerhead(maps["iou"], boxes.detach(), *where)
            assert parts[f"iou_loss_head_{i}"].item() == pytest.approx(value.item(), rel=1e-9)
        if iou_reg:
            value = 0.25 * calculate_iou_reg_loss_centerhead(boxes, *where)
            assert parts[f"iou_reg_loss_head_{i}"].item() == pytest.approx(value.item(), rel=1e-9)
            want = want + value
    if iou_reg:
        plain = trained_head(iou=iou)
        plain.forward_ret_dict["pred_dicts"] = predicted
        mine = torch.autograd.grad(loss, leaves)
        theirs = torch.autograd.grad(plain.get_loss()[0] + want, leaves)
        for a, b in zip(mine, theirs):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_compared_in_float32(half):
    head = trained_head(iou=True, IOU_REG_LOSS=True, dtype=torch.float32)
    rounded = [
        {name: value.detach().to(half) for name, value in maps.items()} for maps in head.forward_ret_dict["pred_dicts"]
    ]
    rounded[0]["hm"][0, 0, 3, 3] = 20.0  # a score that half precision rounds to 1, in the background
    losses = []
    for dtype in (half, torch.float32):
        head.forward_ret_dict["pred_dicts"] = [
            {name: value.to(dtype) for name, value in maps.items()} for maps in rounded
        ]
        losses.append(head.get_loss()[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_scores_are_held_off_0_and_1():
    scores = CenterHead.sigmoid(torch.tensor([-30.0, -2.0, 30.0], dtype=torch.float64)).tolist()
    assert scores == pytest.approx([1e-4, 1 / (1 + math.exp(2)), 1 - 1e-4], rel=1e-12)


def test_without_objects_the_loss_is_finite_and_differentiable():
    head = trained_head(iou=True, IOU_REG_LOSS=True, dtype=torch.float32, boxes=torch.zeros(2, 3, 10))
    loss, _ = head.get_loss()
    maps = [value for made in head.forward_ret_dict["pred_dicts"] for value in made.values()]
    assert loss.isfinite() and all(g.isfinite().all() for g in torch.autograd.grad(loss, maps))


def test_unknown_velocities_do_not_matter():
    boxes = torch.from_numpy(C.boxes()).double()
    boxes[0, 0, 7:9] = math.nan
    loss, _ = trained_head(boxes=boxes).get_loss()
    assert loss.isfinite()


def test_velocities_that_nobody_predicts_are_left_out_and_those_that_lack_are_named():
    order = [name for name in BRANCHES if name != "vel"]
    branches = {
        "HEAD_ORDER": order,
        "HEAD_DICT": {name: {"out_channels": BRANCHES[name], "num_conv": 2} for name in order},
    }
    weights = {"LOSS_WEIGHTS": {"cls_weight": 1.0, "loc_weight": 0.25, "code_weights": [1.0] * 8}}
    without = trained_head(SEPARATE_HEAD_CFG=branches, LOSS_CONFIG=weights)
    assert without.get_loss()[0].isfinite()
    head = trained_head(boxes=torch.from_numpy(C.boxes()[..., [0, 1, 2, 3, 4, 5, 6, 9]]).double())
    with pytest.raises(InputError, match="gt_boxes"):
        head.get_loss()


def test_proposals_for_a_second_stage():
    head = make_head(training_boxes=True).train()
    data = {
        "spatial_features_2d": torch.randn(2, 4, C.HEIGHT, C.WIDTH),
        "gt_boxes": torch.from_numpy(C.boxes()),
        "batch_size": 2,
    }
    head.heads_list[0].hm[-1].bias.data += 1.0
    out = head(data)
    assert out["has_class_labels"] and "final_box_dicts" not in out
    assert (
        out["rois"].shape[::2] == (2, 9) and out["roi_scores"].shape == out["roi_labels"].shape == out["rois"].shape[:2]
    )
    assert (out["roi_labels"] == 1).sum() > 0 and not out["rois"].requires_grad
    nothing = {
        "pred_boxes": torch.zeros(0, 9),
        "pred_scores": torch.zeros(0),
        "pred_labels": torch.zeros(0, dtype=torch.long),
    }
    rois, scores, labels = head.reorder_rois_for_refining(2, [nothing, nothing])
    assert rois.shape == (2, 1, 9) and not rois.any() and labels.dtype == torch.long


def test_only_weights_are_saved_and_everything_follows_the_module():
    head = make_head()
    assert all(key.startswith(("shared_conv", "heads_list")) for key in head.state_dict())
    head = head.to("meta").double()
    assert {b.device.type for b in head.buffers()} == {"meta"} and head.code_weights.dtype == torch.float64


WRONG = {
    "CLASS_NAMES_EACH_HEAD must name each of CLASS_NAMES": dict(CLASS_NAMES_EACH_HEAD=[["car"], ["truck", "bus"]]),
    r"HEAD_ORDER: \['dim', 'center'\] does not fit": dict(
        SEPARATE_HEAD_CFG={"HEAD_ORDER": ["dim", "center"], "HEAD_DICT": {}}
    ),
    "HEAD_DICT.dim: a branch with out_channels 3": dict(
        SEPARATE_HEAD_CFG={
            "HEAD_ORDER": list(BRANCHES),
            "HEAD_DICT": {k: {"out_channels": 2 if k == "dim" else n, "num_conv": 2} for k, n in BRANCHES.items()},
        }
    ),
    "code_weights: 8 .*10 ": dict(
        LOSS_CONFIG={"LOSS_WEIGHTS": {"cls_weight": 1.0, "loc_weight": 1.0, "code_weights": [1.0] * 8}}
    ),
    "LOSS_CONFIG.CLS_LOSS: .*CenterHead": dict(LOSS_CONFIG={"CLS_LOSS": "FocalLoss", "LOSS_WEIGHTS": {}}),
    "NMS_TYPE: soft_nms": dict(POST_PROCESSING=post_processing(NMS_TYPE="soft_nms")),
    "MIN_RADIUS: 2 .*3": dict(
        POST_PROCESSING=post_processing(NMS_TYPE="circle_nms", MIN_RADIUS=[1, 2], NMS_POST_MAXSIZE=9)
    ),
    "CLASS_NAMES_EACH_HEAD": dict(CLASS_NAMES_EACH_HEAD=[C.NAMES, ["tram"]]),
    r"NMS_PRE_MAXSIZE: \[9\] .*5": dict(
        POST_PROCESSING=post_processing(
            NMS_TYPE="class_specific_nms", NMS_THRESH=[0.1] * 5, NMS_PRE_MAXSIZE=[9], NMS_POST_MAXSIZE=[9] * 5
        )
    ),
    "IOU_RECTIFIER: 1 .*5": dict(
        POST_PROCESSING={
            **post_processing(NMS_TYPE="nms_gpu", NMS_THRESH=0.2, NMS_PRE_MAXSIZE=9, NMS_POST_MAXSIZE=9),
            "USE_IOU_TO_RECTIFY_SCORE": True,
            "IOU_RECTIFIER": [0.5],
        }
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_mistakes_of_a_configuration_are_named(message):
    with pytest.raises(InputError, match=message):
        make_head(**WRONG[message])


def test_normal_suppression_ignores_the_heading():
    cfg = post_processing(NMS_TYPE="nms_normal_gpu", NMS_THRESH=0.1, NMS_PRE_MAXSIZE=99, NMS_POST_MAXSIZE=99)
    maps = hand_made([(0, 0, 0, 10, 10, 0.9), (0, 0, 0, 12, 10, 0.8)])  # 1 m apart in y
    maps[0]["dim"][:, 0] = math.log(6.0)
    # long in y as they stand: they overlap; as 6 m x 1 m boxes along x they touch
    maps[0]["rot"][:, 0], maps[0]["rot"][:, 1] = 0, 1
    found, _ = make_head(POST_PROCESSING=cfg).double().generate_predicted_boxes(2, maps)
    assert len(found["pred_boxes"]) == 2
    kept, _ = model_nms_utils.class_agnostic_nms(
        found["pred_scores"], found["pred_boxes"], C.head_cfg().POST_PROCESSING.NMS_CONFIG
    )
    assert len(kept) == 1
