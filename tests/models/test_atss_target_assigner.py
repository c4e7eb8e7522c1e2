"""ATSS: recorded runs, boxes by hand, and the order that the head needs."""
import math

import numpy as np
import pytest
import torch
from golden_data import cases, needs_golden
from head_cases import GT, features, small_head
from model_data import load_cfg

from pcdet_focal.errors import InputError
from pcdet_focal.geometry.box_coders import ResidualCoder
from pcdet_focal.models.dense_heads.target_assigner.anchor_generator import AnchorGenerator
from pcdet_focal.models.dense_heads.target_assigner.atss_target_assigner import ATSSTargetAssigner
from pcdet_focal.ops.rotated_iou import boxes_iou3d, boxes_iou_bev


@needs_golden
@pytest.mark.parametrize("name", ["list3", "single_set", "topk5_height"])
def test_recorded_positives(name, monkeypatch):
    """OpenPCDet asks whether a centre is inside the box with length and width exchanged; for the comparison so do we."""
    case = cases("03_targets/atss_target_assigner.npz")[name]
    inside = ATSSTargetAssigner._inside
    exchanged = [0, 1, 2, 4, 3, 5, 6]
    monkeypatch.setattr(ATSSTargetAssigner, "_inside", staticmethod(lambda anchors, boxes: inside(anchors, boxes[:, exchanged])))
    config = load_cfg("second").MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG
    anchors, _ = AnchorGenerator([0.0, -40.0, -3.0, 70.4000015258789, 40.0, 1.0], config).generate_anchors([(44, 50)] * 3)
    anchors = anchors if name == "list3" else anchors[:1]
    flat = torch.cat([a.reshape(-1, 7) for a in anchors])
    by_height = name == "topk5_height"
    gt_boxes = torch.from_numpy(case["gt_boxes"])
    out = ATSSTargetAssigner(5 if by_height else 9, ResidualCoder(), match_height=by_height).assign_targets(anchors, gt_boxes)
    found = {}
    for b, i in (out["box_cls_labels"] > 0).nonzero().tolist():
        found[b, i] = int(out["box_cls_labels"][b, i])
        assert out["reg_weights"][b, i] == 1
    same = 0
    for b, i, label, codes in zip(case["pos_b"], case["pos_idx"], case["pos_label"], case["pos_reg_targets"]):
        if found.pop((b, i), None) == label:
            np.testing.assert_allclose(out["box_reg_targets"][b, i].numpy(), codes, rtol=1e-4, atol=1e-4)
            same += 1
            continue
        box = ResidualCoder().decode_torch(torch.from_numpy(codes)[None], flat[i][None])
        overlap = (boxes_iou3d if by_height else boxes_iou_bev)(flat, box)[:, 0]
        if overlap[i] > 0:  # else OpenPCDet made an anchor positive that does not touch the box
            twin = next(j for bb, j in found if bb == b and torch.equal(flat[j, :3], flat[i, :3]))  # of equal overlap: either may be the first
            assert overlap[twin].item() == pytest.approx(overlap[i].item(), abs=1e-6) and found.pop((b, twin)) == label
    assert not found and same >= len(case["pos_b"]) - 3
    assert out["box_cls_labels"].min() == 0


def grid(nx=21, ny=21, size=(4.0, 2.0, 1.5), rotations=(0.0, math.pi / 2)):
    """One metre apart, centred at the origin: (1, ny, nx, 1, rotations, 7)."""
    anchors = torch.zeros(1, ny, nx, 1, len(rotations), 7)
    anchors[..., 0] = (torch.arange(nx) - nx // 2).view(1, 1, nx, 1, 1)
    anchors[..., 1] = (torch.arange(ny) - ny // 2).view(1, ny, 1, 1, 1)
    anchors[..., 3:6] = torch.tensor(size)
    anchors[..., 6] = torch.tensor(rotations)
    return anchors


def test_one_box_by_hand():
    anchors = grid(rotations=(0.0,))
    box = torch.tensor([[[0.2, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0, 2.0]]])
    out = ATSSTargetAssigner(5, ResidualCoder()).assign_targets([anchors], box)
    # nearest five: x = 0, 1, -1 (y = 0), and y = +-1 (x = 0). IoU of two 4 x 2 boxes that are (a, b) apart: I = (4 - a)(2 - b), I / (16 - I)
    overlaps = [i / (16 - i) for i in (3.8 * 2, 3.2 * 2, 2.8 * 2, 3.8, 3.8)]
    threshold = np.mean(overlaps) + np.std(overlaps, ddof=1)
    positive = (out["box_cls_labels"].view(21, 21) > 0).nonzero().tolist()
    assert [o >= threshold for o in overlaps] == [True, False, False, False, False] and positive == [[10, 10]]
    assert out["box_cls_labels"].max() == 2 and out["box_cls_labels"].dtype == torch.int32
    code = out["box_reg_targets"].view(21, 21, 7)[10, 10]
    torch.testing.assert_close(code, torch.tensor([0.2 / math.sqrt(20), 0, 0, 0, 0, 0, 0]))


def test_inside_is_length_along_the_heading_and_width_across():
    box = torch.tensor([[1.0, 2.0, 0.0, 4.0, 1.0, 1.5, math.pi / 2]])  # points along +y
    centres = torch.tensor([[1.0, 3.9], [1.0, 4.1], [1.4, 2.0], [1.6, 2.0], [1.0, 0.1]])
    anchors = torch.cat([centres, torch.zeros(5, 5)], dim=1).unsqueeze(1)
    assert ATSSTargetAssigner._inside(anchors, box)[:, 0].tolist() == [True, False, True, False, True]


def test_every_overlapped_box_gets_an_anchor_and_one_far_away_none():
    anchors = grid()
    small, far = [0.4, 0.4, 0.0, 1.0, 1.0, 1.0, 0.7, 1.0], [200.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0, 1.0]
    large = [-5.5, 3.5, 0.0, 4.0, 2.0, 1.5, 1.5, 1.0]
    boxes = torch.tensor([[small, far, large]])
    out = ATSSTargetAssigner(9, ResidualCoder()).assign_targets([anchors], boxes)
    positive = out["box_cls_labels"][0] > 0
    decoded = ResidualCoder().decode_torch(out["box_reg_targets"][0][positive], anchors.view(-1, 7)[positive])
    assert {round(x, 3) for x in decoded[:, 0].tolist()} == {0.4, -5.5}


@pytest.mark.parametrize("boxes", [torch.zeros(2, 0, 8), torch.zeros(2, 3, 8)])
def test_no_boxes(boxes):
    out = ATSSTargetAssigner(9, ResidualCoder()).assign_targets([grid()], boxes)
    assert out["box_cls_labels"].shape == (2, 882) and all((value == 0).all() for value in out.values())


def test_in_the_head_labels_stand_where_the_predictions_do_and_classes_keep_to_their_anchors():
    head = small_head()
    config = load_cfg("second").MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG
    config.NAME, config.TOPK = "ATSS", 9
    head.target_assigner = head.get_target_assigner(config)
    head({"spatial_features_2d": features(), "gt_boxes": GT, "batch_size": 2})
    labels = head.forward_ret_dict["box_cls_labels"]
    assert set(labels[0].unique().tolist()) == {0, 1, 2, 3} and set(labels[1].unique().tolist()) == {0, 1}
    class_of_anchor = torch.arange(labels.shape[1]) // 2 % 3 + 1  # two rotations of each class at a location
    assert all(class_of_anchor[i] == labels[b, i] for b, i in (labels > 0).nonzero().tolist())
    anchors = head._flat_anchors()[0]
    for b, i in (labels > 0).nonzero().tolist():
        box = head.box_coder.decode_torch(head.forward_ret_dict["box_reg_targets"][b, i][None], anchors[i][None])
        assert min((box[0, :6] - gt[:6]).abs().max().item() for gt in GT[b]) < 1e-4
    head.get_loss()[0].backward()
    with pytest.raises(InputError, match=r"TARGET_ASSIGNER_CONFIG\.TOPK: 0 is not allowed"):
        config.TOPK = 0
        head.get_target_assigner(config)
