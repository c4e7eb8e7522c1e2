"""Focal loss from labels: worked out by hand, invariances, its refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcdet_focal.errors import InputError
from pcdet_focal.losses import sigmoid_focal_loss_from_labels


def focal(x, positive, alpha, gamma):
    x, alpha = (x, alpha) if positive else (-x, 1 - alpha)
    return alpha * (1 / (1 + math.exp(x))) ** gamma * math.log1p(math.exp(-x))


def by_hand(logits, labels, alpha, gamma, per_sample):
    total = 0.0
    for sample, sample_labels in zip(logits, labels):
        positives = sum(label > 0 for label in sample_labels)
        loss = sum(
            focal(x, label == c + 1 or (len(row) == 1 and label > 0), alpha, gamma)
            for row, label in zip(sample, sample_labels)
            if label >= 0
            for c, x in enumerate(row)
        )
        total += loss / max(positives, 1) / len(logits) if per_sample else loss
    return total


@st.composite
def problems(draw):
    batch_size, num_anchors, num_class = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 4))
    logits = [
        [[draw(st.floats(-20, 20, width=32)) for _ in range(num_class)] for _ in range(num_anchors)]
        for _ in range(batch_size)
    ]
    labels = [
        [draw(st.integers(-1, 3 if num_class == 1 else num_class)) for _ in range(num_anchors)]
        for _ in range(batch_size)
    ]
    return logits, labels, draw(st.floats(0, 1)), draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])), draw(st.booleans())


@settings(max_examples=60, deadline=None)
@given(problems())
def test_by_hand(problem):
    logits, labels, alpha, gamma, per_sample = problem
    expected = by_hand(logits, labels, alpha, gamma, per_sample)
    normalizer = "per_sample" if per_sample else "none"
    for dtype, rel in ((torch.float32, 3e-6), (torch.float64, 1e-9)):
        for label_dtype in (torch.int32, torch.int64, torch.int16):
            loss = sigmoid_focal_loss_from_labels(
                torch.tensor(logits, dtype=dtype),
                torch.tensor(labels, dtype=label_dtype),
                alpha=alpha,
                gamma=gamma,
                normalizer=normalizer,
            )
            assert loss.dtype == dtype and loss.item() == pytest.approx(expected, rel=rel, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("label", [0, -1])
def test_without_positives(label, dtype):
    x = torch.full((2, 700, 3), -1.0, dtype=dtype, requires_grad=True)
    loss = sigmoid_focal_loss_from_labels(x, torch.full((2, 700), label))
    loss.backward()
    assert loss.item() == pytest.approx(0.0 if label else 700 * 3 * focal(-1.0, False, 0.25, 2.0), rel=1e-6)
    assert (x.grad == 0).all() if label else (x.grad > 0).all()


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3)])
def test_nothing_at_all(shape):
    x = torch.zeros(shape, requires_grad=True)
    loss = sigmoid_focal_loss_from_labels(x, torch.zeros(shape[:2], dtype=torch.int32))
    loss.backward()
    assert loss.item() == 0 and x.grad.shape == shape


def test_no_alpha_is_twice_a_half_and_the_weight_is_a_factor():
    logits, labels = torch.randn(2, 50, 3), torch.randint(-1, 4, (2, 50))
    half = sigmoid_focal_loss_from_labels(logits, labels, alpha=0.5)
    for alpha in (None, -1):
        torch.testing.assert_close(sigmoid_focal_loss_from_labels(logits, labels, alpha=alpha), 2 * half)
    torch.testing.assert_close(sigmoid_focal_loss_from_labels(logits, labels, alpha=0.5, loss_weight=3), 3 * half)


def test_strided_inputs_are_read_in_place_and_not_changed():
    torch.manual_seed(0)
    flat, labels = torch.randn(2, 3, 400), torch.randint(-1, 4, (400, 2)).int()
    before = flat.clone(), labels.clone()
    x = flat.clone().requires_grad_()
    loss = sigmoid_focal_loss_from_labels(x.transpose(1, 2), labels.t())
    dense = flat.transpose(1, 2).contiguous().requires_grad_()
    expected = sigmoid_focal_loss_from_labels(dense, labels.t().contiguous())
    loss.backward()
    expected.backward()
    assert loss == expected and torch.equal(x.grad.transpose(1, 2), dense.grad)
    assert torch.equal(flat, before[0]) and torch.equal(labels, before[1])


def test_repeating_the_anchors_repeats_nothing_per_sample():
    logits, labels = torch.randn(2, 500, 3), torch.randint(-1, 4, (2, 500))
    once = sigmoid_focal_loss_from_labels(logits, labels)
    torch.testing.assert_close(
        sigmoid_focal_loss_from_labels(logits.repeat(1, 30, 1), labels.repeat(1, 30)), once, rtol=3e-7, atol=0
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"labels": torch.zeros(2, 5)}, "labels.*float32"),
        ({"labels": torch.zeros(2, 4, dtype=torch.int32)}, r"\(2, 5, 3\).*\(2, 4\)"),
        ({"logits": torch.zeros(2, 5)}, r"\(B, A, C\)"),
        ({"logits": torch.zeros(2, 5, 3, dtype=torch.int32)}, "logits.*int32"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": [0.1, 0.2]}, "alpha.*3"),
        ({"alpha": [0.1, 0.2, 2.0]}, "alpha"),
        ({"gamma": -1.0}, "gamma=-1.0"),
        ({"gamma": float("nan")}, "gamma"),
        ({"gamma": [2.0, 2.0]}, "gamma.*3"),
        ({"normalizer": "global"}, "'global'.*'per_sample'.*'none'"),
    ],
)
def test_refusals(arguments, message):
    given = {"logits": torch.zeros(2, 5, 3), "labels": torch.zeros(2, 5, dtype=torch.int64), **arguments}
    logits, labels = given.pop("logits"), given.pop("labels")
    with pytest.raises(InputError, match=message):
        sigmoid_focal_loss_from_labels(logits, labels, **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("label_dtype", [torch.int32, torch.int64])
def test_a_label_above_the_classes(dtype, label_dtype):
    labels = torch.zeros(2, 30000, dtype=label_dtype)
    labels[1, -1] = 4
    with pytest.raises(InputError, match="label 4 .*3"):
        sigmoid_focal_loss_from_labels(torch.zeros(2, 30000, 3, dtype=dtype), labels)
    assert sigmoid_focal_loss_from_labels(torch.zeros(2, 30000, 1, dtype=dtype), labels) > 0  # class agnostic
