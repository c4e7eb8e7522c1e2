"""mmdetection's classes beyond its recorded calls: closed forms, float64 gradients, extremes, half precision, one
compiled graph, mistakes.
"""

import math

import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import build_loss, weight_reduce_loss

LOSSES = {  # name: (entry, prediction, target, weight)
    "focal, labels": (dict(type="FocalLoss"), (6, 3), "labels", (6,)),
    "focal, soft": (dict(type="FocalLoss", gamma=0.5), (6, 3), "soft", (6, 3)),
    "focal, probabilities": (dict(type="FocalLoss", activated=True), (6, 3), "labels", (6, 1)),
    "softmax": (dict(type="CrossEntropyLoss", class_weight=[1.0, 0.5, 2.0]), (6, 3), "classes", (6,)),
    "softmax map": (dict(type="CrossEntropyLoss", ignore_index=2, avg_non_ignore=True), (2, 3, 4), "map", (2, 4)),
    "sigmoid, labels": (
        dict(type="CrossEntropyLoss", use_sigmoid=True, class_weight=[1.0, 0.5, 2.0]),
        (6, 3),
        "labels",
        (6,),
    ),
    "sigmoid, soft": (dict(type="CrossEntropyLoss", use_sigmoid=True), (6, 3), "soft", (6, 1)),
    "L1": (dict(type="L1Loss"), (6, 3), "soft", (6, 3)),
    "smooth L1": (dict(type="SmoothL1Loss", beta=0.3), (6, 3), "soft", (6, 1)),
    "squared": (dict(type="MSELoss"), (6, 3), "soft", (6, 3)),
    "gaussian": (dict(type="GaussianFocalLoss", pos_weight=2.0, neg_weight=0.5), (2, 3, 4), "heat", (2, 1, 4)),
}


def inputs(name, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    entry, shape, kind, weight_shape = LOSSES[name]
    pred = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "heat" or entry.get("activated"):
        pred = torch.sigmoid(pred)
    soft = torch.rand(shape, generator=generator, dtype=torch.float64)
    target = {
        "labels": torch.tensor([0, 3, 1, 2, 3, 1]),
        "classes": torch.tensor([0, 2, 1, 2, 0, 1]),
        "map": torch.tensor([[0, 1, 2, 0], [2, 1, 1, 0]]),
        "soft": soft,
        "heat": torch.where(soft > 0.8, 1.0, soft),
    }[kind]
    weight = torch.rand(weight_shape, generator=generator, dtype=torch.float64) + 0.1
    return (
        build_loss(entry).to(dtype),
        pred.to(dtype),
        target.to(dtype) if target.is_floating_point() else target,
        weight.to(dtype),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_in_float64(name):
    loss, pred, target, weight = inputs(name)
    for arguments in ((weight, 2.5, None), (None, None, "sum"), (weight, None, "none")):
        assert torch.autograd.gradcheck(lambda p, a=arguments: loss(p, target, *a), pred.clone().requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_weight_then_reduction_then_loss_weight(name):
    loss, pred, target, weight = inputs(name)
    plain = loss(pred, target, reduction_override="none")
    w = weight.unsqueeze(-1) if weight.dim() == plain.dim() - 1 else weight
    loss.loss_weight = 3.0
    torch.testing.assert_close(loss(pred, target, weight, reduction_override="none"), 3 * plain * w)
    torch.testing.assert_close(loss(pred, target, weight, reduction_override="sum"), 3 * (plain * w).sum())
    torch.testing.assert_close(
        loss(pred, target, weight, avg_factor=4.0), 3 * (plain * w).sum() / (4 + 2.0**-23), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        loss(pred, target, weight, avg_factor=torch.tensor([4.0])), loss(pred, target, weight, avg_factor=4.0)
    )
    if not getattr(loss, "avg_non_ignore", False):
        torch.testing.assert_close(loss(pred, target, weight), 3 * (plain * w).sum() / plain.numel())
    with pytest.raises(InputError, match="avg_factor .*'sum'"):
        loss(pred, target, weight, 4.0, "sum")
    with pytest.raises(InputError, match="reduction_override='batchmean'"):
        loss(pred, target, weight, 4.0, "batchmean")


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_stay_as_they_are_and_may_be_strided(name):
    loss, pred, target, weight = inputs(name)
    tensors = [pred, target, weight]
    before = [t.clone() for t in tensors]
    expected = loss(*tensors)
    assert all(torch.equal(t, b) for t, b in zip(tensors, before))
    strided = [torch.stack([t, t], -1)[..., 0] for t in tensors]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(loss(*strided), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_one_compiled_graph(name):
    loss, pred, target, weight = inputs(name)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for reduction in ("mean", "none"):
        torch.testing.assert_close(
            compiled(pred, target, weight, None, reduction), loss(pred, target, weight, None, reduction)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("gaussian", "focal, probabilities")])
def test_extreme_values_stay_finite(name, dtype):
    loss, pred, target, weight = inputs(name, dtype)
    extreme = torch.where(pred > 0, 1e4, -1e4).to(dtype).requires_grad_()
    result = loss(extreme, target, weight)
    result.backward()
    assert result.dtype == torch.float32 and torch.isfinite(result) and torch.isfinite(extreme.grad).all()


@pytest.mark.parametrize("entry", [dict(type="FocalLoss", activated=True), dict(type="GaussianFocalLoss")])
def test_certain_probabilities_stay_finite(entry):
    pred = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    result = build_loss(entry)(pred, torch.eye(2))
    result.backward()
    assert torch.isfinite(result) and torch.isfinite(pred.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name):
    loss, pred, target, weight = inputs(name, torch.float16)
    exact = inputs(name)[0](pred.double(), target.double() if target.is_floating_point() else target, weight.double())
    torch.testing.assert_close(loss(pred, target, weight).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_to_look_at_is_zero_with_a_gradient_path(name):
    loss, pred, target, weight = inputs(name)
    nothing = pred[:0].requires_grad_()
    for avg_factor in (None, 3.0):
        result = loss(nothing, target[:0], weight[:0], avg_factor)
        assert result.item() == 0
        result.backward()
    assert nothing.grad.shape == nothing.shape


def test_closed_forms():
    log2 = math.log(2)
    logits, labels = torch.zeros(2, 3), torch.tensor([1, 3])
    one_ignored = dict(type="CrossEntropyLoss", ignore_index=2, avg_non_ignore=True)
    close = {
        "focal": (build_loss(dict(type="FocalLoss", reduction="sum"))(logits, labels), (0.25 + 5 * 0.75) * 0.25 * log2),
        "focal, no alpha": (build_loss(dict(type="FocalLoss", alpha=None, gamma=1.0))(logits, labels), 0.5 * log2),
        "softmax": (build_loss(dict(type="CrossEntropyLoss"))(logits, torch.tensor([0, 2])), math.log(3)),
        "softmax, one ignored": (build_loss(one_ignored)(logits, torch.tensor([0, 2])), math.log(3)),
        "sigmoid, one ignored": (
            build_loss(dict(type="CrossEntropyLoss", use_sigmoid=True))(logits, torch.tensor([0, -1])),
            log2 / 2,
        ),
        "squared": (build_loss("MSELoss")(torch.tensor([3.0, -1.0]), torch.zeros(2)), 5.0),
        "smooth L1": (build_loss("SmoothL1Loss")(torch.tensor([0.5, -3.0]), torch.zeros(2)), (0.125 + 2.5) / 2),
    }
    for name, (ours, expected) in close.items():
        assert ours.item() == pytest.approx(expected, rel=1e-6), name


def test_all_rows_ignored_or_without_weight():
    logits = torch.randn(4, 3, requires_grad=True)
    for loss, labels, weight in [
        (build_loss(dict(type="CrossEntropyLoss", avg_non_ignore=True)), torch.full((4,), -100), None),
        (build_loss(dict(type="CrossEntropyLoss", use_sigmoid=True, avg_non_ignore=True)), torch.full((4,), -1), None),
        (build_loss("FocalLoss"), torch.zeros(4, dtype=torch.long), torch.zeros(4)),
    ]:
        result = loss(logits, labels, weight)
        (gradient,) = torch.autograd.grad(result, logits)
        assert result.item() == 0 and not gradient.any()


def test_gaussian_focal_with_listed_positives():
    """The same positives given as exact ones in the heat map, where their (1 - target)^gamma leaves nothing of the
    negative part.
    """
    pred, target = torch.rand(5, 3) * 0.8 + 0.1, torch.rand(5, 3) * 0.9
    rows, classes = torch.tensor([1, 4]), torch.tensor([2, 0])
    target[rows, classes] = 1.0
    loss = build_loss(dict(type="GaussianFocalLoss", reduction="sum", pos_weight=2.0, neg_weight=0.5))
    torch.testing.assert_close(loss(pred, target, pos_inds=rows, pos_labels=classes), loss(pred, target))


LOGITS, LABELS = torch.zeros(4, 3), torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    "entry, arguments, words",
    [
        ("FocalLoss", (LOGITS, LABELS[:3]), ["target", "(3,)", "(4, 3)", "(4,)"]),
        ("FocalLoss", (LOGITS, LABELS.float()), ["float32", "(4,)"]),
        ("FocalLoss", (LOGITS, torch.zeros(4, 2)), ["(4, 3)", "(4, 2)"]),
        (
            "FocalLoss",
            (LOGITS, LABELS - 1),
            ["target", "3", "-1"],
        ),
        ("FocalLoss", (LOGITS, LABELS + 1), ["target", "4"]),
        ("FocalLoss", (LOGITS, LABELS, torch.ones(3, 4)), ["weight", "(3, 4)", "(4,)"]),
        ("FocalLoss", (LOGITS, LABELS, torch.ones(5)), ["weight", "(5,)"]),
        (
            dict(type="FocalLoss", activated=True),
            (LOGITS + 2, LABELS),
            ["activated=True", "pred", "2"],
        ),
        ("CrossEntropyLoss", (LOGITS, LABELS), ["label", "ignore_index=-100", "3"]),
        ("CrossEntropyLoss", (LOGITS, torch.zeros(4, 3)), ["label", "(4, 3)", "use_sigmoid=True"]),
        (dict(type="CrossEntropyLoss", use_sigmoid=True), (LOGITS, LABELS[:2]), ["label", "(2,)", "(4,)"]),
        (
            dict(type="CrossEntropyLoss", use_sigmoid=True),
            (LOGITS, LABELS, torch.ones(4, 2)),
            ["weight", "(4, 2)"],
        ),
        (
            dict(type="CrossEntropyLoss", class_weight=[1.0, 2.0]),
            (LOGITS, LABELS.clamp(max=2)),
            ["2 ", "(4, 3)"],
        ),
        ("L1Loss", (LOGITS, torch.zeros(3, 3)), ["(4, 3)", "(3, 3)"]),
        ("SmoothL1Loss", (LOGITS, LOGITS, torch.ones(4)), ["weight", "(4,)", "(4, 1)"]),
        ("GaussianFocalLoss", (LOGITS + 0.5, LOGITS, torch.ones(2, 4, 3)), ["weight", "(2, 4, 3)"]),
        ("L1Loss", (LOGITS, LOGITS, torch.ones(4, 3, device="meta")), ["weight", "meta"]),
        ("BalancedL1Loss", (LOGITS, LOGITS.to("meta")), ["cpu", "meta"]),
    ],
)
def test_mistakes(entry, arguments, words):
    with pytest.raises(InputError) as error:
        build_loss(entry)(*arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_gaussian_focal_mistakes():
    loss, rows = build_loss("GaussianFocalLoss"), torch.tensor([0, 1])
    for keywords in (
        {"pos_inds": rows},
        {"pos_labels": rows},
        {"pos_inds": rows, "pos_labels": rows[:1]},
        {"pos_inds": rows, "pos_labels": rows, "weight": LOGITS},
        {"pos_inds": rows, "pos_labels": rows, "reduction_override": "none"},
    ):
        with pytest.raises(InputError, match="pos_inds"):
            loss(LOGITS + 0.5, LOGITS, **keywords)


def test_weight_reduce_loss_by_hand():
    loss = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    rows = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    assert weight_reduce_loss(loss, rows).item() == 0.75 and weight_reduce_loss(loss, rows, "sum").item() == 3.0
    # fewer axes: aligned at the last, the classes
    assert weight_reduce_loss(loss, torch.tensor([1.0, 0.0]), "sum").item() == 4.0
    assert weight_reduce_loss(loss, None, "mean", 2).item() == 10 / (2 + 2.0**-23)
    assert weight_reduce_loss(loss, None, "none", 2).equal(loss)
    assert weight_reduce_loss(loss[:0]).item() == 0
    # half precision ends at 65504
    assert weight_reduce_loss(torch.full((4000,), 60.0, dtype=torch.float16), None, "sum").item() == 240000
    with pytest.raises(InputError, match=r"weight .*\(3, 2, 2\) .*\(2, 2\)"):
        weight_reduce_loss(loss, torch.ones(3, 2, 2))
    with pytest.raises(InputError, match="avg_factor"):
        weight_reduce_loss(loss, None, "mean", torch.ones(2))


@pytest.mark.parametrize("name", ["L1Loss", "SmoothL1Loss", "MSELoss"])
@pytest.mark.parametrize("rows", [0, 3])
def test_a_divisor_beside_a_sum_is_refused_for_nothing_too(name, rows):
    loss = build_loss(dict(type=name))
    with pytest.raises(ValueError, match="avg_factor cannot be used with reduction 'sum'"):
        loss(torch.zeros(rows, 4), torch.zeros(rows, 4), avg_factor=10, reduction_override="sum")


def test_mistakes_are_assertions_too():
    """As in mmdetection, which asserts them."""
    with pytest.raises(AssertionError, match="'max' is not allowed"):
        build_loss(dict(type="L1Loss"))(torch.zeros(2), torch.zeros(2), reduction_override="max")


def test_positives_of_mmdetection_3_may_be_positional():
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.rand(2, 10, 4, generator=generator)
    rows, labels = torch.tensor([1, 5, 5]), torch.tensor([0, 3, 2])
    loss = build_loss(dict(type="GaussianFocalLoss"))
    assert torch.equal(loss(pred, target, rows, labels), loss(pred, target, pos_inds=rows, pos_labels=labels))
