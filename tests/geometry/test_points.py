"""Range masks, voxel centres and voxel indices."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_data import cases

from pcdet_focal.geometry.points import (
    generate_voxel2pinds,
    get_pad_params,
    get_voxel_centers,
    mask_points_by_range,
    scatter_point_inds,
)

RECORDED = cases("03_geometry/box_utils.npz")


@pytest.mark.parametrize("as_list", [False, True])
def test_mask_points_recorded(as_list):
    case = RECORDED["mask_points_by_range"]
    limits = case["range"].tolist() if as_list else case["range"]
    mask = mask_points_by_range(case["points"], limits)
    np.testing.assert_array_equal(mask, case["mask"])
    np.testing.assert_array_equal(mask_points_by_range(torch.from_numpy(case["points"]), limits).numpy(), case["mask"])


def test_mask_points_borders_belong_and_height_does_not_count():
    limits = [0.0, -40.0, -3.0, 70.4, 40.0, 1.0]
    points = np.array(
        [[0, -40, 99], [70.4, 40, -99], [70.41, 0, 0], [-0.01, 0, 0], [1, 40.01, 0], [1, -40.01, 0]], dtype=np.float32
    )
    expected = [True, True, False, False, False, False]
    assert mask_points_by_range(points, limits).tolist() == expected
    # a float64 range does not shift the border of float32 points
    assert mask_points_by_range(points, np.array(limits)).tolist() == expected


def test_voxel_centers_recorded():
    case = RECORDED["get_voxel_centers"]
    out = get_voxel_centers(torch.from_numpy(case["coords"]), 4, [0.05, 0.05, 0.1], case["range"])
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out.numpy(), case["out"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(get_voxel_centers(case["coords"], 4, [0.05, 0.05, 0.1], case["range"]), out.numpy())


def test_voxel_centers_closed_form():
    coords = np.array([[0, 0, 0], [1, 2, 3]], dtype=np.float64)  # z, y, x
    out = get_voxel_centers(coords, [1, 2, 4], [0.1, 0.2, 0.4], [0.0, -40.0, -3.0, 0, 0, 0])
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, [[0.05, -39.8, -2.2], [0.35, -39.0, -0.6]], rtol=1e-14)
    same = get_voxel_centers(torch.from_numpy(coords), [1, 2, 4], [0.1, 0.2, 0.4], [0.0, -40.0, -3.0, 0, 0, 0])
    assert same.dtype == torch.float64
    np.testing.assert_array_equal(same.numpy(), out)
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        get_voxel_centers(np.zeros((2, 4)), 1, [1, 1, 1], [0, 0, 0])


def test_pad_params():
    assert np.pad(np.ones(3), get_pad_params(5, 3)).tolist() == [1, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="6.*5"):
        get_pad_params(5, 6)


def test_voxel_rows_in_the_dense_grid():
    indices = torch.tensor([[0, 0, 1, 2], [1, 1, 0, 0], [1, 0, 1, 1]], dtype=torch.int32)
    dense = generate_voxel2pinds(SimpleNamespace(indices=indices, batch_size=2, spatial_shape=[2, 2, 3]))
    assert dense.shape == (2, 2, 2, 3) and dense.dtype == torch.int32
    for row, place in enumerate(indices.tolist()):
        assert dense[tuple(place)] == row
    assert (dense == -1).sum() == dense.numel() - 3
    assert (
        scatter_point_inds(torch.zeros((0, 2), dtype=torch.int64), torch.zeros(0, dtype=torch.int64), (2, 2))
        .eq(-1)
        .all()
    )
