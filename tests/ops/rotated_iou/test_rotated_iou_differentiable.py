"""Differentiable rotated IoU, GIoU and DIoU: values against the plain operation and brute force, gradients against
finite differences.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_triton import BACKENDS

from pcdet_focal.errors import InputError
from pcdet_focal.geometry.boxes import bbox3d_overlaps_diou
from pcdet_focal.ops.rotated_iou import boxes_aligned_iou3d, boxes_aligned_iou_bev, paired_iou, reference
from pcdet_focal.ops.rotated_iou.differentiable import _Overlap, overlap_derivative

KINDS, SPACES = ("iou", "giou", "diou"), ("bev", "3d")
EVERY = [(kind, space) for kind in KINDS for space in SPACES]
INF, NAN = float("inf"), float("nan")


def box(x=0.0, y=0.0, z=0.0, dx=4.0, dy=2.0, dz=1.5, heading=0.3):
    return [x, y, z, dx, dy, dz, heading]


def random_boxes(n, extent=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, 7, generator=generator, dtype=torch.float64)
    return u * torch.tensor([2 * extent, 2 * extent, 2, 4, 4, 4, 14]) + torch.tensor(
        [-extent, -extent, -1, 0.3, 0.3, 0.3, -7]
    )


def gradients(a, b, kind, space):
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    value = paired_iou(a, b, kind, space)
    return value.detach(), *torch.autograd.grad(value.sum(), (a, b))


@pytest.mark.parametrize("seed, offset", [(0, 0.0), (10, 70.0), (20, 1e4)])
def test_iou_is_that_of_the_plain_operation(seed, offset):
    a, b = random_boxes(3000, seed=seed), random_boxes(3000, seed=seed + 1)
    a[:, :2] += offset
    b[:, :2] += offset
    assert (boxes_aligned_iou3d(a, b) > 0.05).sum() > 300
    torch.testing.assert_close(paired_iou(a, b, "iou", "bev"), boxes_aligned_iou_bev(a, b), rtol=0, atol=1e-9)
    torch.testing.assert_close(paired_iou(a, b, "iou", "3d"), boxes_aligned_iou3d(a, b), rtol=0, atol=1e-9)


def test_float32_boxes_lose_no_more_than_their_own_digits():
    a, b = (random_boxes(500, seed=seed).float() + torch.tensor([70.0, 40, 0, 0, 0, 0, 0]) for seed in (0, 1))
    result = paired_iou(a, b)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), boxes_aligned_iou3d(a.double(), b.double()), rtol=0, atol=1e-6)
    assert paired_iou(a.half(), b.half()).dtype == torch.float32


def test_closed_forms():
    """Unit cubes, one shifted by t along x: I = 1 - t, U = 1 + t, C = 1 + t, D^2 = (1 + t)^2 + 1 (+ 1)."""
    t = 0.4
    a = torch.tensor([box(t, 0, 0, 1, 1, 1, 0)], dtype=torch.float64)
    b = torch.tensor([box(0, 0, 0, 1, 1, 1, 0)], dtype=torch.float64)
    expected = {
        ("iou", "bev"): ((1 - t) / (1 + t), -2 / (1 + t) ** 2),
        ("iou", "3d"): ((1 - t) / (1 + t), -2 / (1 + t) ** 2),
        ("giou", "3d"): ((1 - t) / (1 + t), -2 / (1 + t) ** 2),
    }
    for space, rest in (("bev", 1), ("3d", 2)):
        d = (1 + t) ** 2 + rest
        expected["diou", space] = (
            (1 - t) / (1 + t) - t**2 / d,
            -2 / (1 + t) ** 2 - 2 * t / d + t**2 / d**2 * 2 * (1 + t),
        )
    for (kind, space), (value, slope) in expected.items():
        got, grad, _ = gradients(a, b, kind, space)
        assert got.item() == pytest.approx(value, abs=1e-12) and grad[0, 0].item() == pytest.approx(slope, abs=1e-12), (
            kind,
            space,
        )


def test_turned_square_makes_an_octagon():
    """Unit square against itself turned by 45 degrees: overlap 2 sqrt(2) - 2; by symmetry the heading has no slope
    there.
    """
    a = torch.tensor([box(5, 5, 0, 1, 1, 1, math.pi / 4)], dtype=torch.float64)
    b = torch.tensor([box(5, 5, 0, 1, 1, 1, 0)], dtype=torch.float64)
    overlap = 2 * math.sqrt(2) - 2
    value, grad, _ = gradients(a, b, "iou", "bev")
    assert value.item() == pytest.approx(overlap / (2 - overlap), abs=1e-12)
    assert abs(grad[0, 6].item()) < 1e-12 and grad[0, 3].item() == pytest.approx(grad[0, 4].item(), abs=1e-12)


@pytest.mark.parametrize("kind, space", EVERY)
def test_gradient_of_both_boxes_by_finite_differences(kind, space):
    a, b = random_boxes(40), random_boxes(40, seed=1)
    assert ((boxes_aligned_iou3d(a, b) > 0).sum() > 10) and (boxes_aligned_iou_bev(a, b) == 0).sum() > 3
    assert torch.autograd.gradcheck(
        lambda x, y: paired_iou(x, y, kind, space), (a.requires_grad_(), b.requires_grad_())
    )


@pytest.mark.parametrize("space", SPACES)
def test_gradient_where_edges_coincide_is_the_mean_of_both_sides(space):
    """Boxes on a coarse lattice: shared edges, shared corners, identical boxes, headings that differ by right angles.
    Central differences along random directions converge to the mean of the two one-sided derivatives. (An enclosing box
    has kinks within kinks, where that mean is not linear in the direction: no gradient could have this property.)"""
    generator = torch.Generator().manual_seed(7)

    def lattice(n):
        def pick(values, *shape):
            return torch.tensor(values, dtype=torch.float64)[torch.randint(len(values), shape, generator=generator)]

        # heights whose tops and bottoms never touch from outside: there the one-sided derivative that lets boxes meet
        # is wanted
        return torch.cat(
            [
                pick([-1.0, 0.0, 0.5, 1.0], n, 2),
                pick([0.0, 0.25], n, 1),
                pick([1.0, 2.0, 3.0], n, 2),
                pick([1.0, 1.5], n, 1),
                pick([0.0, math.pi / 2, math.pi, -math.pi / 2, math.pi / 4], n, 1),
            ],
            dim=1,
        )

    a, b = lattice(600), lattice(600)
    a[:50] = b[:50]
    _, grad_a, grad_b = gradients(a, b, "iou", space)
    step = 1e-6
    for _ in range(3):
        va, vb = (torch.randn(600, 7, generator=generator, dtype=torch.float64) for _ in range(2))
        slope = (
            paired_iou(a + step * va, b + step * vb, "iou", space)
            - paired_iou(a - step * va, b - step * vb, "iou", space)
        ) / (2 * step)
        torch.testing.assert_close((grad_a * va + grad_b * vb).sum(1), slope, rtol=0, atol=3e-5)


@pytest.mark.parametrize("kind, space", EVERY)
def test_identical_boxes_are_the_maximum_with_gradient_zero(kind, space):
    a = random_boxes(200)
    for b in (a, a + torch.tensor([0, 0, 0, 0, 0, 0, math.pi], dtype=torch.float64)):
        value, grad_a, grad_b = gradients(a, b, kind, space)
        torch.testing.assert_close(value, torch.ones(200, dtype=torch.float64), rtol=0, atol=1e-12)
        assert grad_a.abs().max() < 1e-9 and grad_b.abs().max() < 1e-9


NASTY = {
    "identical": (box(), box()),
    "half a turn": (box(), box(heading=0.3 + math.pi)),
    "quarter turn, sizes swapped": (box(), box(dx=2.0, dy=4.0, heading=0.3 + math.pi / 2)),
    "touching sides": (box(heading=0), box(x=4.0, heading=0)),
    "touching corners": (box(heading=0), box(x=4.0, y=2.0, heading=0)),
    "touching heights": (box(), box(z=1.5)),
    "corner on a side": (box(dx=2, dy=2, heading=0), box(x=1 + math.sqrt(2), dx=2, dy=2, heading=math.pi / 4)),
    "nested": (box(), box(dx=1.0, dy=0.5, dz=0.5)),
    "nested at a side": (box(heading=0), box(x=1.5, dx=1.0, dy=0.5, dz=0.5, heading=0)),
    "almost parallel": (box(), box(heading=0.3 + 1e-13)),
    "almost identical": (box(), box(x=1e-12, dx=4 + 1e-13)),
    "no width": (box(), box(dx=0.0)),
    "no size": (box(), box(dx=0.0, dy=0.0, dz=0.0)),
    "two lines": (box(dx=0.0), box(dx=0.0)),
    "two points": (box(dx=0.0, dy=0.0, dz=0.0), box(dx=0.0, dy=0.0, dz=0.0)),
    "negative size": (box(), box(dx=-4.0)),
    "tiny": (box(dx=1e-5, dy=1e-5, dz=1e-5), box(x=1e-6, dx=1e-5, dy=1e-5, dz=1e-5)),
    "smallest numbers": (box(dx=1e-38, dy=1e-38, dz=1e-38), box(dx=1e-38, dy=1e-38, dz=1e-38)),
    "needle": (box(dx=1e4, dy=1e-6), box(dx=1e-6, dy=1e4)),
    "far apart": (box(), box(x=1e6)),
    "far away": (box(x=1e6, y=-1e6), box(x=1e6, y=-1e6)),
    "very far apart": (box(), box(x=1e20)),
    "huge": (box(dx=1e20, dy=1e20, dz=1e20), box()),
    "overflowing": (box(dx=3e38, dy=3e38, dz=3e38), box()),
    "infinite": (box(dx=INF), box()),
    "unknown": (box(), box(heading=NAN)),
    "many turns": (box(heading=1e6), box()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind, space", EVERY)
def test_nasty_boxes_are_finite(kind, space, dtype):
    first, second = (torch.tensor([pair[i] for pair in NASTY.values()], dtype=dtype) for i in (0, 1))
    for a, b in ((first, second), (second, first)):
        value, grad_a, grad_b = gradients(a, b, kind, space)
        for name, v, ga, gb in zip(NASTY, value, grad_a, grad_b):
            assert (0 if kind == "iou" else -1) - 1e-6 <= v <= 1 + 1e-6, (name, v)
            assert torch.isfinite(ga).all() and torch.isfinite(gb).all(), (name, ga, gb)
    usual = [i for i, name in enumerate(NASTY) if name not in ("two points", "two lines", "smallest numbers", "tiny")]
    assert max(g[usual].abs().max() for g in (grad_a, grad_b)) < 1e7


def test_a_box_without_width_is_made_wider():
    value, grad, _ = gradients(torch.tensor([box(dx=0.0)]), torch.tensor([box()]), "iou", "bev")
    assert value.item() == 0 and grad[0, 3].item() == pytest.approx(0.25, abs=1e-6)  # a strip of dx by 2 inside 4 by 2


@pytest.mark.parametrize("space", SPACES)
def test_boxes_apart_are_pulled_together_by_giou_and_diou_only(space):
    a, b = random_boxes(200), random_boxes(200, seed=1)
    direction = torch.randn(200, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    b[:, :2] = a[:, :2] + 20 * direction / direction.norm(dim=1, keepdim=True)
    towards = (b - a)[:, :2]
    assert (gradients(a, b, "iou", space)[1] == 0).all()
    for kind in ("giou", "diou"):
        value, grad, _ = gradients(a, b, kind, space)
        assert (value < 0).all() and ((grad[:, :2] * towards).sum(1) > 0).all()


@pytest.mark.parametrize("space", SPACES)
def test_descending_the_distance_loss_brings_boxes_from_apart_to_their_targets(space):
    target = random_boxes(16, extent=20, seed=4)
    start = target + torch.randn(16, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * torch.tensor(
        [6, 6, 2, 0.1, 0.1, 0.1, 0.3]
    )
    assert (boxes_aligned_iou3d(start, target) == 0).sum() >= 8
    moved = start.clone().requires_grad_()
    # sizes: far apart they grow to shorten the distance relative to the diagonal
    fixed = torch.tensor([0, 0, 0, 1, 1, 1, 0], dtype=torch.bool)
    optimizer = torch.optim.Adam([moved], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        (1 - paired_iou(torch.where(fixed, target, moved), target, "diou", space)).sum().backward()
        optimizer.step()
        schedule.step()
    final = {"bev": boxes_aligned_iou_bev, "3d": boxes_aligned_iou3d}[space](
        torch.where(fixed, target, moved.detach()), target
    )
    assert final.min() > 0.9, final


@pytest.mark.parametrize("kind, space", EVERY)
def test_neither_the_order_nor_turning_the_scene_matters(kind, space):
    a, b = random_boxes(300), random_boxes(300, seed=1)
    value = paired_iou(a, b, kind, space)
    torch.testing.assert_close(paired_iou(b, a, kind, space), value, rtol=0, atol=1e-9)
    turned = []
    for boxes in (a, b):
        c, s = math.cos(1.1), math.sin(1.1)
        x, y = boxes[:, 0] * c - boxes[:, 1] * s + 30, boxes[:, 0] * s + boxes[:, 1] * c - 8
        turned.append(torch.cat([x[:, None], y[:, None], boxes[:, 2:6], boxes[:, 6:] + 1.1], dim=1))
    torch.testing.assert_close(paired_iou(*turned, kind, space), value, rtol=0, atol=1e-9)


def test_equal_headings_give_the_axis_aligned_definitions():
    a, b = random_boxes(300), random_boxes(300, seed=1)
    a[:, 6] = b[:, 6] = 0
    torch.testing.assert_close(paired_iou(a, b, "diou", "3d"), bbox3d_overlaps_diou(a, b), rtol=0, atol=1e-9)
    low, high = (
        torch.minimum(a[:, :3] - a[:, 3:6] / 2, b[:, :3] - b[:, 3:6] / 2),
        torch.maximum(a[:, :3] + a[:, 3:6] / 2, b[:, :3] + b[:, 3:6] / 2),
    )
    enclosing = (high - low).prod(1)
    iou = boxes_aligned_iou3d(a, b)
    union = (a[:, 3:6].prod(1) + b[:, 3:6].prod(1)) / (1 + iou)
    torch.testing.assert_close(paired_iou(a, b, "giou", "3d"), iou - (enclosing - union) / enclosing, rtol=0, atol=1e-9)


def test_the_enclosing_box_is_the_smaller_of_two():
    """GIoU from above, with the extents taken over the eight corners in the frame of either box."""
    a, b = random_boxes(100), random_boxes(100, seed=1)
    corners = []
    for boxes in (a, b):
        half = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2 * boxes[:, None, 3:5]
        c, s = boxes[:, 6].cos()[:, None], boxes[:, 6].sin()[:, None]
        corners.append(
            torch.stack([half[..., 0] * c - half[..., 1] * s, half[..., 0] * s + half[..., 1] * c], dim=2)
            + boxes[:, None, :2]
        )
    points = torch.cat(corners, dim=1)  # (100, 8, 2)
    areas, diagonals = [], []
    for boxes in (a, b):
        c, s = boxes[:, 6].cos()[:, None], boxes[:, 6].sin()[:, None]
        along, across = points[..., 0] * c + points[..., 1] * s, points[..., 1] * c - points[..., 0] * s
        width, depth = along.amax(1) - along.amin(1), across.amax(1) - across.amin(1)
        areas.append(width * depth)
        diagonals.append(width**2 + depth**2)
    iou = boxes_aligned_iou_bev(a, b)
    union = (a[:, 3:5].prod(1) + b[:, 3:5].prod(1)) / (1 + iou)
    enclosing = torch.minimum(*areas)
    torch.testing.assert_close(
        paired_iou(a, b, "giou", "bev"), iou - (enclosing - union) / enclosing, rtol=0, atol=1e-9
    )
    distance = ((a - b)[:, :2] ** 2).sum(1)
    torch.testing.assert_close(
        paired_iou(a, b, "diou", "bev"), iou - distance / torch.minimum(*diagonals), rtol=0, atol=1e-9
    )


def test_further_columns_and_strides_do_not_matter_and_nothing_is_changed():
    a, b = random_boxes(20), random_boxes(20, seed=1)
    wide = torch.cat([a, torch.full((20, 2), NAN)], dim=1)
    copy = wide.clone()
    strided = torch.stack([b, b], dim=2)[:, :, 0]
    torch.testing.assert_close(paired_iou(wide, strided, "giou", "3d"), paired_iou(a, b, "giou", "3d"), rtol=0, atol=0)
    torch.testing.assert_close(wide, copy, rtol=0, atol=0, equal_nan=True)


def test_seen_from_above_heights_do_not_matter():
    a, b = random_boxes(20), random_boxes(20, seed=1)
    before = paired_iou(a, b, "diou", "bev")
    a[:, 2], b[:, 5] = NAN, INF
    value, grad_a, grad_b = gradients(a, b, "diou", "bev")
    torch.testing.assert_close(value, before, rtol=0, atol=0)
    assert (grad_a[:, [2, 5]] == 0).all() and (grad_b[:, [2, 5]] == 0).all() and torch.isfinite(grad_a).all()


def test_no_boxes():
    a = torch.zeros(0, 7, requires_grad=True)
    for kind, space in EVERY:
        value = paired_iou(a, torch.zeros(0, 7), kind, space)
        assert value.shape == (0,) and torch.autograd.grad(value.sum(), a)[0].shape == (0, 7)


def test_a_second_derivative_is_refused_instead_of_wrong():
    a = random_boxes(5).requires_grad_()
    (grad,) = torch.autograd.grad(paired_iou(a, random_boxes(5, seed=1)).sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_compiles_to_one_graph():
    compiled = torch.compile(lambda x, y: paired_iou(x, y, "giou", "3d"), fullgraph=True, backend="eager")
    a, b = random_boxes(30), random_boxes(30, seed=1)
    x = a.clone().requires_grad_()
    compiled(x, b).sum().backward()
    torch.testing.assert_close(x.grad, gradients(a, b, "giou", "3d")[1])


@pytest.mark.parametrize(
    "a, b, arguments, words",
    [
        (torch.zeros(3, 6), torch.zeros(3, 7), {}, ["boxes_a", "(3, 6)", "(N, 7 or more)"]),
        (torch.zeros(3, 7), torch.zeros(7), {}, ["boxes_b", "(7,)"]),
        (torch.zeros(3, 7), torch.zeros(2, 7), {}, ["3", "2"]),
        (torch.zeros(3, 7).long(), torch.zeros(3, 7), {}, ["boxes_a", "int64"]),
        ([[0.0] * 7], torch.zeros(1, 7), {}, ["boxes_a", "list"]),
        (torch.zeros(3, 7), torch.zeros(3, 7, device="meta"), {}, ["cpu", "meta"]),
        (torch.zeros(3, 7), torch.zeros(3, 7), {"kind": "ciou"}, ["kind='ciou'", "'diou'"]),
        (torch.zeros(3, 7), torch.zeros(3, 7), {"space": "3D"}, ["space='3D'", "'3d'"]),
    ],
)
def test_mistakes_are_explained(a, b, arguments, words):
    with pytest.raises(InputError) as error:
        paired_iou(a, b, **arguments)
    assert all(word in str(error.value) for word in words), error.value


ANGLES = st.one_of(st.sampled_from([k * math.pi / 4 for k in range(-4, 5)]), st.floats(-10, 10))
LENGTHS = st.one_of(st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.floats(0.01, 30))
PLACES = st.one_of(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), st.floats(-20, 20))
BOXES = st.tuples(PLACES, PLACES, PLACES, LENGTHS, LENGTHS, LENGTHS, ANGLES).map(
    lambda t: torch.tensor([t], dtype=torch.float64)
)


@pytest.mark.parametrize("kind, space", EVERY)
@settings(max_examples=40, deadline=None)
@given(a=BOXES, b=BOXES, turn=ANGLES, x=PLACES, y=PLACES)
def test_symmetric_bounded_one_for_itself_and_the_same_wherever_the_pair_stands(kind, space, a, b, turn, x, y):
    value, grad_a, grad_b = gradients(a, b, kind, space)
    swapped, _, _ = gradients(b, a, kind, space)
    assert -1 <= value.item() <= 1 and value.item() == pytest.approx(swapped.item(), abs=1e-9)
    assert paired_iou(a, a, kind, space).item() == pytest.approx(1, abs=1e-12)
    assert torch.isfinite(grad_a).all() and torch.isfinite(grad_b).all()
    if space == "bev":
        assert not grad_a[:, [2, 5]].any()
    moved = []
    for one in (a, b):
        two = one.clone()
        two[0, 0] = one[0, 0] * math.cos(turn) - one[0, 1] * math.sin(turn) + x
        two[0, 1] = one[0, 0] * math.sin(turn) + one[0, 1] * math.cos(turn) + y
        two[0, 6] += turn
        moved.append(two)
    assert paired_iou(*moved, kind, space).item() == pytest.approx(value.item(), abs=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_has_the_same_values_and_gradients(backend, monkeypatch):
    """Random, identical, parallel, touching, nested, far and empty pairs; a row count that is no multiple of a
    block.
    """
    a, b = random_boxes(150), random_boxes(150, seed=1)
    b[:10] = a[:10]
    b[10:20, 6] = a[10:20, 6] + math.pi / 2
    a[20], b[20] = torch.tensor(box(heading=0.0)), torch.tensor(box(4.0, heading=0.0))
    b[21:30, :2], b[21:30, 3:5] = a[21:30, :2], a[21:30, 3:5] / 3
    b[30:35, 0] += 500
    b[35:40, 3] = 0
    columns = torch.cat([(a - b)[:, :2], a[:, 3:5], a[:, 6:], b[:, 3:5], b[:, 6:]], dim=1)
    outward = overlap_derivative(columns)
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", backend)
    shift = columns.clone().requires_grad_()
    area = _Overlap.apply(shift)
    torch.testing.assert_close(area.detach(), reference.iou_aligned(a, b, 0), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(area.sum(), shift)[0], outward, rtol=0, atol=1e-11)
    apart = area == 0
    assert 20 < apart.sum() < 130
    value, grad_a, grad_b = gradients(a, b, "giou", "3d")
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", "reference")
    for got, want in zip((value, grad_a, grad_b), gradients(a, b, "giou", "3d")):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
