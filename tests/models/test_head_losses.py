"""Losses that LOSS_CONFIG names: against the default to the bit, against hand computation, and what all of them must
do.
"""

import math

import pytest
import torch
from head_cases import GT, features, small_head, with_predictions
from shapely.affinity import rotate, translate
from shapely.geometry import box as rectangle

from pcdet_focal.errors import InputError
from pcdet_focal.losses import register_loss, set_training_progress
from pcdet_focal.registry import LOSSES

CLS = [
    "SigmoidFocalClassificationLoss",
    "FocalLoss",
    "QualityFocalLoss",
    "VarifocalLoss",
    "GHMC",
    "BinaryCrossEntropyLoss",
    "BCEBlurWithLogitsLoss",
    "AsymmetricLoss",
    "EqualizedFocalLoss",
    "SoftmaxFocalLoss",
    "LabelSmoothingLoss",
    "CrossEntropyLoss",
    {"NAME": "CrossEntropyLoss", "USE_SIGMOID": True},
    {"NAME": "CrossEntropyLoss", "CLASS_WEIGHT": [0.5, 1.0, 2.0, 2.0]},
    {"NAME": "BinaryCrossEntropyLoss", "POS_WEIGHT": [1.0, 2.0, 3.0]},
]
REG = [
    "WeightedSmoothL1Loss",
    "WeightedL1Loss",
    "SmoothL1Loss",
    "L1Loss",
    "MSELoss",
    "BalancedL1Loss",
    "GHMR",
    "CornerLoss",
    {"NAME": "RotatedIoULoss", "KIND": "giou", "SPACE": "bev"},
    {"NAME": "RotatedIoULoss", "KIND": "diou"},
    {"NAME": "RotatedIoULoss", "KIND": "iou"},
]
DIR = ["WeightedCrossEntropyLoss", "CrossEntropyLoss", "SoftmaxFocalLoss", "LabelSmoothingLoss"]


def results(head, **options):
    predictions = with_predictions(head, **options)
    loss, logged = head.get_loss()
    loss.backward()
    return loss, logged, {key: value.grad for key, value in predictions.items()}


def rows_of_positives(head):
    return (head.forward_ret_dict["box_cls_labels"] > 0).flatten().nonzero().squeeze(1)


def test_the_defaults_by_name_are_the_default_to_the_last_bit():
    plain, plain_parts, plain_gradients = results(small_head())
    named = dict(
        CLS_LOSS={"NAME": "SigmoidFocalClassificationLoss", "ALPHA": 0.25, "GAMMA": 2.0, "NORMALIZER": "per_sample"},
        REG_LOSS="WeightedSmoothL1Loss",
        DIR_LOSS={"NAME": "WeightedCrossEntropyLoss"},
    )
    for config in (
        named,
        {"NORMALIZER": "per_sample"},
        {"CLS_LOSS": {"type": "mmdet.FocalLoss", "gamma": 2.0, "alpha": 0.25}},
    ):
        loss, parts, gradients = results(small_head(**config))
        assert torch.equal(loss, plain) and set(parts) == set(plain_parts)
        assert all(torch.equal(parts[key], plain_parts[key]) for key in parts)
        assert all(torch.equal(gradients[key], plain_gradients[key]) for key in gradients)
    assert small_head(**named).state_dict().keys() == small_head().state_dict().keys()


@pytest.mark.parametrize("cfg", CLS, ids=str)
def test_every_classification_loss(cfg):
    head = small_head(CLS_LOSS=cfg)
    loss, _, gradients = results(head)
    assert torch.isfinite(loss) and gradients["cls_preds"].abs().sum() > 0
    ignored = head.forward_ret_dict["box_cls_labels"] < 0
    assert ignored.sum() > 0 and (gradients["cls_preds"].view(2, -1, 3)[ignored] == 0).all()
    assert torch.autograd.grad(*classification_loss_and_box_preds(cfg), allow_unused=True) == (None,)
    empty, _, gradients = results(small_head(CLS_LOSS=cfg), gt_boxes=torch.zeros_like(GT))
    assert torch.isfinite(empty) and torch.isfinite(gradients["cls_preds"]).all()
    _, logged, gradients = results(small_head(CLS_LOSS=cfg), scale=1e4)
    assert torch.isfinite(logged["rpn_loss_cls"]) and torch.isfinite(gradients["cls_preds"]).all()


def classification_loss_and_box_preds(cfg):
    head = small_head(CLS_LOSS=cfg)
    box_preds = with_predictions(head)["box_preds"]
    return head.get_cls_layer_loss()[0], box_preds


@pytest.mark.parametrize("cfg", REG, ids=str)
def test_every_box_loss(cfg):
    head = small_head(REG_LOSS=cfg)
    _, parts, gradients = results(head)
    assert torch.isfinite(parts["rpn_loss_loc"]) and parts["rpn_loss_loc"] > 0
    background = head.forward_ret_dict["box_cls_labels"] <= 0
    by_anchor = gradients["box_preds"].view(2, -1, 7)
    assert (
        (by_anchor[background] == 0).all()
        and torch.isfinite(by_anchor).all()
        and (by_anchor[~background].abs().sum(-1) > 0).any()
    )
    perfect = small_head(REG_LOSS=cfg)
    with_predictions(perfect)
    ret = perfect.forward_ret_dict
    ret["box_preds"] = ret["box_reg_targets"].clone().view(2, 10, 14, -1)
    del ret["dir_cls_preds"]
    assert perfect.get_box_reg_layer_loss()[0].item() == pytest.approx(0, abs=1e-4)
    _, parts, gradients = results(small_head(REG_LOSS=cfg), gt_boxes=torch.zeros_like(GT))
    assert parts["rpn_loss_loc"] == 0 and (gradients["box_preds"] == 0).all()


@pytest.mark.parametrize("cfg", DIR)
def test_every_direction_loss(cfg):
    _, parts, gradients = results(small_head(DIR_LOSS=cfg))
    assert parts["rpn_loss_dir"] > 0 and gradients["dir_cls_preds"].abs().sum() > 0
    _, parts, _ = results(small_head(DIR_LOSS=cfg), gt_boxes=torch.zeros_like(GT))
    assert parts["rpn_loss_dir"] == 0


def test_normalisers_by_hand():
    head = small_head()
    with_predictions(head)
    counts = (head.forward_ret_dict["box_cls_labels"] > 0).sum(dim=1).double()
    assert (counts > 0).all() and counts[0] != counts[1]

    def parts(normalizer):
        return results(small_head(NORMALIZER=normalizer))[1]

    def one_sample(b):  # the other's anchors ignored: what is left is this sample's sum over its positives, over 2
        head = small_head()
        with_predictions(head)
        head.forward_ret_dict["box_cls_labels"][1 - b] = -1
        return head.get_loss()[1]

    alone = [one_sample(b) for b in (0, 1)]
    for key in ("rpn_loss_cls", "rpn_loss_loc", "rpn_loss_dir"):
        sums = [2 * alone[b][key].item() * counts[b].item() for b in (0, 1)]
        assert parts("none")[key].item() == pytest.approx(sum(sums), rel=1e-4)
        assert parts("batch")[key].item() == pytest.approx(sum(sums) / counts.sum().item(), rel=1e-4)
        running = 10 + 0.5 * counts.sum().item()
        assert parts({"NAME": "ema", "START": 20.0, "MOMENTUM": 0.5})[key].item() == pytest.approx(
            sum(sums) / running, rel=1e-4
        )


def test_a_normaliser_of_one_loss_leaves_the_others_and_loss_weight_replaces():
    plain = results(small_head())[1]
    weighted = {"NAME": "WeightedSmoothL1Loss", "NORMALIZER": "none", "LOSS_WEIGHT": 0.5}
    mixed = results(small_head(REG_LOSS=weighted, DIR_LOSS="WeightedCrossEntropyLoss"))[1]
    bare = results(small_head(REG_LOSS={"NAME": "WeightedSmoothL1Loss", "NORMALIZER": "none"}))[1]
    torch.testing.assert_close(mixed["rpn_loss_dir"], plain["rpn_loss_dir"])
    torch.testing.assert_close(4 * mixed["rpn_loss_loc"], bare["rpn_loss_loc"])  # second.yaml: loc_weight 2
    torch.testing.assert_close(mixed["rpn_loss_cls"], plain["rpn_loss_cls"])


def test_an_ema_normaliser_counts_once_a_step_and_is_saved():
    head = small_head(NORMALIZER="ema")
    results(head)
    positives = (head.forward_ret_dict["box_cls_labels"] > 0).sum().item()
    state = head.state_dict()
    new = sorted(set(state) - set(small_head().state_dict()))
    for cfg in ("FocalLoss", "VarifocalLoss"):
        logged = results(small_head(CLS_LOSS={"NAME": cfg, "NORMALIZER": "batch"}))[1]
        assert logged["rpn_cls_normalizer"].item() == positives
    assert new == [f"{part}_loss_func.normalizer.running" for part in ("cls", "dir", "reg")]
    assert all(state[key].item() == pytest.approx(90 + 0.1 * positives) for key in new)


def footprint(box):
    x, y, _, dx, dy, _, heading = box[:7].tolist()
    return translate(
        rotate(rectangle(-dx / 2, -dy / 2, dx / 2, dy / 2), heading, origin=(0, 0), use_radians=True), x, y
    )


def shapely_ious(head, space):
    """IoU of every positive's decoded box with its decoded target."""
    ret, out = head.forward_ret_dict, []
    anchors = head._flat_anchors()[0]
    for row in rows_of_positives(head).tolist():
        anchor = anchors[row % len(anchors)][None]
        codes = [ret[key].detach().reshape(-1, 7)[row][None] for key in ("box_preds", "box_reg_targets")]
        found, wanted = (head.box_coder.decode_torch(code, anchor)[0].double() for code in codes)
        a, b = footprint(found), footprint(wanted)
        area = a.intersection(b).area
        if space == "bev":
            out.append(area / (a.area + b.area - area))
            continue
        top, bottom = (
            min(found[2] + found[5] / 2, wanted[2] + wanted[5] / 2),
            max(found[2] - found[5] / 2, wanted[2] - wanted[5] / 2),
        )
        shared = area * max(float(top - bottom), 0.0)
        out.append(shared / (found[3:6].prod().item() + wanted[3:6].prod().item() - shared))
    return out


@pytest.mark.parametrize("space", ["3d", "bev"])
def test_quality_targets_are_the_iou_of_the_decoded_box(space):
    head = small_head(CLS_LOSS={"NAME": "VarifocalLoss", "QUALITY_SPACE": space, "NORMALIZER": "none"})
    with_predictions(head, scale=0.1)
    ret = head.forward_ret_dict
    ret["cls_preds"] = torch.zeros_like(ret["cls_preds"])
    ious = shapely_ious(head, space)
    assert len(ious) >= 5 and max(ious) > 0.3 and 0 < min(ious) < 0.9
    quality = head._quality_of_positives(space).flatten()
    assert quality.nonzero().squeeze(1).tolist() == rows_of_positives(head).tolist()
    torch.testing.assert_close(
        quality[rows_of_positives(head)], torch.tensor(ious, dtype=quality.dtype), rtol=1e-4, atol=1e-5
    )
    taking_part = (ret["box_cls_labels"] >= 0).sum().item() * 3
    by_hand = math.log(2) * (sum(ious) + (taking_part - len(ious)) * 0.75 * 0.25)  # p = 0.5 everywhere
    assert head.get_cls_layer_loss()[0].item() == pytest.approx(by_hand, rel=1e-5)


def test_quality_focal_by_hand_and_perfect_boxes_have_quality_one():
    head = small_head(CLS_LOSS={"NAME": "QualityFocalLoss", "NORMALIZER": "none"})
    with_predictions(head)
    ret = head.forward_ret_dict
    ret["cls_preds"] = torch.zeros_like(ret["cls_preds"])
    ret["box_preds"] = ret["box_reg_targets"].view(2, 10, 14, -1)
    torch.testing.assert_close(
        head._quality_of_positives("3d").flatten()[rows_of_positives(head)],
        torch.ones(len(rows_of_positives(head))),
        rtol=1e-5,
        atol=1e-5,
    )
    taking_part = (ret["box_cls_labels"] >= 0).sum().item() * 3  # |t - 0.5| = 0.5 everywhere
    assert head.get_cls_layer_loss()[0].item() == pytest.approx(taking_part * 0.25 * math.log(2), rel=1e-5)


@pytest.mark.parametrize("space", ["3d", "bev"])
def test_rotated_iou_loss_of_decoded_boxes_by_hand(space):
    head = small_head(
        REG_LOSS={"NAME": "RotatedIoULoss", "KIND": "iou", "SPACE": space, "NORMALIZER": "batch", "LOSS_WEIGHT": 3.0}
    )
    with_predictions(head, scale=0.1)
    ious = shapely_ious(head, space)
    assert head.get_loss()[1]["rpn_loss_loc"].item() == pytest.approx(3 * (len(ious) - sum(ious)) / len(ious), rel=1e-4)


def test_l2_and_code_weights_by_hand_with_the_sin_difference():
    weights = [1.0, 2.0, 0.5, 1.0, 1.0, 1.0, 3.0]
    head = small_head(REG_LOSS={"NAME": "MSELoss", "NORMALIZER": "none", "LOSS_WEIGHT": 1.0})
    head.model_cfg.LOSS_CONFIG.LOSS_WEIGHTS["code_weights"] = weights
    head.build_losses(head.model_cfg.LOSS_CONFIG)
    with_predictions(head)
    rows = rows_of_positives(head)
    found, wanted = (
        head.forward_ret_dict[key].detach().reshape(-1, 7)[rows].double() for key in ("box_preds", "box_reg_targets")
    )
    difference = found - wanted
    difference[:, 6] = torch.sin(found[:, 6] - wanted[:, 6])
    by_hand = ((difference * torch.tensor(weights, dtype=torch.float64)) ** 2).sum()
    assert head.get_loss()[1]["rpn_loss_loc"].item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_softmax_focal_by_hand_and_its_scores():
    head = small_head(CLS_LOSS={"NAME": "SoftmaxFocalLoss", "GAMMA": 2.0, "NORMALIZER": "none"})
    predictions = with_predictions(head, scale=2.0)
    labels = head.forward_ret_dict["box_cls_labels"].flatten().long()
    logits = predictions["cls_preds"].detach().double().view(-1, 3)
    p = torch.cat([torch.zeros(len(logits), 1), logits], dim=1).softmax(dim=1)
    own = p[torch.arange(len(p)), labels.clamp(min=0)]
    by_hand = (-((1 - own) ** 2) * own.log())[labels >= 0].sum()
    assert head.get_cls_layer_loss()[0].item() == pytest.approx(by_hand.item(), rel=1e-5)
    scores, _ = head.generate_predicted_boxes(2, **{key: value.detach() for key, value in predictions.items()})
    torch.testing.assert_close(scores.sigmoid().double().view(-1, 3), p[:, 1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["SoftmaxFocalLoss", "SigmoidFocalClassificationLoss", "QualityFocalLoss", "BinaryCrossEntropyLoss"]
)
def test_one_class(name):
    gt_boxes = GT.clone()
    gt_boxes[..., 7] = (gt_boxes[..., 7] == 1).float()
    loss, _, gradients = results(small_head(num_class=1, CLS_LOSS=name), gt_boxes=gt_boxes)
    assert torch.isfinite(loss) and gradients["cls_preds"].abs().sum() > 0


def test_a_schedule_rules_gamma_and_is_logged():
    schedule = {"TYPE": "linear", "START": 0.0, "END": 2.0, "BY": "epoch", "TO": 4}
    head = small_head(CLS_LOSS={"NAME": "SigmoidFocalClassificationLoss", "GAMMA_SCHEDULE": schedule})
    assert head.state_dict().keys() == small_head().state_dict().keys()
    with_predictions(head)
    with pytest.raises(InputError, match="set_training_progress"):
        head.get_loss()
    for epoch, gamma in ((0, 0.0), (1, 0.5), (4, 2.0)):
        set_training_progress(head, epoch, 10 * epoch)
        loss, logged, _ = results(head)
        assert logged["focal_gamma"].item() == gamma
        fixed, parts, _ = results(small_head(CLS_LOSS={"NAME": "SigmoidFocalClassificationLoss", "GAMMA": gamma}))
        assert torch.equal(loss, fixed) and "focal_gamma" not in parts
    quality = small_head(CLS_LOSS={"NAME": "QualityFocalLoss", "GAMMA_SCHEDULE": {"TYPE": "constant", "VALUE": 1.0}})
    assert torch.equal(results(quality)[0], results(small_head(CLS_LOSS={"NAME": "QualityFocalLoss", "BETA": 1.0}))[0])


def test_in_float64_the_head_has_float64_losses():
    for cls, reg in (("QualityFocalLoss", "RotatedIoULoss"), ("SoftmaxFocalLoss", "BalancedL1Loss")):
        head = small_head(CLS_LOSS=cls, REG_LOSS=reg).double()
        predictions = with_predictions(head, gt_boxes=GT.double())
        head.forward_ret_dict.update({key: value.detach().double() for key, value in predictions.items()})
        double = head.get_loss()[0]
        assert double.dtype == torch.float64
        assert results(small_head(CLS_LOSS=cls, REG_LOSS=reg))[0].item() == pytest.approx(double.item(), rel=1e-4)


@pytest.mark.parametrize(
    "cls, reg", [("VarifocalLoss", "RotatedIoULoss"), ("QualityFocalLoss", "CornerLoss"), ("GHMC", "GHMR")]
)
def test_under_autocast_the_losses_are_float32_and_nearly_the_same(cls, reg):
    losses = []
    for enabled in (False, True):
        head = small_head(CLS_LOSS=cls, REG_LOSS=reg)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            head({"spatial_features_2d": features(), "gt_boxes": GT, "batch_size": 2})
            losses.append(head.get_loss()[0])
        losses[-1].backward()
        assert losses[-1].dtype == torch.float32 and all(torch.isfinite(p.grad).all() for p in head.parameters())
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.01)


def test_a_whole_step_from_features():
    head = small_head(CLS_LOSS="VarifocalLoss", REG_LOSS={"NAME": "RotatedIoULoss", "KIND": "diou"})
    head({"spatial_features_2d": features(), "gt_boxes": GT, "batch_size": 2})
    head.get_loss()[0].backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize(
    "config, message",
    [
        (
            {"CLS_LOSS": "VarifocaLoss"},
            r"CLS_LOSS\.NAME: 'VarifocaLoss' .*\bVarifocalLoss\b",
        ),
        ({"CLS_LOSS": "WeightedL1Loss"}, r"CLS_LOSS\.NAME: 'WeightedL1Loss'"),
        ({"REG_LOSS": "GIoULoss"}, r"REG_LOSS\.NAME: 'GIoULoss' .*RotatedIoULoss"),
        ({"DIR_LOSS": {"type": "mmdet.FocalLoss"}}, r"DIR_LOSS\.type: 'mmdet\.FocalLoss'"),
        (
            {"CLS_LOSS": {"NAME": "VarifocalLoss", "GAMA": 1}},
            r"CLS_LOSS\.GAMA: .*\bGAMMA\b",
        ),
        (
            {"CLS_LOSS": {"NAME": "FocalLoss", "NORMALISER": "batch"}},
            r"CLS_LOSS\.NORMALISER: .* did you mean NORMALIZER\?",
        ),
        (
            {"CLS_LOSS": {"NAME": "FocalLoss", "NORMALIZER": "bach"}},
            r"CLS_LOSS\.NORMALIZER: 'bach' .*\bbatch\b",
        ),
        (
            {"CLS_LOSS": {"NAME": "FocalLoss", "REDUCTION": "sum"}},
            r"CLS_LOSS\.REDUCTION: .*NORMALIZER",
        ),
        ({"CLS_LOSS": {"NAME": "FocalLoss", "LOSS_WEIGHT": "x"}}, r"CLS_LOSS: LOSS_WEIGHT='x'"),
        ({"CLS_LOSS": {"NAME": "GHMC", "NORMALIZER": "batch"}}, r"CLS_LOSS\.NORMALIZER: GHMC"),
        (
            {"CLS_LOSS": {"NAME": "GHMC", "GAMMA_SCHEDULE": {}}},
            r"CLS_LOSS\.GAMMA_SCHEDULE: GHMC",
        ),
        (
            {"CLS_LOSS": {"NAME": "FocalLoss", "GAMMA": 2, "GAMMA_SCHEDULE": {"TYPE": "constant", "VALUE": 1}}},
            r"CLS_LOSS: GAMMA .*GAMMA_SCHEDULE",
        ),
        (
            {"CLS_LOSS": {"NAME": "FocalLoss", "GAMMA_SCHEDULE": {"TYPE": "lin"}}},
            r"CLS_LOSS\.GAMMA_SCHEDULE\.TYPE: 'lin'",
        ),
        (
            {"CLS_LOSS": {"NAME": "FocalLoss", "QUALITY_SPACE": "bev"}},
            r"CLS_LOSS\.QUALITY_SPACE: FocalLoss",
        ),
        (
            {"CLS_LOSS": {"NAME": "VarifocalLoss", "QUALITY_SPACE": "2d"}},
            r"CLS_LOSS\.QUALITY_SPACE: '2d'",
        ),
        ({"REG_LOSS": {"NAME": "RotatedIoULoss", "KIND": "ciou"}}, r"REG_LOSS: .*kind='ciou'"),
        ({"CLS_LOSS": {"ALPHA": 0.25}}, r"CLS_LOSS: .*NAME .*type"),
        ({"CLS_LOSS": 3}, r"CLS_LOSS: 3\b"),
        ({"REG_LOSS": "L1Loss", "REG_LOSS_TYPE": "WeightedL1Loss"}, r"REG_LOSS .*REG_LOSS_TYPE"),
        ({"NORMALIZER": "sample"}, r"NORMALIZER: 'sample'"),
        (
            {"CLS_LOSS": {"NAME": "FocalLoss", "ALPHA": [0.25, 0.5]}},
            r"CLS_LOSS: .*2 .*alpha .*3",
        ),
        (
            {"CLS_LOSS": {"NAME": "SigmoidFocalClassificationLoss", "GAMMA": [2.0] * 4, "NORMALIZER": "batch"}},
            r"CLS_LOSS: .*4 .*gamma",
        ),
        ({"CLS_LOSS": {"NAME": "SoftmaxFocalLoss", "ALPHA": [0.25] * 3}}, r"CLS_LOSS: .*alpha"),
        ({"CLS_LOSS": {"NAME": "BinaryCrossEntropyLoss", "POS_WEIGHT": [1.0, 2.0]}}, r"CLS_LOSS: .*pos_weight"),
        ({"CLS_LOSS": {"NAME": "AsymmetricLoss", "GAMMA_POS": [1.0, 2.0]}}, r"CLS_LOSS: .*gamma_pos"),
        ({"CLS_LOSS": {"NAME": "CrossEntropyLoss", "CLASS_WEIGHT": [1.0, 2.0]}}, r"CLS_LOSS: .*2"),
        ({"CLS_LOSS": {"NAME": "EqualizedFocalLoss", "NUM_CLASSES": 5}}, r"CLS_LOSS: .*5"),
        ({"REG_LOSS": {"NAME": "WeightedSmoothL1Loss", "CODE_WEIGHTS": [1.0] * 6}}, r"REG_LOSS: .*code_weights"),
        ({"DIR_LOSS": {"NAME": "SoftmaxFocalLoss", "ALPHA": [0.1, 0.2, 0.7]}}, r"DIR_LOSS: .*alpha"),
        (
            {"LOSS_WEIGHTS": {"cls_weight": 1.0, "loc_weight": 2.0, "dir_weight": 0.2, "code_weights": [1.0] * 6}},
            r"LOSS_WEIGHTS\.code_weights: 6 .*7 .*ResidualCoder",
        ),
    ],
)
def test_mistakes_are_named_with_their_key_path(config, message):
    with pytest.raises(InputError, match="MODEL.DENSE_HEAD.LOSS_CONFIG.*" + message):
        small_head(**config)


def test_a_loss_that_a_user_registered_can_stand_in_any_of_the_three_places():
    @register_loss("HalfSquareOfTheDifference")
    class HalfSquare(torch.nn.Module):
        def forward(self, input, target, weights=None):
            loss = 0.5 * (input - target) ** 2
            return loss if weights is None else loss * weights.unsqueeze(-1)

    try:
        head = small_head(
            CLS_LOSS={"NAME": "HalfSquareOfTheDifference", "NORMALIZER": "none"}, REG_LOSS="HalfSquareOfTheDifference"
        )
        predictions = with_predictions(head)
        labels = head.forward_ret_dict["box_cls_labels"].flatten().long()
        target = torch.nn.functional.one_hot(labels.clamp(min=0), 4)[:, 1:]
        by_hand = (0.5 * (predictions["cls_preds"].view(-1, 3) - target) ** 2)[labels >= 0].sum()
        loss, parts = head.get_loss()
        assert torch.isfinite(loss) and parts["rpn_loss_cls"].item() == pytest.approx(by_hand.item(), rel=1e-5)
    finally:
        LOSSES.pop("HalfSquareOfTheDifference")
