"""Box and direction sums: by hand, the definition against the losses of the package, the kernels against the definition
in float64.

Run in Triton's interpreter (``tests/ops/test_triton_losses.py``) the same cases test the Triton kernels.
"""

import math
import os

import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import WeightedCrossEntropyLoss, WeightedSmoothL1Loss
from pcdet_focal.models.dense_heads.anchor_head_template import AnchorHeadTemplate
from pcdet_focal.ops.anchor_box_loss import box_and_direction_sums, has_kernels, operators

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", "cuda" if INTERPRETED else "")


def problem(shape=(2, 700), codes=7, bins=2, positives=0.02, dtype=torch.float32, seed=0):
    """Arguments of box_and_direction_sums, an unknown (NaN) target code among them; labels -1 and -2, whose rows must
    not be read.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator)

    kind = torch.rand(shape, generator=generator)
    labels = torch.where(
        kind < positives, torch.randint(1, 4, shape, generator=generator), torch.where(kind > 0.9, -1, 0)
    ).int()
    targets = normal(*shape, codes)
    targets[:, ::3, 2] = math.nan
    targets[:, ::5, -1] = math.nan
    tensors = {
        "box_preds": normal(*shape, codes),
        "box_targets": targets,
        "code_weights": torch.rand(codes, generator=generator) + 0.5,
        "dir_logits": 4 * normal(*shape, bins),
        "anchor_headings": 3 * normal(shape[1]),
    }
    tensors = {name: t.to(dtype) for name, t in tensors.items()}
    background = labels <= 0
    for name in ("box_preds", "dir_logits"):
        tensors[name][background] = math.nan
    return {**tensors, "labels": labels, "dir_offset": math.pi / 4}


def in_float64(arguments):
    return {
        name: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for name, v in arguments.items()
    }


def sums_and_gradients(arguments, incoming):
    arguments = {**arguments}
    leaves = [arguments["box_preds"].clone().requires_grad_()]
    arguments["box_preds"] = leaves[0]
    if arguments.get("dir_logits") is not None:
        leaves.append(arguments["dir_logits"].clone().requires_grad_())
        arguments["dir_logits"] = leaves[1]
    box, direction, count = box_and_direction_sums(**arguments)
    total = (box * incoming[0].to(box)).sum() + (direction * incoming[1].to(box)).sum()
    return box, direction, count, torch.autograd.grad(total, leaves)


def test_by_hand():
    preds, targets = torch.zeros(1, 3, 7), torch.zeros(1, 3, 7)
    preds[0, 1] = torch.tensor([0.0, 0.1, 2.0, 0.0, 0.0, 0.0, 0.5])
    targets[0, 1, 6] = 0.2
    labels, headings, logits = (
        torch.tensor([[0, 2, -1]]),
        torch.tensor([9.0, 3.0, 9.0]),
        torch.tensor([[[0.0, 0.0], [1.0, -1.0], [0.0, 0.0]]]),
    )
    box, direction, count = box_and_direction_sums(
        preds,
        targets,
        labels,
        code_weights=torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        beta=0.25,
        dir_logits=logits,
        anchor_headings=headings,
        dir_offset=0.0,
    )
    assert box.item() == pytest.approx(0.5 * 0.2**2 / 0.25 + (2 - 0.125) + (math.sin(0.3) - 0.125), rel=1e-6)
    assert direction.item() == pytest.approx(math.log1p(math.exp(2)), rel=1e-6)  # 3.2 lies in the second half turn
    assert count.tolist() == [1]


@pytest.mark.parametrize("bins", [2, 3])
def test_the_definition_is_openpcdets_path(bins):
    """Dense weights, the sin-difference of the head, its direction targets, and the two loss modules."""
    given = problem(bins=bins, dtype=torch.float64)
    for name in ("box_preds", "dir_logits"):
        given[name] = given[name].nan_to_num()
    weights = (given["labels"] > 0).double()
    compared = AnchorHeadTemplate.add_sin_difference(given["box_preds"], given["box_targets"])
    loss = WeightedSmoothL1Loss(code_weights=given["code_weights"].tolist()).double()(*compared, weights=weights)
    anchors = torch.zeros(1, 700, 7, dtype=torch.float64)
    anchors[0, :, 6] = given["anchor_headings"]
    bins_wanted = AnchorHeadTemplate.get_direction_target(
        anchors.expand(2, -1, -1), given["box_targets"], True, given["dir_offset"], bins
    )
    dir_loss = WeightedCrossEntropyLoss()(given["dir_logits"], bins_wanted, weights=weights)
    given["code_weights"] = given["code_weights"].float().double()
    box, direction, count = box_and_direction_sums(**given)
    torch.testing.assert_close(box, loss.sum(dim=(1, 2)))
    torch.testing.assert_close(direction, dir_loss.sum(dim=1))
    assert torch.equal(count, (given["labels"] > 0).sum(dim=1))


@pytest.mark.parametrize(
    "shape, codes, bins", [((2, 700), 7, 2), ((1, 1), 7, 2), ((3, 257), 9, 3), ((1, 2049), 7, 1), ((2, 90), 8, 4)]
)
@pytest.mark.parametrize("beta", [1 / 9, 0.0])
def test_kernels_are_the_definition(shape, codes, bins, beta):
    given = problem(shape, codes, bins, positives=1.0 if shape == (1, 1) else 0.03)
    given["beta"] = beta
    incoming = torch.rand(2, shape[0])
    box, direction, count, gradients = sums_and_gradients(given, incoming)
    exact_box, exact_direction, exact_count, exact_gradients = sums_and_gradients(in_float64(given), incoming)
    assert box.dtype == torch.float32 and box.grad_fn.name() == "BoxAndDirectionBackward" != exact_box.grad_fn.name()
    torch.testing.assert_close(box.double(), exact_box, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(direction.double(), exact_direction, rtol=2e-6, atol=2e-6)
    assert torch.equal(count, exact_count) and count.dtype == torch.int64
    for got, expected in zip(gradients, exact_gradients):
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype, eps", [(torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8)])
def test_half_precision(dtype, eps):
    given = problem((2, 300))
    given["box_preds"], given["dir_logits"] = given["box_preds"].to(dtype), given["dir_logits"].to(dtype)
    incoming = torch.rand(2, 2)
    box, direction, _, gradients = sums_and_gradients(given, incoming)
    exact_box, exact_direction, _, exact_gradients = sums_and_gradients(in_float64(given), incoming)
    assert box.dtype == torch.float32 and all(g.dtype == dtype for g in gradients)
    torch.testing.assert_close(box.double(), exact_box, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(direction.double(), exact_direction, rtol=2e-6, atol=2e-6)
    for got, expected in zip(gradients, exact_gradients):
        # the interpreter cuts bfloat16 instead of rounding it
        torch.testing.assert_close(got.double(), expected, rtol=2 * eps, atol=1e-6)


@pytest.mark.parametrize("positives", [0.0, 1.1])
def test_no_positives_and_only_positives(positives):
    given = problem((2, 300), positives=positives)
    box, direction, count, gradients = sums_and_gradients(given, torch.ones(2, 2))
    exact = sums_and_gradients(in_float64(given), torch.ones(2, 2))
    torch.testing.assert_close(torch.stack([box, direction]).double(), torch.stack(exact[:2]), rtol=2e-6, atol=1e-6)
    assert count.tolist() == [300 * int(positives)] * 2
    assert positives or not any(g.any() for g in gradients)


def test_without_direction_weights_and_contiguity():
    given = problem((2, 300))
    for name in ("dir_logits", "anchor_headings", "code_weights", "dir_offset"):
        given.pop(name)
    box, direction, _, (gradient,) = sums_and_gradients(given, torch.ones(2, 2))
    exact_box, _, _, (exact_gradient,) = sums_and_gradients(in_float64(given), torch.ones(2, 2))
    assert direction.tolist() == [0, 0]
    torch.testing.assert_close(box.double(), exact_box, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-5, atol=1e-6)
    strided = {
        "box_preds": given["box_preds"].transpose(0, 1).contiguous().transpose(0, 1),
        "labels": given["labels"].t().contiguous().t().long(),
        "box_targets": given["box_targets"].transpose(1, 2).contiguous().transpose(1, 2),
    }
    again = sums_and_gradients(strided, torch.ones(2, 2))
    assert torch.equal(again[0], box) and torch.equal(again[3][0], gradient)


def test_nan_at_a_positive_is_seen():
    given = problem((1, 300))
    row = int((given["labels"][0] > 0).nonzero()[0])
    given["box_preds"][0, row, 0] = given["dir_logits"][0, row, 1] = math.nan
    given["box_targets"][0, row] = 0.5
    box, direction, _, (box_gradient, dir_gradient) = sums_and_gradients(given, torch.ones(2, 1))
    assert torch.isnan(box).all() and torch.isnan(direction).all()
    assert torch.isnan(box_gradient).nonzero().tolist() == [[0, row, 0]] and torch.isnan(dir_gradient).any(
        -1
    ).nonzero().tolist() == [[0, row]]


def test_gradcheck_of_the_definition():
    given = problem((1, 12), positives=0.4, dtype=torch.float64)
    for name in ("box_preds", "dir_logits"):
        given[name] = given[name].nan_to_num()

    def sums(box_preds, dir_logits):
        return box_and_direction_sums(**{**given, "box_preds": box_preds, "dir_logits": dir_logits})[:2]

    assert torch.autograd.gradcheck(sums, [given[name].requires_grad_() for name in ("box_preds", "dir_logits")])


def test_second_derivative_is_refused():
    given = problem((1, 30), positives=0.3)
    x = given["box_preds"].nan_to_num().requires_grad_()
    box, _, _ = box_and_direction_sums(**{**given, "box_preds": x})
    (gradient,) = torch.autograd.grad(box.sum(), x, create_graph=True)
    with pytest.raises(InputError, match="box and direction loss has no second derivative.*float64"):
        gradient.sum().backward()


def test_who_has_kernels():
    x = torch.zeros(2, 3, 7)
    assert has_kernels(x, x.half()) and not has_kernels(x.double()) and not has_kernels(x[:0])
    assert box_and_direction_sums(x[:, :0], x[:, :0], torch.zeros(2, 0, dtype=torch.int32))[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"box_preds": torch.zeros(2, 5, 6)}, r"\(2, 5, 6\).*7 or more"),
        ({"labels": torch.zeros(2, 4, dtype=torch.int32)}, r"labels \(2, 4\)"),
        ({"code_weights": torch.ones(6)}, "6 code_weights do not fit 7"),
        ({"dir_logits": torch.zeros(2, 5, 2)}, r"anchor_headings None"),
        ({"dir_logits": torch.zeros(2, 4, 2), "anchor_headings": torch.zeros(5)}, r"dir_logits \(2, 4, 2\)"),
    ],
)
def test_refusals(changes, message):
    given = {
        "box_preds": torch.zeros(2, 5, 7),
        "box_targets": torch.zeros(2, 5, 7),
        "labels": torch.zeros(2, 5, dtype=torch.int32),
        **changes,
    }
    with pytest.raises(InputError, match=message):
        box_and_direction_sums(**given)


@pytest.mark.skipif(INTERPRETED, reason="operators are the same on every backend")
@pytest.mark.parametrize("with_direction", [True, False])
def test_the_operator_is_well_behaved(with_direction):
    given = problem((2, 40), positives=0.2)
    preds, logits = (given[name].nan_to_num().requires_grad_() for name in ("box_preds", "dir_logits"))
    direction = (logits, given["anchor_headings"]) if with_direction else (None, None)
    torch.library.opcheck(
        operators.box_and_direction_sums,
        (
            preds,
            direction[0],
            given["box_targets"].nan_to_num(),
            given["labels"],
            direction[1],
            given["code_weights"],
            0.1,
            0.7,
        ),
    )


@pytest.mark.skipif(INTERPRETED, reason="operators are the same on every backend")
def test_a_compiled_graph_holds_the_operator_and_gives_the_same():
    given = problem((2, 300))
    expected = sums_and_gradients(given, torch.ones(2, 2))
    nodes = []

    def backend(graph, inputs):
        nodes.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(lambda given: box_and_direction_sums(**given), fullgraph=True, backend=backend)
    assert torch.equal(compiled(given)[0], expected[0]) and "pcdet_focal.box_and_direction_sums.default" in nodes
    torch._dynamo.reset()
    x = given["box_preds"].clone().requires_grad_()
    compiled = torch.compile(
        lambda x: box_and_direction_sums(**{**given, "box_preds": x})[0].sum(), fullgraph=True, backend="aot_eager"
    )
    (gradient,) = torch.autograd.grad(compiled(x), x)
    assert torch.equal(gradient, expected[3][0])
