"""The losses as torch operators: well behaved, in the compiled graph in place of plain torch, and with the same
numbers.
"""

import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    SigmoidFocalClassificationLoss,
    quality_focal_loss_from_labels,
    sigmoid_focal_loss_from_labels,
    varifocal_loss_from_labels,
)
from pcdet_focal.ops.focal_loss import operators


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv("PCDET_FOCAL_BACKEND", raising=False)
    torch._dynamo.reset()


def problem(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(2, 40, 3, generator=generator) * 3).to(dtype)
    return logits, torch.randint(-1, 4, (2, 40), generator=generator), torch.rand(2, 40, generator=generator)


HALF = [0.5] * 3
OPERATORS = {
    "focal": (operators.focal_loss_from_labels, lambda x, labels, quality: (x, labels, HALF, HALF, [2.0, 1.0, 0.5])),
    "quality focal": (operators.quality_focal_loss_from_labels, lambda x, labels, quality: (x, labels, quality, 2.0)),
    "varifocal": (
        operators.varifocal_loss_from_labels,
        lambda x, labels, quality: (x, labels, quality, 0.75, 2.0, True),
    ),
}
LOSSES = {
    "focal": lambda x, labels, quality: sigmoid_focal_loss_from_labels(x, labels, alpha=[0.2, 0.3, 0.4], gamma=1.5),
    "quality focal": lambda x, labels, quality: quality_focal_loss_from_labels(x, labels, quality, beta=1.5),
    "varifocal": lambda x, labels, quality: varifocal_loss_from_labels(x, labels, quality, normalizer="none"),
    "drop-in": lambda x, labels, quality: SigmoidFocalClassificationLoss()(
        x, quality.unsqueeze(-1).expand_as(x), quality
    ).sum(),
}
NODES = {
    "focal": "focal_loss_from_labels",
    "quality focal": "quality_focal_loss_from_labels",
    "varifocal": "varifocal_loss_from_labels",
    "drop-in": "weighted_focal_loss",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_from_labels_are_well_behaved(name):
    operator, arguments = OPERATORS[name]
    for dtype, with_grad in ((torch.float32, True), (torch.float32, False), (torch.float16, True)):
        logits, *others = problem(dtype)
        torch.library.opcheck(operator, (*arguments(logits.requires_grad_(), *others), True, 1.5, with_grad))


@pytest.mark.parametrize("weights", [None, torch.rand(2, 40, 1), torch.rand(2, 40, 3)])
def test_the_elementwise_operator_is_well_behaved(weights):
    logits, _, _ = problem()
    torch.library.opcheck(
        operators.weighted_focal_loss, (logits.requires_grad_(), torch.rand(2, 40, 3), weights, 0.25, 0.75, 2.0)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_a_compiled_loss_is_the_operator_with_the_same_numbers(name, dtype):
    logits, *others = problem(dtype)
    nodes = []

    def backend(graph, inputs):
        nodes.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    torch.compile(LOSSES[name], fullgraph=True, backend=backend)(x, *others)
    assert f"pcdet_focal.{NODES[name]}.default" in nodes and not any(
        "sigmoid" in node or "exp" == node for node in nodes
    )
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, *others: 3 * LOSSES[name](2 * x, *others), fullgraph=True, backend="aot_eager")
    loss, expected = compiled(x, *others), 3 * LOSSES[name](2 * y, *others)
    assert torch.equal(loss, expected)
    gradient, wanted = torch.autograd.grad(loss, x)[0], torch.autograd.grad(expected, y)[0]
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, wanted, rtol=1e-6 if dtype == torch.float32 else 1e-3, atol=1e-7)
    with torch.no_grad():
        assert torch.equal(compiled(x, *others), expected)


@pytest.mark.slow
def test_generated_code_calls_the_operator():
    logits, labels, _ = problem()
    x = logits.requires_grad_()
    compiled = torch.compile(lambda x: sigmoid_focal_loss_from_labels(x.tanh(), labels), fullgraph=True)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x), x), torch.autograd.grad(sigmoid_focal_loss_from_labels(x.tanh(), labels), x)
    )


def test_other_sizes_need_no_new_graph():
    count = []

    def backend(graph, inputs):
        count.append(1)
        return graph.forward

    compiled = torch.compile(sigmoid_focal_loss_from_labels, fullgraph=True, backend=backend, dynamic=True)
    for anchors in (40, 50, 60):
        x, labels = torch.randn(2, anchors, 3), torch.randint(-1, 4, (2, anchors))
        torch.testing.assert_close(compiled(x, labels), sigmoid_focal_loss_from_labels(x, labels))
    assert len(count) == 1


def test_a_gamma_that_moves():
    """The exponent is compiled in, and watched: a schedule's new value is a new graph, not the old number."""
    logits, labels, _ = problem()
    module = SigmoidFocalClassificationLoss()
    compiled = torch.compile(
        lambda x: sigmoid_focal_loss_from_labels(x, labels, gamma=module.gamma), fullgraph=True, backend="aot_eager"
    )
    for gamma in (0.0, 0.5, 2.0):
        module.gamma = gamma
        assert torch.equal(compiled(logits), sigmoid_focal_loss_from_labels(logits, labels, gamma=gamma))


@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("name", OPERATORS)
def test_second_derivative_is_refused(name, with_grad):
    operator, arguments = OPERATORS[name]
    logits, *others = problem()
    x = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(operator(*arguments(x, *others), True, 1.0, with_grad)[0], x, create_graph=True)
    (expected,) = torch.autograd.grad(operator(*arguments(x, *others), True, 1.0, True)[0], x)
    torch.testing.assert_close(gradient.detach(), expected)
    with pytest.raises(InputError, match="no second derivative"):
        gradient.sum().backward()


def test_second_derivative_of_the_elementwise_operator_is_refused():
    x = problem()[0].requires_grad_()
    loss = operators.weighted_focal_loss(x, torch.rand(2, 40, 3), None, 0.25, 0.75, 2.0)
    (gradient,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
    with pytest.raises(InputError, match="no second derivative"):
        gradient.sum().backward()


def test_a_label_above_the_classes_is_named_by_the_compiled_graph_too():
    logits, labels, _ = problem()
    compiled = torch.compile(sigmoid_focal_loss_from_labels, fullgraph=True, backend="aot_eager")
    compiled(logits, labels)
    labels[1, 5] = 7
    with pytest.raises(InputError, match="label 7 is above the 3 classes"):
        compiled(logits, labels)


@pytest.mark.parametrize("name", LOSSES)
def test_float64_and_torch_func_take_plain_torch(name):
    logits, *others = problem()
    loss = LOSSES[name]
    double = [t.double() if t.is_floating_point() else t for t in others]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits.double(), *double), loss(logits.double(), *double), rtol=1e-12, atol=0)
    x = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(x, *others), x)
    torch.testing.assert_close(torch.func.grad(lambda x: loss(x, *others))(logits), expected, rtol=2e-5, atol=1e-7)
    inside = torch.compile(
        lambda x: torch.func.grad(lambda x: loss(x, *others))(x), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(inside(logits), expected, rtol=2e-5, atol=1e-7)
