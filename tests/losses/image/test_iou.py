"""IoU family of axis-aligned boxes and balanced L1: closed forms, finite differences, extremes. mmdetection's calls:
``test_loss_zoo_recorded``.
"""

import itertools
import math

import loss_properties
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    BalancedL1Loss,
    CIoULoss,
    DIoULoss,
    GIoULoss,
    IoULoss,
    balanced_l1_loss,
    build_loss,
    ciou_loss,
    diou_loss,
    giou_loss,
    iou_loss,
)

FUNCTIONS = (iou_loss, giou_loss, diou_loss, ciou_loss)


def boxes(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, 4, generator=generator, dtype=torch.float64)
    return torch.cat([u[:, :2] * 4, u[:, :2] * 4 + u[:, 2:] * 4 + 0.5], dim=1)


CASES = {
    **{f.__name__: (lambda f=f: f, boxes(8), (boxes(8, 1),)) for f in FUNCTIONS},
    **{
        f"iou_{mode}": (lambda mode=mode: lambda a, b: iou_loss(a, b, mode), boxes(8), (boxes(8, 1),))
        for mode in ("linear", "square")
    },
    **{
        f"{c.__name__}_weighted": (
            lambda c=c: lambda a, b, w: c()(a, b, w, avg_factor=3.0),
            boxes(8),
            (boxes(8, 1), torch.rand(8).double()),
        )
        for c in (IoULoss, GIoULoss, DIoULoss, CIoULoss)
    },
    "balanced_l1": (lambda: balanced_l1_loss, boxes(8), (boxes(8, 1),)),
    "BalancedL1Loss": (
        lambda: BalancedL1Loss(0.3, 1.2, 0.7, reduction="sum"),
        boxes(8),
        (boxes(8, 1), torch.rand(8, 4).double()),
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


@pytest.mark.parametrize("name", CASES)
def test_compiles_to_one_graph(name):
    make, prediction, others = CASES[name]
    torch.testing.assert_close(
        torch.compile(make(), fullgraph=True, backend="eager")(prediction, *others), make()(prediction, *others)
    )


def test_closed_forms_of_a_shifted_square():
    """2 x 2 boxes, one shifted by 1 along x: I = 2, U = 6, C = 6, d^2 = 1, D^2 = 13; equal shapes, so v = 0."""
    a, b = torch.tensor([[0.0, 0, 2, 2]], dtype=torch.float64), torch.tensor([[1.0, 0, 3, 2]], dtype=torch.float64)
    expected = {"linear": 2 / 3, "square": 8 / 9, "log": math.log(3)}
    for mode, value in expected.items():
        assert iou_loss(a, b, mode).item() == pytest.approx(value, abs=1e-9)
    assert giou_loss(a, b).item() == pytest.approx(2 / 3, abs=1e-7)
    assert diou_loss(a, b).item() == pytest.approx(2 / 3 + 1 / 13, abs=1e-7)
    assert ciou_loss(a, b).item() == pytest.approx(2 / 3 + 1 / 13, abs=1e-7)


def test_ciou_of_concentric_boxes_by_hand():
    """4 x 2 around 3 x 2: IoU 3/4 > 1/2, no distance; v = 4 / pi^2 (atan(3/2) - atan 2)^2, a = v / (1/4 + v)."""
    a, b = (
        torch.tensor([[-2.0, -1, 2, 1]], dtype=torch.float64),
        torch.tensor([[-1.5, -1, 1.5, 1]], dtype=torch.float64),
    )
    v = 4 / math.pi**2 * (math.atan(1.5) - math.atan(2)) ** 2
    assert ciou_loss(a, b).item() == pytest.approx(0.25 + v * v / (0.25 + v), abs=1e-6)
    # 4 x 1 in 4 x 4: IoU 1/4, the shape does not count yet
    a, b = (
        torch.tensor([[-2.0, -0.5, 2, 0.5]], dtype=torch.float64),
        torch.tensor([[-2.0, -2, 2, 2]], dtype=torch.float64),
    )
    assert ciou_loss(a, b).item() == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_and_huge_boxes_are_finite(dtype):
    corners = [-1e4, -1.0, -1e-7, -1e-6, 0.0, 1e-30, 1.0, 1e4]
    pairs = [list(pair) for pair in itertools.product(corners, repeat=2)]
    every = torch.tensor([[x1, y1, x2, y2] for (x1, x2), (y1, y2) in itertools.product(pairs, pairs[::3])], dtype=dtype)
    for target in (torch.tensor([[-1.0, -1.0, 1.0, 1.0]]), torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 1.0, -1e-7]])):
        for function in (*FUNCTIONS, *(lambda a, b, mode=mode: iou_loss(a, b, mode) for mode in ("linear", "square"))):
            x = every.clone().requires_grad_()
            loss = function(x, target.to(dtype).expand(len(every), 4))
            loss.sum().backward()
            assert torch.isfinite(loss).all() and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_identical_boxes_cost_nothing(function):
    a = boxes(50).float()
    assert function(a, a.clone()).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["IoULoss", "GIoULoss", "DIoULoss", "CIoULoss", "BalancedL1Loss"])
def test_no_boxes_give_a_finite_zero_with_a_gradient(name):
    for reduction in ("mean", "sum"):
        pred = torch.zeros(0, 4, requires_grad=True)
        loss = build_loss({"type": name, "reduction": reduction})(pred, torch.zeros(0, 4))
        assert loss.item() == 0 and torch.autograd.grad(loss, pred)[0].shape == (0, 4)


def test_iou_without_overlap_has_no_gradient_but_its_relatives_do():
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[5.0, 0, 6, 1]])
    for function, pulls in zip(FUNCTIONS, (False, True, True, True)):
        x = a.clone().requires_grad_()
        (grad,) = torch.autograd.grad(function(x, b).sum(), x)
        assert (grad[0, 2] < 0) == pulls and grad.any() == pulls, function.__name__


def test_balanced_l1_is_the_integral_of_its_gradient_and_takes_over_at_beta():
    """Paper: the gradient is alpha ln(b d + 1) up to d = 1 and gamma beyond; here it is integrated numerically."""
    alpha, gamma = 0.4, 1.3
    b = math.exp(gamma / alpha) - 1
    d = torch.linspace(0, 3, 300001, dtype=torch.float64)
    slope = torch.where(d < 1, alpha * torch.log(b * d + 1), gamma)
    integral = torch.cumulative_trapezoid(slope, d)
    torch.testing.assert_close(
        balanced_l1_loss(d, torch.zeros_like(d), 1.0, alpha, gamma)[1:], integral, rtol=0, atol=1e-6
    )


def test_balanced_l1_ignores_unknown_targets_and_huge_differences_are_finite():
    pred = torch.tensor([1.0, 2.0, 1e38, -1e38], requires_grad=True)
    loss = balanced_l1_loss(pred, torch.tensor([0.0, float("nan"), 0.0, 0.0]))
    (grad,) = torch.autograd.grad(loss.sum(), pred)
    assert loss[1] == 0 and grad[1] == 0 and torch.isfinite(loss).all() and torch.isfinite(grad).all()
    assert grad[2] == 1.5 and grad[3] == -1.5


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: iou_loss(torch.zeros(3, 4), torch.zeros(2, 4)), ["iou_loss", "(3, 4)", "(2, 4)"]),
        (lambda: giou_loss(torch.zeros(3, 7), torch.zeros(3, 7)), ["giou_loss", "(3, 7)", "(..., 4)"]),
        (lambda: ciou_loss(torch.zeros(3), torch.zeros(3)), ["ciou_loss", "(3,)", "(..., 4)"]),
        (lambda: iou_loss(torch.zeros(3, 4), torch.zeros(3, 4), mode="cubic"), ["mode='cubic'", "'square'"]),
        (lambda: IoULoss(mode="cubic"), ["IoULoss", "mode='cubic'", "'square'"]),
        (lambda: DIoULoss(eps=0), ["DIoULoss", "eps=0"]),
        (lambda: CIoULoss(reduction="avg"), ["CIoULoss", "reduction='avg'", "'mean'"]),
        (
            lambda: IoULoss()(torch.zeros(3, 4), torch.zeros(3, 4), weight=torch.ones(4)),
            ["IoULoss", "weight", "(4,)", "(3,)"],
        ),
        (
            lambda: GIoULoss(reduction="sum")(torch.zeros(3, 4), torch.zeros(3, 4), avg_factor=2),
            ["GIoULoss", "avg_factor", "sum"],
        ),
        (lambda: diou_loss(torch.zeros(3, 4), torch.zeros(3, 4, device="meta")), ["diou_loss", "meta", "cpu"]),
        (lambda: BalancedL1Loss(beta=0.0), ["BalancedL1Loss", "beta=0"]),
        (lambda: BalancedL1Loss(alpha=0.001), ["gamma / alpha", "80"]),
        (lambda: BalancedL1Loss()(torch.zeros(3, 7), torch.zeros(3, 6)), ["(3, 7)", "(3, 6)"]),
    ],
)
def test_mistakes_are_explained(make, words):
    with pytest.raises(InputError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("loss", [iou_loss, giou_loss, diou_loss, ciou_loss])
def test_one_box_and_boxes_of_a_batch(loss):
    """As fvcore and kornia take them."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 2, 3, 2, generator=generator, dtype=torch.float64)
    pred, target = (torch.cat([c, c + 0.5], -1) for c in corners)  # (2, 3, 4) each
    want = loss(pred.view(-1, 4), target.view(-1, 4)).view(2, 3)
    torch.testing.assert_close(loss(pred, target), want, rtol=0, atol=0)
    torch.testing.assert_close(loss(pred[1, 2], target[1, 2]), want[1, 2], rtol=0, atol=0)
