"""Rotated overlap against shapely, closed forms and recorded numbers, in every backend."""

import math

import numpy as np
import pytest
import torch
from golden_data import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_triton import INTERPRETED

from pcdet_focal.errors import InputError
from pcdet_focal.ops.rotated_iou import (
    boxes_aligned_iou3d,
    boxes_aligned_iou_bev,
    boxes_iou3d,
    boxes_iou_bev,
    boxes_overlap_bev,
    cpu,
    reference,
)

shapely = pytest.importorskip("shapely")
BACKENDS = {
    "reference": lambda a, b, what: reference.iou_matrix(torch.from_numpy(a), torch.from_numpy(b), what).numpy(),
    "cpu": cpu.iou_matrix,
}
if INTERPRETED:
    from pcdet_focal.ops.rotated_iou import cuda

    BACKENDS["cuda"] = lambda a, b, what: cuda.iou_matrix(
        torch.from_numpy(a), torch.from_numpy(b), what, torch.float64
    ).numpy()


@pytest.fixture(params=list(BACKENDS))
def backend(request, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", request.param)
    return request.param


def box(x=0.0, y=0.0, z=0.0, dx=4.0, dy=2.0, dz=1.5, heading=0.0):
    return np.array([[x, y, z, dx, dy, dz, heading]])


def polygons(boxes):
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2 * boxes[:, None, 3:5]
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    turned = np.stack(
        [
            corners[..., 0] * cos[:, None] - corners[..., 1] * sin[:, None],
            corners[..., 0] * sin[:, None] + corners[..., 1] * cos[:, None],
        ],
        axis=-1,
    )
    return shapely.polygons(turned + boxes[:, None, :2])


def shapely_overlap(a, b):
    return shapely.area(shapely.intersection(polygons(a)[:, None], polygons(b)[None, :]))


def random_boxes(rng, n, extent):
    return np.concatenate(
        [
            rng.uniform(-extent, extent, (n, 2)),
            rng.uniform(-1, 1, (n, 1)),
            rng.uniform(0.3, 6, (n, 3)),
            rng.uniform(-7, 7, (n, 1)),
        ],
        axis=1,
    )


@pytest.mark.parametrize("case", sorted(cases("03_geometry/rotated_iou.npz")))
def test_recorded_exact_numbers(case, backend):
    c = cases("03_geometry/rotated_iou.npz")[case]
    np.testing.assert_allclose(boxes_overlap_bev(c["a"], c["b"]), c["overlap_exact"], atol=1e-5)
    np.testing.assert_allclose(boxes_iou_bev(c["a"], c["b"]), c["bev_iou_exact"], atol=1e-6)
    np.testing.assert_allclose(boxes_iou3d(c["a"], c["b"]), c["iou3d_exact"], atol=1e-6)
    # OpenPCDet's own numbers, which carry its corner margin of 1 cm
    np.testing.assert_allclose(boxes_iou_bev(c["a"], c["b"]), c["bev_iou_peer"], atol=2e-2)
    if "paired_iou3d" in c:
        np.testing.assert_allclose(boxes_aligned_iou3d(c["a"], c["b"]), np.diag(c["iou3d_exact"]), atol=1e-6)
        np.testing.assert_allclose(boxes_aligned_iou3d(c["a"], c["b"]), c["paired_iou3d"], atol=2e-2)
        np.testing.assert_allclose(boxes_aligned_iou_bev(c["a"], c["b"]), np.diag(c["bev_iou_exact"]), atol=1e-6)


@pytest.mark.parametrize("extent", [1.0, 8.0, 40.0])
def test_agrees_with_shapely(extent, backend):
    rng = np.random.default_rng(7)
    a, b = random_boxes(rng, 80, extent), random_boxes(rng, 70, extent)
    overlap = shapely_overlap(a, b)
    assert (overlap > 0).any()
    np.testing.assert_allclose(boxes_overlap_bev(a, b), overlap, atol=1e-12, rtol=1e-12)
    areas = a[:, None, 3] * a[:, None, 4] + b[None, :, 3] * b[None, :, 4]
    np.testing.assert_allclose(boxes_iou_bev(a, b), overlap / (areas - overlap), atol=1e-12)
    height = np.clip(
        np.minimum(a[:, None, 2] + a[:, None, 5] / 2, b[None, :, 2] + b[None, :, 5] / 2)
        - np.maximum(a[:, None, 2] - a[:, None, 5] / 2, b[None, :, 2] - b[None, :, 5] / 2),
        0,
        None,
    )
    volumes = a[:, None, 3:6].prod(-1) + b[None, :, 3:6].prod(-1)
    np.testing.assert_allclose(boxes_iou3d(a, b), overlap * height / (volumes - overlap * height), atol=1e-12)


@pytest.mark.parametrize(
    "a, b, overlap",
    [
        (box(), box(), 8),
        (box(heading=0.3), box(heading=0.3), 8),
        (box(heading=0.3), box(heading=0.3 + math.pi), 8),
        (box(heading=0.3), box(heading=0.3 - 3 * math.pi), 8),
        (box(heading=0.7), box(heading=0.7 + math.pi / 2), 4),
        (box(dx=1, dy=1), box(dx=1, dy=1, heading=math.pi / 4), 2 * math.sqrt(2) - 2),  # a regular octagon
        (box(dx=6, dy=6, heading=0.4), box(0.5, 0.3, dx=1, dy=0.5, heading=1.9), 0.5),  # nested
        # touching along an edge and at a corner
        (box(), box(4.0, 0), 0),
        (box(), box(0, 2.0), 0),
        (box(), box(4.0, 2.0), 0),
        (box(), box(3.5, 0), 1),
        (box(), box(3.5, 1.5), 0.25),
        (box(), box(2, 1), 2),
        (box(dx=10, dy=0.1), box(dx=10, dy=0.1, heading=math.pi / 2), 0.01),
        (box(dx=10, dy=1), box(dx=10, dy=1, heading=math.pi / 6), 2),  # a rhombus: width² / sin
        (box(), box(500, 0), 0),
        (box(dx=0), box(), 0),
        (box(), box(dy=0), 0),
        (box(dx=0, dy=0), box(dx=0, dy=0), 0),
        (box(dx=-1), box(), 0),
    ],
)
def test_closed_forms(a, b, overlap, backend):
    for first, second in [(a, b), (b, a)]:
        np.testing.assert_allclose(boxes_overlap_bev(first, second), [[overlap]], atol=1e-14)
        area = max(np.prod(a[0, 3:5]), 0) + max(np.prod(b[0, 3:5]), 0)
        np.testing.assert_allclose(
            boxes_iou_bev(first, second), [[overlap / (area - overlap) if overlap else 0]], atol=1e-14
        )


@pytest.mark.parametrize("extent", [3.0, 10.0])
def test_boxes_apart_overlap_by_exactly_zero(extent, backend):
    rng = np.random.default_rng(2)
    a, b = random_boxes(rng, 150, extent), random_boxes(rng, 150, extent)
    apart = shapely.distance(polygons(a)[:, None], polygons(b)[None, :]) > 0
    assert apart.sum() > 1000
    np.testing.assert_array_equal(boxes_overlap_bev(a, b) == 0, apart)


@pytest.mark.parametrize("heading", np.linspace(-3, 3, 13))
def test_turned_boxes_that_touch_overlap_by_exactly_zero(heading, backend):
    a = box(7.3, -2.1, heading=heading)
    cos, sin = math.cos(heading), math.sin(heading)
    for along, across in [(4, 0), (0, 2), (-4, 0), (0, -2), (4, 2), (4, -1.3)]:
        b = box(7.3 + along * cos - across * sin, -2.1 + along * sin + across * cos, heading=heading)
        assert boxes_iou_bev(a, b).item() == 0 and boxes_iou_bev(b, a).item() == 0
        assert boxes_iou_bev(a, a + (b - a) * 0.9999).item() > 0


def test_heights(backend):
    b = np.concatenate([box(), box(z=0.75), box(z=1.5), box(z=9), box(dz=0.75), box(dz=0), box(dz=-1)])
    np.testing.assert_allclose(boxes_iou3d(box(), b), [[1, 1 / 3, 0, 0, 0.5, 0, 0]], atol=1e-15)


def test_large_coordinates_lose_nothing(backend):
    a, b = (
        np.concatenate([box(heading=0.3), box(1, 0.5, heading=1.0)]),
        np.concatenate([box(heading=0.3), box(-1, 0.25, heading=2.0)]),
    )
    near = boxes_iou_bev(a, b)
    shift = np.array([2.0**40, -(2.0**39), 0, 0, 0, 0, 0])
    np.testing.assert_allclose(boxes_iou_bev(a + shift, b + shift), near, atol=1e-14)


def test_tiny_boxes(backend):
    # OpenPCDet's margin of 1e-2 m makes 2.4172 of this pair
    a = box(0.0223, -0.0141, -0.0286, 0.0169, 0.0216, 0.0479, -0.0076)
    b = box(0.0222, -0.0167, -0.0052, 0.0267, 0.0118, 0.0452, -0.0052)
    overlap = 0.0169 * 0.0118  # nearly parallel, so nearly the common length times the common width
    np.testing.assert_allclose(
        boxes_iou_bev(a, b), [[overlap / (0.0169 * 0.0216 + 0.0267 * 0.0118 - overlap)]], atol=1e-4
    )
    np.testing.assert_allclose(boxes_overlap_bev(a, b), shapely_overlap(a, b), rtol=1e-12)
    np.testing.assert_allclose(
        boxes_iou3d(box(dx=1e-5, dy=1e-5, dz=1e-5), box(dx=1e-5, dy=1e-5, dz=1e-5)), [[1]], atol=1e-12
    )


@pytest.mark.parametrize("column", range(7))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_overlaps_nothing(column, value, backend):
    bad = box()
    bad[0, column] = value
    for a, b in [(bad, box()), (box(), bad), (bad, bad)]:
        assert boxes_iou3d(a, b).tolist() == [[0.0]] and boxes_aligned_iou3d(a, b).tolist() == [0.0]
        if column not in (2, 5):
            assert boxes_iou_bev(a, b).tolist() == [[0.0]] and boxes_overlap_bev(a, b).tolist() == [[0.0]]


def test_kind_dtype_shape_and_further_columns(backend):
    a = torch.from_numpy(np.concatenate([box(), box(1)]).astype(np.float32))
    wide = torch.cat([a, torch.full((2, 2), math.nan)], dim=1)
    assert torch.equal(boxes_iou_bev(wide, wide), boxes_iou_bev(a, a))
    assert boxes_iou_bev(a, a).dtype == torch.float32 and boxes_iou_bev(a.double(), a).dtype == torch.float64
    assert (
        boxes_iou_bev(a.half(), a.half()).dtype == torch.float16
        and boxes_iou_bev(a.bfloat16(), a.bfloat16()).dtype == torch.bfloat16
    )
    assert boxes_iou_bev(a.numpy(), a.numpy()).dtype == np.float32
    for n, m in [(0, 2), (2, 0), (0, 0)]:
        assert boxes_iou_bev(a[:n], a[:m]).shape == (n, m) and boxes_iou3d(a[:n], a[:m]).shape == (n, m)
    assert boxes_aligned_iou3d(a[:0], a[:0]).shape == (0,)
    assert not boxes_iou_bev(a.clone().requires_grad_(), a).requires_grad
    with pytest.raises(InputError, match="2 and 1"):
        boxes_aligned_iou3d(a, a[:1])


def test_chunks_of_the_reference_make_no_difference(monkeypatch):
    rng = np.random.default_rng(3)
    a, b = torch.from_numpy(random_boxes(rng, 40, 4)), torch.from_numpy(random_boxes(rng, 30, 4))
    whole = reference.iou_matrix(a, b, 1)
    monkeypatch.setattr(reference, "_PAIRS_AT_ONCE", 95)
    assert torch.equal(reference.iou_matrix(a, b, 1), whole) and (whole > 0).sum() > 100


def test_pairs_of_several_tiles(backend):
    """Neither side a multiple of a tile; rows and columns without any overlap; pair by pair the same as the matrix."""
    rng = np.random.default_rng(9)
    a, b = random_boxes(rng, 11, 4), random_boxes(rng, 37, 4)
    a[3, 0], b[5:9, 1] = 200, -200
    overlap = shapely_overlap(a, b)
    assert (overlap > 0).sum() > 100
    for kind in (np.float64, np.float32):
        matrix = boxes_overlap_bev(a.astype(kind), b.astype(kind))
        assert matrix.dtype == kind and matrix.flags.c_contiguous
        np.testing.assert_allclose(matrix, overlap, atol=1e-12 if kind == np.float64 else 1e-5)
    np.testing.assert_allclose(boxes_aligned_iou_bev(a, b[:11]), boxes_iou_bev(a, b[:11]).diagonal(), atol=1e-15)
    np.testing.assert_allclose(boxes_aligned_iou3d(a, b[:11]), boxes_iou3d(a, b[:11]).diagonal(), atol=1e-15)


# from special angles and sizes, so that shared edges and corners are common, and from the whole range
ANGLES = st.one_of(st.sampled_from([k * math.pi / 4 for k in range(-4, 5)]), st.floats(-10, 10))
LENGTHS = st.one_of(st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.floats(0.01, 30))
PLACES = st.one_of(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), st.floats(-20, 20))
BOXES = st.tuples(PLACES, PLACES, PLACES, LENGTHS, LENGTHS, LENGTHS, ANGLES).map(lambda t: np.array([t]))


@pytest.mark.parametrize("name", list(BACKENDS))
@settings(max_examples=5 if INTERPRETED else 150, deadline=None)
@given(a=BOXES, b=BOXES)
def test_iou_is_symmetric_bounded_and_shapelys(name, a, b):
    iou = BACKENDS[name]
    for what in (1, 2):
        there, back = iou(a, b, what)[0, 0], iou(b, a, what)[0, 0]
        assert 0 <= there <= 1 and abs(there - back) < 1e-9
        assert abs(iou(a, a, what)[0, 0] - 1) < 1e-12
    expected = shapely_overlap(a, b)[0, 0]
    union = np.prod(a[0, 3:5]) + np.prod(b[0, 3:5]) - expected
    assert abs(iou(a, b, 1)[0, 0] - expected / union) < 1e-9


@pytest.mark.parametrize("name", list(BACKENDS))
@settings(max_examples=4 if INTERPRETED else 100, deadline=None)
@given(a=BOXES, b=BOXES, turn=ANGLES, x=PLACES, y=PLACES)
def test_moving_both_boxes_alike_changes_nothing(name, a, b, turn, x, y):
    iou = BACKENDS[name]
    moved = []
    for one in (a, b):
        two = one.copy()
        two[0, 0] = one[0, 0] * math.cos(turn) - one[0, 1] * math.sin(turn) + x
        two[0, 1] = one[0, 0] * math.sin(turn) + one[0, 1] * math.cos(turn) + y
        two[0, 6] += turn
        moved.append(two)
    for what in (1, 2):
        np.testing.assert_allclose(iou(*moved, what), iou(a, b, what), atol=1e-9)
