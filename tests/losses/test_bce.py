"""Binary cross entropy and label smoothing: formulas by hand, and what every loss must do."""

import math

import loss_properties
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    BinaryCrossEntropyLoss,
    LabelSmoothingLoss,
    binary_cross_entropy,
    label_smoothing_cross_entropy,
    smooth_binary_targets,
)

torch.manual_seed(13)
LOGITS = torch.randn(8, 4, dtype=torch.float64) * 3
LABELS, SOFT = torch.tensor([0, 3, 2, -100, 1, 3, 3, 0]), torch.rand(8, 4, dtype=torch.float64)
CASES = {
    "binary": (lambda: lambda x, t: binary_cross_entropy(x, t, [1.0, 2.0, 0.5, 3.0], 0.1), LOGITS, (SOFT,)),
    "binary labels": (lambda: BinaryCrossEntropyLoss(2.0, 0.1), LOGITS, (LABELS, torch.rand(8, dtype=torch.float64))),
    "softmax": (lambda: label_smoothing_cross_entropy, LOGITS, (LABELS,)),
    "softmax probabilities": (lambda: label_smoothing_cross_entropy, LOGITS, (SOFT,)),
    "softmax mean": (
        lambda: LabelSmoothingLoss(0.2, [1.0, 2.0, 0.5, 3.0]),
        LOGITS,
        (LABELS, torch.rand(8, dtype=torch.float64)),
    ),
}


@pytest.mark.parametrize("property", loss_properties.ALL)
@pytest.mark.parametrize("case", CASES)
def test_property(case, property):
    property(*CASES[case])


def test_the_formulas_by_hand():
    assert smooth_binary_targets(torch.tensor([0.0, 1.0, 0.5]), 0.2).tolist() == pytest.approx([0.1, 0.9, 0.5])
    x, p = 0.7, 1 / (1 + math.exp(-0.7))
    got = binary_cross_entropy(
        torch.tensor([x, x], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64), 3.0, 0.2
    )
    assert got.tolist() == pytest.approx(
        [-3 * 0.9 * math.log(p) - 0.1 * math.log(1 - p), -3 * 0.1 * math.log(p) - 0.9 * math.log(1 - p)], rel=1e-12
    )
    rows = label_smoothing_cross_entropy(
        torch.log(torch.tensor([[0.2, 0.8]], dtype=torch.float64)), torch.tensor([1]), 0.2
    )
    assert rows.item() == pytest.approx(-0.9 * math.log(0.8) - 0.1 * math.log(0.2), rel=1e-12)


def test_zero_positives_one_class_and_all_ignored():
    torch.testing.assert_close(
        BinaryCrossEntropyLoss()(torch.zeros(3, 1), torch.tensor([1, 1, -1])), torch.tensor(math.log(2))
    )
    x = LOGITS.clone().requires_grad_()
    (
        LabelSmoothingLoss()(x, torch.full((8,), -100))
        + BinaryCrossEntropyLoss()(x, LABELS, torch.zeros(8), avg_factor=1.0)
    ).backward()
    assert x.grad.abs().max() == 0
    assert label_smoothing_cross_entropy(LOGITS[:, :1], torch.zeros(8, dtype=torch.long)).abs().max() == 0


def test_the_mean_of_label_smoothing_leaves_ignored_rows_out():
    expected = torch.nn.functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    torch.testing.assert_close(LabelSmoothingLoss()(LOGITS, LABELS), expected)


@pytest.mark.parametrize(
    "message, call",
    [
        (r"label_smoothing=1.5", lambda: BinaryCrossEntropyLoss(label_smoothing=1.5)),
        (r"pos_weight=\[-1.0\]", lambda: BinaryCrossEntropyLoss(pos_weight=[-1.0])),
        (r"pos_weight .*\(3,\)", lambda: binary_cross_entropy(LOGITS, SOFT, [1.0, 2.0, 3.0])),
        (r"class_weight .*\(3,\)", lambda: label_smoothing_cross_entropy(LOGITS, LABELS, 0.1, [1.0, 2.0, 3.0])),
        (
            r"targets .*0 .*3 .*ignore_index=-100.* 4",
            lambda: LabelSmoothingLoss()(LOGITS, LABELS + 1),
        ),
        (r"\(8, 4\).*\(8, 2\)", lambda: binary_cross_entropy(LOGITS, SOFT[:, :2])),
        (r"weights .*\(5,\)", lambda: BinaryCrossEntropyLoss()(LOGITS, LABELS, torch.ones(5))),
        (r"\(8, 4\).*\(32, 1\)", lambda: BinaryCrossEntropyLoss()(LOGITS, SOFT.flatten()[:, None])),
    ],
)
def test_mistakes_are_named(message, call):
    with pytest.raises(InputError, match=message):
        call()


def test_the_values_of_torch():
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    functional = torch.nn.functional
    torch.testing.assert_close(
        binary_cross_entropy(LOGITS, SOFT, weights),
        functional.binary_cross_entropy_with_logits(LOGITS, SOFT, pos_weight=weights, reduction="none"),
    )
    for target in (LABELS, SOFT):
        torch.testing.assert_close(
            label_smoothing_cross_entropy(LOGITS, target, 0.3, weights),
            functional.cross_entropy(LOGITS, target, weights, label_smoothing=0.3, reduction="none"),
        )
