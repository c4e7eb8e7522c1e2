"""A whole classification path worked out by hand with plain Python numbers: labels -> one-hot -> weights -> normaliser
-> focal loss.
"""

import math

import pytest
import torch
from golden_data import cases

from pcdet_focal.losses import PerSampleNormalizer, anchor_weights_from_labels, one_hot_from_labels
from pcdet_focal.utils import loss_utils

GRID = (2, 3)  # rows and columns of anchors
LABELS = [[[0, 1, -1], [3, 0, 2]], [[0, 0, 0], [-1, 0, 0]]]  # sample 0: three positives; sample 1: none
NUM_CLASS, ALPHA, GAMMA = 3, 0.25, 2.0


def logit(b, row, column, c):
    return 0.5 * (b + 1) * (row - column) + 0.25 * c - 0.9


def focal(x, t):
    p = 1 / (1 + math.exp(-x))
    return ALPHA * (1 - p) ** GAMMA * -math.log(p) if t == 1 else (1 - ALPHA) * p**GAMMA * -math.log(1 - p)


def expected_by_hand(labels, pos_weight=1.0, neg_weight=1.0):
    """sum over samples, anchors and classes of weight * focal, divided by the sample's positives (at least 1) and by
    the batch size.
    """
    total = 0.0
    for b, grid in enumerate(labels):
        positives = sum(label > 0 for row in grid for label in row)
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                label = grid[row][column]
                weight = {True: pos_weight, False: neg_weight}[label > 0] if label >= 0 else 0.0
                for c in range(NUM_CLASS):
                    total += weight / max(positives, 1) * focal(logit(b, row, column, c), 1 if label == c + 1 else 0)
    return total / len(labels)


def computed(labels, **weights):
    anchors = [(row, column) for row in range(GRID[0]) for column in range(GRID[1])]
    cls_preds = torch.tensor(
        [[[logit(b, r, k, c) for c in range(NUM_CLASS)] for r, k in anchors] for b in range(len(labels))],
        requires_grad=True,
    )
    flat = torch.tensor(labels, dtype=torch.int32).flatten(1)
    before = flat.clone()
    cls_weights, _, num_positives = anchor_weights_from_labels(flat, **weights)
    one_hot_targets = one_hot_from_labels(flat, NUM_CLASS, cls_preds.dtype)
    loss_func = loss_utils.SigmoidFocalClassificationLoss(alpha=ALPHA, gamma=GAMMA)
    loss = PerSampleNormalizer().reduce(loss_func(cls_preds, one_hot_targets, weights=cls_weights))
    assert torch.equal(flat, before)
    return loss, cls_preds, num_positives


def test_six_anchors_by_hand():
    loss, cls_preds, num_positives = computed(LABELS)
    assert num_positives.tolist() == [3, 0]
    assert loss.item() == pytest.approx(expected_by_hand(LABELS), rel=1e-6)
    loss.backward()
    assert cls_preds.grad[0, 2].tolist() == [0, 0, 0] and cls_preds.grad[1, 3].tolist() == [0, 0, 0]  # ignored anchors
    assert cls_preds.grad[0, 1, 0] < 0 < cls_preds.grad[0, 1, 1]  # the positive class is pushed up, the others down


def test_gradient_by_finite_differences_of_the_hand_computation():
    loss, cls_preds, _ = computed(LABELS)
    loss.backward()
    # label 3: the positive class of the fourth anchor, divided by three positives and two samples
    x, step = logit(0, 1, 0, 2), 1e-6
    slope = (focal(x + step, 1) - focal(x - step, 1)) / (2 * step) / 3 / 2
    assert cls_preds.grad[0, 3, 2].item() == pytest.approx(slope, rel=1e-5)


def test_positive_and_negative_class_weights():
    loss, _, _ = computed(LABELS, pos_cls_weight=2.0, neg_cls_weight=0.5)
    assert loss.item() == pytest.approx(expected_by_hand(LABELS, 2.0, 0.5), rel=1e-6)


def test_no_positives_at_all():
    labels = [[[0, 0, -1], [0, 0, 0]]]
    loss, cls_preds, num_positives = computed(labels)
    assert num_positives.tolist() == [0]
    assert loss.item() == pytest.approx(expected_by_hand(labels), rel=1e-6)
    loss.backward()
    assert torch.isfinite(cls_preds.grad).all() and (cls_preds.grad[0, [0, 1, 3, 4, 5]] > 0).all()


def test_all_ignored_is_zero_with_zero_gradient():
    loss, cls_preds, _ = computed([[[-1, -1, -1], [-1, -1, -1]]])
    loss.backward()
    assert loss.item() == 0 and cls_preds.grad.abs().sum().item() == 0


def test_a_sample_weighs_the_same_however_often_its_anchors_are_repeated():
    once, _, _ = computed(LABELS[:1])
    anchors = [(r, k) for r in range(GRID[0]) for k in range(GRID[1])]
    cls_preds = torch.tensor([[[logit(0, r, k, c) for c in range(NUM_CLASS)] for r, k in anchors] * 5])
    labels = torch.tensor(LABELS[:1]).flatten(1).repeat(1, 5)
    weights, _, _ = anchor_weights_from_labels(labels)
    loss_func = loss_utils.SigmoidFocalClassificationLoss(alpha=ALPHA, gamma=GAMMA)
    loss = PerSampleNormalizer().reduce(loss_func(cls_preds, one_hot_from_labels(labels, NUM_CLASS), weights=weights))
    assert loss.item() == pytest.approx(once.item(), rel=1e-6)


@pytest.mark.parametrize("label", list(cases("02_anchor_head_loss/anchor_head_single_loss.npz")))
def test_losses_that_openpcdets_anchor_head_computed(label):
    """Classification and box loss of the recorded head from its predictions and labels (weights of each: 1 and 2; 2 and
    0.7 in one case).
    """
    case = cases("02_anchor_head_loss/anchor_head_single_loss.npz")[label]
    if "cls_loss" not in case or not all(
        torch.isfinite(torch.tensor(case[name])).all() for name in ("cls_loss", "loc_loss", "box_reg_targets")
    ):
        pytest.skip("nothing finite recorded")
    labels = torch.tensor(case["box_cls_labels"])
    batch_size, num_anchors = labels.shape
    cls_preds = torch.tensor(case["cls_preds"]).view(batch_size, num_anchors, -1)
    box_preds = torch.tensor(case["box_preds"]).view(batch_size, num_anchors, -1)
    targets = torch.tensor(case["box_reg_targets"])
    cls_weight, loc_weight, code_weights = 1.0, 2.0, [1.0] * targets.shape[2]
    if label == "code_weights":
        cls_weight, loc_weight, code_weights = 2.0, 0.7, [1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 0.25]

    cls_weights, reg_weights, _ = anchor_weights_from_labels(labels)
    one_hot = one_hot_from_labels(labels, cls_preds.shape[-1])
    cls_loss = (
        loss_utils.SigmoidFocalClassificationLoss(alpha=0.25, gamma=2.0)(cls_preds, one_hot, weights=cls_weights).sum()
        / batch_size
    )
    assert cls_weight * cls_loss.item() == pytest.approx(float(case["cls_loss"]), rel=1e-5)

    if box_preds.shape[-1] != 7:
        return
    heading, target_heading = box_preds[..., 6], targets[..., 6]
    box_preds = torch.cat([box_preds[..., :6], (heading.sin() * target_heading.cos())[..., None]], dim=-1)
    targets = torch.cat([targets[..., :6], (heading.cos() * target_heading.sin())[..., None]], dim=-1)
    loss_func = (loss_utils.WeightedL1Loss if label == "reg_l1" else loss_utils.WeightedSmoothL1Loss)(
        code_weights=code_weights
    )
    loc_loss = loss_func(box_preds, targets, weights=reg_weights).sum() / batch_size
    assert loc_weight * loc_loss.item() == pytest.approx(float(case["loc_loss"]), rel=1e-5)
