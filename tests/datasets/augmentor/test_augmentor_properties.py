"""What must hold of every augmentation, whatever is drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcdet_focal.datasets.augmentor import augmentor_utils as au
from pcdet_focal.datasets.augmentor import pyramid
from pcdet_focal.datasets.augmentor.augmentor_utils import __all__ as public_names
from pcdet_focal.datasets.augmentor.world import draw_flip
from pcdet_focal.errors import InputError

WORLD = {
    "random_flip_along_x": {"enable": True},
    "random_flip_along_y": {"enable": True},
    "global_rotation": {"rot_range": [-3.0, 3.0]},
    "global_scaling": {"scale_range": [0.5, 2.0]},
}
LOCAL = {
    "random_local_translation_along_x": [-1, 1],
    "random_local_translation_along_y": [-1, 1],
    "random_local_translation_along_z": [-1, 1],
    "local_rotation": [-1, 1],
    "local_scaling": [0.9, 1.1],
}
DROPS = [name for name in public_names if "frustum" in name]
PYRAMIDS = {"local_pyramid_dropout": (0.7,), "local_pyramid_sparsify": (0.9, 1), "local_pyramid_swap": (0.7, 2)}


def make_scene(seed, columns=7, dtype=np.float32, n_boxes=5):
    """Boxes far enough apart not to overlap, twenty points well inside each, and background."""
    rng = np.random.default_rng(seed)
    boxes = np.zeros((n_boxes, columns))
    boxes[:, 0], boxes[:, 1:3] = np.arange(n_boxes) * 12.0, rng.uniform(-5, 5, (n_boxes, 2))
    boxes[:, 3:6], boxes[:, 6] = rng.uniform(1, 4, (n_boxes, 3)), rng.uniform(-3, 3, n_boxes)
    boxes[:, 7:] = rng.uniform(-9, 9, (n_boxes, columns - 7))
    inside = rng.uniform(-0.45, 0.45, (n_boxes, 20, 3)) * boxes[:, None, 3:6]
    turned = (inside[..., 0] + 1j * inside[..., 1]) * np.exp(1j * boxes[:, 6:7])
    inside = np.stack([turned.real, turned.imag, inside[..., 2]], axis=2) + boxes[:, None, :3]
    xyz = np.concatenate([inside.reshape(-1, 3), rng.uniform(-60, 60, (100, 3))])
    points = np.concatenate([xyz, rng.uniform(0, 1, (len(xyz), 1))], axis=1)
    return boxes.astype(dtype), points.astype(dtype)


def call(name, boxes, points):
    if name in WORLD:
        return getattr(au, name)(boxes, points, **WORLD[name])
    return getattr(au, name)(
        boxes, points, *([LOCAL[name]] if name in LOCAL else [[0.1, 0.5]] if name in DROPS else PYRAMIDS[name])
    )


EVERY = [*WORLD, *LOCAL, *DROPS, *PYRAMIDS]


@pytest.mark.parametrize("columns", [7, 9])
@pytest.mark.parametrize("name", EVERY)
def test_arguments_stay_and_seeds_repeat(name, columns):
    boxes, points = make_scene(1, columns)
    kept_boxes, kept_points = boxes.copy(), points.copy()
    boxes.flags.writeable = points.flags.writeable = False
    np.random.seed(5)
    first = call(name, boxes, points)
    np.testing.assert_array_equal(boxes, kept_boxes)
    np.testing.assert_array_equal(points, kept_points)
    assert first[0].shape[1] == columns and first[0].dtype == np.float32 and first[1].dtype == np.float32
    np.random.seed(5)
    second = call(name, boxes, points)
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)
    assert not (np.array_equal(first[0], boxes) and np.array_equal(first[1], points))  # it did something


@pytest.mark.parametrize("name", EVERY)
def test_float64_stays_float64(name):
    np.random.seed(0)
    result = call(name, *make_scene(2, 9, np.float64))
    assert result[0].dtype == result[1].dtype == np.float64


@pytest.mark.parametrize("name", EVERY)
def test_no_box_and_no_point(name):
    boxes, points = make_scene(3)
    for some_boxes, some_points in ((boxes[:0], points), (boxes, points[:0]), (boxes[:0], points[:0])):
        result = call(name, some_boxes, some_points)
        assert result[0].shape[1] == 7 and result[1].shape[1] == 4


@pytest.mark.parametrize("name", [*WORLD, *LOCAL, *DROPS])
@pytest.mark.parametrize("columns", [6, 8, 10])
def test_other_widths_are_refused(name, columns):
    with pytest.raises(InputError, match=r"\(N, 7\).*\(N, 9\)"):
        call(name, np.ones((3, columns), dtype=np.float32), np.zeros((4, 4), dtype=np.float32))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), columns=st.sampled_from([7, 9]))
def test_points_stay_in_their_boxes(seed, columns):
    boxes, points = make_scene(seed, columns)
    np.random.seed(seed)
    for name in (*WORLD, *LOCAL):
        out_boxes, out_points = call(name, boxes, points)
        assert out_boxes.shape == boxes.shape and out_points.shape == points.shape
        np.testing.assert_array_equal(out_points[:, 3], points[:, 3])
        for i, box in enumerate(out_boxes):
            assert au.get_points_in_box(out_points, box)[1][20 * i : 20 * i + 20].all(), (name, i)
        if name not in ("global_scaling", "local_scaling"):
            np.testing.assert_array_equal(out_boxes[:, 3:6], boxes[:, 3:6])
        if columns == 9 and name not in ("global_scaling",):
            np.testing.assert_allclose(np.hypot(*out_boxes[:, 7:].T), np.hypot(*boxes[:, 7:].T), rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), angle=st.floats(-7, 7))
def test_inverses(seed, angle):
    boxes, points = make_scene(seed, 9, np.float64)
    for flip in (au.random_flip_along_x, au.random_flip_along_y):
        twice = flip(*flip(boxes, points, enable=True), enable=True)
        np.testing.assert_array_equal(twice[1], points)
        np.testing.assert_allclose(twice[0], boxes, atol=1e-12)
    turned = au.global_rotation(boxes, points, None, noise_rotation=angle)
    back = au.global_rotation(*turned, None, noise_rotation=-angle)
    np.testing.assert_allclose(back[0], boxes, atol=1e-12)
    np.testing.assert_allclose(back[1], points, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_a_flip_moves_front_and_velocity_alike(seed):
    boxes, points = make_scene(seed, 9, np.float64)
    for flip, mirror in ((au.random_flip_along_x, np.conj), (au.random_flip_along_y, lambda z: -np.conj(z))):
        out, _ = flip(boxes, points, enable=True)
        for here, there in (
            (np.exp(1j * boxes[:, 6]), np.exp(1j * out[:, 6])),
            (boxes[:, 7] + 1j * boxes[:, 8], out[:, 7] + 1j * out[:, 8]),
        ):
            np.testing.assert_allclose(there, mirror(here), atol=1e-12)


@pytest.mark.parametrize("name", [*WORLD, "local_rotation"])
def test_a_velocity_moves_as_the_way_of_a_second(name):
    """Where an object is a second later comes out the same, whether the step moves that place or the velocity."""
    boxes, points = make_scene(6, 9, np.float64)
    later = boxes.copy()
    later[:, :2] += boxes[:, 7:]
    made = []
    for scene in (boxes, later):
        np.random.seed(3)  # the same draws
        made.append(call(name, scene, points)[0])
    if name == "local_rotation":  # the object turns where it stands: its velocity keeps its direction to the heading
        turned = np.exp(1j * (made[0][:, 6] - boxes[:, 6]))
        way = (boxes[:, 7] + 1j * boxes[:, 8]) * turned
        assert np.abs(turned - 1).min() > 1e-3
    else:
        way = (made[1] - made[0])[:, 0] + 1j * (made[1] - made[0])[:, 1]
    np.testing.assert_allclose(made[0][:, 7] + 1j * made[0][:, 8], way, atol=1e-10)
    assert not np.allclose(made[0][:, 7:], boxes[:, 7:])


def test_local_steps_by_hand():
    """One number a box, in the order of the boxes; the box and its points move, turn or grow alike."""
    boxes, points = make_scene(8, 9, np.float64)
    np.random.seed(2)
    drawn = np.random.uniform(0.9, 1.1, len(boxes))
    np.random.seed(2)
    grown, moved = au.local_scaling(boxes, points, [0.9, 1.1])
    np.testing.assert_allclose(grown[:, 3:6], boxes[:, 3:6] * drawn[:, None], rtol=1e-12)
    np.testing.assert_array_equal(grown[:, [0, 1, 2, 6, 7, 8]], boxes[:, [0, 1, 2, 6, 7, 8]])
    for i, box in enumerate(boxes):
        own = slice(20 * i, 20 * i + 20)
        np.testing.assert_allclose(moved[own, :3], box[:3] + drawn[i] * (points[own, :3] - box[:3]), rtol=1e-12)
    for axis in range(3):
        np.random.seed(2)
        shifted, moved = getattr(au, f"random_local_translation_along_{'xyz'[axis]}")(boxes, points, [0.9, 1.1])
        way = drawn[:, None] * np.eye(9)[axis]
        np.testing.assert_allclose(shifted, boxes + way, rtol=1e-12)
        np.testing.assert_allclose(moved[:100, :3], points[:100, :3] + np.repeat(way[:, :3], 20, axis=0), rtol=1e-12)


@pytest.mark.parametrize("direction, axis, kept", [("top", 2, -1), ("bottom", 2, 1), ("left", 1, -1), ("right", 1, 1)])
def test_a_point_on_the_border_of_a_dropped_half_goes_too(direction, axis, kept):
    box, points = np.array([[0, 0, 0, 4, 4, 4, 0.0]]), np.zeros((3, 4))
    points[:, axis] = [-1, 0, 1]
    _, left = getattr(au, f"local_frustum_dropout_{direction}")(box, points, [0.5, 0.5])
    assert left[:, axis].tolist() == [kept]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_dropping_only_drops(seed):
    boxes, points = make_scene(seed)
    known = {tuple(p) for p in points}
    np.random.seed(seed)
    for name in (*DROPS, "local_pyramid_dropout", "local_pyramid_sparsify"):
        out_boxes, out_points = call(name, boxes, points)[:2]
        assert len(out_points) <= len(points) and all(tuple(p) in known for p in out_points)
        if name.startswith("local_"):
            background = points[100:][~np.isin(points[100:, 3], out_points[:, 3])]
            assert all(
                any(au.get_points_in_box(background[i : i + 1], box)[1] for box in boxes)
                for i in range(len(background))
            )
            assert out_boxes is boxes


def test_swapping_loses_no_point_and_carries_extra_columns():
    boxes, points = make_scene(7, dtype=np.float64)
    points = np.insert(points, 3, np.arange(len(points)), axis=1)  # x, y, z, a number, intensity
    np.random.seed(1)
    _, out = au.local_pyramid_swap(boxes, points, 1.0, 1)
    # a pyramid that two others exchange with arrives in both, as in OpenPCDet
    assert set(out[:, 3]) == set(points[:, 3])
    untouched = out[:, 3] >= 100
    np.testing.assert_array_equal(out[untouched], points[100:])
    assert (out[~untouched][:, :3] != points[out[~untouched][:, 3].astype(int), :3]).any()
    for moved in out[~untouched]:
        assert any(au.get_points_in_box(moved[None], box)[1] for box in boxes)
    np.random.seed(1)
    np.testing.assert_array_equal(au.local_pyramid_swap(boxes, points[:, :3], 1.0, 1)[1], out[:, :3])


def test_exchanged_points_keep_their_place_in_the_pyramid_and_take_the_others_intensities():
    box = np.array([[3.0, -1, 0.5, 4, 2, 1.5, 0.4]])
    here, there = (pyramid.get_pyramids(b).reshape(6, 5, 3)[2] for b in (box, box + [[5, 7, 1, 4, 2, 1.5, 0]]))
    shares = np.array(
        [[0.4, 0.2, 0.2, 0.1, 0.1], [0.1, 0.3, 0.1, 0.3, 0.2], [0.2, 0.2, 0.2, 0.2, 0.2]]
    )  # of the corners
    source = np.column_stack([shares @ here, [0.2, 0.3, 0.4]])
    target = np.array([[0, 0, 0, 0.9], [0, 0, 0, 0.5]])
    moved = pyramid._exchange(source, target, here, there)
    np.testing.assert_allclose(moved[:, :3], shares @ there, atol=1e-12)  # twice the size
    np.testing.assert_allclose(moved[:, 3], [0.5, 0.7, 0.9], rtol=1e-12)


@pytest.mark.parametrize("name", ["global_scaling", "local_scaling"])
def test_a_narrow_range_neither_scales_nor_draws(name):
    boxes, points = make_scene(4)
    np.random.seed(3)
    before = np.random.get_state()[2]
    result = getattr(au, name)(boxes, points, [1.0, 1.0005])
    assert np.random.get_state()[2] == before
    assert len(result) == 2 and result[0] is boxes and result[1] is points
    if name == "global_scaling":  # OpenPCDet returns two values here, three elsewhere
        assert au.global_scaling(boxes, points, [1.0, 1.0], return_scale=True)[2] == 1.0
        assert au.global_scaling_with_roi_boxes(boxes, boxes[None], points, [1.0, 1.0], return_scale=True)[3] == 1.0


def test_return_values():
    boxes, points = make_scene(5)
    for result in (
        au.random_flip_along_x(boxes, points),
        au.global_rotation(boxes, points, [0, 1]),
        au.global_scaling(boxes, points, [1, 2]),
    ):
        assert len(result) == 2
    assert au.random_flip_along_y(boxes, points, return_flip=True, enable=False)[2] is False
    assert 0.2 <= au.global_rotation(boxes, points, [0.2, 0.3], return_rot=True)[2] <= 0.3
    rois = np.stack([boxes, boxes])
    out_boxes, out_rois, out_points, factor = au.global_scaling_with_roi_boxes(
        boxes, rois, points, [2.0, 3.0], return_scale=True
    )
    np.testing.assert_allclose(out_rois[1, :, :6], boxes[:, :6] * factor, rtol=1e-6)
    np.testing.assert_array_equal(out_rois[..., 6], rois[..., 6])
    np.testing.assert_allclose(out_points[:, :3], points[:, :3] * factor, rtol=1e-6)
    np.testing.assert_array_equal(out_boxes, out_rois[0])


def test_the_coin_is_that_of_openpcdet():
    """Same value, and the generator left where its call leaves it."""
    for seed in range(200):
        np.random.seed(seed)
        wanted = np.random.choice([False, True], replace=False, p=[0.5, 0.5]), np.random.uniform()
        np.random.seed(seed)
        assert (draw_flip(), np.random.uniform()) == wanted
