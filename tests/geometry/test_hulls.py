"""in_hull against half-spaces known in closed form and against shapely."""

import warnings

import numpy as np
import pytest

from pcdet_focal.geometry.boxes import boxes_to_corners_3d
from pcdet_focal.geometry.hulls import in_hull


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_box_hull_is_the_box(dtype):
    rng = np.random.default_rng(2)
    for _ in range(20):
        box = np.concatenate([rng.uniform(-70, 70, 3), rng.uniform(0.3, 10, 3), rng.uniform(-4, 4, 1)]).astype(dtype)
        local = rng.uniform(-0.7, 0.7, (500, 3)) * box[3:6]
        cos, sin = np.cos(box[6]), np.sin(box[6])
        points = local @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + box[0:3]
        away = np.abs(np.abs(local) - box[3:6] / 2).min(axis=1) > (1e-4 if dtype == np.float32 else 1e-9)
        expected = (np.abs(local) <= box[3:6] / 2).all(axis=1)
        assert away.sum() > 480 and expected.sum() > 100
        np.testing.assert_array_equal(
            in_hull(points.astype(dtype)[away], boxes_to_corners_3d(box[None])[0]), expected[away]
        )


def test_pyramid():
    # apex first, as the augmentor has them
    corners = np.array([[0, 0, 1], [1, 1, 0], [1, -1, 0], [-1, -1, 0], [-1, 1, 0]], dtype=np.float64)
    points = np.random.default_rng(3).uniform(-1.2, 1.2, (4000, 3))
    x, y, z = np.abs(points[:, 0]), np.abs(points[:, 1]), points[:, 2]
    inside = (z >= 0) & (np.maximum(x, y) <= 1 - z)
    for unit in (1, 1e-10, 1e10):
        np.testing.assert_array_equal(in_hull(points * unit, corners * unit), inside)


def test_hull_in_the_plane_against_shapely():
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(4)
    for corners in (rng.normal(size=(9, 2)), np.array([[0.0, 0], [2, 0], [2, 1], [0, 1], [1, 0.5]])):
        points = rng.uniform(-2, 2.5, (800, 2))
        polygon = shapely.MultiPoint(corners).convex_hull
        expected = [polygon.covers(shapely.Point(point)) for point in points]
        np.testing.assert_array_equal(in_hull(points, corners), expected)


def test_faces_and_corners_count_as_inside():
    corners = boxes_to_corners_3d(np.array([[10.0, -5, 1, 4, 2, 1.5, 0.0]]))[0]
    assert in_hull(corners, corners).all()
    assert in_hull(np.array([[12.0, -5, 1], [12.0001, -5, 1]]), corners).tolist() == [True, False]


def test_flat_corners_hold_nothing_and_say_so():
    flat = boxes_to_corners_3d(np.array([[10.0, 3, 0, 4, 2, 0, 0.3]], dtype=np.float32))[0]
    for corners in (flat, flat[:3], np.zeros((8, 3)), np.zeros((0, 3))):
        with pytest.warns(UserWarning):
            assert not in_hull(np.array([[10.0, 3, 0]]), corners).any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\(5, 4\) and \(8, 3\)"):
        in_hull(np.zeros((5, 4)), np.zeros((8, 3)))
    with pytest.raises(ValueError, match="32.*40"):
        in_hull(np.zeros((5, 3)), np.zeros((40, 3)))


def test_a_ready_triangulation_is_asked():
    class Triangulation:
        def find_simplex(self, p):
            return np.where(p[:, 0] > 0, 3, -1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert in_hull(np.array([[1.0, 0, 0], [-1.0, 0, 0]]), Triangulation()).tolist() == [True, False]
