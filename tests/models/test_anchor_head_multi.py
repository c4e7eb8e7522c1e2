"""Several heads over one map: recorded losses and gradients, other losses in their place, decoding head by head,
mistakes.
"""

import math

import numpy as np
import pytest
import torch
from easydict import EasyDict
from golden_data import cases
from head_cases import GT, HEIGHT, NAMES, WIDTH
from model_data import REPOSITORY

from pcdet_focal.config import cfg_from_yaml_file
from pcdet_focal.errors import InputError
from pcdet_focal.losses import SigmoidFocalClassificationLoss, WeightedSmoothL1Loss
from pcdet_focal.models.dense_heads import AnchorHeadMulti, AnchorHeadSingle

RANGE = np.array([0, -4, -3, 0.8 * WIDTH, 4, 1], np.float32)
GROUPS = [["Car"], ["Pedestrian", "Cyclist"]]


def head_cfg(groups=None, weights=None, **loss_config):
    """DENSE_HEAD of cfgs/kitti_models/second_multihead.yaml with the classes in ``groups``; keyword arguments go into
    LOSS_CONFIG.
    """
    cfg = cfg_from_yaml_file(REPOSITORY / "cfgs/kitti_models/second_multihead.yaml", EasyDict()).MODEL.DENSE_HEAD
    if groups:
        cfg.RPN_HEAD_CFGS = [EasyDict(HEAD_CLS_NAME=group) for group in groups]
    cfg.LOSS_CONFIG.update(EasyDict(loss_config))
    cfg.LOSS_CONFIG.LOSS_WEIGHTS.update(weights or {})
    return cfg


def build(cfg, kind=AnchorHeadMulti, grid=(WIDTH * 8, HEIGHT * 8, 40), limits=RANGE, names=NAMES):
    torch.manual_seed(0)
    return kind(cfg, 8, len(names), names, np.array(grid), limits, predict_boxes_when_training=False).train()


def with_predictions(head, seed=1, dtype=torch.float64):
    """Random predictions that want a gradient, and targets of real assignment."""
    generator = torch.Generator().manual_seed(seed)
    head = head.to(dtype)
    widths = {"cls_preds": None, "box_preds": head.box_coder.code_size}
    if head.model_cfg.get("USE_DIRECTION_CLASSIFIER"):
        widths["dir_cls_preds"] = head.model_cfg.NUM_DIR_BINS
    predictions = {key: [] for key in widths}
    for part in head.rpn_heads:
        for key, width in widths.items():
            shape = 2, part.num_anchors_per_location * HEIGHT * WIDTH, width or part.num_class
            predictions[key].append(
                (0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
            )
    leaves = [tensor for group in predictions.values() for tensor in group]
    if not head.separate_multihead:
        predictions = {key: torch.cat(value, dim=1) for key, value in predictions.items()}
    head.forward_ret_dict = {**predictions, **head.assign_targets(GT.to(dtype))}
    return leaves


@pytest.mark.parametrize(
    "name, case",
    cases("02_anchor_head_loss/anchor_head_multi_loss.npz").items() or [pytest.param("", {}, marks=pytest.mark.skip)],
)
def test_recorded_losses_and_gradients(name, case):
    weights = {"pos_cls_weight": 2.0, "neg_cls_weight": 0.5} if name == "pos_neg_weight" else {}
    head = build(head_cfg(weights=weights), grid=(64, 48, 40), limits=np.array([0, -40, -3, 70.4, 40, 1], np.float32))
    np.testing.assert_allclose(head._flat_anchors()[0].numpy(), case["anchors"], atol=1e-5)
    groups = {"cls_preds": "grad_cls", "box_preds": "grad_box", "dir_cls_preds": "grad_dir"}
    preds = {key: [torch.from_numpy(case[f"{key}{h}"]).requires_grad_() for h in range(3)] for key in groups}
    labels = torch.from_numpy(case["box_cls_labels"])
    head.forward_ret_dict = {
        **preds,
        "box_cls_labels": labels,
        "box_reg_targets": torch.from_numpy(case["box_reg_targets"]),
    }
    cls_loss, parts = head.get_cls_layer_loss()
    box_loss, box_parts = head.get_box_reg_layer_loss()
    (cls_loss + box_loss).backward()
    assert cls_loss.item() == pytest.approx(float(case["cls_loss"]), rel=1e-5) == parts["rpn_loss_cls"].item()
    assert box_loss.item() == pytest.approx(float(case["box_loss"]), rel=1e-5)
    assert box_parts["rpn_loss_loc"].item() == pytest.approx(float(case["tb_loc"]), rel=1e-5)
    assert box_parts["rpn_loss_dir"].item() == pytest.approx(float(case["tb_dir"]), rel=1e-5)
    for key, grad in groups.items():
        for h in range(3):
            np.testing.assert_allclose(
                preds[key][h].grad.numpy(), case[f"{grad}{h}"], rtol=1e-4, atol=1e-8, err_msg=f"{key} {h}"
            )
    np.testing.assert_array_equal(labels.numpy(), case["box_cls_labels"])


@pytest.mark.parametrize("direction", [True, False])
def test_half_a_turn_is_an_error_only_without_a_direction_classifier(direction):
    cfg = head_cfg()
    cfg.USE_DIRECTION_CLASSIFIER = direction
    head = build(cfg)
    with_predictions(head)
    made = head.forward_ret_dict
    codes = made["box_reg_targets"].clone()
    codes[..., 6] += math.pi
    made["box_preds"] = list(codes.split([part.shape[1] for part in made["cls_preds"]], dim=1))
    _, parts = head.get_box_reg_layer_loss()
    beta, weight = 1 / 9, cfg.LOSS_CONFIG.LOSS_WEIGHTS.loc_weight  # of the smooth L1 loss, which is averaged
    assert parts["rpn_loss_loc"].item() == pytest.approx(0 if direction else weight * (math.pi - beta / 2), abs=1e-6)


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("weights", [{}, {"pos_cls_weight": 2.0, "neg_cls_weight": 0.5}])
def test_the_classification_loss_is_that_of_one_hot_targets_head_by_head(groups, weights):
    head = build(head_cfg(groups, weights))
    with_predictions(head)
    labels, start, want = head.forward_ret_dict["box_cls_labels"], 0, 0.0
    positives = (labels > 0).sum(1).clamp(min=1).double()
    for part, logits in zip(head.rpn_heads, head.forward_ret_dict["cls_preds"]):
        own = labels[:, start : start + logits.shape[1]]
        one_hot = torch.stack([own == label for label in part.head_label_indices], dim=-1).double()
        weight = (own > 0) * weights.get("pos_cls_weight", 1.0) + (own == 0) * weights.get("neg_cls_weight", 1.0)
        want = (
            want
            + SigmoidFocalClassificationLoss(gamma=2.0, alpha=0.25)(
                logits, one_hot, weight.double() / positives[:, None]
            ).sum()
            / 2
        )
        start += logits.shape[1]
    assert (labels > 0).sum() == 5 and start == labels.shape[1]
    got, _ = head.get_cls_layer_loss()
    assert got.item() == pytest.approx(want.item(), rel=1e-9)
    logits = head.forward_ret_dict["cls_preds"]
    for a, b in zip(torch.autograd.grad(got, logits), torch.autograd.grad(want, logits)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)
    # A loss function of the user's own goes the same way.
    head.cls_loss_func = type("Own", (SigmoidFocalClassificationLoss,), {})()
    assert head.get_cls_layer_loss()[0].item() == pytest.approx(want.item(), rel=1e-9)


def test_class_names_may_stand_in_another_order_than_the_heads():
    names = ["Cyclist", "Car", "Pedestrian"]
    head = build(head_cfg(GROUPS), names=names)
    assert [part.head_label_indices.tolist() for part in head.rpn_heads] == [[2], [3, 1]]
    assert head.place_in_head.tolist() == [0, 2, 1, 1]


@pytest.mark.parametrize(
    "entry", ["SigmoidFocalClassificationLoss", "QualityFocalLoss", "BinaryCrossEntropyLoss", "AsymmetricLoss"]
)
@pytest.mark.parametrize("normalizer", ["per_sample", "batch"])
def test_losses_of_a_recipe_count_the_positives_of_all_heads(entry, normalizer):
    """With heads of one class each, the loss is that of a single head that has the same logits for the class of an
    anchor and none for others.
    """
    head = build(head_cfg(None, CLS_LOSS={"NAME": entry}, NORMALIZER=normalizer))
    with_predictions(head)
    loss, logged = head.get_loss()
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in head.forward_ret_dict["cls_preds"])
    if normalizer == "batch":
        assert logged["rpn_cls_normalizer"].item() == (head.forward_ret_dict["box_cls_labels"] > 0).sum().item()
    if entry == "SigmoidFocalClassificationLoss" and normalizer == "per_sample":
        plain = build(head_cfg(None)).double()
        plain.forward_ret_dict = head.forward_ret_dict
        assert loss.item() == pytest.approx(plain.get_loss()[0].item(), rel=1e-9)


def test_classes_that_a_head_lacks_add_nothing_to_the_losses_that_may_have_them():
    for entry in (
        "SigmoidFocalClassificationLoss",
        "QualityFocalLoss",
        "VarifocalLoss",
        "BinaryCrossEntropyLoss",
        "BCEBlurWithLogitsLoss",
        "AsymmetricLoss",
    ):
        build(head_cfg(GROUPS, CLS_LOSS={"NAME": entry}))
    for entry in (
        "SoftmaxFocalLoss",
        "CrossEntropyLoss",
        "GHMC",
        "EqualizedFocalLoss",
        {"NAME": "BinaryCrossEntropyLoss", "LABEL_SMOOTHING": 0.1},
    ):
        with pytest.raises(InputError, match="CLS_LOSS: "):
            build(head_cfg(GROUPS, CLS_LOSS=entry))
    with pytest.raises(InputError, match="pos_cls_weight .*neg_cls_weight"):
        build(head_cfg(GROUPS, weights={"pos_cls_weight": 1.0, "neg_cls_weight": 2.0}, CLS_LOSS="GHMC"))


def test_rotated_iou_loss_over_several_heads():
    head = build(head_cfg(GROUPS, REG_LOSS={"NAME": "RotatedIoULoss", "KIND": "diou"}))
    leaves = with_predictions(head)
    loss, parts = head.get_box_reg_layer_loss()
    loss.backward()
    assert 0 < parts["rpn_loss_loc"].item() < 4 and leaves[-3].grad is not None
    assert [(bool(p.grad.isfinite().all()), bool(p.grad.any())) for p in head.forward_ret_dict["box_preds"]] == [
        (True, True)
    ] * 2


def test_dense_losses_are_those_of_the_positives_alone():
    head = build(head_cfg(GROUPS))
    with_predictions(head)
    want = head.get_box_reg_layer_loss()[0]
    # might look at all anchors, so it gets all
    head.reg_loss_func = type("Own", (WeightedSmoothL1Loss,), {})(code_weights=[1.0] * 7)
    assert head.get_box_reg_layer_loss()[0].item() == pytest.approx(want.item(), rel=1e-6)


def test_atss_targets_come_head_by_head_too():
    cfg = head_cfg(GROUPS)
    cfg.TARGET_ASSIGNER_CONFIG.update(NAME="ATSS", TOPK=9)
    head = build(cfg)
    with_predictions(head)
    labels, counts = (
        head.forward_ret_dict["box_cls_labels"],
        [part.shape[1] for part in head.forward_ret_dict["cls_preds"]],
    )
    first, second = labels.split(counts, dim=1)
    assert first.unique().tolist() == [0, 1] and second.unique().tolist() == [0, 2, 3]
    assert head.get_loss()[0].isfinite()


def sincos(cfg, direction):
    cfg.TARGET_ASSIGNER_CONFIG.BOX_CODER_CONFIG = EasyDict(encode_angle_by_sincos=True)
    cfg.LOSS_CONFIG.LOSS_WEIGHTS.code_weights = [1.0] * 8
    cfg.USE_DIRECTION_CLASSIFIER = direction
    return cfg


@pytest.mark.parametrize("kind", [AnchorHeadMulti, AnchorHeadSingle])
def test_sin_and_cos_codes_are_compared_as_they_are_and_the_direction_is_the_true_one(kind):
    cfg = sincos(head_cfg(), direction=True)
    if kind is AnchorHeadSingle:
        cfg.USE_MULTIHEAD = False
    head = build(cfg, kind).double()
    targets = head.assign_targets(GT.double())
    dir_logits = {}

    def loss_for(codes, bins):
        shape = (2, HEIGHT, WIDTH, -1) if kind is AnchorHeadSingle else (2, codes.shape[1], -1)
        one_hot = torch.nn.functional.one_hot(bins, 2).double() * 40
        dir_logits["x"] = one_hot
        head.forward_ret_dict = {**targets, "box_preds": codes.reshape(shape), "dir_cls_preds": one_hot.reshape(shape)}
        return head.get_box_reg_layer_loss()[0].item()

    true = targets["box_reg_targets"]
    anchors = head._flat_anchors()[..., 6]
    headings = torch.atan2(true[..., 7] + anchors.sin(), true[..., 6] + anchors.cos())
    assert {round(h, 4) for h in headings[targets["box_cls_labels"] > 0].tolist()} <= {
        round(float(h), 4) for h in GT[..., 6].flatten()
    }
    bins = torch.floor((headings - cfg.DIR_OFFSET).remainder(2 * math.pi) / math.pi).long()
    assert loss_for(true, bins) == pytest.approx(0, abs=1e-9)
    assert loss_for(true, 1 - bins) > 1
    off = true.clone()
    off[..., 6] += 0.5  # OpenPCDet puts sin a cos b in the place of the cosine
    positives, beta = targets["box_cls_labels"] > 0, 1 / 9
    assert loss_for(off, bins) == pytest.approx(
        2.0 * (0.5 - beta / 2) * sum(p.any().item() for p in positives) / 2, rel=1e-6
    )


def test_evaluation_decodes_head_by_head_with_the_labels_of_each():
    head = build(head_cfg(GROUPS)).eval()
    data = {"spatial_features_2d": torch.randn(2, 8, HEIGHT, WIDTH), "batch_size": 2}
    out = head(data)
    cells = HEIGHT * WIDTH
    assert [tuple(p.shape) for p in out["batch_cls_preds"]] == [(2, 2 * cells, 1), (2, 4 * cells, 2)]
    assert out["batch_box_preds"].shape == (2, 6 * cells, 7) and [
        m.tolist() for m in out["multihead_label_mapping"]
    ] == [[1], [2, 3]]
    # as one tensor they decode to the same
    joined = [torch.cat(head.forward_ret_dict[key], dim=1) for key in ("box_preds", "dir_cls_preds")]
    assert torch.equal(head.generate_predicted_boxes(2, out["batch_cls_preds"], *joined)[1], out["batch_box_preds"])


WRONG = {
    "USE_MULTIHEAD: .*True": lambda cfg: cfg.update(USE_MULTIHEAD=False),
    "RPN_HEAD_CFGS: .*HEAD_CLS_NAME": lambda cfg: cfg.RPN_HEAD_CFGS.reverse(),
    r"REG_LIST: \['reg:2', 'height:1'\] .*7": lambda cfg: cfg.update(
        SEPARATE_REG_CONFIG=EasyDict(NUM_MIDDLE_CONV=1, NUM_MIDDLE_FILTER=8, REG_LIST=["reg:2", "height:1"])
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_mistakes_of_a_configuration_are_named(message):
    cfg = head_cfg()
    WRONG[message](cfg)
    with pytest.raises(InputError, match=message):
        build(cfg)
