"""Sigmoid focal loss against plain Python arithmetic, at its limits, and its mistakes."""

import math

import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    SigmoidFocalClassificationLoss,
    build_loss,
    sigmoid_focal_loss,
    sigmoid_focal_loss_from_labels,
    sigmoid_focal_loss_star,
)


def by_hand(x: float, t: float, alpha: float, gamma: float) -> float:
    p = 1 / (1 + math.exp(-x))
    one_minus_pt = t * (1 - p) + (1 - t) * p
    return (t * alpha + (1 - t) * (1 - alpha)) * one_minus_pt**gamma * (-t * math.log(p) - (1 - t) * math.log(1 - p))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.7])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_is_the_formula(alpha, gamma):
    logits, targets = [-6.0, -1.5, 0.0, 0.3, 4.0], [0.0, 1.0, 0.5, 0.2, 1.0]
    expected = [by_hand(x, t, alpha, gamma) for x, t in zip(logits, targets)]
    loss = sigmoid_focal_loss(
        torch.tensor(logits, dtype=torch.float64), torch.tensor(targets, dtype=torch.float64), alpha, gamma
    )
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("alpha", [None, -1])
def test_no_alpha_means_weight_one_for_both_classes(alpha):
    logits, targets = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, 0.0, 0.0])
    half = sigmoid_focal_loss(logits, targets, alpha=0.5)  # alpha 0.5 weighs both classes by 0.5
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=alpha), 2 * half)
    torch.testing.assert_close(
        SigmoidFocalClassificationLoss(alpha=alpha)(logits[None], targets[None], torch.ones(1)), 2 * half[None]
    )


def test_positional_arguments_are_torchvisions():
    logits, targets = torch.randn(5, 3), torch.zeros(5, 3)
    elementwise = sigmoid_focal_loss(logits, targets, 0.4, 1.5, "none")
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, 0.4, 1.5, "mean"), elementwise.mean())
    torch.testing.assert_close(
        sigmoid_focal_loss(logits, targets, reduction="sum", gamma=1.5, alpha=0.4), elementwise.sum()
    )


def test_integer_and_boolean_targets():
    logits, targets = torch.randn(4, 3), torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]])
    expected = sigmoid_focal_loss(logits, targets.float())
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets), expected)
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets.bool()), expected)


def test_confident_correct_logits_keep_their_digits():
    """For a correct logit x >> 1: loss = alpha e^(-gamma x) e^(-x) to first order; 1 - sigmoid(x) in float32 is 0
    beyond 17.
    """
    x = torch.tensor([12.0, 16.0, 18.0, 20.0], requires_grad=True)
    exact = [0.25 / (1 + math.exp(v)) * math.log1p(math.exp(-v)) for v in x.tolist()]
    loss = sigmoid_focal_loss(x, torch.ones(4), alpha=0.25, gamma=1.0)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert loss.tolist() == pytest.approx(exact, rel=1e-5, abs=0)
    assert gradient.tolist() == pytest.approx([-2 * v for v in exact], rel=1e-4, abs=0)
    assert SigmoidFocalClassificationLoss(gamma=1.0)(x[None], torch.ones(1, 4), torch.ones(1))[
        0
    ].tolist() == pytest.approx(exact, rel=1e-5, abs=0)


def test_gradient_at_a_logit_of_zero_is_the_derivative():
    """d/dx at 0 with gamma 0 is alpha_t (0.5 - t)."""
    x = torch.zeros(2, requires_grad=True)
    sigmoid_focal_loss(x, torch.tensor([1.0, 0.0]), alpha=None, gamma=0.0).sum().backward()
    assert x.grad.tolist() == [-0.5, 0.5]


LIMITS = [0.0, 17.0, 50.0, 88.0, 100.0, 104.0, 1e4, 1e30, 3e38]


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 1.5, 2.0, 5.0])
@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
def test_finite_at_any_logit(gamma, target):
    x = torch.tensor([sign * v for v in LIMITS for sign in (1, -1)], requires_grad=True)
    targets = torch.full_like(x, target)
    for loss in (
        sigmoid_focal_loss(x, targets, gamma=gamma),
        SigmoidFocalClassificationLoss(gamma=gamma)(x[None], targets[None], torch.ones(1)),
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()
        assert (loss >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_infinite_logits(dtype):
    """Zero on the right side and at weight zero, huge but finite on the wrong side, no gradient."""
    infinity = float("inf")
    x = torch.tensor([[infinity, -infinity, infinity, -infinity]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    for loss in (sigmoid_focal_loss(x, targets), SigmoidFocalClassificationLoss()(x, targets, torch.ones(1))):
        assert loss[0, :2].tolist() == [0.0, 0.0]
        assert (loss[0, 2:] > 1e18).all() and torch.isfinite(loss.sum())
        (gradient,) = torch.autograd.grad(loss.mean(), x)
        assert gradient.tolist() == [[0.0] * 4]
    assert SigmoidFocalClassificationLoss()(x, targets, torch.zeros(1)).tolist() == [[0.0] * 4]


def test_nan_logits_are_seen():
    loss = sigmoid_focal_loss(torch.tensor([float("nan"), 1.0]), torch.tensor([0.0, 0.0]))
    assert torch.isnan(loss).tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = torch.tensor([100.0, -100.0, 100.0, -100.0, 1.0], dtype=dtype, requires_grad=True)
    targets = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=dtype)
    loss = SigmoidFocalClassificationLoss()(x[:, None], targets[:, None], torch.ones(5, dtype=dtype))
    assert loss.dtype == torch.float32
    assert loss[:, 0].tolist() == pytest.approx([0.0, 25.0, 75.0, 0.0, by_hand(1.0, 0.0, 0.25, 2.0)], rel=1e-6)
    loss.sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad[:4].tolist() == [0.0, -0.25, 0.75, 0.0]


@pytest.mark.parametrize(
    "input_shape, weight_shape, weights",
    [
        ((2, 6, 3), (2, 6), "one per anchor"),
        ((2, 6, 3), (2, 6, 1), "one per anchor"),
        ((2, 6, 3), (2, 6, 3), "one per element"),
        ((2, 6, 3), (1, 6), "shared by samples"),
        ((6, 3), (6,), "one per anchor"),
        ((6, 3), (6, 3), "one per element"),
        ((6, 3), (6, 1), "one per anchor"),
    ],
)
def test_weights_that_fit(input_shape, weight_shape, weights):
    logits, targets, weights = torch.randn(input_shape), torch.zeros(input_shape), torch.rand(weight_shape)
    loss = SigmoidFocalClassificationLoss()(logits, targets, weights)
    assert loss.shape == input_shape
    plain = sigmoid_focal_loss(logits, targets)
    spread = weights if weights.dim() == logits.dim() else weights[..., None]
    for index in [(0,) * len(input_shape), tuple(n - 1 for n in input_shape)]:
        at = tuple(min(i, n - 1) for i, n in zip(index, spread.shape))
        assert loss[index].item() == pytest.approx(plain[index].item() * spread[at].item(), rel=1e-6)


@pytest.mark.parametrize(
    "input_shape, weight_shape",
    [
        ((2, 6, 3), (2, 5)),
        ((2, 6, 3), (6,)),
        ((2, 6, 3), (2, 6, 2)),
        ((6, 3), (3,)),
        ((6, 3), (2, 6, 3)),
        ((2, 6, 3), ()),
    ],
)
def test_weights_that_do_not_fit(input_shape, weight_shape):
    with pytest.raises(InputError) as error:
        SigmoidFocalClassificationLoss()(torch.zeros(input_shape), torch.zeros(input_shape), torch.ones(weight_shape))
    message = str(error.value)
    assert all(str(shape) in message for shape in (weight_shape, input_shape, input_shape[:-1]))


def test_targets_of_another_shape():
    with pytest.raises(InputError, match=r"\(2, 6, 3\).*\(2, 6, 4\)"):
        SigmoidFocalClassificationLoss()(torch.zeros(2, 6, 3), torch.zeros(2, 6, 4), torch.ones(2, 6))
    with pytest.raises(InputError, match=r"\(6, 3\).*\(6,\)"):
        sigmoid_focal_loss(torch.zeros(6, 3), torch.zeros(6))


@pytest.mark.parametrize(
    "arguments",
    [
        {"alpha": 1.5},
        {"alpha": -0.5},
        {"alpha": float("nan")},
        {"gamma": -1.0},
        {"gamma": float("nan")},
        {"reduction": "avg"},
    ],
)
def test_arguments_out_of_range(arguments):
    (name,) = arguments
    with pytest.raises(InputError, match=name):
        sigmoid_focal_loss(torch.zeros(2), torch.zeros(2), **arguments)


def test_empty_input():
    x = torch.zeros(0, 3, requires_grad=True)
    loss = SigmoidFocalClassificationLoss()(x, torch.zeros(0, 3), torch.ones(0)).sum()
    loss.backward()
    assert loss.item() == 0 and x.grad.shape == (0, 3)


ALPHAS, GAMMAS = (0.25, 0.75, 0.0), (2.0, 0.0, 0.5)


def per_class_losses(alpha, gamma):
    """Every door to the loss, elementwise, of logits (N, C) and targets (N, C)."""

    def activated(x, t):
        return build_loss(
            {"type": "FocalLoss", "alpha": alpha, "gamma": gamma, "activated": True, "reduction": "none"}
        )(x.sigmoid(), t)

    return {
        "function": lambda x, t: sigmoid_focal_loss(x, t, alpha, gamma),
        "module": SigmoidFocalClassificationLoss(gamma, alpha),
        "mmdetection": build_loss({"type": "FocalLoss", "alpha": alpha, "gamma": gamma, "reduction": "none"}),
        "yaml": build_loss({"NAME": "SigmoidFocalClassificationLoss", "ALPHA": alpha, "GAMMA": gamma}),
        "activated": activated,
    }


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor])
@pytest.mark.parametrize("door", per_class_losses(0.5, 2.0))
def test_one_alpha_and_gamma_per_class(door, kind):
    """Each column by plain arithmetic with its own numbers."""
    x = torch.tensor([[-3.0, 0.5, 2.0], [1.0, -1.0, 0.0], [4.0, 2.5, -2.0]], dtype=torch.float64)
    t = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.3, 1.0]], dtype=torch.float64)
    loss = per_class_losses(kind(ALPHAS), kind(GAMMAS))[door](x, t)
    for c, (alpha, gamma) in enumerate(zip(ALPHAS, GAMMAS)):
        assert loss[:, c].tolist() == pytest.approx(
            [by_hand(*pair, alpha, gamma) for pair in zip(x[:, c].tolist(), t[:, c].tolist())], rel=1e-9
        )


@pytest.mark.parametrize("door", per_class_losses(0.5, 2.0))
def test_equal_numbers_for_all_classes_are_one_number(door):
    x, t = torch.randn(50, 3), (torch.rand(50, 3) > 0.7).float()
    one = per_class_losses(0.3, 2.0)[door](x, t)
    torch.testing.assert_close(per_class_losses([0.3] * 3, [2.0] * 3)[door](x, t), one, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(per_class_losses(0.3, torch.full((3,), 2.0))[door](x, t), one, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(per_class_losses(torch.full((3,), 0.3), 2.0)[door](x, t), one, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("door", ["function", "module", "mmdetection"])
def test_gradients_per_class(door):
    x = torch.tensor([[-3.0, 0.5, 2.0], [1.0, -1.0, 0.1]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.4, 1.0]], dtype=torch.float64)
    loss = per_class_losses([0.25, 0.75, 0.4], [2.0, 0.0, 0.5])[door]
    assert torch.autograd.gradcheck(lambda logits: loss(logits, t), x)


def test_per_class_at_any_logit():
    x = torch.tensor([[sign * v] * 3 for v in LIMITS for sign in (1, -1)], requires_grad=True)
    for target in (0.0, 1.0):
        loss = sigmoid_focal_loss(x, torch.full_like(x, target), ALPHAS, GAMMAS)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()


def test_settings_per_class_in_half_precision_and_a_compiled_graph():
    x, t = torch.randn(8, 3), torch.zeros(8, 3)
    module = SigmoidFocalClassificationLoss(GAMMAS, ALPHAS)
    half = module(x.half(), t.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, sigmoid_focal_loss(x.half().float(), t, ALPHAS, GAMMAS))
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x, t), module(x, t))


@pytest.mark.parametrize("argument", ["alpha", "gamma"])
@pytest.mark.parametrize("value", [[0.1, 0.2], [0.1, 0.2, 0.3, 0.4], torch.rand(2), torch.rand(1, 3), torch.rand(3, 1)])
def test_numbers_that_do_not_fit_the_classes(argument, value):
    with pytest.raises(InputError, match=rf"{argument}.*\(2, 6, 3\).*3"):
        sigmoid_focal_loss(torch.zeros(2, 6, 3), torch.zeros(2, 6, 3), **{argument: value})
    if not isinstance(value, torch.Tensor) or value.dim() == 1:
        for loss in (
            SigmoidFocalClassificationLoss(**{argument: value}),
            build_loss({"type": "FocalLoss", argument: value}),
        ):
            with pytest.raises(InputError, match=rf"{argument}.*3"):
                loss(torch.zeros(6, 3), torch.zeros(6, 3))


@pytest.mark.parametrize(
    "argument, value",
    [
        ("alpha", [0.5, 1.5]),
        ("alpha", [0.5, -1]),
        ("gamma", [1.0, -1.0]),
        ("gamma", [float("nan"), 0.0]),
        ("gamma", []),
        ("alpha", ["x", "y"]),
        ("gamma", None),
        ("alpha", "0.5"),
        ("alpha", torch.tensor([0.5, 2.0])),
        ("gamma", [[1.0], [2.0, 3.0]]),
    ],
)
def test_numbers_per_class_out_of_range(argument, value):
    with pytest.raises(InputError, match=argument):
        sigmoid_focal_loss(torch.zeros(4, 2), torch.zeros(4, 2), **{argument: value})
    for made in ("SigmoidFocalClassificationLoss", "FocalLoss"):
        with pytest.raises(InputError, match=f"CLS_LOSS: {made}: {argument}"):
            build_loss({"NAME": made, argument: value}, "CLS_LOSS")


LABELS = torch.tensor([[2, 0, -1, 1], [0, 3, 0, -1]])


def test_integer_labels_are_those_of_the_target_assigner():
    """1..C name the class, 0 is background, below 0 is ignored; against the one-hot target written out."""
    x = torch.randn(2, 4, 3)
    one_hot = torch.zeros(2, 4, 3)
    one_hot[0, 0, 1] = one_hot[0, 3, 0] = one_hot[1, 1, 2] = 1
    counts = torch.tensor([[1.0, 1, 0, 1], [1, 1, 1, 0]])
    expected = sigmoid_focal_loss(x, one_hot) * counts[..., None]
    for labels in (LABELS, LABELS.int(), LABELS.to(torch.int8)):
        torch.testing.assert_close(sigmoid_focal_loss(x, labels), expected)
        torch.testing.assert_close(SigmoidFocalClassificationLoss()(x, labels), expected)
        torch.testing.assert_close(SigmoidFocalClassificationLoss()(x, labels, torch.full((2, 4), 3.0)), 3 * expected)
    # 6 labels of 8, 3 classes
    torch.testing.assert_close(sigmoid_focal_loss(x, LABELS, reduction="mean"), expected.sum() / 18)
    torch.testing.assert_close(
        sigmoid_focal_loss(x, LABELS, ALPHAS, GAMMAS, "sum"),
        sigmoid_focal_loss_from_labels(x, LABELS, alpha=ALPHAS, gamma=GAMMAS, normalizer="none"),
    )


def test_labels_of_one_class_and_unsigned_ones():
    x = torch.randn(3, 1)
    torch.testing.assert_close(
        sigmoid_focal_loss(x, torch.tensor([0, 3, 1])), sigmoid_focal_loss(x, torch.tensor([[0.0], [1.0], [1.0]]))
    )
    torch.testing.assert_close(
        sigmoid_focal_loss(x.expand(3, 2), torch.tensor([0, 2, 1], dtype=torch.uint8)),
        sigmoid_focal_loss(x.expand(3, 2), torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])),
    )


def test_ignored_labels_hide_whatever_is_there():
    x = torch.tensor([[float("nan"), float("inf")], [1.0, -1.0]], requires_grad=True)
    labels = torch.tensor([-1, 1])
    for loss in (
        sigmoid_focal_loss(x, labels),
        SigmoidFocalClassificationLoss()(x, labels),
        SigmoidFocalClassificationLoss([1.0, 2.0])(x, labels),
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert loss[0].tolist() == gradient[0].tolist() == [0.0, 0.0]
        assert (loss[1] > 0).all() and torch.isfinite(gradient).all()
    assert sigmoid_focal_loss(x, torch.tensor([-1, -1]), reduction="mean").item() == 0


@pytest.mark.parametrize(
    "targets, words",
    [
        (torch.tensor([0, 4, 1, 1]), "0 .*3.* 4"),
        (torch.tensor([[0, 2, 0]] * 4), "0 .*1.* 2"),
        (torch.tensor([[0, -1, 0]] * 4), "-1"),
        (torch.tensor([0, 1, 1]), r"\(4, 3\).*\(3,\)"),
        (torch.tensor([True, False, True, True]), r"\(4, 3\).*\(4,\)"),
        (torch.zeros(4), r"\(4,\)"),
    ],
)
def test_targets_that_are_neither_labels_nor_one_hot(targets, words):
    for loss in (sigmoid_focal_loss, SigmoidFocalClassificationLoss()):
        with pytest.raises(InputError, match=words):
            loss(torch.zeros(4, 3), targets)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_weights_of_the_positive_term(gamma):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(6, 3, generator=generator) > 0.5).double()
    factors = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    got = sigmoid_focal_loss(logits, targets, alpha=None, gamma=gamma, pos_weight=factors)
    p = torch.where(targets == 1, logits.sigmoid(), 1 - logits.sigmoid())
    want = -torch.where(targets == 1, factors, 1.0) * (1 - p) ** gamma * p.log()
    torch.testing.assert_close(got, want)
    if gamma == 0:
        want = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, targets, reduction="none", pos_weight=factors
        )
        torch.testing.assert_close(got, want)
    assert torch.autograd.gradcheck(
        lambda x: sigmoid_focal_loss(x, targets, 0.25, gamma, pos_weight=[0.5, 1.0, 4.0]), (logits,)
    )
    with pytest.raises(InputError, match="pos_weight"):
        sigmoid_focal_loss(logits, targets, pos_weight=[1.0, 2.0])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("alpha", [-1, 0.25])
def test_the_star_form(alpha, reduction):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(5, 3, generator=generator) > 0.5).double()
    got = sigmoid_focal_loss_star(logits, targets, alpha, 3.0, reduction)
    p = torch.sigmoid(3.0 * torch.where(targets == 1, logits, -logits))
    want = -p.log() / 3.0 * (1 if alpha == -1 else torch.where(targets == 1, alpha, 1 - alpha))
    torch.testing.assert_close(got, want if reduction == "none" else getattr(want, reduction)())
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss_star(x, targets, alpha, 3.0), (logits,))
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(sigmoid_focal_loss_star(logits, targets, gamma=1.0, reduction="mean"), plain)
    with pytest.raises(InputError, match="gamma=0"):
        sigmoid_focal_loss_star(logits, targets, gamma=0)
