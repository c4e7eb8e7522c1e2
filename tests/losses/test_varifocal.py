"""Varifocal loss: the formula by hand, and what every loss must do."""

import math

import loss_properties
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import VarifocalLoss, varifocal_loss

torch.manual_seed(6)
LOGITS = torch.randn(6, 4, dtype=torch.float64) * 3
TARGET = torch.where(torch.rand(6, 4) > 0.6, torch.rand(6, 4), torch.zeros(6, 4)).double()
CASES = {
    "elementwise": (lambda: varifocal_loss, LOGITS, (TARGET,)),
    "gamma below 1": (lambda: lambda x, t: varifocal_loss(x, t, gamma=0.5), LOGITS, (TARGET,)),
    "mean": (VarifocalLoss, LOGITS, (TARGET,)),
    "weight by row": (lambda: VarifocalLoss(iou_weighted=False), LOGITS, (TARGET, torch.rand(6, dtype=torch.float64))),
}


@pytest.mark.parametrize("property", loss_properties.ALL)
@pytest.mark.parametrize("case", CASES)
def test_property(case, property):
    property(*CASES[case])


def test_the_formula_by_hand():
    x, q = 0.7, 0.4
    p = 1 / (1 + math.exp(-x))
    cross_entropy = -(q * math.log(p) + (1 - q) * math.log(1 - p))
    negative = -0.6 * p**1.5 * math.log(1 - p)
    for iou_weighted, weight in ((True, q), (False, 1)):
        got = varifocal_loss(
            torch.tensor([x, x], dtype=torch.float64),
            torch.tensor([q, 0.0], dtype=torch.float64),
            0.6,
            1.5,
            iou_weighted,
        )
        assert got.tolist() == pytest.approx([weight * cross_entropy, negative], rel=1e-12)


def test_flat_weights_are_one_per_row_also_where_rows_are_as_many_as_classes():
    square, target, weight = LOGITS[:4], TARGET[:4], torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    loss = VarifocalLoss(reduction="none")
    torch.testing.assert_close(loss(square, target, weight), loss(square, target) * weight[:, None])


def test_zero_positives_one_class_and_integer_targets():
    torch.testing.assert_close(
        varifocal_loss(torch.zeros(3, 1), torch.zeros(3, 1, dtype=torch.long)),
        torch.full((3, 1), 0.75 * 0.25 * math.log(2)),
    )
    x = LOGITS.clone().requires_grad_()
    VarifocalLoss()(x, TARGET, torch.zeros(6), avg_factor=1.0).backward()
    assert x.grad.abs().max() == 0


@pytest.mark.parametrize(
    "message, call",
    [
        (r"use_sigmoid=False", lambda: VarifocalLoss(use_sigmoid=False)),
        (r"alpha=-0.1", lambda: VarifocalLoss(alpha=-0.1)),
        (r"gamma='two'", lambda: VarifocalLoss(gamma="two")),
        (r"\(6, 4\).*\(6,\)", lambda: VarifocalLoss()(LOGITS, TARGET[:, 0])),
        (r"weights .*\(5,\)", lambda: VarifocalLoss()(LOGITS, TARGET, torch.ones(5))),
        (r"reduction_override='avg'", lambda: VarifocalLoss()(LOGITS, TARGET, reduction_override="avg")),
    ],
)
def test_mistakes_are_named(message, call):
    with pytest.raises(InputError, match=message):
        call()
