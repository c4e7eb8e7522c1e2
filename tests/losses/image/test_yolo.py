"""YOLO's losses against YOLOv5's recorded numbers, finite differences, and what the recorded ones get wrong."""

import math
from types import SimpleNamespace

import loss_properties
import numpy as np
import pytest
import torch
from golden_data import cases
from torch import nn

from pcdet_focal.errors import InputError
from pcdet_focal.losses import build_loss
from pcdet_focal.losses.image.yolo import (
    BCEBlurWithLogitsLoss,
    ComputeLoss,
    FocalLoss,
    QFocalLoss,
    bbox_iou,
    grid_candidates,
    smooth_BCE,
)

WRAPPERS = {"FocalLoss": FocalLoss, "QFocalLoss": QFocalLoss}
ELEMENTWISE = cases("07_other_systems/yolov5_elementwise.npz")
STRIDE = torch.tensor([8.0, 16.0, 32.0])
PIXELS = torch.tensor([[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]).float()
ANCHORS = PIXELS.view(3, 3, 2) / STRIDE.view(3, 1, 1)
HYP = {"focal15": {"fl_gamma": 1.5}, "smooth_pw": {"label_smoothing": 0.1, "cls_pw": 0.7, "obj_pw": 1.3}}


# ------------------------------------------------------------------------------------------ elementwise
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3])
def test_recorded_label_smoothing(eps):
    assert smooth_BCE(eps) == tuple(ELEMENTWISE[f"smooth_bce_{eps}"]["cp_cn"])


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.5])
def test_recorded_blur(alpha):
    c = ELEMENTWISE[f"bceblur_{alpha}"]
    pred = torch.from_numpy(c["pred"]).requires_grad_()
    loss = BCEBlurWithLogitsLoss(alpha)(pred, torch.from_numpy(c["true"]))
    loss.backward()
    # with alpha 0 the recorded float32 numbers carry p - t - 1 divided by 1e-4; ours keep their digits
    tolerance = dict(rtol=1e-5, atol=1e-7 if alpha else 4e-6)
    np.testing.assert_allclose(loss.item(), c["output"], **tolerance)
    np.testing.assert_allclose(pred.grad, c["grad"], **tolerance)


@pytest.mark.parametrize("case", [name for name in ELEMENTWISE if name.split("_")[0] in WRAPPERS])
def test_recorded_focal_wrappers(case):
    c, (name, *rest) = ELEMENTWISE[case], case.split("_")
    if rest[0] == "extreme":
        criterion, gamma, alpha = nn.BCEWithLogitsLoss(reduction="none"), 0.5 if "g05" in rest else 1.5, 0.25
    else:
        criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([float(c["pos_weight"])]), reduction=rest[0])
        gamma, alpha = float(c["gamma"]), float(c["alpha"])
    pred = torch.from_numpy(c["pred"]).requires_grad_()
    loss = WRAPPERS[name](criterion, gamma=gamma, alpha=alpha)(pred, torch.from_numpy(c["true"]))
    loss.sum().backward()
    known = np.isfinite(c["grad"])
    assert torch.isfinite(pred.grad).all() and known.all() == ("g05" not in rest)
    np.testing.assert_allclose(loss.detach(), c["output"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(pred.grad[torch.from_numpy(known)], c["grad"][known], rtol=1e-5, atol=1e-7)


LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
SOFT = torch.rand(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CASES = {
    "blur": (BCEBlurWithLogitsLoss, LOGITS, (SOFT,)),
    "blur_none": (lambda: BCEBlurWithLogitsLoss(0.3, "none"), LOGITS, (SOFT,)),
    **{
        f"{name}_{gamma}": (
            lambda name=name, gamma=gamma: WRAPPERS[name](nn.BCEWithLogitsLoss(reduction="none"), gamma),
            LOGITS,
            (SOFT,),
        )
        for name in WRAPPERS
        for gamma in (0.0, 0.5, 1.5)
    },
    "around_a_blur": (lambda: FocalLoss(BCEBlurWithLogitsLoss()), LOGITS, (SOFT,)),
}
PROPERTIES = [
    loss_properties.in_float64_the_gradient_is_that_of_finite_differences,
    loss_properties.inputs_stay_and_a_second_backward_gives_the_same,
    loss_properties.strided_inputs_give_the_same,
    loss_properties.half_precision_is_computed_in_float32,
    loss_properties.extremes_are_finite,
]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda f: f.__name__)
def test_property(holds, name):
    holds(*CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_elementwise_losses_compile_to_one_graph(name):
    make, prediction, others = CASES[name]
    torch.testing.assert_close(
        torch.compile(make(), fullgraph=True, backend="eager")(prediction, *others), make()(prediction, *others)
    )


@pytest.mark.parametrize("wrapper", WRAPPERS.values())
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_wrapper_leaves_the_criterion_as_it_was_and_reduces_as_it_would(wrapper, reduction):
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 1.0, 0.5]), reduction=reduction)
    alone = criterion(LOGITS, SOFT)
    wrapped = wrapper(criterion, gamma=0.0, alpha=0.5)
    torch.testing.assert_close(wrapped(LOGITS, SOFT), alone / 2)
    assert criterion.reduction == reduction and torch.equal(criterion(LOGITS, SOFT), alone)
    assert wrapped.loss_fcn.pos_weight is criterion.pos_weight and wrapped.reduction == reduction


def test_gamma_one_half_at_saturated_logits():
    """At the wrong end the factor is 1 and the slope alpha_t; at the right end both vanish. YOLOv5's gradient is NaN
    there.
    """
    x = torch.tensor([100.0, 1e4, -100.0, -1e4, 100.0, -100.0], requires_grad=True)
    t = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    for wrapper in WRAPPERS.values():
        loss = wrapper(nn.BCEWithLogitsLoss(reduction="none"), gamma=0.5)(x, t)
        (grad,) = torch.autograd.grad(loss.sum(), x)
        torch.testing.assert_close(loss, torch.tensor([75.0, 7500.0, 25.0, 2500.0, 0.0, 0.0]))
        torch.testing.assert_close(grad, torch.tensor([0.75, 0.75, -0.25, -0.25, 0.0, 0.0]))


def test_the_blur_forgives_a_confident_positive_on_a_negative_label_only():
    x = torch.tensor([6.0, 6.0, -6.0])
    plain = nn.BCEWithLogitsLoss(reduction="none")(x, torch.tensor([0.0, 1.0, 1.0]))
    blurred = build_loss({"type": "BCEBlurWithLogitsLoss", "alpha": 0.05, "reduction": "none"})(
        x, torch.tensor([0.0, 1.0, 1.0])
    )
    assert blurred[0] < 0.06 * plain[0]
    torch.testing.assert_close(blurred[1:], plain[1:])
    weighted = BCEBlurWithLogitsLoss()(LOGITS, SOFT, torch.arange(6.0), avg_factor=2, reduction_override="mean")
    torch.testing.assert_close(
        weighted,
        (BCEBlurWithLogitsLoss(reduction="none")(LOGITS, SOFT) * torch.arange(6.0)[:, None]).sum() / (2 + 2**-23),
    )


# ------------------------------------------------------------------------------------------ boxes
@pytest.mark.parametrize("kind", ["IoU", "GIoU", "DIoU", "CIoU"])
def test_recorded_box_overlaps(kind):
    c = cases("07_other_systems/yolov5_bbox_iou.npz")[kind]
    box1, box2 = torch.from_numpy(c["box1"]).requires_grad_(), torch.from_numpy(c["box2"])
    flags = {} if kind == "IoU" else {kind: True}
    value = bbox_iou(box1, box2, **flags)
    value.sum().backward()
    np.testing.assert_allclose(value.detach(), c["output"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(box1.grad, c["grad"], rtol=1e-4, atol=1e-5)
    corners1, corners2 = (
        torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1)
        for b in (box1.detach().double(), box2.double())
    )
    np.testing.assert_allclose(bbox_iou(corners1, corners2, xywh=False, **flags), c["output"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bbox_iou(box1[:1], box2, **flags)[0].detach(), c["output"][0], rtol=1e-5, atol=1e-6)


def test_box_overlaps_of_any_size_are_finite():
    sizes = torch.tensor([0.0, 1e-38, 1e-20, 1e-8, 1.0, 1e6])
    wh = torch.cartesian_prod(sizes, sizes)
    a, b = (
        torch.cat([torch.zeros(36, 2), wh], 1)[index]
        for index in torch.cartesian_prod(torch.arange(36), torch.arange(36)).T
    )
    for flags in ({}, {"GIoU": True}, {"DIoU": True}, {"CIoU": True}):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        value = bbox_iou(x, y, **flags)
        value.sum().backward()
        assert torch.isfinite(value).all() and torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all(), flags


# ------------------------------------------------------------------------------------------ ComputeLoss
def a_model(nc, **hyp):
    recipe = {
        "box": 0.05,
        "cls": 0.5,
        "cls_pw": 1.0,
        "obj": 1.0,
        "obj_pw": 1.0,
        "anchor_t": 4.0,
        "fl_gamma": 0.0,
        "lr0": 0.01,
        "mosaic": 1.0,
        **hyp,
    }
    return SimpleNamespace(
        hyp=recipe, model=["backbone", SimpleNamespace(anchors=ANCHORS, nc=nc, nl=3, na=3, stride=STRIDE)]
    )


@pytest.mark.parametrize("case", sorted(cases("07_other_systems/yolov5_compute_loss.npz")))
def test_recorded_runs(case):
    c = cases("07_other_systems/yolov5_compute_loss.npz")[case]
    nc, hyp = c["p0"].shape[-1] - 5, HYP.get(case, {})
    p, targets = [torch.from_numpy(c[f"p{i}"]).requires_grad_() for i in range(3)], torch.from_numpy(c["targets"])
    for loss_func in (
        ComputeLoss(a_model(nc, **hyp), autobalance=case == "autobalance"),
        ComputeLoss(anchors=ANCHORS, nc=nc, nl=3, na=3, stride=[8, 16, 32], hyp=hyp, autobalance=case == "autobalance"),
    ):
        loss, items = loss_func(p, targets)
        assert loss.shape == (1,) and items.shape == (3,) and not items.requires_grad
        np.testing.assert_allclose(loss.detach(), c["loss"], rtol=1e-5)
        np.testing.assert_allclose(items, c["items"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(loss_func.balance, c["balance_after"], rtol=1e-6)
        for i, grad in enumerate(torch.autograd.grad(loss, p)):
            np.testing.assert_allclose(grad, c[f"grad_p{i}"], rtol=1e-4, atol=1e-7)
        tcls, tbox, indices, anch = loss_func.build_targets(p, targets)
        for i in range(3):
            for name, got in zip(
                ("tcls", "tbox", "b", "a", "gj", "gi", "anch"), (tcls[i], tbox[i], *indices[i], anch[i])
            ):
                np.testing.assert_array_equal(
                    got, c[f"bt{i}_{name}"], err_msg=f"{name} of grid {i}, in the recorded order"
                )


def small(dtype=torch.float64, scale=1.0, **arguments):
    """One grid of 4 x 5 cells, two anchors, three classes, two images."""
    generator = torch.Generator().manual_seed(2)
    p = [scale * torch.randn(2, 2, 4, 5, 8, generator=generator, dtype=torch.float64).to(dtype)]
    targets = torch.tensor(
        [
            [0, 2, 0.62, 0.61, 0.5, 0.25],
            [0, 0, 0.30, 0.40, 0.2, 0.3],
            [1, 1, 0.30, 0.41, 0.25, 0.3],
            [1, 2, 0.31, 0.40, 0.2, 0.2],
        ]
    )
    return ComputeLoss(anchors=[[[2.0, 1.0], [1.0, 2.0]]], nc=3, stride=[8], **arguments), p, targets.to(dtype)


@pytest.mark.parametrize("hyp", [{}, {"fl_gamma": 1.5, "label_smoothing": 0.1, "cls_pw": 0.7}])
def test_gradient_by_finite_differences(hyp):
    """Objectness and classes, assigned and not. (No gradient flows through CIoU's weight a and through the quality: the
    recorded runs hold those.)
    """
    loss_func, p, targets = small(hyp=hyp)
    x = p[0].clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss_func([x], targets)[0], x)
    step = 1e-6
    for index in [(0, 0, 2, 3, 4), (0, 0, 2, 3, 7), (1, 1, 1, 1, 4), (1, 1, 1, 1, 6), (0, 1, 1, 1, 5), (1, 0, 3, 4, 4)]:
        high, low = p[0].clone(), p[0].clone()
        high[index] += step
        low[index] -= step
        slope = (loss_func([high], targets)[0] - loss_func([low], targets)[0]).item() / (2 * step)
        assert grad[index].item() == pytest.approx(slope, rel=1e-6) and slope != 0


@pytest.mark.parametrize("hyp", [{}, {"fl_gamma": 1.5}, {"fl_gamma": 0.5}])
@pytest.mark.parametrize("size", [100.0, 1e4])
def test_saturated_logits_are_finite(size, hyp):
    for sign in (1, -1):
        loss_func, p, targets = small(torch.float32, hyp=hyp)
        x = (sign * size * p[0].sign()).requires_grad_()
        for logits in (x, torch.full_like(x, sign * size).requires_grad_()):
            loss, items = loss_func([logits], targets)
            (grad,) = torch.autograd.grad(loss, logits)
            assert (
                torch.isfinite(loss).all() and torch.isfinite(items).all() and torch.isfinite(grad).all() and loss > 0
            )


def test_half_precision_is_computed_in_float32_and_inputs_stay():
    loss_func, p, targets = small(torch.float16)
    p[0].requires_grad_()
    before = [p[0].detach().clone(), targets.clone()]
    loss, _ = loss_func(p, targets)
    loss.backward()
    same, _ = loss_func([p[0].detach().float()], targets.float())
    assert loss.dtype == torch.float32 and p[0].grad.dtype == torch.float16
    torch.testing.assert_close(loss.detach(), same)
    assert torch.equal(before[0], p[0]) and torch.equal(before[1], targets)


@pytest.mark.parametrize("arguments", [{}, {"sort_obj_iou": True}, {"autobalance": True}])
def test_compiles_to_one_graph(arguments):
    loss_func, p, targets = small(**arguments)
    expected = small(**arguments)[0](p, targets)
    torch.testing.assert_close(torch.compile(loss_func, fullgraph=True, backend="eager")(p, targets), expected)


def test_no_targets_leave_the_objectness_only():
    loss_func, p, _ = small()
    loss, items = loss_func(p, torch.zeros(0, 6, dtype=torch.float64))
    expected = 4 * nn.functional.binary_cross_entropy_with_logits(
        p[0][..., 4], torch.zeros(2, 2, 4, 5, dtype=torch.float64)
    )
    torch.testing.assert_close(items, torch.tensor([0.0, expected, 0.0], dtype=torch.float64))
    torch.testing.assert_close(loss.item(), 2 * expected.item())


@pytest.mark.parametrize("sort, expected", [(False, "last"), (True, "best")])
def test_two_objects_in_one_cell(sort, expected):
    """The quality of the cell is that of the last object, or of the best, here for both orders."""
    anchors, logits = [[[2.0, 2.0]]], torch.zeros(1, 1, 3, 3, 6)
    # 2 x 2 and 1 x 1 cells around the decoded 2 x 2: IoU 1 and 1/4
    good, bad = [0, 0, 0.5, 0.5, 2 / 3, 2 / 3], [0, 0, 0.5, 0.5, 1 / 3, 1 / 3]
    for targets in ([good, bad], [bad, good]):
        loss_func = ComputeLoss(anchors=anchors, nc=1, sort_obj_iou=sort, hyp={"box": 0.0}, balance=[1.0])
        raw = logits.clone().requires_grad_()
        loss, _ = loss_func([raw], torch.tensor(targets))
        (grad,) = torch.autograd.grad(loss, raw)
        wanted = 1.0 if expected == "best" or targets[-1] is good else 0.25
        # d BCE / d x at 0 is 0.5 - quality, over nine cells
        assert grad[0, 0, 1, 1, 4].item() == pytest.approx((0.5 - wanted) / 9, abs=1e-5), (targets, sort)


def test_assignment_by_hand():
    """5 x 4 cells: centre (2.2, 1.7) trains its cell, the left and the lower one; corners and far sides stay inside;
    anchors must fit.
    """
    anchors = torch.tensor([[1.0, 1.0], [4.0, 4.0]])
    targets = torch.tensor(
        [
            [0, 0, 2.2 / 5, 1.7 / 4, 1.5 / 5, 1.2 / 4],
            [1, 0, 1.0, 1.0, 1 / 5, 1 / 4],
            [0, 0, 0.0, 0.0, 1 / 5, 1 / 4],
            [0, 0, 0.5, 0.5, 0.0, 0.25],
            [0, 0, 0.5, 0.5, -0.2, 0.25],
        ]
    )
    rows = grid_candidates(targets, anchors, 4, 5, anchor_t=2.0)
    used = {(int(i), int(a), int(r), int(c)): box for u, i, a, r, c, box in zip(*rows[:5], rows.box) if u}
    assert set(used) == {(0, 0, 1, 2), (0, 0, 1, 1), (0, 0, 2, 2), (1, 0, 3, 4), (0, 0, 0, 0)}
    torch.testing.assert_close(used[0, 0, 1, 1], torch.tensor([1.2, 0.7, 1.5, 1.2]))
    torch.testing.assert_close(used[0, 0, 2, 2], torch.tensor([0.2, -0.3, 1.5, 1.2]))
    torch.testing.assert_close(used[1, 0, 3, 4], torch.tensor([1.0, 1.0, 1.0, 1.0]))
    assert ((rows.row >= 0) & (rows.row < 4) & (rows.column >= 0) & (rows.column < 5)).all() and torch.isfinite(
        rows.box
    ).all()


def test_autobalance_moves_in_training_only_and_is_saved():
    two = dict(anchors=ANCHORS[:2], nc=3, stride=[8, 16])
    p = [torch.randn(1, 3, 4, 4, 8), torch.randn(1, 3, 2, 2, 8)]
    loss_func = ComputeLoss(autobalance=True, **two)
    loss_func.eval()(p, torch.zeros(0, 6))
    assert loss_func.balance.tolist() == [4.0, 1.0]
    objectness = [
        nn.functional.binary_cross_entropy_with_logits(x[..., 4], torch.zeros_like(x[..., 4])).item() for x in p
    ]
    loss_func.train()(p, torch.zeros(0, 6))
    first = (4 * 0.9999 + 1e-4 / objectness[0]) / (0.9999 + 1e-4 / objectness[1])
    assert loss_func.balance.tolist() == pytest.approx([first, 1.0], rel=1e-6) and first != 4.0
    resumed = ComputeLoss(autobalance=True, **two)
    resumed.load_state_dict(loss_func.state_dict())
    assert torch.equal(resumed.balance, loss_func.balance) and list(loss_func.state_dict()) == ["balance"]
    assert not ComputeLoss(**two).state_dict()


def test_each_gain_scales_its_part():
    loss_func, p, targets = small()
    _, (box, objectness, category) = loss_func(p, targets)
    for key, gain in {"box": 2, "obj": 3, "cls": 5}.items():
        loss_func.hyp[key] *= gain
    scaled, parts = loss_func(p, targets)
    assert min(parts) > 0
    assert parts.tolist() == pytest.approx([2 * box.item(), 3 * objectness.item(), 5 * category.item()], rel=1e-12)
    assert scaled.item() == pytest.approx(2 * parts.sum().item(), rel=1e-12)  # times the images


def test_all_devices_and_dtypes_of_a_module_move_together():
    loss_func, p, targets = small()
    assert loss_func.double()(p, targets)[0].dtype == torch.float64
    assert {buffer.device.type for buffer in loss_func.to("meta").buffers()} == {"meta"}


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: smooth_BCE(1.5), ["smooth_BCE", "eps=1.5"]),
        (
            lambda: FocalLoss(nn.functional.binary_cross_entropy_with_logits),
            ["FocalLoss", "loss_fcn", "BCEWithLogitsLoss"],
        ),
        (lambda: QFocalLoss(nn.BCEWithLogitsLoss(), gamma=-1), ["QFocalLoss", "gamma=-1"]),
        (lambda: FocalLoss(nn.BCEWithLogitsLoss(), alpha=1.01), ["FocalLoss", "alpha=1.01"]),
        (lambda: FocalLoss(nn.BCEWithLogitsLoss())(torch.zeros(3), torch.zeros(2)), ["FocalLoss", "(3,)", "(2,)"]),
        (lambda: BCEBlurWithLogitsLoss(-1), ["BCEBlurWithLogitsLoss", "alpha=-1"]),
        (lambda: BCEBlurWithLogitsLoss()(torch.zeros(3, 1), torch.zeros(3, 2)), ["(3, 1)", "(3, 2)"]),
        (lambda: bbox_iou(torch.zeros(3, 4), torch.zeros(2, 4)), ["bbox_iou", "(3, 4)", "(2, 4)"]),
        (lambda: bbox_iou(torch.zeros(3, 4), torch.zeros(3, 4), GIoU=True, CIoU=True), ["bbox_iou", "GIoU", "CIoU"]),
        (lambda: ComputeLoss(nc=3), ["anchors", "(nl, na, 2)"]),
        (lambda: ComputeLoss(SimpleNamespace()), ["model.hyp", "anchors"]),
        (lambda: ComputeLoss(a_model(3), nc=3), ["model"]),
        (lambda: ComputeLoss(anchors=ANCHORS, nc=3, hyp={"fl_gama": 1.5}), ["'fl_gama'", "fl_gamma"]),
        (lambda: ComputeLoss(anchors=ANCHORS, nc=3, hyp={"box": -1.0}), ["hyp['box']=-1"]),
        (lambda: ComputeLoss(anchors=ANCHORS, nc=3, nl=2), ["nl=2", "(3, 3, 2)"]),
        (lambda: ComputeLoss(anchors=ANCHORS, nc=3, balance=[1.0]), ["balance", "3"]),
        (lambda: ComputeLoss(anchors=ANCHORS, nc=3, gr=2.0), ["gr=2"]),
        (lambda: ComputeLoss(anchors=-ANCHORS, nc=3), ["anchors"]),
        (lambda: small()[0](small()[1] * 2, small()[2]), ["1", "(B, 2, H, W, 8)"]),
        (lambda: small()[0]([small()[1][0][..., :6]], small()[2]), ["(B, 2, H, W, 8)", "(2, 2, 4, 5, 6)"]),
        (lambda: small()[0]([small()[1][0][:, :1]], small()[2]), ["(B, 2, H, W, 8)", "(2, 1, 4, 5, 8)"]),
        (lambda: small()[0]([small()[1][0][..., None]], small()[2]), ["(B, 2, H, W, 8)", "(2, 2, 4, 5, 8, 1)"]),
        (lambda: small()[0](small()[1], small()[2][:, :5]), ["targets", "(T, 6)", "(4, 5)"]),
        (lambda: small()[0](small()[1], small()[2] + torch.tensor([0, 1.0, 0, 0, 0, 0])), ["class", "2", "3"]),
        (lambda: small()[0](small()[1], small()[2] - torch.tensor([1.0, 0, 0, 0, 0, 0])), ["image", "1", "-1"]),
        (lambda: small()[0](small()[1], small()[2].to("meta")), ["meta", "cpu"]),
    ],
)
def test_mistakes_are_explained(make, words):
    with pytest.raises(InputError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


def test_constants_of_the_formulas():
    """A 1 x 1 box in the middle of a decoded 2 x 2: IoU 1/4, centres equal, same shape: CIoU 1/4 and box loss 3/4."""
    loss_func = ComputeLoss(anchors=[[[2.0, 2.0]]], nc=2, hyp={"box": 1.0, "label_smoothing": 0.2})
    _, items = loss_func([torch.zeros(1, 1, 3, 3, 7)], torch.tensor([[0, 1, 0.5, 0.5, 1 / 3, 1 / 3]]))
    assert items.tolist() == pytest.approx([0.75, 4 * math.log(2), 0.5 * math.log(2)], rel=1e-5)
