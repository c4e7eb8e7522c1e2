"""Quality focal loss: the formula by hand, and what every loss must do."""

import math

import loss_properties
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import QualityFocalLoss, build_loss, quality_focal_loss, sigmoid_focal_loss

torch.manual_seed(5)
LOGITS = torch.randn(7, 3, dtype=torch.float64) * 3
DENSE = torch.rand(7, 3, dtype=torch.float64) * 0.8 + 0.1
LABEL, SCORE = torch.tensor([0, 3, 2, -1, 1, 3, 3]), torch.rand(7, dtype=torch.float64)
CASES = {
    "dense": (lambda: lambda x, t: quality_focal_loss(x, t, 1.5), LOGITS, (DENSE,)),
    "beta below 1": (lambda: lambda x, t: quality_focal_loss(x, t, 0.5), LOGITS, (DENSE,)),
    "label and score": (QualityFocalLoss, LOGITS, ((LABEL, SCORE),)),
    "weighted sum": (
        lambda: QualityFocalLoss(reduction="sum"),
        LOGITS,
        ((LABEL, SCORE), torch.rand(7, dtype=torch.float64)),
    ),
}


@pytest.mark.parametrize("property", loss_properties.ALL)
@pytest.mark.parametrize("case", CASES)
def test_property(case, property):
    property(*CASES[case])


def test_the_formula_by_hand():
    x, t = 0.7, 0.4
    p = 1 / (1 + math.exp(-x))
    expected = abs(t - p) ** 1.5 * -(t * math.log(p) + (1 - t) * math.log(1 - p))
    got = quality_focal_loss(*torch.tensor([x, t], dtype=torch.float64), 1.5)
    assert got.item() == pytest.approx(expected, rel=1e-12)


def test_hard_targets_are_focal_loss_and_beta_0_is_cross_entropy():
    one_hot = torch.eye(3, dtype=torch.float64)[LABEL.clamp(0, 2)]
    torch.testing.assert_close(
        quality_focal_loss(LOGITS, one_hot), sigmoid_focal_loss(LOGITS, one_hot, alpha=None), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        quality_focal_loss(LOGITS, DENSE, 0.0),
        torch.nn.functional.binary_cross_entropy_with_logits(LOGITS, DENSE, reduction="none"),
    )


def test_probabilities_give_what_logits_give_and_0_and_1_are_finite():
    p = LOGITS.sigmoid().requires_grad_()
    torch.testing.assert_close(quality_focal_loss(p, DENSE, activated=True), quality_focal_loss(LOGITS, DENSE))
    ends = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = QualityFocalLoss(activated=True)(ends.unsqueeze(-1), torch.tensor([[1.0], [0.0]]))
    loss.backward()
    assert 80 < loss < 101 and torch.isfinite(ends.grad).all()
    with pytest.raises(InputError, match="pred .*0 .*1"):
        quality_focal_loss(LOGITS, DENSE, activated=True)


def test_the_minimum_is_where_the_prediction_is_the_quality():
    x = torch.logit(DENSE).requires_grad_()
    loss = quality_focal_loss(x, DENSE)
    loss.sum().backward()
    assert loss.max() < 1e-25 and x.grad.abs().max() < 1e-12


def test_easy_negatives_keep_their_relative_precision():
    x = torch.tensor([-30.0])
    assert quality_focal_loss(x, torch.zeros(1)).item() == pytest.approx(math.exp(-90), rel=1e-4)
    assert quality_focal_loss(-x, torch.ones(1), 1.0).item() == pytest.approx(math.exp(-60), rel=1e-4)


def test_zero_positives_and_all_ignored_by_weight():
    background = torch.full((7,), 3)
    loss = QualityFocalLoss(reduction="none")(LOGITS, (background, SCORE))
    torch.testing.assert_close(loss, sigmoid_focal_loss(LOGITS, torch.zeros(7, 3), alpha=None).sum(-1))
    x = LOGITS.clone().requires_grad_()
    loss = QualityFocalLoss()(x, (LABEL, SCORE), torch.zeros(7), avg_factor=0.0)
    loss.backward()
    assert loss.item() == 0 and x.grad.abs().max() == 0


def test_one_class_and_a_map_of_anchors():
    loss = QualityFocalLoss(reduction="none")
    scores = torch.tensor([0.3, 0.0])
    torch.testing.assert_close(
        loss(torch.zeros(2, 1), (torch.tensor([0, 1]), scores)), torch.tensor([0.2**2, 0.25]) * math.log(2)
    )
    batch = loss(LOGITS.expand(2, 7, 3), (LABEL.expand(2, 7), SCORE.expand(2, 7)))
    torch.testing.assert_close(batch, loss(LOGITS, (LABEL, SCORE)).expand(2, 7))


@pytest.mark.parametrize(
    "message, call",
    [
        (r"use_sigmoid=False", lambda: QualityFocalLoss(use_sigmoid=False)),
        (r"beta=-1", lambda: QualityFocalLoss(beta=-1)),
        (
            r"LOSS: QualityFocalLoss: reduction='avg'",
            lambda: build_loss({"type": "mmdet.QualityFocalLoss", "reduction": "avg"}),
        ),
        (r"target .*\(label, score\)", lambda: QualityFocalLoss()(LOGITS, (LABEL, SCORE, SCORE))),
        (r"label .*float64", lambda: QualityFocalLoss()(LOGITS, (SCORE, SCORE))),
        (r"label .*\(7,\).*\(6,\)", lambda: QualityFocalLoss()(LOGITS, (LABEL[:6], SCORE))),
        (r"\(7, 3\).*\(7, 2\)", lambda: QualityFocalLoss()(LOGITS, DENSE[:, :2])),
        (
            r"weights .*\(7, 3\) .*\(7,\)",
            lambda: QualityFocalLoss()(LOGITS, DENSE, torch.ones(7, 3)),
        ),
        (r"avg_factor", lambda: QualityFocalLoss(reduction="sum")(LOGITS, DENSE, avg_factor=2.0)),
        (r"meta", lambda: QualityFocalLoss()(LOGITS, DENSE.to("meta"))),
        (r"pred .*list", lambda: QualityFocalLoss()([1.0], DENSE)),
    ],
)
def test_mistakes_are_named(message, call):
    with pytest.raises(InputError, match=message):
        call()
