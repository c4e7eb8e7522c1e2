"""Distribution focal loss: the formula by hand, and what every loss must do."""

import math

import loss_properties
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import DistributionFocalLoss, distribution_focal_loss

torch.manual_seed(7)
LOGITS = torch.randn(6, 5, dtype=torch.float64) * 3
TARGET = torch.tensor([0.0, 0.25, 1.5, 3.0, 3.75, 4.0], dtype=torch.float64)
CASES = {
    "elementwise": (lambda: distribution_focal_loss, LOGITS, (TARGET,)),
    "mean": (DistributionFocalLoss, LOGITS, (TARGET, torch.rand(6, dtype=torch.float64))),
}


@pytest.mark.parametrize("property", loss_properties.ALL)
@pytest.mark.parametrize("case", CASES)
def test_property(case, property):
    property(*CASES[case])


def test_the_formula_by_hand():
    logits = torch.tensor([[0.0, 1.0, 3.0]], dtype=torch.float64)
    norm = math.log(1 + math.exp(1) + math.exp(3))
    got = [
        distribution_focal_loss(logits, torch.tensor([y], dtype=torch.float64)).item()
        for y in (0.0, 0.3, 1.0, 1.25, 2.0)
    ]
    assert got == pytest.approx([norm, norm - 0.3, norm - 1, norm - 1 - 0.25 * 2, norm - 3], rel=1e-12)


def test_the_last_bin_is_cross_entropy_and_sides_of_a_box_go_in_one_call():
    last = torch.full((6,), 4.0, dtype=torch.float64)
    torch.testing.assert_close(
        distribution_focal_loss(LOGITS, last), torch.nn.functional.cross_entropy(LOGITS, last.long(), reduction="none")
    )
    torch.testing.assert_close(
        distribution_focal_loss(LOGITS.view(2, 3, 5), TARGET.view(2, 3)),
        distribution_focal_loss(LOGITS, TARGET).view(2, 3),
    )


@pytest.mark.parametrize(
    "message, call",
    [
        (
            r"target .*0 .*4 .*5.* 4\.25",
            lambda: distribution_focal_loss(LOGITS, TARGET + 0.5),
        ),
        (r"target .* -0\.5", lambda: distribution_focal_loss(LOGITS, TARGET - 0.5)),
        (r"target .*nan", lambda: distribution_focal_loss(LOGITS, TARGET * float("nan"))),
        (r"pred .*2", lambda: distribution_focal_loss(LOGITS[:, :1], TARGET)),
        (r"pred .*\(6, 5\).*target .*\(5,\)", lambda: DistributionFocalLoss()(LOGITS, TARGET[1:])),
        (r"weights .*\(6, 5\)", lambda: DistributionFocalLoss()(LOGITS, TARGET, torch.ones(6, 5))),
    ],
)
def test_mistakes_are_named(message, call):
    with pytest.raises(InputError, match=message):
        call()
