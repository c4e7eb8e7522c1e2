"""Gradient harmonising: bins counted by hand, and what every loss must do."""

import math

import loss_properties
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import GHMC, GHMR, authentic_smooth_l1, ghmc_loss, ghmr_loss

torch.manual_seed(8)
LOGITS = torch.randn(7, 3, dtype=torch.float64) * 2
LABELS, WEIGHT = torch.tensor([0, 3, 2, -1, 1, 3, 3]), torch.tensor([1.0, 0.5, 1.0, 1.0, 0.0, 2.0, 1.0])
CODES, CODE_TARGETS = torch.randn(7, 4, dtype=torch.float64) * 0.1, torch.randn(7, 4, dtype=torch.float64) * 0.1
CASES = {
    "GHM-C elementwise": (lambda: ghmc_loss, LOGITS, (torch.rand(7, 3, dtype=torch.float64),)),
    "GHM-C": (GHMC, LOGITS, (LABELS, WEIGHT)),
    "GHM-C momentum": (lambda: GHMC(bins=30, momentum=0.75), LOGITS, (LABELS, WEIGHT)),
    "GHM-R elementwise": (lambda: ghmr_loss, CODES, (CODE_TARGETS,)),
    "GHM-R": (GHMR, CODES, (CODE_TARGETS, WEIGHT.double())),
    "GHM-R momentum": (lambda: GHMR(mu=0.1, momentum=0.9), CODES, (CODE_TARGETS, torch.ones(7, 4))),
}


@pytest.mark.parametrize("property", loss_properties.ALL)
@pytest.mark.parametrize("case", CASES)
def test_property(case, property):
    property(*CASES[case])


@pytest.mark.parametrize("case", [case for case in CASES if "momentum" in case])
def test_running_counts_are_saved(case):
    loss_properties.state_is_saved_and_restored(*CASES[case], ["acc_sum"])


def logit(p):
    return math.log(p / (1 - p))


def test_every_occupied_bin_has_the_same_share():
    """Ten easy negatives (g 0.05), two hard ones (0.55): each bin contributes half of the mean cross entropy of its
    elements.
    """
    x = torch.tensor([logit(0.05)] * 10 + [logit(0.55)] * 2, dtype=torch.float64)
    expected = (-math.log(0.95) - math.log(0.45)) / 2
    assert ghmc_loss(x, torch.zeros(12)).sum().item() == pytest.approx(expected, rel=1e-12)
    assert GHMC()(x[:, None], torch.ones(12, dtype=torch.long)).item() == pytest.approx(expected, rel=1e-6)


def test_momentum_by_hand():
    """Bin 0 holds 3, then 1, then none: 0.25 * 3, 0.75 of that + 0.25 * 1, unchanged."""
    loss = GHMC(bins=2, momentum=0.75)
    x, hard = torch.full((3, 1), logit(0.1), dtype=torch.float64), torch.full((1, 1), logit(0.9), dtype=torch.float64)
    background = torch.ones(3, dtype=torch.long)
    assert loss(x, background).item() == pytest.approx(3 * -math.log(0.9) / 0.75, rel=1e-6)
    loss(x[:1], background[:1])
    assert loss.acc_sum.tolist() == [0.8125, 0.0]
    loss(hard, background[:1])
    assert loss.acc_sum.tolist() == [0.8125, 0.25]


def test_ghm_r_by_hand():
    mu = 0.75
    x = torch.tensor([[0.0, 0.0, 1.0, -10.0]], dtype=torch.float64)  # g = 0, 0, 0.8, 0.997
    expected = (0 + (1.25 - mu) + (math.hypot(10, mu) - mu)) / 3
    target = torch.zeros(1, 4)
    assert ghmr_loss(x, target, mu=mu).sum().item() == pytest.approx(expected, rel=1e-12)
    assert GHMR(mu=mu)(x, target).item() == pytest.approx(expected, rel=1e-6)


def test_small_and_huge_differences_keep_their_precision():
    assert authentic_smooth_l1(torch.tensor([1e-6]), torch.zeros(1)).item() == pytest.approx(1e-12 / 0.04, rel=1e-5)
    assert authentic_smooth_l1(torch.tensor([1e30]), torch.zeros(1)).item() == pytest.approx(1e30, rel=1e-5)


def test_all_ignored_and_zero_positives():
    for loss, x, target in ((GHMC(momentum=0.5), LOGITS, LABELS), (GHMR(momentum=0.5), CODES, CODE_TARGETS)):
        x = x.clone().requires_grad_()
        value = loss(x, target, torch.zeros(7))
        value.backward()
        assert value.item() == 0 and x.grad.abs().max() == 0 and loss.acc_sum.abs().max() == 0
    torch.testing.assert_close(GHMC()(LOGITS, torch.full((7,), 3)), GHMC()(LOGITS, torch.zeros(7, 3)))


def test_a_gradient_norm_of_exactly_one_is_in_the_last_bin():
    x = torch.tensor([[1e4], [-1e4]])
    loss = GHMC(bins=10, momentum=0.5)
    # background with p = 1, object with p = 0
    loss(x, torch.tensor([1, 0]))
    assert loss.acc_sum.tolist() == [0.0] * 9 + [1.0]


def test_half_precision_models_keep_their_counts():
    loss = GHMC(momentum=0.5)
    loss.acc_sum.fill_(70000)
    assert loss.half().acc_sum.tolist() == [70000.0] * 10
    assert loss.double().acc_sum.dtype == torch.float64


@pytest.mark.parametrize(
    "message, call",
    [
        (r"bins=0", lambda: GHMC(bins=0)),
        (r"bins=2.5", lambda: GHMR(bins=2.5)),
        (r"momentum=1 ", lambda: GHMC(momentum=1)),
        (r"momentum=-0.5", lambda: GHMR(momentum=-0.5)),
        (r"mu=0", lambda: GHMR(mu=0)),
        (r"use_sigmoid=False", lambda: GHMC(use_sigmoid=False)),
        (r"avg_factor", lambda: GHMC()(LOGITS, LABELS, WEIGHT, reduction_override="sum")),
        (r"weights .*\(5,\)", lambda: GHMC()(LOGITS, LABELS, torch.ones(5))),
        (r"target .*\(7,\)", lambda: GHMC()(LOGITS, LABELS[:5], WEIGHT)),
        (r"\(7, 4\).*\(6, 4\)", lambda: GHMR()(CODES, CODE_TARGETS[:6])),
    ],
)
def test_mistakes_are_named(message, call):
    with pytest.raises(InputError, match=message):
        call()
