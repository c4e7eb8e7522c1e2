"""Equalization loss v2: formulas by hand, the running gradients, and what every loss must do."""

import math

import loss_properties
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import EQLV2Loss, eql_v2_weights

torch.manual_seed(10)
LOGITS = torch.randn(7, 4, dtype=torch.float64) * 2
LABELS = torch.tensor([0, 3, 0, 3, 1, 0, 3])
ONE_HOT = torch.nn.functional.one_hot(LABELS, 4).double()
CASE = (lambda: EQLV2Loss(num_classes=3), LOGITS, (LABELS,))


@pytest.mark.parametrize("property", loss_properties.ALL)
def test_property(property):
    property(*CASE)


def test_running_gradients_are_saved():
    loss_properties.state_is_saved_and_restored(*CASE, ["pos_grad", "neg_grad", "pos_neg"])


def test_eql_v2_weights_by_hand():
    negative = 1 / (1 + math.exp(-12 * (0.5 - 0.8)))
    weights = eql_v2_weights(
        torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
    )
    assert weights[0].tolist() == pytest.approx([1 + 4 * (1 - negative), negative], rel=1e-12)


def test_eql_v2_starts_as_cross_entropy_and_then_spares_the_class_without_positives():
    loss = EQLV2Loss(num_classes=3).double()
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(LOGITS, ONE_HOT, reduction="none")
    assert loss(LOGITS, LABELS).item() == pytest.approx(cross_entropy.sum().item() / 7, rel=1e-9)
    assert loss.pos_neg[2] == 0 and loss.pos_neg[0] > 0
    second = loss(LOGITS, LABELS)
    expected = (
        cross_entropy[:, 3].sum()
        + (cross_entropy[:, :3] * eql_v2_weights(ONE_HOT[:, :3], ratio_after_one_step())).sum()
    ) / 7
    assert second.item() == pytest.approx(expected.item(), rel=1e-9)


def ratio_after_one_step():
    gradient = (LOGITS.sigmoid() - ONE_HOT).abs()[:, :3]
    return (gradient * ONE_HOT[:, :3]).sum(0) / ((gradient * (1 - ONE_HOT[:, :3])).sum(0) + 1e-10)


def test_scores_of_a_head():
    scores = EQLV2Loss(num_classes=3).get_activation(LOGITS)
    p = LOGITS.sigmoid()
    torch.testing.assert_close(scores, torch.cat([p[:, :3] * (1 - p[:, 3:]), p[:, 3:]], -1))
    assert EQLV2Loss(num_classes=3).get_channel_num(3) == 4
    torch.testing.assert_close(EQLV2Loss(num_classes=3, test_with_obj=False).get_activation(LOGITS), p)


@pytest.mark.parametrize(
    "message, call",
    [
        (r"use_sigmoid=False", lambda: EQLV2Loss(use_sigmoid=False)),
        (r"class_weight=\[1.0\]", lambda: EQLV2Loss(class_weight=[1.0])),
        (r"cls_score needs the shape \(N, 5\)", lambda: EQLV2Loss(num_classes=4)(LOGITS, LABELS)),
        (r"label needs values from 0 to 3 .*holds -1", lambda: EQLV2Loss(num_classes=3)(LOGITS, LABELS - 1)),
        (r"loss_weight=-1", lambda: EQLV2Loss(loss_weight=-1)),
    ],
)
def test_mistakes_are_named(message, call):
    with pytest.raises(InputError, match=message):
        call()
