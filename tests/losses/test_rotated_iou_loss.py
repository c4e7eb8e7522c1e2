"""Rotated IoU losses as a function and as a module; the operation itself is tested in tests/ops/rotated_iou."""

import math

import loss_properties
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import RotatedIoULoss, build_loss, rotated_iou_loss
from pcdet_focal.ops.rotated_iou import boxes_aligned_iou3d, boxes_aligned_iou_bev

EVERY = [(kind, space) for kind in ("iou", "giou", "diou") for space in ("bev", "3d")]


def boxes(*shape, seed=0):
    u = torch.rand(*shape, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return u * torch.tensor([3, 3, 1, 3, 3, 2, 6]) + torch.tensor([0, 0, 0, 1, 1, 1, 0])


CASES = {
    **{
        f"{kind}_{space}": (
            lambda kind=kind, space=space: lambda a, b: rotated_iou_loss(a, b, kind, space),
            boxes(2, 5),
            (boxes(2, 5, seed=1),),
        )
        for kind, space in EVERY
    },
    "module": (
        lambda: lambda a, b, w: RotatedIoULoss("diou", "3d", loss_weight=2.0)(a, b, w, avg_factor=4.0),
        boxes(8),
        (boxes(8, seed=1), torch.rand(8).double()),
    ),
}
PROPERTIES = [
    loss_properties.in_float64_the_gradient_is_that_of_finite_differences,
    loss_properties.inputs_stay_and_a_second_backward_gives_the_same,
    loss_properties.strided_inputs_give_the_same,
    loss_properties.half_precision_is_computed_in_float32,
]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda f: f.__name__)
def test_property(holds, name):
    holds(*CASES[name])


@pytest.mark.parametrize("name", ["giou_bev", "diou_3d", "module"])
def test_compiles_to_one_graph(name):
    make, prediction, others = CASES[name]
    torch.testing.assert_close(
        torch.compile(make(), fullgraph=True, backend="eager")(prediction, *others), make()(prediction, *others)
    )


def test_one_minus_the_plain_iou_whatever_the_leading_axes():
    a, b = boxes(2, 3, 4), boxes(2, 3, 4, seed=1)
    for space, plain in (("bev", boxes_aligned_iou_bev), ("3d", boxes_aligned_iou3d)):
        expected = 1 - plain(a.view(-1, 7), b.view(-1, 7)).view(2, 3, 4)
        torch.testing.assert_close(rotated_iou_loss(a, b, "iou", space), expected, rtol=0, atol=1e-9)
    assert (expected < 0.9).sum() > 5


def test_half_a_turn_costs_nothing_and_a_quarter_does():
    a = boxes(6)
    turned = a + torch.tensor([0, 0, 0, 0, 0, 0, math.pi], dtype=torch.float64)
    quarter = a + torch.tensor([0, 0, 0, 0, 0, 0, math.pi / 2], dtype=torch.float64)
    for kind, space in EVERY:
        assert (
            rotated_iou_loss(a, turned, kind, space).abs().max()
            < 1e-9
            < 1e-3
            < rotated_iou_loss(a, quarter, kind, space).min()
        )


def test_weights_and_reductions():
    a, b = boxes(4), boxes(4, seed=1)
    each = rotated_iou_loss(a, b, "giou", "3d")
    loss = build_loss({"NAME": "RotatedIoULoss", "KIND": "giou", "SPACE": "3d", "LOSS_WEIGHT": 3.0})
    w = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(loss(a, b), 3 * each.mean())
    torch.testing.assert_close(loss(a, b, w), 3 * (w * each).sum() / 4)
    torch.testing.assert_close(loss(a, b, w[:, None].expand(4, 7)), 3 * (w * each).sum() / 4)
    torch.testing.assert_close(loss(a, b, w, avg_factor=2), 3 * (w * each).sum() / (2 + torch.finfo(torch.float32).eps))
    torch.testing.assert_close(loss(a, b, w, reduction_override="none"), 3 * w * each)
    torch.testing.assert_close(loss(a, b, w, reduction_override="sum"), 3 * (w * each).sum())


def test_no_positive_boxes():
    for reduction in ("mean", "sum"):
        pred = torch.zeros(0, 7, requires_grad=True)
        loss = RotatedIoULoss(reduction=reduction)(pred, torch.zeros(0, 7))
        assert loss.item() == 0 and torch.autograd.grad(loss, pred)[0].shape == (0, 7)
    a = boxes(3).requires_grad_()
    (grad,) = torch.autograd.grad(RotatedIoULoss("diou")(a, boxes(3, seed=1), torch.zeros(3)), a)
    assert (grad == 0).all()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: rotated_iou_loss(torch.zeros(3, 7), torch.zeros(2, 7)), ["rotated_iou_loss", "(3, 7)", "(2, 7)"]),
        (lambda: rotated_iou_loss(torch.zeros(3, 4), torch.zeros(3, 4)), ["(3, 4)", "(..., 7 or more)"]),
        (lambda: rotated_iou_loss(torch.zeros(3, 7), torch.zeros(3, 7, device="meta")), ["cpu", "meta"]),
        (lambda: RotatedIoULoss(kind="ciou"), ["RotatedIoULoss", "kind='ciou'", "'giou'"]),
        (lambda: RotatedIoULoss(space="2d"), ["RotatedIoULoss", "space='2d'", "'bev'"]),
        (lambda: RotatedIoULoss(reduction="avg"), ["RotatedIoULoss", "reduction='avg'"]),
        (lambda: build_loss({"NAME": "RotatedIoULoss", "KINDS": "iou"}, "MODEL.X"), ["MODEL.X.KINDS", "KIND?"]),
        (
            lambda: RotatedIoULoss()(torch.ones(3, 7), torch.ones(3, 7), torch.ones(2)),
            ["RotatedIoULoss", "weight", "(2,)", "(3,)"],
        ),
    ],
)
def test_mistakes_are_explained(make, words):
    with pytest.raises(InputError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value
