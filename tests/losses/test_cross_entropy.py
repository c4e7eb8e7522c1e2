"""Binary and softmax cross entropy: closed form, extremes, mistakes."""

import math

import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    SigmoidFocalClassificationLoss,
    WeightedCrossEntropyLoss,
    binary_cross_entropy_with_logits,
    one_hot_cross_entropy,
)

BINARY = pytest.mark.parametrize(
    "bce", [binary_cross_entropy_with_logits, SigmoidFocalClassificationLoss.sigmoid_cross_entropy_with_logits]
)


@BINARY
def test_binary_closed_form(bce):
    logits, targets = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.tensor([1.0, 0.0, 0.3, 0.0])
    expected = [
        -t * math.log(1 / (1 + math.exp(-x))) - (1 - t) * math.log(1 / (1 + math.exp(x)))
        for x, t in zip(logits.tolist(), targets.tolist())
    ]
    assert bce(logits, targets).tolist() == pytest.approx(expected, rel=1e-6)


@BINARY
def test_easy_anchors_keep_their_digits(bce):
    """-log(1 - sigmoid(-15)) = log1p(e^-15); torch's own function loses it in float32 to a difference of two numbers of
    size 15.
    """
    x = torch.tensor([-15.0, 15.0], requires_grad=True)
    loss = bce(x, torch.tensor([0.0, 1.0]))
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-15))] * 2, rel=1e-6)
    loss.sum().backward()
    # TensorFlow's form adds slopes of size 1, so that its gradient has the absolute precision of float32, not the
    # relative one
    tolerance = {"rel": 1e-5} if bce is binary_cross_entropy_with_logits else {"abs": 1.2e-7}
    assert x.grad.tolist() == pytest.approx([1 / (1 + math.exp(15)), -1 / (1 + math.exp(15))], **tolerance)


@BINARY
def test_binary_of_other_shapes(bce):
    with pytest.raises(InputError, match=r"\(2, 3\).*\(3,\)"):
        bce(torch.zeros(2, 3), torch.zeros(3))


def test_softmax_closed_form():
    logits = torch.tensor([[[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]]])
    targets = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])  # a row of zeros is class 0
    expected = [math.log(math.e + math.e**2 + math.e**0.5) - 2, math.log(3)]
    assert one_hot_cross_entropy(logits, targets)[0].tolist() == pytest.approx(expected, rel=1e-6)
    loss = WeightedCrossEntropyLoss()(logits, targets, torch.tensor([[2.0, 0.5]]))
    assert loss[0].tolist() == pytest.approx([2 * expected[0], 0.5 * expected[1]], rel=1e-6)
    torch.testing.assert_close(WeightedCrossEntropyLoss()(logits[0], targets[0], torch.tensor([2.0, 0.5])), loss[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_softmax_extremes(dtype):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=dtype, requires_grad=True)
    loss = WeightedCrossEntropyLoss()(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.ones(2))
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.tolist() == [0.0, pytest.approx(2e4, rel=1e-3)]
    assert logits.grad.tolist() == [[0, 0], [-1, 1]]


def test_mistakes():
    x = torch.zeros(2, 5, 3)
    with pytest.raises(InputError, match=r"\(2, 5, 1\).*\(2, 5\)"):  # would broadcast to (2, 5, 5)
        WeightedCrossEntropyLoss()(x, x, torch.ones(2, 5, 1))
    with pytest.raises(InputError, match=r"\(5,\).*\(2, 5\)"):
        WeightedCrossEntropyLoss()(x, x, torch.ones(5))
    with pytest.raises(InputError, match=r"\(2, 5, 3\).*\(2, 5, 4\)"):
        WeightedCrossEntropyLoss()(x, torch.zeros(2, 5, 4), torch.ones(2, 5))


def test_no_anchors():
    assert WeightedCrossEntropyLoss()(torch.zeros(2, 0, 3), torch.zeros(2, 0, 3), torch.ones(2, 0)).shape == (2, 0)
