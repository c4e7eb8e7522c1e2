"""The Triton kernels of ``ops.focal_loss`` in Triton's interpreter, against float64 plain torch;
``tests/ops/test_triton_losses.py`` runs this file.

TRITON_INTERPRET has to be set before triton is imported, and PCDET_FOCAL_BACKEND=cuda sends CPU tensors to the kernels.
"""

import math

import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    SigmoidFocalClassificationLoss,
    quality_focal_loss_from_labels,
    sigmoid_focal_loss_from_labels,
    varifocal_loss_from_labels,
)
from pcdet_focal.ops.focal_loss import backend_of, cuda

assert cuda._INTERPRETED and backend_of(torch.zeros(1)) == "cuda"

LOSSES = {
    "focal": sigmoid_focal_loss_from_labels,
    "quality focal": quality_focal_loss_from_labels,
    "varifocal": varifocal_loss_from_labels,
}
NASTY = [0.0, -0.0, 1e-45, 1e-30, 17.0, 50.0, 87.0, 88.0, 104.0, 745.0, 1e4, 1e10, 1.8e19, 1e20, 3e38]
SHAPES = [(1, 1, 1), (3, 342, 3), (1, 683, 3), (2, 300, 2), (2, 103, 10), (1, 2049, 1)]


def problem(shape, seed=0, positives=0.05, ignored=0.1, label_dtype=torch.int32):
    generator = torch.Generator().manual_seed(seed)
    kind = torch.rand(shape[:2], generator=generator)
    labels = torch.where(kind < positives, torch.randint(1, shape[2] + 1, shape[:2], generator=generator), 0)
    labels = torch.where(kind > 1 - ignored, -1, labels).to(label_dtype)
    return (
        torch.randn(shape, generator=generator) * 4 - 2,
        labels,
        torch.rand(shape[:2], generator=generator).round(decimals=1),
    )


def both(name, logits, labels, quality, **arguments):
    """(loss, gradient) of the kernels and of the definition in float64."""
    others = (labels,) if name == "focal" else (labels, quality)
    x, x64 = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss, exact = (
        LOSSES[name](x, *others, **arguments),
        LOSSES[name](x64, labels, *[q.double() for q in others[1:]], **arguments),
    )
    assert loss.dtype == torch.float32 and loss.shape == () and loss.grad_fn.name() == "FromLabelsBackward"
    return loss, torch.autograd.grad(loss, x)[0], exact, torch.autograd.grad(exact, x64)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LOSSES)
def test_is_the_definition(name, shape):
    label_dtype = torch.int64 if shape[0] == 2 else torch.int32
    loss, gradient, exact, exact_gradient = both(name, *problem(shape, label_dtype=label_dtype), loss_weight=1.7)
    assert loss.item() == pytest.approx(exact.item(), rel=5e-7)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=5e-6, atol=1e-9)


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("focal", {"gamma": 0.0}),
        ("focal", {"gamma": 0.5, "normalizer": "none"}),
        ("focal", {"gamma": 1.5, "alpha": None}),
        ("focal", {"alpha": [0.1, 0.5, 0.9]}),
        ("focal", {"gamma": [0.0, 2.0, 3.5]}),
        ("focal", {"alpha": [0.1, 0.5, 0.9], "gamma": [2.0, 1.5, 0.5]}),
        ("quality focal", {"beta": 0.0}),
        ("quality focal", {"beta": 0.5}),
        ("quality focal", {"beta": 1.0}),
        ("quality focal", {"beta": 3.3}),
        ("varifocal", {"gamma": 0.0}),
        ("varifocal", {"gamma": 1.5, "alpha": 0.3}),
        ("varifocal", {"iou_weighted": False, "normalizer": "none"}),
    ],
)
def test_arguments(name, arguments):
    loss, gradient, exact, exact_gradient = both(name, *problem((2, 300, 3)), **arguments)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    torch.testing.assert_close(
        gradient.double(), exact_gradient, rtol=1e-5, atol=1e-8 if "normalizer" not in arguments else 1e-6
    )


@pytest.mark.parametrize("positives, ignored", [(0.0, 0.1), (0.0, 1.1), (1.1, 0.0)])
@pytest.mark.parametrize("name", LOSSES)
def test_no_positives_all_ignored_all_positive(name, positives, ignored):
    loss, gradient, exact, exact_gradient = both(name, *problem((2, 300, 3), positives=positives, ignored=ignored))
    assert loss.item() == pytest.approx(exact.item(), rel=5e-7)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=5e-6, atol=1e-9)
    assert ignored < 1 or loss == 0 and not gradient.any()


@pytest.mark.parametrize("exponent", [2.0, 0.5])
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits(name, label, exponent):
    values = torch.tensor([sign * value for value in [*NASTY, math.inf] for sign in (1, -1)])
    logits, labels = values[None, :, None], torch.full((1, len(values)), label)
    bounded = logits.double().clamp(-(2.0**64), 2.0**64)
    others = (labels,) if name == "focal" else (labels, torch.full((1, len(values)), 0.3))
    argument = {"beta" if name == "quality focal" else "gamma": exponent}
    x, x64 = logits.clone().requires_grad_(), bounded.requires_grad_()
    loss, exact = LOSSES[name](x, *others, **argument), LOSSES[name](x64, *others, **argument)
    gradient, expected = torch.autograd.grad(loss, x)[0], torch.autograd.grad(exact, x64)[0]
    expected[logits.abs() > 2.0**64] = 0
    assert loss.item() == pytest.approx(exact.item(), rel=2e-6)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("name", LOSSES)
def test_nan_is_seen_in_its_own_place_and_not_in_an_ignored_anchor(name):
    logits, labels, quality = problem((2, 300, 3))
    quality += 0.05
    labels[0, 10], labels[0, 20] = -1, 0
    clean = both(name, logits, labels, quality)
    logits[0, 10] = math.nan
    loss, gradient, _, _ = both(name, logits, labels, quality)
    assert torch.equal(loss, clean[0]) and torch.equal(gradient, clean[1])
    for label in (0, 2):
        labels[0, 20], logits[0, 20, 1] = label, math.nan
        loss, gradient, _, _ = both(name, logits, labels, quality)
        assert torch.isnan(loss) and torch.isnan(gradient).nonzero().tolist() == [[0, 20, 1]]


@pytest.mark.parametrize("dtype, eps", [(torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8)])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_rounds_the_gradient_after_the_loss_scale(name, dtype, eps):
    logits, labels, quality = problem((2, 300, 3))
    logits = logits.to(dtype)
    others = (labels,) if name == "focal" else (labels, quality)
    x = logits.clone().requires_grad_()
    loss = LOSSES[name](x, *others, loss_weight=1e-6)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(
        both(name, logits, labels, quality, loss_weight=1e-6)[2].item(), rel=1e-6
    )
    (scaled,) = torch.autograd.grad(loss * 65536, x)
    exact = both(name, logits.float(), labels, quality, loss_weight=65536e-6)[3]
    assert scaled.dtype == dtype
    torch.testing.assert_close(scaled.double(), exact, rtol=2 * eps, atol=6e-8)
    assert (scaled[labels == 0] != 0).double().mean() > 0.5  # at 1e-6 itself they would have vanished


@pytest.mark.parametrize("name", LOSSES)
def test_backward_hands_on_scales_and_computes_anew(name):
    logits, labels, quality = problem((2, 300, 3))
    others = (labels,) if name == "focal" else (labels, quality)
    x = logits.requires_grad_()
    loss = LOSSES[name](x, *others)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(3 * loss, x, retain_graph=True)
    (third,) = torch.autograd.grad(loss, x)
    (scaled,) = torch.autograd.grad(3 * LOSSES[name](x, *others), x)
    assert torch.equal(first, kept) and torch.equal(third, kept)
    torch.testing.assert_close(second, 3 * kept, rtol=1e-6, atol=0)
    torch.testing.assert_close(scaled, 3 * kept, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(LOSSES[name](x, *others), x, create_graph=True)
    with pytest.raises(InputError, match="no second derivative"):
        gradient.sum().backward()


def test_the_same_bits_each_time_and_strided_inputs():
    logits, labels, quality = problem((2, 800, 3))
    for name in LOSSES:
        first, second = (both(name, logits, labels, quality) for _ in range(2))
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
        strided = both(
            name,
            logits.transpose(1, 2).contiguous().transpose(1, 2),
            labels.t().contiguous().t(),
            quality.t().contiguous().t(),
        )
        assert torch.equal(strided[0], first[0]) and torch.equal(strided[1], first[1])


def test_a_kernel_is_tuned_once_for_a_class_of_sizes(monkeypatch):
    measured = []

    def benchmark(launch, quantiles):
        launch()
        measured.append(1)
        return [1.0] * 3

    monkeypatch.setattr(cuda._from_labels, "configs", cuda._CONFIGS)
    monkeypatch.setattr(cuda._from_labels, "cache", {})
    monkeypatch.setitem(vars(cuda._from_labels), "do_bench", benchmark)
    for anchors, total in ((350, 4), (360, 4), (600, 4), (1500, 8), (350, 8)):  # 4^5 <= 2 * 3 * 350 < 4^6
        loss, _, exact, _ = both("focal", *problem((2, anchors, 3)))
        assert loss.item() == pytest.approx(exact.item(), rel=5e-7) and len(measured) == total


def test_positives_of_many_tiles_are_counted():
    labels = torch.zeros(2, 2 * cuda._LABELS_PER_TILE.value + 5, dtype=torch.int64)
    labels[0, ::7] = 1
    x = torch.zeros(*labels.shape, 1)
    count = int(labels.sum())
    one, other = labels.shape[1] - count, labels.shape[1]
    expected = 0.25 * math.log(2) * ((0.25 * count + 0.75 * one) / count + 0.75 * other) / 2
    assert sigmoid_focal_loss_from_labels(x, labels).item() == pytest.approx(expected, rel=2e-7)


@pytest.mark.parametrize(
    "shape, target_view, weights",
    [
        ((683, 3), "whole", None),
        ((683, 3), "whole", "anchor"),
        ((2, 200, 3), "one-hot slice", "anchor"),
        ((2, 103, 5), "one-hot slice", "element"),
        ((2, 3, 40, 3), "transposed", "shared"),
        ((7,), "whole", "element"),
        ((1025, 1), "whole", "anchor"),
        ((2, 60, 10), "bool", None),
    ],
)
@pytest.mark.parametrize("gamma", [2.0, 0.0, 0.5, 1.7])
def test_elementwise_with_soft_targets(shape, target_view, weights, gamma):
    torch.manual_seed(1)
    logits, targets = torch.randn(shape) * 6, torch.rand(shape).round(decimals=1)
    if target_view == "one-hot slice":
        targets = torch.cat([torch.full((*shape[:-1], 1), 7.0), targets], dim=-1)[..., 1:]
    elif target_view == "transposed":
        targets = targets.transpose(1, 2).contiguous().transpose(1, 2)
    elif target_view == "bool":
        targets = targets > 0.5
    given = {
        None: None,
        "anchor": torch.rand(shape[:-1] or (1,)),
        "shared": torch.rand((1,) * len(shape)),
        "element": torch.rand(shape),
    }[weights]
    incoming = torch.randn(shape)
    x, x64 = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss_func = SigmoidFocalClassificationLoss(alpha=0.3, gamma=gamma)
    loss, exact = loss_func(x, targets, given), loss_func(x64, targets, given)
    assert loss.grad_fn.name() == "ElementwiseBackward" and exact.grad_fn.name() != "ElementwiseBackward"
    torch.testing.assert_close(loss.double(), exact, rtol=5e-6, atol=1e-9)
    for direction in (incoming, torch.tensor(0.3).expand(shape), incoming.flip(0).clone().flip(0)):
        (got,) = torch.autograd.grad(loss, x, direction, retain_graph=True)
        (expected,) = torch.autograd.grad(exact, x64, direction.double(), retain_graph=True)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


def test_elementwise_extremes_and_openpcdets_gradient_at_zero():
    values = torch.tensor([sign * value for value in [*NASTY, math.inf] for sign in (1, -1)])
    for gamma in (2.0, 0.5):
        for target in (0.0, 0.4, 1.0):
            loss_func, targets = SigmoidFocalClassificationLoss(gamma=gamma), torch.full_like(values, target)
            x, x64 = values.clone().requires_grad_(), values.double().clamp(-(2.0**64), 2.0**64).requires_grad_()
            loss, exact = loss_func(x, targets), loss_func(x64, targets)
            gradient, expected = torch.autograd.grad(loss.sum(), x)[0], torch.autograd.grad(exact.sum(), x64)[0]
            expected[values.abs() > 2.0**64] = 0
            torch.testing.assert_close(loss.double(), exact, rtol=5e-6, atol=1e-30)
            torch.testing.assert_close(gradient.double(), expected, rtol=2e-5, atol=1e-25)
    x = torch.tensor([[math.nan, 0.0, 0.0]], requires_grad=True)
    SigmoidFocalClassificationLoss()(x, torch.tensor([[0.0, 0.0, 1.0]])).sum().backward()
    factor = 0.25 * math.log(2)
    assert torch.isnan(x.grad[0, 0]) and x.grad[0, 1:].tolist() == pytest.approx(
        [0.75 * (factor + 0.25), 0.25 * -factor], rel=1e-6
    )


@pytest.mark.parametrize("dtype, eps", [(torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8)])
def test_elementwise_half_precision(dtype, eps):
    torch.manual_seed(2)
    x, targets = (
        (torch.randn(2, 300, 3) * 6).to(dtype).requires_grad_(),
        torch.rand(2, 300, 3).round(decimals=1).to(dtype),
    )
    weights = torch.rand(2, 300).to(dtype)
    loss = SigmoidFocalClassificationLoss()(x, targets, weights)
    loss.sum().backward()
    x64 = x.detach().double().requires_grad_()
    exact = SigmoidFocalClassificationLoss()(x64, targets.double(), weights.double())
    exact.sum().backward()
    assert loss.dtype == torch.float32 and x.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), exact, rtol=5e-6, atol=1e-9)
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=2 * eps, atol=1e-6)
