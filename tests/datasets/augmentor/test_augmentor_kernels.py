"""The loops of the augmentation against shapely, numpy written out, and closed forms."""

import numpy as np
import pytest
import shapely
import shapely.affinity
from hypothesis import given, settings
from hypothesis import strategies as st

from pcdet_focal.datasets.augmentor.kernels import collides, in_pyramids, index_near
from pcdet_focal.datasets.augmentor.pyramid import get_pyramids
from pcdet_focal.geometry.points_in_boxes import index_in_box, outside_boxes


def rectangle(box):
    upright = shapely.box(-box[3] / 2, -box[4] / 2, box[3] / 2, box[4] / 2)
    return shapely.affinity.translate(
        shapely.affinity.rotate(upright, box[6], (0, 0), use_radians=True), box[0], box[1]
    )


def random_boxes(rng, n, spread=4.0):
    parts = [rng.uniform(-spread, spread, (n, 3)), rng.uniform(0.3, 4.0, (n, 3)), rng.uniform(-7, 7, (n, 1))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def local(points, box):
    shift = points[:, :3].astype(np.float64) - box[:3]
    turned = (shift[:, 0] + 1j * shift[:, 1]) * np.exp(-1j * float(box[6]))
    return turned.real, turned.imag, shift[:, 2]


def test_collisions_are_rotated_overlaps_with_area():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(40):
        boxes, others = random_boxes(rng, 4, 6.0), random_boxes(rng, 3, 6.0)
        shapes, other_shapes = [rectangle(b) for b in boxes], [rectangle(b) for b in others]
        wanted = np.array(
            [
                any(s.intersection(o).area > 1e-9 for o in other_shapes)
                or any(s.intersection(o).area > 1e-9 for j, o in enumerate(shapes) if j != i)
                for i, s in enumerate(shapes)
            ]
        )
        np.testing.assert_array_equal(collides(boxes, others), wanted)
        hits += wanted.sum()
    assert 20 < hits < 140  # both answers occur


@pytest.mark.parametrize(
    "other, wanted",
    [
        ([2.0, 0, 0, 2, 1, 1, 0.0], False),  # touching along a side
        ([1.999, 0, 9, 2, 1, 1, 0.0], True),  # one millimetre in, at any height
        ([0, 0, 0, 2, 1, 1, 0.0], True),  # the same box
        ([0, 0, 0, 0.1, 0.1, 1, 0.7], True),  # inside
        ([0, 0, 0, 0.0, 1.0, 1, 0.0], False),  # no area
        ([0, 0, 0, 10.0, 0.1, 1, np.pi / 2], True),  # a cross: no corner inside the other
    ],
)
def test_collision_cases(other, wanted):
    box = np.array([[0, 0, 0, 2, 1, 1, 0.0]], dtype=np.float32)
    assert collides(box, np.array([other], dtype=np.float32)).tolist() == [wanted]
    assert collides(np.concatenate([box, [other]]), np.zeros((0, 7))).tolist() == [wanted, wanted]
    assert collides(box, np.zeros((0, 9))).tolist() == [False]


def test_points_in_and_outside_boxes():
    rng = np.random.default_rng(1)
    boxes = random_boxes(rng, 6)
    points = rng.uniform(-6, 6, (4000, 5)).astype(np.float32)
    near_any = np.zeros(len(points), dtype=bool)
    for box in boxes:
        x, y, z = local(points, box)
        wanted = (np.abs(z) <= box[5] / 2) & (np.abs(x) <= box[3] / 2 + 0.1) & (np.abs(y) <= box[4] / 2 + 0.1)
        np.testing.assert_array_equal(index_in_box(points, box), np.flatnonzero(wanted))
        near_any |= (np.abs(z) <= box[5] / 2) & (np.abs(x) < box[3] / 2 + 0.01) & (np.abs(y) < box[4] / 2 + 0.01)
    assert 100 < near_any.sum() < 3900
    np.testing.assert_array_equal(outside_boxes(points, boxes), ~near_any)
    assert outside_boxes(points, np.zeros((0, 7))).all()
    assert outside_boxes(points[:0], boxes).shape == (0,)


def test_any_memory_layout_and_read_only_arrays():
    rng = np.random.default_rng(2)
    boxes, points = random_boxes(rng, 2), rng.uniform(-3, 3, (500, 4)).astype(np.float32)
    wanted = outside_boxes(points, boxes)
    frozen = points.copy()
    frozen.flags.writeable = False
    for layout in (np.asfortranarray(points), np.repeat(points, 2, axis=0)[::2], points.astype(np.float64), frozen):
        np.testing.assert_array_equal(outside_boxes(layout, boxes), wanted)


def test_six_pyramids_fill_a_box():
    rng = np.random.default_rng(3)
    box = np.array([[1.0, -2.0, 0.5, 4.0, 1.7, 1.5, 0.8]])
    points = rng.uniform(-4, 5, (20000, 3))
    x, y, z = local(points, box[0])
    inside = (np.abs(x) <= 2.0) & (np.abs(y) <= 0.85) & (np.abs(z) <= 0.75)
    mask = in_pyramids(points, get_pyramids(box).reshape(-1, 5, 3))
    # each inner point in exactly one pyramid, each outer one in none
    np.testing.assert_array_equal(mask.sum(axis=1), inside)
    # the face that is relatively nearest
    scaled = np.stack([x / 4.0, z / 1.5, -x / 4.0, -z / 1.5, -y / 1.7, y / 1.7], axis=1)
    np.testing.assert_array_equal(np.argmax(mask[inside], axis=1), np.argmax(scaled[inside], axis=1))


def test_points_near_a_body_are_those_in_its_bounds():
    rng = np.random.default_rng(4)
    corners = rng.uniform(-1, 1, (3, 8, 3)) * [2, 3, 1] + [[[-4, 2, 0]], [[4, -3, 1]], [[5, 5, -1]]]
    points = rng.uniform([-8, -8, -3, 0], [8, 8, 3, 1], (5000, 4))
    low, high = corners.min(axis=1)[:, None], corners.max(axis=1)[:, None]
    wanted = ((points[:, :3] >= low) & (points[:, :3] <= high)).all(axis=2).any(axis=0)
    np.testing.assert_array_equal(index_near(points, corners), np.flatnonzero(wanted))
    np.testing.assert_array_equal(index_near(corners.reshape(-1, 3), corners), np.arange(24))  # the faces belong


def test_a_flat_pyramid_is_empty():
    flat = np.array([[[0, 0, 0], [1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]]], dtype=np.float64)
    assert not in_pyramids(np.zeros((1, 3)), flat).any()


def test_points_that_are_not_numbers_are_nowhere():
    points = np.full((3, 4), np.nan, dtype=np.float32)
    box = np.array([[0, 0, 0, 4, 2, 2, 0.3]])
    assert len(index_in_box(points, box[0])) == 0 and outside_boxes(points, box).all()
    assert not in_pyramids(points, get_pyramids(box).reshape(-1, 5, 3)).any()


@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([1.0, 10.0, 100.0, 1e5, 3e7]),
    size=st.sampled_from([0.5, 5.0, 80.0, 500.0]),
    wild=st.sampled_from([None, np.nan, np.inf]),
)
@settings(max_examples=80, deadline=None)
def test_outside_boxes_wherever_they_are(seed, spread, size, wild):
    """Against the rule written out, in float64 and for points clear of the faces: near and far, small and huge, and
    beside a box that is none.
    """
    rng = np.random.default_rng(seed)
    boxes = (
        rng.uniform(-1, 1, (5, 7)) * [spread, spread, 2, 0, 0, 0, 4]
        + [0, 0, 0, 1, 1, 1, 0] * rng.uniform(0.3, 1, (5, 7)) * size
    )
    around = boxes[rng.integers(0, 5, 600), :3] + rng.uniform(-1, 1, (600, 3)) * size
    points = np.concatenate([around, rng.uniform(-1, 1, (200, 3)) * spread, [[np.nan, 0, 0], [np.inf, 0, 0]]])
    with np.errstate(invalid="ignore"):
        depth = np.max(
            [
                np.min([box[3] / 2 + 0.01 - np.abs(x), box[4] / 2 + 0.01 - np.abs(y), box[5] / 2 - np.abs(z)], axis=0)
                for box in boxes
                for x, y, z in [local(points, box)]
            ],
            axis=0,
        )
    if wild is not None:
        boxes = np.concatenate([boxes, np.full((1, 7), wild)])
    clear = ~(np.abs(depth) < 1e-6 * spread)
    np.testing.assert_array_equal(outside_boxes(points, boxes)[clear], ~(depth > 0)[clear])
