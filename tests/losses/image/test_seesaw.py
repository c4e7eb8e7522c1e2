"""Seesaw loss: the factors by hand, and what every loss must do."""

import math

import loss_properties
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import SeesawLoss, seesaw_loss

torch.manual_seed(9)
LOGITS = torch.randn(8, 6, dtype=torch.float64) * 2  # 4 classes, object, background
LABELS, WEIGHT = torch.tensor([0, 0, 4, 0, 2, 4, 1, 0]), torch.rand(8, dtype=torch.float64)
NO_DETACHED_FACTOR = {
    "rows": (
        lambda: lambda x, k: seesaw_loss(x, k, torch.tensor([9.0, 3.0, 0.0, 2.0, 1.0, 5.0]), q=0.0),
        LOGITS,
        (LABELS,),
    ),
    "mitigation": (lambda: SeesawLoss(num_classes=4, q=0.0), LOGITS, (LABELS, WEIGHT)),
}
CASES = {
    **NO_DETACHED_FACTOR,
    "mean": (lambda: SeesawLoss(num_classes=4), LOGITS, (LABELS, WEIGHT)),
    "average": (lambda: SeesawLoss(num_classes=4, return_dict=False), LOGITS, (LABELS, WEIGHT, 3.0)),
}


@pytest.mark.parametrize(
    "case, property",
    [
        (case, property)
        for case in CASES
        for property in loss_properties.ALL
        if property is not loss_properties.in_float64_the_gradient_is_that_of_finite_differences
        or case in NO_DETACHED_FACTOR
    ],
)
def test_property(case, property):
    property(*CASES[case])


def test_running_counts_are_saved():
    loss_properties.state_is_saved_and_restored(*CASES["mean"], ["cum_samples"])


def test_the_factors_by_hand():
    """Class 0 (8 samples) against 1 (2 samples, scored higher) and 2 (16 samples, scored lower)."""
    logits = torch.log(torch.tensor([[0.2, 0.7, 0.1]], dtype=torch.float64))
    counts = torch.tensor([8.0, 2.0, 16.0])
    mitigation, compensation = (2 / 8) ** 0.8, (0.7 / 0.2) ** 2
    expected = -math.log(0.2 / (0.2 + mitigation * compensation * 0.7 + 0.1))
    assert seesaw_loss(logits, torch.tensor([0]), counts).item() == pytest.approx(expected, rel=1e-12)
    plain = seesaw_loss(logits, torch.tensor([0]), counts, p=0, q=0)
    assert plain.item() == pytest.approx(-math.log(0.2), rel=1e-12)


def test_small_own_scores_are_held_at_eps():
    logits = torch.tensor([[0.0, 20.0]], dtype=torch.float64)
    own, other = 1 / (1 + math.exp(20)), 1 / (1 + math.exp(-20))
    expected = math.log(1 + (other / 0.01) ** 2 * other / own)
    assert seesaw_loss(logits, torch.tensor([0]), torch.ones(2)).item() == pytest.approx(expected, rel=1e-9)


def test_the_compensation_factor_has_no_gradient():
    x = LOGITS[:, :4].clone().requires_grad_()
    labels = LABELS.clamp(max=3)
    with torch.no_grad():
        scores = x.softmax(-1)
        factor = (scores / scores.gather(1, labels[:, None])).clamp(min=1) ** 2
        factor.scatter_(1, labels[:, None], 1.0)
    expected = torch.nn.functional.cross_entropy(x + factor.log(), labels, reduction="sum")
    got = seesaw_loss(x, labels, torch.ones(4), eps=1e-9).sum()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(expected, x))


def test_zero_positives_count_background_and_cost_objectness_only():
    loss = SeesawLoss(num_classes=4)
    for reduction in ("mean", "sum", "none"):
        parts = loss(LOGITS, torch.full((8,), 4), reduction_override=reduction)
        assert parts["loss_cls_classes"].sum().item() == 0 and parts["loss_cls_objectness"].sum().item() > 0
    assert loss.cum_samples.tolist() == [0.0, 0.0, 0.0, 0.0, 24.0]


def test_scores_of_a_head():
    scores = SeesawLoss(num_classes=4).get_activation(LOGITS)
    objectness = LOGITS[:, 4:].softmax(-1)
    torch.testing.assert_close(scores[:, :4], LOGITS[:, :4].softmax(-1) * objectness[:, :1])
    torch.testing.assert_close(scores.sum(-1), torch.ones(8, dtype=torch.float64))
    assert SeesawLoss().get_cls_channels(4) == 6


@pytest.mark.parametrize(
    "message, call",
    [
        (r"use_sigmoid=True", lambda: SeesawLoss(use_sigmoid=True)),
        (r"num_classes=0", lambda: SeesawLoss(num_classes=0)),
        (r"p=-1", lambda: SeesawLoss(p=-1)),
        (r"eps=0", lambda: SeesawLoss(eps=0)),
        (r"cls_score .*\(N, 5\).*\(8, 6\)", lambda: SeesawLoss(num_classes=3)(LOGITS, LABELS)),
        (r"labels .*0 .*4 .*-1", lambda: SeesawLoss(num_classes=4)(LOGITS, LABELS - 1)),
        (r"labels .*float", lambda: SeesawLoss(num_classes=4)(LOGITS, WEIGHT)),
        (r"weights .*\(7,\)", lambda: SeesawLoss(num_classes=4)(LOGITS, LABELS, WEIGHT[1:])),
        (r"return_dict=True", lambda: SeesawLoss(num_classes=4, return_dict=False, reduction="none")(LOGITS, LABELS)),
    ],
)
def test_mistakes_are_named(message, call):
    with pytest.raises(InputError, match=message):
        call()
