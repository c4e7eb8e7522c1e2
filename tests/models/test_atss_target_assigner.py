"""ATSS: recorded runs, boxes by hand, and the order that the head needs."""

import math

import numpy as np
import pytest
import torch
from golden_data import cases
from head_cases import GT, features, small_head
from model_data import load_cfg
from ops_triton import BACKENDS

from pcdet_focal.errors import InputError
from pcdet_focal.geometry.box_coders import ResidualCoder
from pcdet_focal.models.dense_heads.target_assigner.anchor_generator import AnchorGenerator
from pcdet_focal.models.dense_heads.target_assigner.atss_target_assigner import ATSSTargetAssigner
from pcdet_focal.ops.rotated_iou import boxes_iou3d, boxes_iou_bev


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", request.param)


@pytest.mark.parametrize("name", ["list3", "single_set", "topk5_height"])
def test_recorded_positives(name, monkeypatch):
    """OpenPCDet asks whether a centre is inside the box with length and width exchanged; for the comparison so do
    we.
    """
    case = cases("03_targets/atss_target_assigner.npz")[name]
    inside = ATSSTargetAssigner._inside
    exchanged = [0, 1, 2, 4, 3, 5, 6]
    monkeypatch.setattr(
        ATSSTargetAssigner, "_inside", staticmethod(lambda anchors, boxes: inside(anchors, boxes[:, exchanged]))
    )
    config = load_cfg("second").MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG
    anchors, _ = AnchorGenerator([0.0, -40.0, -3.0, 70.4000015258789, 40.0, 1.0], config).generate_anchors(
        [(44, 50)] * 3
    )
    anchors = anchors if name == "list3" else anchors[:1]
    flat = torch.cat([a.reshape(-1, 7) for a in anchors])
    by_height = name == "topk5_height"
    gt_boxes = torch.from_numpy(case["gt_boxes"])
    out = ATSSTargetAssigner(5 if by_height else 9, ResidualCoder(), match_height=by_height).assign_targets(
        anchors, gt_boxes
    )
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
            # of equal overlap: either may be the first
            twin = next(j for bb, j in found if bb == b and torch.equal(flat[j, :3], flat[i, :3]))
            assert overlap[twin].item() == pytest.approx(overlap[i].item(), abs=1e-6) and found.pop((b, twin)) == label
    # recorded with topk, which takes either of two rotations that are equally far as a box's last candidate, and so
    # sets another threshold
    for b, i in found:
        own = flat.view(len(anchors), -1, 7)[i // (len(flat) // len(anchors))]  # the anchors of its set
        # (n, T)
        distance = (own[:, None, :3].double() - gt_boxes[b][None, :, :3].double()).square().sum(-1).sort(dim=0).values
        assert ((distance[8] == distance[9]) & (boxes_iou_bev(flat[i][None], gt_boxes[b])[0] > 0)).any()
    assert len(found) <= 1 and same >= len(case["pos_b"]) - 3
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
    # nearest five: x = 0, 1, -1 (y = 0), and y = +-1 (x = 0). IoU of two 4 x 2 boxes that are (a, b) apart: I = (4 -
    # a)(2 - b), I / (16 - I)
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
    assert (
        out["box_cls_labels"].shape == (2, 882)
        and (out.pop("label_weights") == 1).all()
        and all((value == 0).all() for value in out.values())
    )


def plain_atss(anchors, boxes, topk, match_height):
    """The paper's Algorithm 1 with OpenPCDet's additions, one box after the other: {(sample, anchor): box}; anchors (N,
    7), boxes (B, T, 8).
    """
    chosen = {}
    for b, sample in enumerate(boxes):
        owner, forced = {}, {}
        for t, box in enumerate(sample):
            if box[7] == 0:
                continue
            ious = (boxes_iou3d if match_height else boxes_iou_bev)(anchors, box[None, :7])[:, 0]
            shift = anchors[:, :3].double() - box[:3].double()
            nearest = np.argsort((shift * shift).sum(1).numpy(), kind="stable")[:topk]
            values = ious[nearest].numpy()
            threshold = values.mean() + values.std(ddof=1) + 1e-6
            for i, value in zip(nearest, values):
                dx, dy = (anchors[i, :2] - box[:2]).tolist()
                cos, sin = math.cos(box[6]), math.sin(box[6])
                inside = abs(dx * cos + dy * sin) <= box[3] / 2 and abs(dy * cos - dx * sin) <= box[4] / 2
                if value >= threshold and inside and value > owner.get(i, (-1,))[0]:
                    owner[i] = (value, t)
            best = int(ious.argmax())
            if ious[best] > 0 and ious[best] > forced.get(best, (-1,))[0]:
                forced[best] = (ious[best], t)
        chosen.update({(b, int(i)): t for i, (_, t) in {**owner, **forced}.items()})
    return chosen


@pytest.mark.parametrize("match_height", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_batch_is_one_box_after_the_other(seed, match_height, backend):
    """Crowded, so that boxes compete for anchors; rows that pad; one sample without boxes."""
    rng = np.random.default_rng(seed)
    boxes = np.concatenate(
        [
            rng.uniform(-5, 5, (3, 14, 2)),
            rng.uniform(-0.5, 0.5, (3, 14, 1)),
            rng.uniform(0.8, 5, (3, 14, 3)),
            rng.uniform(-4, 4, (3, 14, 1)),
            rng.integers(0, 4, (3, 14, 1)),
        ],
        axis=2,
    )
    boxes[1] = 0
    boxes[2, 5] = boxes[2, 4]
    boxes = torch.from_numpy(boxes).float()
    anchors = grid(nx=13, ny=11, rotations=(0.0, 1.57))
    out = ATSSTargetAssigner(9, ResidualCoder(), match_height=match_height).assign_targets([anchors], boxes)
    expected = plain_atss(anchors.view(-1, 7), boxes, 9, match_height)
    assert set(map(tuple, (out["box_cls_labels"] > 0).nonzero().tolist())) == set(expected) and len(expected) > 25
    for (b, i), t in expected.items():
        assert out["box_cls_labels"][b, i] == boxes[b, t, 7]
        torch.testing.assert_close(
            out["box_reg_targets"][b, i], ResidualCoder().encode_torch(boxes[b, t, :7], anchors.view(-1, 7)[i])
        )
    assert torch.equal(out["reg_weights"], (out["box_cls_labels"] > 0).float()) and (out["label_weights"] == 1).all()
    assert torch.equal(out["bbox_weights"], out["reg_weights"][..., None].expand(-1, -1, 7))
    if not match_height:
        labels, codes, weights = ATSSTargetAssigner(9, ResidualCoder()).assign_targets_single(
            anchors.view(-1, 7), boxes[0, :, :7], boxes[0, :, 7]
        )
        wanted = boxes[0, :, 7] > 0
        again = ATSSTargetAssigner(9, ResidualCoder()).assign_targets([anchors], boxes[:1, wanted])
        assert torch.equal(labels, again["box_cls_labels"][0]) and torch.equal(codes, again["box_reg_targets"][0])
        assert torch.equal(weights, again["reg_weights"][0])


@pytest.mark.parametrize("classes", [None, [1, 2]])
def test_order_with_several_heights_and_sizes(classes):
    """The same positives wherever the layout puts them: set by set, location by location, and (size, rotation, height,
    y, x).
    """
    sets = [
        torch.cat([grid(nx=8, ny=7), grid(nx=8, ny=7) + torch.tensor([0, 0, 1.0, 0, 0, 0, 0])]),
        grid(nx=8, ny=7, size=(1.0, 1.0, 1.5)),
    ]
    # two sizes
    sets = [torch.cat([anchors, anchors + torch.tensor([0, 0, 0, 0.5, 0.2, 0, 0])], dim=3) for anchors in sets]
    sets = [sets[0], sets[1].expand(2, -1, -1, -1, -1, -1).clone()]
    rng = np.random.default_rng(0)
    boxes = torch.tensor(
        np.concatenate(
            [
                rng.uniform(-3, 3, (2, 6, 2)),
                rng.uniform(0, 1, (2, 6, 1)),
                rng.uniform(1, 4, (2, 6, 3)),
                rng.uniform(-3, 3, (2, 6, 1)),
                rng.integers(1, 3, (2, 6, 1)),
            ],
            axis=2,
        ),
        dtype=torch.float32,
    )
    flats = {
        False: torch.cat([s.reshape(-1, 7) for s in sets]),
        True: torch.cat([s.permute(3, 4, 0, 1, 2, 5).reshape(-1, 7) for s in sets]),
    }
    if classes is not None:
        flats[False] = torch.cat([s.flatten(3, 4) for s in sets], dim=3).reshape(-1, 7)
    found = {}
    for multihead, flat in flats.items():
        out = ATSSTargetAssigner(9, ResidualCoder(), use_multihead=multihead, anchor_classes=classes).assign_targets(
            sets, boxes
        )
        positive = (out["box_cls_labels"] > 0).nonzero()
        boxes_of = ResidualCoder().decode_torch(
            out["box_reg_targets"][positive[:, 0], positive[:, 1]], flat[positive[:, 1]]
        )
        rows = torch.cat(
            [
                positive[:, :1],
                flat[positive[:, 1]],
                boxes_of,
                out["box_cls_labels"][positive[:, 0], positive[:, 1]][:, None],
            ],
            dim=1,
        )
        found[multihead] = sorted(tuple(round(v, 3) + 0.0 for v in row) for row in rows.tolist())
        centres = {tuple(round(v, 3) for v in box) for box in boxes[..., :3].reshape(-1, 3).tolist()}
        assert all(min(math.dist(row[8:11], centre) for centre in centres) < 0.01 for row in found[multihead])
    assert len(found[True]) == len(found[False]) > 10
    np.testing.assert_allclose(found[True], found[False], atol=2e-3)


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
    with pytest.raises(InputError, match=r"TARGET_ASSIGNER_CONFIG\.TOPK: 0\b"):
        config.TOPK = 0
        head.get_target_assigner(config)
