"""What every loss must do: float64 gradients by finite differences, finite half precision, inputs unchanged, strided
inputs, one compiled graph.
"""

import doctest
import importlib
import pkgutil

import loss_properties
import pytest
import torch

import pcdet_focal.losses
from pcdet_focal.losses import (
    anchor_weights_from_labels,
    giou_loss,
    one_hot_from_labels,
    sigmoid_focal_loss,
    softmax_focal_loss,
    weight_reduce_loss,
)
from pcdet_focal.utils import loss_utils

MODULES = [module.name for module in pkgutil.walk_packages(pcdet_focal.losses.__path__, "pcdet_focal.losses.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_the_docstrings(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_every_public_loss_has_an_example():
    for name in pcdet_focal.losses.__all__:
        assert ">>>" in getattr(pcdet_focal.losses, name).__doc__, name


def rand(*shape):
    return torch.rand(shape, dtype=torch.float64) * 0.8 + 0.1


def boxes(*shape):
    """Boxes within 1 m of each other, so that they overlap."""
    result = torch.rand(*shape, 7, dtype=torch.float64)
    result[..., 3:6] += 1.5
    return result


def one_hot(*shape):
    return torch.nn.functional.one_hot(torch.randint(0, shape[-1], shape[:-1]), shape[-1]).double()


def heat(*shape):
    result = rand(*shape)
    result.view(-1)[::7] = 1.0
    return result


IND, MASK = torch.tensor([[3, 1, 0], [2, 5, 0]]), torch.tensor([[1, 1, 0], [1, 0, 1]])
BATCH_INDEX = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 1, 1])
SPARSE_GT = [boxes(2), boxes(2)]


def as_map(b):
    """(B, N, D) -> (B, D, N / 2, 2)."""
    return b.transpose(1, 2).reshape(b.shape[0], b.shape[2], -1, 2)


def losses():
    """{name: (function of the prediction and the other tensors, prediction, other tensors)}; all float64."""
    torch.manual_seed(3)
    logits, weights = torch.randn(2, 5, 3, dtype=torch.float64) * 3, rand(2, 5)
    codes, code_targets = torch.randn(2, 5, 7, dtype=torch.float64), torch.randn(2, 5, 7, dtype=torch.float64)
    code_targets[0, 1, 2] = float("nan")
    code_weights = [1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 0.25]
    focal = {
        f"focal_gamma_{gamma}": (
            loss_utils.SigmoidFocalClassificationLoss(gamma=gamma),
            logits,
            (one_hot(2, 5, 3), weights),
        )
        for gamma in (0.0, 0.5, 1.5, 2.0)
    }
    return {
        **focal,
        "focal_function": (lambda x, t: sigmoid_focal_loss(x, t, 0.3, 1.7, "mean"), logits, (rand(2, 5, 3),)),
        "bce": (loss_utils.SigmoidFocalClassificationLoss.sigmoid_cross_entropy_with_logits, logits, (rand(2, 5, 3),)),
        "smooth_l1": (loss_utils.WeightedSmoothL1Loss(0.3, code_weights), codes, (code_targets, weights)),
        "weighted_l1": (loss_utils.WeightedL1Loss(code_weights), codes, (code_targets, weights)),
        "l1": (loss_utils.L1Loss(), codes, (torch.randn(2, 5, 7, dtype=torch.float64),)),
        "cross_entropy": (loss_utils.WeightedCrossEntropyLoss(), logits, (one_hot(2, 5, 3), weights)),
        "corner": (loss_utils.get_corner_loss_lidar, boxes(4), (boxes(4),)),
        "heat_map": (loss_utils.FocalLossCenterNet(), rand(2, 2, 4, 3), (heat(2, 2, 4, 3), rand(2, 4, 3))),
        "heat_rows": (loss_utils.FocalLossSparse(), rand(2, 2, 9), (heat(2, 2, 9),)),
        "gaussian": (loss_utils.GaussianFocalLoss(), rand(2, 2, 9), (heat(2, 2, 9),)),
        "center_regression": (
            lambda x, m, i, t: loss_utils.RegLossCenterNet()(x, m, i, t),
            torch.randn(2, 4, 3, 2, dtype=torch.float64),
            (MASK, IND, torch.randn(2, 3, 4, dtype=torch.float64)),
        ),
        "sparse_regression": (
            lambda x, m, i, t, b: loss_utils.RegLossSparse()(x, m, i, t, b),
            torch.randn(10, 4, dtype=torch.float64),
            (MASK, IND, torch.randn(2, 3, 4, dtype=torch.float64), BATCH_INDEX),
        ),
        "sparse_iou": (
            lambda x, m, i, p, b: loss_utils.IouLossSparse()(x, m, i, p, SPARSE_GT, b),
            rand(10, 1) - 1,
            (MASK, IND, boxes(10), BATCH_INDEX),
        ),
        "sparse_diou": (
            lambda x, m, i, b: loss_utils.IouRegLossSparse()(x, m, i, SPARSE_GT, b),
            boxes(10),
            (MASK, IND, BATCH_INDEX),
        ),
        "center_iou": (
            loss_utils.calculate_iou_loss_centerhead,
            rand(2, 1, 3, 2) - 1,
            (as_map(boxes(2, 6)), MASK, IND, boxes(2, 3)),
        ),
        "center_diou": (loss_utils.calculate_iou_reg_loss_centerhead, as_map(boxes(2, 6)), (MASK, IND, boxes(2, 3))),
    }


NAMES = list(losses())


@pytest.mark.parametrize("name", NAMES)
def test_gradient_in_float64(name):
    function, prediction, others = losses()[name]
    assert function(prediction, *others).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: function(x, *others), prediction.clone().requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_not_changed_and_a_second_backward_gives_the_same(name):
    function, prediction, others = losses()[name]
    prediction = prediction.requires_grad_()
    before = [tensor.detach().clone() for tensor in (prediction, *others)]
    loss = function(prediction, *others).sum()
    (first,) = torch.autograd.grad(loss, prediction, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, prediction)
    for tensor, copy in zip((prediction, *others), before):
        torch.testing.assert_close(tensor.detach(), copy, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(second, kept) and kept.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_strided_inputs_give_the_same(name):
    function, prediction, others = losses()[name]

    def strided(tensor):
        spread = torch.empty(*tensor.shape, 2, dtype=tensor.dtype)
        spread[..., 0] = tensor
        return spread[..., 0]

    torch.testing.assert_close(
        function(strided(prediction), *map(strided, others)), function(prediction, *others), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_float32(name, dtype):
    function, prediction, others = losses()[name]
    rounded = prediction.to(dtype).requires_grad_()
    others = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in others]
    loss = function(rounded, *others)
    assert loss.dtype == torch.float32
    same = function(
        rounded.detach().float(), *[tensor.float() if tensor.is_floating_point() else tensor for tensor in others]
    )
    torch.testing.assert_close(loss.detach(), same, rtol=1e-6, atol=1e-7)
    loss.sum().backward()
    assert rounded.grad.dtype == dtype and torch.isfinite(rounded.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["focal_gamma_0.0", "focal_gamma_0.5", "focal_gamma_2.0", "focal_function", "bce", "cross_entropy"]
)
def test_half_precision_logits_of_a_hundred_are_finite(name, dtype):
    function, prediction, others = losses()[name]
    x = (100 * prediction.sign()).to(dtype).requires_grad_()
    loss = function(x, *others)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(x.grad).all() and loss.max() > 1


# their ground truth is a list of any lengths
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("sparse_iou", "sparse_diou")])
def test_compiles_to_one_graph(name):
    loss_properties.compiles_to_one_graph(lambda: losses()[name][0], *losses()[name][1:])


@pytest.mark.parametrize("name", NAMES)
def test_can_be_traced(name):
    loss_properties.can_be_traced(lambda: losses()[name][0], *losses()[name][1:])


@pytest.mark.filterwarnings("ignore")  # comparisons of shapes are not in the graph
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_traced_function_takes_any_number_of_rows_and_is_saved(reduction, tmp_path):
    def function(logits, one_hot_targets, labels, boxes):
        parts = (
            sigmoid_focal_loss(logits, one_hot_targets, reduction=reduction),
            sigmoid_focal_loss(logits, labels, [0.2, 0.3, 0.4], reduction=reduction),
            softmax_focal_loss(logits, labels, reduction=reduction),
            weight_reduce_loss(giou_loss(boxes[0], boxes[1]), None, reduction),
        )
        return tuple(part.double().sum() for part in parts)

    def inputs(rows):
        corners = torch.rand(2, rows, 4).cumsum(-1)
        return torch.randn(rows, 3), one_hot(rows, 3).float(), torch.randint(0, 3, (rows,)), corners

    torch.jit.trace(function, inputs(4)).save(str(tmp_path / "loss.pt"))
    graph, given = torch.jit.load(str(tmp_path / "loss.pt")), inputs(9)
    torch.testing.assert_close(graph(*given), function(*given))


def test_classification_path_compiles_to_one_graph():
    """Labels -> weights -> one-hot -> focal loss, traced without a break; the eager backend needs no compiler."""
    loss_func = loss_utils.SigmoidFocalClassificationLoss()

    def path(cls_preds, labels):
        weights, _, _ = anchor_weights_from_labels(labels)
        return loss_func(cls_preds, one_hot_from_labels(labels, 3), weights=weights).sum()

    cls_preds, labels = torch.randn(2, 6, 3), torch.randint(-1, 4, (2, 6))
    compiled = torch.compile(path, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(cls_preds, labels), path(cls_preds, labels))
