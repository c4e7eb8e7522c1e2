"""Voxels against a plain loop of the rule, recorded voxels of OpenPCDet, spconv itself on whole scans, threads and
worker processes.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from golden_data import KITTI_SAMPLE, assert_matches_samples, cases, needs_golden, needs_kitti_sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcdet_focal.errors import InputError
from pcdet_focal.ops.voxelize import dynamic_voxelize, grid_size, voxelize

SECOND = dict(voxel_size=[0.05, 0.05, 0.1], point_cloud_range=[0, -40, -3, 70.4, 40, 1], max_points_per_voxel=5)
PILLARS = dict(voxel_size=[0.16, 0.16, 4], point_cloud_range=[0, -39.68, -3, 69.12, 39.68, 1], max_points_per_voxel=32)
CONFIGS = {"second": SECOND, "pointpillar": PILLARS}


@pytest.fixture(params=["reference", "cpu"])
def backend(request, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", request.param)
    return request.param


def plain_loop(points, voxel_size, point_cloud_range, max_points_per_voxel, max_voxels):
    """The rule, one point after the other."""
    low, size = np.float32(point_cloud_range[:3]), np.float32(voxel_size)
    grid = np.round((np.float32(point_cloud_range[3:]) - low) / size)
    voxels = {}
    for point in points:
        cell = np.floor((point[:3] - low) / size)
        if not (np.isfinite(cell).all() and (cell >= 0).all() and (cell < grid).all()):
            continue
        key = tuple(int(c) for c in cell[::-1])
        if key not in voxels and len(voxels) < max_voxels:
            voxels[key] = []
        if key in voxels and len(voxels[key]) < max_points_per_voxel:
            voxels[key].append(point)
    out = np.zeros((len(voxels), max_points_per_voxel, points.shape[1]), dtype=np.float32)
    for i, inside in enumerate(voxels.values()):
        out[i, : len(inside)] = inside
    return (
        out,
        np.array(list(voxels), dtype=np.int32).reshape(-1, 3),
        np.array([len(v) for v in voxels.values()], dtype=np.int32),
    )


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_by_hand(backend):
    """Grid of 4 x 2 x 1 metre cells; at most two voxels of at most two points."""
    points = np.array(
        [
            [2.5, 0.5, 0.5, 10],
            [0.5, 1.5, 0.5, 11],
            [2.6, 0.6, 0.9, 12],
            [1.5, 0.5, 0.5, 13],
            [2.7, 0.1, 0.1, 14],
            [0.1, 1.1, 0.1, 15],
            [0.2, 1.2, 0.2, 16],
            [4.0, 0.5, 0.5, 17],
            [0.5, -0.1, 0.5, 18],
            [0.5, 0.5, 1.0, 19],
        ],
        dtype=np.float32,
    )
    voxels, coords, num_points = voxelize(points, [1, 1, 1], [0, 0, 0, 4, 2, 1], 2, 2)
    assert coords.tolist() == [[0, 0, 2], [0, 1, 0]]  # z, y, x; the third cell comes too late
    assert num_points.tolist() == [2, 2]
    assert voxels[:, :, 3].tolist() == [[10, 12], [11, 15]]
    voxels, coords, num_points = voxelize(points, [1, 1, 1], [0, 0, 0, 4, 2, 1], 5, 3)
    assert coords.tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 1]] and num_points.tolist() == [3, 3, 1]
    assert voxels[:, :, 3].tolist() == [[10, 12, 14, 0, 0], [11, 15, 16, 0, 0], [13, 0, 0, 0, 0]]
    assert dynamic_voxelize(points, [1, 1, 1], [0, 0, 0, 4, 2, 1]).tolist() == [
        [0, 0, 2],
        [0, 1, 0],
        [0, 0, 2],
        [0, 0, 1],
        [0, 0, 2],
        [0, 1, 0],
        [0, 1, 0],
        [-1, -1, -1],
        [-1, -1, -1],
        [-1, -1, -1],
    ]


@pytest.mark.parametrize("max_voxels", [1, 7, 60, 10000])
@pytest.mark.parametrize("max_points", [1, 3])
@pytest.mark.parametrize("features", [3, 5])
def test_plain_loop(max_voxels, max_points, features, backend):
    rng = np.random.default_rng(max_voxels)
    points = rng.uniform(-1.3, 1.3, (700, features)).astype(np.float32)
    points[::9, :3] = (rng.integers(-5, 6, (78, 3)) * 0.25).astype(np.float32)  # on the borders of the cells
    points[5::50, 0] = np.nan
    points[6::50, 1] = np.inf
    points[7::50, 2] = -1e30
    config = dict(
        voxel_size=[0.25, 0.25, 0.5],
        point_cloud_range=[-1, -1, -1, 1, 1.25, 1],
        max_points_per_voxel=max_points,
        max_voxels=max_voxels,
    )
    before = points.copy()
    expected = plain_loop(points, **config)
    assert_same(voxelize(points, **config), expected)
    assert_same([array.numpy() for array in voxelize(torch.from_numpy(points), **config)], expected)
    np.testing.assert_array_equal(points, before)
    assert len(expected[1]) == min(max_voxels, len(expected[1])) and (max_voxels > 60 or len(expected[1]) == max_voxels)


def test_nan_in_a_feature_is_kept(backend):
    voxels, coords, num_points = voxelize(
        np.array([[0.5, 0.5, 0.5, np.nan]], dtype=np.float32), [1, 1, 1], [0, 0, 0, 1, 1, 1], 2, 2
    )
    assert num_points.tolist() == [1] and np.isnan(voxels[0, 0, 3]) and voxels[0, 1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "points", [np.zeros((0, 4), dtype=np.float32), np.full((3, 4), 99, dtype=np.float32), np.full((3, 4), np.nan)]
)
def test_nothing_inside(points, backend):
    voxels, coords, num_points = voxelize(points, [1, 1, 1], [0, 0, 0, 4, 4, 4], 5, 10)
    assert voxels.shape == (0, 5, 4) and coords.shape == (0, 3) and num_points.shape == (0,)
    assert (voxels.dtype, coords.dtype, num_points.dtype) == (np.float32, np.int32, np.int32)
    assert dynamic_voxelize(points, [1, 1, 1], [0, 0, 0, 4, 4, 4]).shape == (len(points), 3)


@needs_golden
@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize("case", sorted(cases("05_forward/voxels_second.npz")))
def test_recorded_voxels(model, case, backend):
    points = cases("05_forward/voxels_second.npz")[case[:7]]["points"]
    c = cases(f"05_forward/voxels_{model}.npz")[case]
    voxels, coords, num_points = voxelize(
        points, **CONFIGS[model], max_voxels=2000 if case.endswith("max2000") else 40000
    )
    np.testing.assert_array_equal(coords, c["coords"])
    np.testing.assert_array_equal(num_points, c["num_points"])
    assert_matches_samples(voxels, c, "voxels", rtol=0, atol=0)
    cells = dynamic_voxelize(points, CONFIGS[model]["voxel_size"], CONFIGS[model]["point_cloud_range"])
    assert {tuple(cell) for cell in coords.tolist()} <= {tuple(cell) for cell in cells.tolist()}


@needs_golden
@needs_kitti_sample
@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize("frame", ["000000", "000007"])
def test_recorded_dataset_items(model, frame, backend):
    c = cases("10_infos/dataset_item.npz")[f"{model}_f{frame}"]
    points = read_scan(frame)
    points = points[np.unpackbits(c["fov_mask_packed"])[: len(points)].astype(bool)]
    low, high = (
        np.float32(CONFIGS[model]["point_cloud_range"][:2]),
        np.float32(CONFIGS[model]["point_cloud_range"][3:5]),
    )
    points = points[((points[:, :2] >= low) & (points[:, :2] <= high)).all(axis=1)]
    assert len(points) == c["n_points"][2]
    voxels, coords, num_points = voxelize(points, **CONFIGS[model], max_voxels=40000)
    np.testing.assert_array_equal(coords, c["voxel_coords"])
    np.testing.assert_array_equal(num_points, c["voxel_num_points"])
    assert_matches_samples(voxels, c, "voxels", rtol=0, atol=0)


@needs_kitti_sample
@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize("max_voxels", [5000, 40000, 200000])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_spconv_on_a_whole_scan(model, max_voxels, backend):
    spconv = pytest.importorskip("spconv.pytorch.utils")
    config = CONFIGS[model]
    points = read_scan("000010")
    peer = spconv.PointToVoxel(
        vsize_xyz=config["voxel_size"],
        coors_range_xyz=config["point_cloud_range"],
        num_point_features=4,
        max_num_voxels=max_voxels,
        max_num_points_per_voxel=config["max_points_per_voxel"],
    )
    expected = [array.numpy().copy() for array in peer(torch.from_numpy(points))]
    assert len(expected[0]) > 4999
    assert_same(voxelize(points, **config, max_voxels=max_voxels), expected)


def test_points_on_cell_borders_fall_as_in_float32(backend):
    """0.05 is no binary number: k * 0.05 in float32 lies now above, now below the border, and only float32 arithmetic
    tells which.
    """
    x = (np.arange(1400) * 0.05).astype(np.float32)
    points = np.stack([x, np.zeros_like(x), np.zeros_like(x)], axis=1)
    expected = np.floor(x / np.float32(0.05)).astype(np.int32)
    assert (expected != np.arange(1400)).any()
    np.testing.assert_array_equal(
        dynamic_voxelize(points, SECOND["voxel_size"], SECOND["point_cloud_range"])[:, 2], expected
    )
    coords = voxelize(points, **SECOND, max_voxels=2000)[1]
    np.testing.assert_array_equal(coords[:, 2], np.unique(expected))


def scan_like(seed):
    return np.random.default_rng(seed).uniform([0, -40, -3, 0], [70.4, 40, 1, 1], (20000, 4)).astype(np.float32)


def test_threads_do_not_disturb_each_other(monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", "cpu")
    scans = [scan_like(seed) for seed in range(8)]
    alone = [voxelize(scan, **SECOND, max_voxels=16000) for scan in scans]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda scan: voxelize(scan, **SECOND, max_voxels=16000), scans * 3))
    for i, result in enumerate(together):
        assert_same(result, alone[i % 8])


class Scans(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, seed):
        return voxelize(scan_like(seed), **SECOND, max_voxels=16000)


def test_forked_data_loader_workers():
    alone = [Scans()[i] for i in range(6)]  # the parent has used the kernels before it forks
    loader = torch.utils.data.DataLoader(Scans(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    for result, expected in zip(loader, alone, strict=True):
        assert_same([array.numpy() for array in result], expected)


def test_grid_size_and_mistakes():
    assert grid_size(SECOND["voxel_size"], SECOND["point_cloud_range"]) == (1408, 1600, 40)
    assert grid_size(PILLARS["voxel_size"], PILLARS["point_cloud_range"]) == (432, 496, 1)
    points, limits = np.zeros((1, 4), dtype=np.float32), [0, 0, 0, 4, 4, 4]
    with pytest.raises(InputError, match=r"voxel_size .*\[1, 0, 1\]"):
        voxelize(points, [1, 0, 1], limits, 5, 5)
    with pytest.raises(InputError, match=r"\[0, 0, 0, 4, -4, 4\]"):
        voxelize(points, [1, 1, 1], [0, 0, 0, 4, -4, 4], 5, 5)
    with pytest.raises(InputError, match=r"\[4\.0, 4\.0, 0\.0\]"):
        voxelize(points, [1, 1, 9], limits, 5, 5)
    with pytest.raises(InputError, match="max_points_per_voxel .*max_voxels .*0 .*5"):
        voxelize(points, [1, 1, 1], limits, 0, 5)
    with pytest.raises(InputError, match=r"points .*\(1, 2\)"):
        voxelize(points[:, :2], [1, 1, 1], limits, 5, 5)


def read_scan(frame):
    return np.fromfile(KITTI_SAMPLE / "training" / "velodyne" / f"{frame}.bin", dtype=np.float32).reshape(-1, 4)


@given(
    seed=st.integers(0, 2**32 - 1),
    cells=st.tuples(*[st.sampled_from([1, 2, 7, 1408, 2**20 - 1])] * 3),
    spread=st.sampled_from([0.01, 1.0, 1.5]),
    columns=st.integers(3, 6),
    most=st.integers(1, 60),
    per_voxel=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_grid_gives_the_voxels_of_the_plain_loop(backend, seed, cells, spread, columns, most, per_voxel):
    """From one cell to the largest grid that is accepted, with points outside it and points that are not numbers."""
    random = np.random.default_rng(seed)
    size, low = np.float32([0.5, 0.25, 1.0]), np.float32([-1.0, 2.0, 0.0])
    high = low + size * np.float32(cells)
    points = random.uniform(-0.1, 1.1, (120, columns)).astype(np.float32)
    points[:, :3] = low + (high - low) * points[:, :3] * np.float32(spread)
    # several points in a cell of however large a grid
    points[random.integers(0, 120, 30)] = points[random.integers(0, 120, 30)]
    points[:4, 0], points[4:6, :3], points[6:8, :3] = [np.nan, np.inf, -np.inf, 1e30], low, high
    arguments = (size, [*low, *high], per_voxel, most)
    for got, wanted in zip(voxelize(points, *arguments), plain_loop(points, *arguments)):
        np.testing.assert_array_equal(got, wanted)
