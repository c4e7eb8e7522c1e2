"""Softmax focal loss: cross entropy at gamma 0, the recorded formula, saturation, and what every loss must do."""

import math

import loss_properties
import numpy as np
import pytest
import torch
from golden_data import cases

from pcdet_focal.errors import InputError
from pcdet_focal.losses import SoftmaxFocalLoss, build_loss, softmax_focal_loss

torch.manual_seed(12)
LOGITS = torch.randn(8, 4, dtype=torch.float64) * 3
LABELS, SOFT = torch.tensor([0, 3, 2, -100, 1, 3, 3, 0]), torch.rand(8, 4, dtype=torch.float64)
CASES = {
    "rows": (lambda: lambda x, k: softmax_focal_loss(x, k, [0.1, 0.2, 0.3, 0.4], 1.5, "none"), LOGITS, (LABELS,)),
    "gamma below 1": (lambda: lambda x, k: softmax_focal_loss(x, k, gamma=0.5), LOGITS, (LABELS,)),
    "soft targets": (lambda: lambda x, t: softmax_focal_loss(x, t, alpha=0.5, gamma=2.0), LOGITS, (SOFT,)),
    "mean": (
        lambda: SoftmaxFocalLoss(alpha=[1.0, 2.0, 0.5, 1.0]),
        LOGITS,
        (LABELS, torch.rand(8, dtype=torch.float64)),
    ),
    "cross entropy": (lambda: SoftmaxFocalLoss(gamma=0.0), LOGITS, (LABELS,)),
}


@pytest.mark.parametrize("property", loss_properties.ALL)
@pytest.mark.parametrize("case", CASES)
def test_property(case, property):
    property(*CASES[case])


def test_the_formula_in_float64():
    checked = 0
    for name, case in cases("07_other_systems/softmax_focal_formula.npz").items():
        gamma, alpha = float(name.split("_")[0][1:]), name.split("_a")[1]
        alpha = {"None": None, "vec": [0.1, 0.2, 0.3, 0.4, 0.5]}[alpha] if not alpha[0].isdigit() else float(alpha)
        x = torch.from_numpy(case["logits"]).requires_grad_()
        loss = softmax_focal_loss(x, torch.from_numpy(case["labels"]), alpha, gamma, "none")
        np.testing.assert_allclose(loss.detach().numpy(), case["output"], rtol=1e-10, atol=1e-14)
        loss.sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), case["grad"], rtol=1e-9, atol=1e-13)
        checked += 1
    assert checked == 4


def test_gamma_0_is_cross_entropy_exactly():
    for dtype in (torch.float32, torch.float64):
        x = (LOGITS.to(dtype) * 1000).requires_grad_()
        for reduction in ("none", "sum", "mean"):
            loss = softmax_focal_loss(x, LABELS, gamma=0.0, reduction=reduction)
            expected = torch.nn.functional.cross_entropy(x, LABELS, reduction=reduction)
            torch.testing.assert_close(loss, expected, rtol=1e-6 if reduction == "mean" else 0, atol=0)
            if reduction == "sum":
                assert torch.equal(*(torch.autograd.grad(value, x)[0] for value in (loss, expected)))


def test_the_formula_by_hand():
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64))
    got = softmax_focal_loss(logits, torch.tensor([1]), [1.0, 0.7, 1.0], 1.5, "none")
    assert got.item() == pytest.approx(-0.7 * 0.5**1.5 * math.log(0.5), rel=1e-12)
    soft = softmax_focal_loss(logits, torch.tensor([[0.4, 0.0, 0.6]]).double(), None, 2.0, "none")
    assert soft.item() == pytest.approx(-0.4 * 0.8**2 * math.log(0.2) - 0.6 * 0.7**2 * math.log(0.3), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_probabilities_of_0_and_1_have_finite_gradients(gamma):
    x = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [30.0, -30.0]], requires_grad=True)
    loss = softmax_focal_loss(x, torch.zeros(3, dtype=torch.long), gamma=gamma, reduction="none")
    loss.sum().backward()
    assert loss.tolist()[:2] == [0.0, 2e4] and torch.isfinite(x.grad).all()
    assert x.grad[1].tolist() == [-1.0, 1.0]  # the wrong row still learns


def test_all_ignored_one_class_and_size_average():
    x = LOGITS.clone().requires_grad_()
    loss = softmax_focal_loss(x, torch.full((8,), -100))
    loss.backward()
    assert loss.item() == 0 and x.grad.abs().max() == 0
    assert softmax_focal_loss(LOGITS[:, :1], torch.zeros(8, dtype=torch.long)).item() == 0
    for size_average, reduction in ((True, "mean"), (False, "sum")):
        torch.testing.assert_close(
            SoftmaxFocalLoss(size_average=size_average)(LOGITS, LABELS),
            softmax_focal_loss(LOGITS, LABELS, reduction=reduction),
        )
    torch.testing.assert_close(SoftmaxFocalLoss()(LOGITS, LABELS, avg_factor=7), softmax_focal_loss(LOGITS, LABELS))


def test_a_class_can_be_ignored_and_maps_have_their_classes_on_axis_1():
    got = softmax_focal_loss(LOGITS, LABELS.clamp(min=0), ignore_index=0, reduction="none")
    assert (got[LABELS.clamp(min=0) == 0] == 0).all() and (got[LABELS > 0] > 0).all()
    image = LOGITS.view(2, 4, 4).transpose(1, 2)  # (N, C, d1)
    torch.testing.assert_close(
        softmax_focal_loss(image, LABELS.view(2, 4), reduction="none").flatten(),
        softmax_focal_loss(LOGITS, LABELS, reduction="none"),
    )


@pytest.mark.parametrize(
    "message, call",
    [
        (r"LOSS: SoftmaxFocalLoss: gamma=-1", lambda: build_loss({"NAME": "SoftmaxFocalLoss", "GAMMA": -1})),
        (r"alpha=\[1.0, -1.0\]", lambda: SoftmaxFocalLoss(alpha=[1.0, -1.0])),
        (r"alpha .*\(3,\).*4", lambda: softmax_focal_loss(LOGITS, LABELS, [1.0, 1.0, 1.0])),
        (
            r"targets .*0 .*3 .*ignore_index=-100.* 4",
            lambda: softmax_focal_loss(LOGITS, LABELS + 1),
        ),
        (r"targets .*\(8, 4\)", lambda: softmax_focal_loss(LOGITS, SOFT[:, :3])),
        (r"targets .*float", lambda: softmax_focal_loss(LOGITS, SOFT[:, 0])),
        (r"targets .*\(8,\)", lambda: softmax_focal_loss(LOGITS, LABELS[:7])),
        (r"inputs .*\(N, C\)", lambda: softmax_focal_loss(LOGITS[0], LABELS[0])),
        (r"weights .*\(8, 4\)", lambda: SoftmaxFocalLoss()(LOGITS, LABELS, SOFT)),
    ],
)
def test_mistakes_are_named(message, call):
    with pytest.raises(InputError, match=message):
        call()
