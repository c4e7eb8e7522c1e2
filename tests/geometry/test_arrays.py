"""What numpy arrays look like on the torch side."""
import warnings

import numpy as np
import pytest
import torch

from pcdet_focal.geometry.arrays import check_numpy_to_torch
from pcdet_focal.geometry.boxes import boxes_to_corners_3d


@pytest.mark.parametrize(
    "given, expected",
    [(np.float64, torch.float64), (np.float32, torch.float32), (np.float16, torch.float32), (np.int64, torch.float32), (bool, torch.float32)],
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
