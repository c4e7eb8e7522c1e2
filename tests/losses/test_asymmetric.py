"""Asymmetric loss: the formula by hand, and what every loss must do."""

import math

import loss_properties
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    AsymmetricLoss,
    AsymmetricLossMultiLabel,
    AsymmetricLossSingleLabel,
    asymmetric_loss,
    asymmetric_loss_single_label,
    sigmoid_focal_loss,
)

torch.manual_seed(11)
LOGITS = torch.randn(7, 3, dtype=torch.float64) * 3
SOFT, LABELS = torch.rand(7, 3, dtype=torch.float64), torch.tensor([0, 3, 2, -1, 1, 3, 3])
INSIDE = LABELS.clamp(0, 2)
CASES = {
    "elementwise": (lambda: asymmetric_loss, LOGITS, (SOFT,)),
    "gammas below 1, no clip": (lambda: lambda x, t: asymmetric_loss(x, t, 0.5, 0.25, None, 0), LOGITS, (SOFT,)),
    "gammas 0": (lambda: lambda x, t: asymmetric_loss(x, t, 0, 0), LOGITS, (SOFT,)),
    "labels": (AsymmetricLoss, LOGITS, (LABELS, torch.rand(7, dtype=torch.float64))),
    "timm": (lambda: AsymmetricLossMultiLabel(smoothing=0.1, weight=[1.0, 2.0, 0.5], pos_weight=2.0), LOGITS, (SOFT,)),
    "single label": (lambda: asymmetric_loss_single_label, LOGITS, (INSIDE,)),
    "single label, gammas below 1": (lambda: AsymmetricLossSingleLabel(0.5, 0.25), LOGITS, (INSIDE,)),
}


@pytest.mark.parametrize("property", loss_properties.ALL)
@pytest.mark.parametrize("case", CASES)
def test_property(case, property):
    property(*CASES[case])


def test_the_formula_by_hand():
    x = 0.7
    p = 1 / (1 + math.exp(-x))
    n = 1 - p + 0.1
    got = asymmetric_loss(
        torch.tensor([x, x], dtype=torch.float64), torch.tensor([1.0, 0.0]), gamma_neg=3, gamma_pos=1.5, clip=0.1
    )
    assert got.tolist() == pytest.approx([-((1 - p) ** 1.5) * math.log(p), -((1 - n) ** 3) * math.log(n)], rel=1e-7)


def test_equal_gammas_without_clip_are_focal_loss():
    one_hot = torch.eye(3, dtype=torch.float64)[INSIDE]
    torch.testing.assert_close(
        asymmetric_loss(LOGITS, one_hot, 2, 2, None, 0),
        sigmoid_focal_loss(LOGITS, one_hot, alpha=None),
        rtol=1e-10,
        atol=0,
    )


def test_easy_negatives_are_free_and_eps_holds_missed_positives():
    x = torch.tensor([-3.0, -30.0], requires_grad=True)
    loss = asymmetric_loss(x, torch.tensor([0.0, 1.0]))
    assert loss.tolist() == pytest.approx([0.0, -math.log(1e-8)], rel=1e-6)
    loss.sum().backward()
    # eps: nothing is learnt from a positive missed by this much
    assert x.grad.tolist() == [0.0, 0.0]
    x.grad = None
    asymmetric_loss(x, torch.tensor([0.0, 1.0]), eps=0.0).sum().backward()
    assert x.grad[1].item() == pytest.approx(-1, rel=1e-5)


def test_confident_wrong_negatives_keep_their_value_in_float32():
    x = torch.tensor([18.0], requires_grad=True)
    loss = asymmetric_loss(x, torch.zeros(1), clip=None, eps=0.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(18, rel=1e-5) and x.grad.item() == pytest.approx(1, rel=1e-3)


def test_the_factor_can_be_left_out_of_the_gradient():
    x = LOGITS.clone().requires_grad_()
    loss = asymmetric_loss(x, SOFT, detach_factor=True).sum()
    plain = asymmetric_loss(x, SOFT, 0, 0)
    factor = (asymmetric_loss(x, SOFT) / plain).detach()
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad((factor * plain).sum(), x))


def test_single_label_without_gammas_is_smoothed_cross_entropy_and_sum_sums():
    expected = torch.nn.functional.cross_entropy(LOGITS, INSIDE, label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(AsymmetricLossSingleLabel(0, 0, reduction="sum")(LOGITS, INSIDE), expected)


def test_zero_positives_one_class_and_all_ignored():
    x = LOGITS[:, :1].clone().requires_grad_()
    loss = AsymmetricLoss()(x, torch.ones(7, dtype=torch.long), torch.zeros(7), avg_factor=1.0)
    loss.backward()
    assert loss.item() == 0 and x.grad.abs().max() == 0
    torch.testing.assert_close(
        AsymmetricLoss()(x, torch.ones(7, dtype=torch.long)), asymmetric_loss(x, torch.zeros(7, 1)).mean()
    )
    assert asymmetric_loss_single_label(LOGITS[:, :1], torch.zeros(7, dtype=torch.long)).abs().max() == 0


@pytest.mark.parametrize(
    "message, call",
    [
        (r"gamma_neg=-1", lambda: AsymmetricLoss(gamma_neg=-1)),
        (r"clip=1.5", lambda: asymmetric_loss(LOGITS, SOFT, clip=1.5)),
        (r"reduction='avg'.*batchmean", lambda: AsymmetricLossMultiLabel(reduction="avg")),
        (r"weight .*2 .*3", lambda: AsymmetricLossMultiLabel(weight=[1.0, 2.0])(LOGITS, SOFT)),
        (r"pos_weight .*\(1, 3\)", lambda: AsymmetricLossMultiLabel(pos_weight=torch.ones(1, 3))),
        (
            r"targets .*0 .*2.* -1",
            lambda: asymmetric_loss_single_label(LOGITS, LABELS.clamp(max=2)),
        ),
        (r"\(7, 3\).*\(7, 2\)", lambda: asymmetric_loss(LOGITS, SOFT[:, :2])),
        (r"weights .*\(5,\)", lambda: AsymmetricLoss()(LOGITS, LABELS, torch.ones(5))),
    ],
)
def test_mistakes_are_named(message, call):
    with pytest.raises(InputError, match=message):
        call()
