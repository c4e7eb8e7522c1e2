"""Equalized focal loss: formulas by hand, the running gradients, and what every loss must do."""

import math

import loss_properties
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import EqualizedFocalLoss, equalized_focal_loss, sigmoid_focal_loss

torch.manual_seed(10)
LOGITS = torch.randn(7, 4, dtype=torch.float64) * 2
LABELS, RATIO = torch.tensor([0, 3, 0, 3, 1, 0, 3]), torch.tensor([1.0, 0.4, 0.0, 0.9], dtype=torch.float64)
ONE_HOT = torch.nn.functional.one_hot(LABELS, 4).double()
CASES = {
    "equalized focal elementwise": (lambda: lambda x, t: equalized_focal_loss(x, t, RATIO), LOGITS, (ONE_HOT,)),
    "equalized focal gamma below 1": (
        lambda: lambda x, t: equalized_focal_loss(x, t, RATIO, None, 0.5, 0.2),
        LOGITS,
        (ONE_HOT,),
    ),
    "equalized focal": (lambda: EqualizedFocalLoss(4), LOGITS, (LABELS, torch.rand(7, dtype=torch.float64))),
}


@pytest.mark.parametrize("property", loss_properties.ALL)
@pytest.mark.parametrize("case", CASES)
def test_property(case, property):
    property(*CASES[case])


def test_running_gradients_are_saved():
    loss_properties.state_is_saved_and_restored(*CASES["equalized focal"], ["pos_grad", "neg_grad", "pos_neg"])


def test_equalized_focal_by_hand():
    x, ratio = 0.7, 0.25
    p, gamma = 1 / (1 + math.exp(-x)), 2 + 8 * 0.75
    positive = -0.25 * gamma / 2 * (1 - p) ** gamma * math.log(p)
    negative = -0.75 * gamma / 2 * p**gamma * math.log(1 - p)
    got = equalized_focal_loss(
        torch.tensor([[x], [x]], dtype=torch.float64), torch.tensor([[1.0], [0.0]]), torch.tensor([ratio])
    )
    assert got.flatten().tolist() == pytest.approx([positive, negative], rel=1e-12)


def test_equalized_focal_of_balanced_classes_is_focal_loss():
    for ratio in (1.0, 7.0):
        loss = equalized_focal_loss(LOGITS, ONE_HOT, torch.full((4,), ratio))
        torch.testing.assert_close(loss, sigmoid_focal_loss(LOGITS, ONE_HOT), rtol=1e-12, atol=0)
    x = LOGITS.clone().requires_grad_()
    torch.testing.assert_close(EqualizedFocalLoss(4)(x, LABELS), sigmoid_focal_loss(x, ONE_HOT, reduction="mean"))


def test_equalized_focal_collects_the_gradients_of_its_own_loss():
    """Two steps, the second with the unequal gammas of the first: the sums are those of autograd."""
    loss, weight = EqualizedFocalLoss(4, reduction="sum").double(), torch.rand(7, dtype=torch.float64)
    positive, negative = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for scale in (1.0, 1.3):
        x = (scale * LOGITS).requires_grad_()
        loss(x, LABELS, weight).backward()
        positive += (x.grad.abs() * ONE_HOT).sum(0)
        negative += (x.grad.abs() * (1 - ONE_HOT)).sum(0)
    torch.testing.assert_close(loss.pos_grad, positive)
    torch.testing.assert_close(loss.neg_grad, negative)
    torch.testing.assert_close(loss.pos_neg, (positive / negative).clamp(0, 1))
    assert loss.pos_neg[2] == 0


def test_zero_positives_and_all_ignored():
    for loss in (EqualizedFocalLoss(4), EqualizedFocalLoss(4, gamma=0.5)):
        x = LOGITS.clone().requires_grad_()
        loss(x, torch.full((7,), 4), torch.zeros(7)).backward()
        assert x.grad.abs().max() == 0 and loss.pos_neg.tolist() == [1.0] * 4
        assert torch.isfinite(loss(x, torch.full((7,), -1))) and loss.pos_neg.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    "message, call",
    [
        (r"gamma=0", lambda: EqualizedFocalLoss(4, gamma=0)),
        (r"scale=-1", lambda: EqualizedFocalLoss(4, scale=-1)),
        (r"alpha=1.5", lambda: EqualizedFocalLoss(4, alpha=1.5)),
        (r"num_classes=True", lambda: EqualizedFocalLoss(True)),
        (r"pred .*\(N, 3\)", lambda: EqualizedFocalLoss(3)(LOGITS, LABELS)),
        (r"weights .*\(4,\)", lambda: EqualizedFocalLoss(4)(LOGITS, LABELS, torch.ones(4))),
        (r"gradient_ratio .*\(4,\)", lambda: equalized_focal_loss(LOGITS, ONE_HOT, RATIO[:2])),
    ],
)
def test_mistakes_are_named(message, call):
    with pytest.raises(InputError, match=message):
        call()
