"""limit_period, rotate_points_along_z, angle2matrix against OpenPCDet's recorded numbers, complex multiplication and
float64.
"""

import numpy as np
import pytest
import torch
from golden_data import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from pcdet_focal.geometry.angles import angle2matrix, limit_period, rotate_points_along_z

RECORDED = cases("03_geometry/box_utils.npz")
PERIODS = [(0.5, np.pi), (0, 2 * np.pi), (0.5, 2 * np.pi), (0, np.pi), (1, np.pi)]


@pytest.mark.parametrize("offset, period", PERIODS)
def test_limit_period_recorded(offset, period):
    case = RECORDED[f"limit_period_{offset}_{period:.4g}"]
    out = limit_period(case["val"], offset, period)
    assert out.dtype == np.float32
    difference = np.abs(out - case["out"])
    # whole multiples of the period may come out at either border of the range, by rounding alone
    on_border = np.abs(difference - period) < 1e-5
    distance = np.abs(case["val"] / period + offset - np.round(case["val"] / period + offset))
    assert (distance[on_border] < 1e-5).all()
    np.testing.assert_allclose(out[~on_border], case["out"][~on_border], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(limit_period(torch.from_numpy(case["val"]), offset, period).numpy(), out)


@settings(deadline=None, max_examples=60)
@given(angle=st.floats(-1e3, 1e3), choice=st.sampled_from(PERIODS))
def test_limit_period_lands_in_range_on_the_same_angle(angle, choice):
    offset, period = choice
    out = limit_period(np.array([angle]), offset, period)[0]
    assert -offset * period - 1e-9 <= out <= (1 - offset) * period + 1e-9
    turns = (angle - out) / period
    assert abs(turns - round(turns)) < 1e-9
    assert limit_period(angle, offset, period) == out  # a plain number is an angle too


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_limit_period_keeps_the_type(dtype):
    val = np.linspace(-20, 20, 101).astype(dtype)
    before = val.copy()
    assert limit_period(val, 0.5, np.float64(np.pi)).dtype == dtype
    assert limit_period(torch.from_numpy(val)).dtype == torch.from_numpy(val).dtype
    np.testing.assert_array_equal(val, before)
    assert limit_period(np.arange(5)).dtype == np.float32


def test_rotate_points_recorded():
    case = RECORDED["rotate_points_along_z"]
    out = rotate_points_along_z(case["points"], case["angle"])
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, case["out"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        rotate_points_along_z(torch.from_numpy(case["points"]), torch.from_numpy(case["angle"])).numpy(), out
    )


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-5), (np.float64, 1e-13)])
def test_rotation_is_complex_multiplication(dtype, tolerance):
    rng = np.random.default_rng(0)
    points, angle = rng.uniform(-70, 70, (3, 40, 5)).astype(dtype), rng.uniform(-7, 7, 3)
    before = points.copy()
    out = rotate_points_along_z(points, angle)
    turned = (points[..., 0].astype(np.float64) + 1j * points[..., 1]) * np.exp(1j * angle)[:, None]
    assert out.dtype == dtype
    np.testing.assert_allclose(out[..., 0], turned.real, atol=tolerance)
    np.testing.assert_allclose(out[..., 1], turned.imag, atol=tolerance)
    np.testing.assert_array_equal(out[..., 2:], points[..., 2:])
    np.testing.assert_array_equal(points, before)


def test_rotation_is_not_rounded_under_autocast():
    points = torch.tensor([[[70.123, 39.987, -1.0]]])
    angle = torch.tensor([0.7])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = rotate_points_along_z(points, angle)
    np.testing.assert_array_equal(under_autocast.numpy(), rotate_points_along_z(points, angle).numpy())


def test_rotation_gradients():
    points = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    angle = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotate_points_along_z, (points, angle))


@pytest.mark.parametrize("points", [np.zeros((0, 5, 3)), np.zeros((2, 0, 4), np.float32)])
def test_rotation_of_nothing(points):
    assert rotate_points_along_z(points, np.zeros(len(points))).shape == points.shape


def test_angle2matrix():
    quarter = angle2matrix(torch.tensor(np.pi / 2, dtype=torch.float64))
    np.testing.assert_allclose(quarter.numpy(), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15)
    angles = torch.tensor([0.3, -2.0], dtype=torch.float64)
    points = torch.randn(2, 6, 3, dtype=torch.float64)
    by_matrix = torch.einsum("bij,bnj->bni", angle2matrix(angles), points)
    np.testing.assert_allclose(by_matrix.numpy(), rotate_points_along_z(points, angles).numpy(), atol=1e-14)
