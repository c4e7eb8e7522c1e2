"""Quality focal and varifocal loss from labels: worked out by hand, against the dense losses of the package, extremes,
refusals.
"""

import math

import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    QualityFocalLoss,
    VarifocalLoss,
    build_head_classification_loss,
    one_hot_from_labels,
    quality_focal_loss,
    quality_focal_loss_from_labels,
    sigmoid_focal_loss_from_labels,
    varifocal_loss,
    varifocal_loss_from_labels,
)

LOSSES = {"quality focal": quality_focal_loss_from_labels, "varifocal": varifocal_loss_from_labels}


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def backend(request, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", request.param)
    return request.param


def problem(shape=(2, 700, 3), seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-20, 20, shape[:2], generator=generator)
    labels = torch.where(labels > shape[2], 0, labels.clamp(min=-1)).int()
    quality = torch.rand(shape[:2], generator=generator).round(decimals=1)  # 0 and 1 among them
    quality[labels <= 0] = math.nan  # not read
    return (torch.randn(shape, generator=generator) * 4 - 1).to(dtype), labels, quality


def by_hand(logits, labels, quality, entry):
    """Sum over samples of the sample's loss over its positives, over B; entry(p, t) is the loss of one entry."""
    total = 0.0
    for x, label, q in zip(logits.tolist(), labels.tolist(), quality.tolist()):
        loss = sum(
            entry(1 / (1 + math.exp(-v)), q[a] if label[a] == c + 1 else 0.0)
            for a, row in enumerate(x)
            if label[a] >= 0
            for c, v in enumerate(row)
        )
        total += loss / max(sum(v > 0 for v in label), 1)
    return total / len(logits)


def bce(p, t):
    return -t * math.log(p) - (1 - t) * math.log1p(-p)


def test_quality_focal_by_hand():
    given = problem((2, 50, 3))
    expected = by_hand(*given, lambda p, t: abs(t - p) ** 1.5 * bce(p, t))
    assert quality_focal_loss_from_labels(*given, beta=1.5).item() == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("iou_weighted", [True, False])
def test_varifocal_by_hand(iou_weighted):
    given = problem((2, 50, 3))
    expected = by_hand(
        *given, lambda p, t: (t if iou_weighted else 1) * bce(p, t) if t > 0 else 0.6 * p**1.5 * bce(p, 0)
    )
    got = varifocal_loss_from_labels(*given, alpha=0.6, gamma=1.5, iou_weighted=iou_weighted)
    assert got.item() == pytest.approx(expected, rel=2e-6)


CASES = [("quality focal", {"beta": beta}) for beta in (2.0, 0.0, 0.5, 1.0, 3.0)] + [
    ("varifocal", arguments)
    for arguments in ({}, {"gamma": 0.0}, {"gamma": 0.5, "alpha": 0.3}, {"iou_weighted": False})
]


@pytest.mark.parametrize("shape", [(2, 700, 3), (1, 1, 1), (2, 3000, 1), (1, 300, 10)])
@pytest.mark.parametrize("name, arguments", CASES)
def test_is_the_dense_loss_in_float64(name, arguments, shape):
    logits, labels, quality = problem(shape)
    target = one_hot_from_labels(labels, shape[2], torch.float64) * quality.double().nan_to_num().unsqueeze(-1)
    counted = (labels >= 0).double().unsqueeze(-1)
    x, y = logits.clone().requires_grad_(), logits.double().requires_grad_()
    dense = (quality_focal_loss if name == "quality focal" else varifocal_loss)(y, target, **arguments)
    expected = 1.7 * (dense * counted).sum()
    loss = LOSSES[name](x, labels, quality, normalizer="none", loss_weight=1.7, **arguments)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-6)
    # there the gradient is infinite where the probability is the quality
    rtol = 5e-4 if arguments.get("beta") == 0.5 else 1e-5
    torch.testing.assert_close(
        torch.autograd.grad(loss, x)[0].double(), torch.autograd.grad(expected, y)[0], rtol=rtol, atol=1e-6
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name):
    logits, labels, quality = problem((2, 9, 2), seed=3, dtype=torch.float64)
    assert (labels > 0).any() and (labels < 0).any()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, labels, quality.double()), logits.requires_grad_())


def test_with_a_quality_of_one_it_is_focal_loss_without_alpha():
    logits, labels, _ = problem()
    got = quality_focal_loss_from_labels(logits, labels, torch.ones(labels.shape), beta=1.5)
    torch.testing.assert_close(got, sigmoid_focal_loss_from_labels(logits, labels, alpha=None, gamma=1.5))


@pytest.mark.parametrize("normalizer", ["per_sample", "batch", "none"])
@pytest.mark.parametrize(
    "entry, module",
    [
        ({"NAME": "QualityFocalLoss", "BETA": 1.5}, QualityFocalLoss(beta=1.5)),
        ({"NAME": "VarifocalLoss", "ALPHA": 0.6, "IOU_WEIGHTED": False}, VarifocalLoss(alpha=0.6, iou_weighted=False)),
    ],
)
def test_a_head_takes_it_with_the_numbers_of_the_dense_module(entry, module, normalizer):
    logits, labels, quality = problem(dtype=torch.float64)
    target = one_hot_from_labels(labels, 3, torch.float64) * quality.double().nan_to_num().unsqueeze(-1)
    count = (labels > 0).sum(dim=1)
    divisor = {"per_sample": 2 * count, "batch": count.sum().expand(2), "none": torch.ones(2)}[normalizer]
    weight = (labels >= 0).double() / divisor[:, None]
    expected = 2.5 * (module(logits, target, reduction_override="none").view(2, 700, -1).sum(-1) * weight).sum()
    head_loss = build_head_classification_loss({**entry, "NORMALIZER": normalizer}, "CLS_LOSS", 2.5, num_class=3)
    for dtype, rel in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        got, _ = head_loss(logits.to(dtype), labels, lambda space: quality.to(dtype))
        assert got.dtype == dtype and got.item() == pytest.approx(expected.item(), rel=rel)


@pytest.mark.parametrize("dtype, bound", [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision(name, dtype, bound):
    logits, labels, quality = problem()
    x = torch.where(logits > 3, 100, logits).to(dtype).requires_grad_()
    y = x.detach().double().requires_grad_()
    loss, exact = LOSSES[name](x, labels, quality.to(dtype)), LOSSES[name](y, labels, quality.to(dtype).double())
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.double(), torch.autograd.grad(exact, y)[0], rtol=bound, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("label", [0, 1, -1])
def test_extreme_logits_are_finite(name, label):
    values = torch.tensor([sign * v for v in (0.0, 50.0, 100.0, 1e4, 1e10, 3e38, math.inf) for sign in (1, -1)])
    x = values[None, :, None].clone().requires_grad_()
    labels, quality = torch.full((1, len(values)), label), torch.full((1, len(values)), 0.3)
    loss = LOSSES[name](x, labels, quality)
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    assert label >= 0 or loss == 0 and not gradient.any()
    y = values.double().clamp(-(2.0**64), 2.0**64)[None, :, None].requires_grad_()
    exact = LOSSES[name](y, labels, quality.double())
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    expected = torch.where(x.abs() > 2.0**64, 0.0, torch.autograd.grad(exact, y)[0])
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-25)


@pytest.mark.parametrize("name", LOSSES)
def test_nan_is_seen_in_its_own_place(name):
    logits, labels, quality = problem()
    row = int((labels[0] > 0).nonzero()[0])
    for change in ("logit", "quality"):
        x, q = logits.clone(), quality.clone()
        (x[0, row] if change == "logit" else q[0])[0 if change == "logit" else row] = math.nan
        x.requires_grad_()
        loss = LOSSES[name](x, labels, q)
        (gradient,) = torch.autograd.grad(loss, x)
        column = 0 if change == "logit" else int(labels[0, row]) - 1
        assert torch.isnan(loss) and torch.isnan(gradient).nonzero().tolist() == [[0, row, column]]


def test_nothing_at_all():
    for shape in ((0, 5, 3), (2, 0, 3)):
        x = torch.zeros(shape, requires_grad=True)
        for loss in LOSSES.values():
            value = loss(x, torch.zeros(shape[:2], dtype=torch.int32), torch.zeros(shape[:2]))
            assert value.item() == 0 and torch.autograd.grad(value, x)[0].shape == shape


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"quality": torch.zeros(2, 4)}, r"quality .*\(2, 4\)"),
        ({"quality": torch.zeros(2, 5, dtype=torch.int64)}, "quality.*int64"),
        ({"labels": torch.zeros(2, 5)}, "labels.*float32"),
        ({"logits": torch.zeros(2, 5)}, r"\(B, A, C\)"),
        ({"labels": torch.full((2, 5), 4)}, "label 4 .*3"),
        ({"normalizer": "batch"}, "normalizer='batch'"),
    ],
)
@pytest.mark.parametrize("name", LOSSES)
def test_refusals(name, changes, message):
    given = {
        "logits": torch.zeros(2, 5, 3),
        "labels": torch.zeros(2, 5, dtype=torch.int64),
        "quality": torch.zeros(2, 5),
        **changes,
    }
    with pytest.raises(InputError, match=LOSSES[name].__name__ + ".*" + message):
        LOSSES[name](given.pop("logits"), given.pop("labels"), given.pop("quality"), **given)


def test_arguments_out_of_range():
    given = torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2)
    with pytest.raises(InputError, match="quality_focal_loss_from_labels: beta=-1"):
        quality_focal_loss_from_labels(*given, beta=-1)
    for argument in ("alpha", "gamma"):
        with pytest.raises(InputError, match=f"varifocal_loss_from_labels: {argument}=-0.5"):
            varifocal_loss_from_labels(*given, **{argument: -0.5})
