"""What numpy arrays look like on the torch side."""

import warnings

import numpy as np
import pytest
import torch

from pcdet_focal.arrays import check_numpy_to_torch
from pcdet_focal.geometry.angles import rotate_points_along_z
from pcdet_focal.geometry.boxes import boxes_to_corners_3d


@pytest.mark.parametrize(
    "given, expected",
    [
        (np.float64, torch.float64),
        (np.float32, torch.float32),
        (np.float16, torch.float32),
        (np.int64, torch.float32),
        (bool, torch.float32),
    ],
)
def test_types(given, expected):
    tensor, is_numpy = check_numpy_to_torch(np.ones(3, dtype=given))
    assert is_numpy and tensor.dtype == expected and tensor.tolist() == [1, 1, 1]


def test_what_is_not_numpy_passes_through():
    tensor = torch.arange(3)
    assert check_numpy_to_torch(tensor) == (tensor, False)
    assert check_numpy_to_torch(None) == (None, False)


def test_arrays_torch_cannot_view():
    boxes = np.random.default_rng(1).uniform(0.5, 4, (5, 7))
    expected = boxes_to_corners_3d(boxes)
    read_only = boxes.copy()
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(boxes_to_corners_3d(read_only), expected)
        np.testing.assert_array_equal(boxes_to_corners_3d(boxes[::-1]), expected[::-1])
        np.testing.assert_array_equal(boxes_to_corners_3d(boxes.astype(">f8")), expected)
        np.testing.assert_array_equal(boxes_to_corners_3d(np.asfortranarray(boxes)), expected)


def test_arguments_by_name():
    points, angle = np.random.default_rng(2).normal(size=(2, 3, 4)), np.array([0.5, -1.0])
    by_place = rotate_points_along_z(points, angle)
    by_name = rotate_points_along_z(angle=angle, points=points)
    assert isinstance(by_name, np.ndarray)
    np.testing.assert_array_equal(by_name, by_place)
    with pytest.raises(TypeError, match="angle"):
        rotate_points_along_z(points)


def test_the_first_argument_decides_what_comes_back():
    points, angle = np.ones((1, 2, 3)), np.array([0.5])
    assert isinstance(rotate_points_along_z(points, torch.from_numpy(angle)), np.ndarray)
    assert isinstance(rotate_points_along_z(angle=angle, points=torch.from_numpy(points)), torch.Tensor)
