"""The steps between augmentation and model, against numpy written out."""

import pickle
import re
import warnings

import numpy as np
import pytest
from easydict import EasyDict
from golden_data import KITTI_SAMPLE, assert_matches_samples, cases, needs_golden, needs_kitti_sample

from pcdet_focal.datasets.processor.data_processor import DataProcessor, VoxelGeneratorWrapper
from pcdet_focal.errors import InputError

RANGE = np.array([0, -40, -3, 70.4, 40, 1], dtype=np.float32)
MASK = {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True}
SHUFFLE = {"NAME": "shuffle_points", "SHUFFLE_ENABLED": {"train": True, "test": False}}
VOXELS = {
    "NAME": "transform_points_to_voxels",
    "VOXEL_SIZE": [0.4, 0.5, 1.0],
    "MAX_POINTS_PER_VOXEL": 3,
    "MAX_NUMBER_OF_VOXELS": {"train": 40, "test": 500},
}


def processor(*steps, training=True, point_range=RANGE, features=4):
    return DataProcessor([EasyDict(step) for step in steps], point_range, training, features)


def make_points(n=2000, seed=0, columns=4):
    rng = np.random.default_rng(seed)
    scale, shift = [1, 0.6, 0.1] + [0.01] * (columns - 3), [0, 20, 2] + [0] * (columns - 3)
    return (rng.uniform(-5, 80, (n, columns)) * scale - shift).astype(np.float32)


def test_range_mask_looks_at_x_and_y_and_keeps_the_edges():
    rows = [
        [0, -40, 99, 1],
        [70.4, 40, -99, 2],
        [70.41, 0, 0, 3],
        [-0.01, 0, 0, 4],
        [5, 40.01, 0, 5],
        [5, 5, 0, 6],
        [np.nan, 0, 0, 7],
    ]
    points = np.array(rows, dtype=np.float32)
    data = {"points": points}
    assert processor(MASK).forward(data)["points"][:, 3].tolist() == [1, 2, 6]
    assert data["points"] is points  # the dict of the caller stays


BOXES = np.array(
    [
        [5, 0, 0, 4, 2, 1, 0, 1],  # inside
        [70.0, 0, 0, 4, 2, 1, 0, 1],  # centre inside, two of four ground corners not
        [71.0, 0, 0, 4, 2, 1, 0, 1],  # centre outside, two of four ground corners inside
        [5, 0, 2, 4, 2, 1, 0, 1],  # above the range
        [90, 0, 0, 4, 2, 1, 0, 1],  # outside
    ],
    dtype=np.float32,
)


@pytest.mark.parametrize(
    "changes, training, kept",
    [
        ({}, True, [0, 1]),
        ({}, False, [0, 1, 2, 3, 4]),
        ({"REMOVE_OUTSIDE_BOXES": False}, True, [0, 1, 2, 3, 4]),
        ({"USE_CENTER_TO_FILTER": False}, True, [0, 1, 2, 3]),
        ({"USE_CENTER_TO_FILTER": False, "min_num_corners": 5}, True, [0, 3]),
        ({"USE_CENTER_TO_FILTER": False, "min_num_corners": 4}, True, [0, 1, 2, 3]),
    ],
)
def test_boxes_outside_the_range(changes, training, kept):
    result = processor({**MASK, **changes}, training=training).forward({"points": make_points(), "gt_boxes": BOXES})
    np.testing.assert_array_equal(result["gt_boxes"], BOXES[kept])


def test_shuffle_is_one_permutation_in_training_and_nothing_in_testing():
    points = make_points()
    before = points.copy()
    np.random.seed(3)
    wanted = points[np.random.permutation(len(points))]
    np.random.seed(3)
    np.testing.assert_array_equal(processor(SHUFFLE).forward({"points": points})["points"], wanted)
    np.testing.assert_array_equal(processor(SHUFFLE, training=False).forward({"points": points})["points"], before)
    np.testing.assert_array_equal(points, before)


@pytest.mark.parametrize("wanted", [100, 1500, 2000, 2500, 4000, 4100, 7000, -1])
def test_sample_points(wanted):
    points = make_points()
    points[:, 3] = np.arange(len(points))
    near = np.linalg.norm(points[:, :3], axis=1) < 40
    step = {"NAME": "sample_points", "NUM_POINTS": {"train": wanted, "test": 5}}
    np.random.seed(0)
    result = processor(step).forward({"points": points})["points"]
    assert len(result) == (2000 if wanted == -1 else wanted)
    assert len(processor(step, training=False).forward({"points": points})["points"]) == 5
    counts = np.bincount(result[:, 3].astype(int), minlength=2000)
    assert counts.max() - counts.min() <= 1
    n_far = int((~near).sum())
    if wanted == 1500:
        assert n_far < 1500 and (counts[~near] == 1).all() and counts[near].sum() == 1500 - n_far  # all far points stay
    if wanted in (100, 1500, 2500):  # the draws in OpenPCDet's order, written out
        np.random.seed(0)
        if wanted == 100:
            choice = np.random.choice(np.arange(2000, dtype=np.int32), 100, replace=False)
        elif wanted == 1500:
            choice = np.concatenate(
                (np.random.choice(np.where(near)[0], 1500 - n_far, replace=False), np.where(~near)[0])
            )
        else:
            choice = np.concatenate(
                (np.arange(2000, dtype=np.int32), np.random.choice(np.arange(2000, dtype=np.int32), 500, replace=False))
            )
        np.random.shuffle(choice)
        np.testing.assert_array_equal(result, points[choice])
    assert len(processor(step).forward({"points": points[:0]})["points"]) == 0


def voxels_written_out(points, size, low, high, most_points, most_voxels):
    grid = np.round((np.array(high) - low) / size).astype(int)
    voxels = {}
    for point in points:
        cell = tuple(np.floor((point[:3] - np.float32(low)) / np.float32(size)).astype(int)[::-1])
        if any(c < 0 or c >= n for c, n in zip(cell, grid[::-1])) or (
            cell not in voxels and len(voxels) >= most_voxels
        ):
            continue
        voxels.setdefault(cell, [])
        if len(voxels[cell]) < most_points:
            voxels[cell].append(point)
    return voxels


@pytest.mark.parametrize("training, most", [(True, 40), (False, 500)])
def test_voxels(training, most):
    points = make_points(600)
    made = processor(VOXELS, training=training)
    assert (
        made.grid_size.tolist() == [176, 160, 4]
        and made.grid_size.dtype == np.int64
        and made.voxel_size == [0.4, 0.5, 1.0]
    )
    result = made.forward({"points": points, "use_lead_xyz": True})
    wanted = voxels_written_out(points, [0.4, 0.5, 1.0], [0, -40, -3], [70.4, 40, 1], 3, most)
    assert 0 < len(wanted) <= most and (len(wanted) == most) == training
    assert [tuple(c) for c in result["voxel_coords"]] == list(wanted)
    assert result["voxel_num_points"].tolist() == [len(v) for v in wanted.values()]
    for got, inside in zip(result["voxels"], wanted.values()):
        np.testing.assert_array_equal(got[: len(inside)], inside)
        assert not got[len(inside) :].any()
    assert (result["voxels"].dtype, result["voxel_coords"].dtype, result["voxel_num_points"].dtype) == (
        np.float32,
        np.int32,
        np.int32,
    )


def test_voxels_without_xyz_and_flipped_twice():
    points = make_points(600)
    plain = processor(VOXELS).forward({"points": points, "use_lead_xyz": True})
    np.testing.assert_array_equal(
        processor(VOXELS).forward({"points": points, "use_lead_xyz": False})["voxels"], plain["voxels"][..., 3:]
    )
    np.testing.assert_array_equal(processor(VOXELS).forward({"points": points})["voxels"], plain["voxels"])
    symmetric = np.array([-70.4, -40, -3, 70.4, 40, 1], dtype=np.float32)
    before = points.copy()
    flipped = processor({**VOXELS, "DOUBLE_FLIP": True}, point_range=symmetric).forward(
        {"points": points, "use_lead_xyz": True}
    )
    np.testing.assert_array_equal(points, before)
    for i, signs in enumerate(([1, 1], [1, -1], [-1, 1], [-1, -1])):
        mirrored = points * np.array([*signs, 1, 1], dtype=np.float32)
        single = processor(VOXELS, point_range=symmetric).forward({"points": mirrored, "use_lead_xyz": True})
        for key in ("voxels", "voxel_coords", "voxel_num_points"):
            np.testing.assert_array_equal(flipped[key][i], single[key])


@pytest.mark.parametrize("name", ["transform_points_to_voxels_placeholder", "calculate_grid_size"])
def test_steps_that_only_measure_the_grid(name):
    made = processor({"NAME": name, "VOXEL_SIZE": [0.1, 0.1, 0.2]})
    assert made.grid_size.tolist() == [704, 800, 20] and made.voxel_size == [0.1, 0.1, 0.2]
    data = {"points": make_points()}
    result = made.forward(data)
    assert result.keys() == data.keys() and result["points"] is data["points"]


@pytest.mark.parametrize(
    "size, warns", [([0.05, 0.05, 0.1], False), ([0.16, 0.16, 4], False), ([0.3, 0.05, 0.1], True)]
)
def test_a_range_that_voxels_do_not_divide_is_reported(size, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = processor({**VOXELS, "VOXEL_SIZE": size})
    assert bool(caught) == warns
    if warns:
        assert made.grid_size[0] == 235  # rounded, as OpenPCDet rounds
        assert re.search(r"POINT_CLOUD_RANGE .*70\.5", str(caught[0].message))


def test_pickled_for_a_worker_it_does_the_same():
    steps = (MASK, SHUFFLE, {"NAME": "sample_points", "NUM_POINTS": {"train": 700, "test": -1}}, VOXELS)
    made = processor(*steps)
    made.forward({"points": make_points(), "use_lead_xyz": True})  # after first use too
    travelled = pickle.loads(pickle.dumps(made))
    results = []
    for which in (made, travelled):
        np.random.seed(8)
        results.append(which.forward({"points": make_points(seed=1), "use_lead_xyz": True}))
    for key in ("points", "voxels", "voxel_coords"):
        np.testing.assert_array_equal(results[0][key], results[1][key])


def test_a_subclass_adds_a_step():
    class Mine(DataProcessor):
        def halve(self, data_dict=None, config=None):
            if data_dict is None:
                return self.halve
            return {**data_dict, "points": data_dict["points"][::2]}

    assert len(Mine([{"NAME": "halve"}], RANGE, True, 4).forward({"points": make_points()})["points"]) == 1000


@pytest.mark.parametrize(
    "step, message",
    [
        ({"NAME": "shuffle_point"}, r"DATA_PROCESSOR\[1\]\.NAME.*'shuffle_point'.*shuffle_points"),
        ({"NAME": "forward"}, r"DATA_PROCESSOR\[1\]\.NAME"),
        (
            {"NAME": "shuffle_points", "SHUFFLE_ENABLE": {}},
            r"DATA_PROCESSOR\[1\]\.SHUFFLE_ENABLED.*SHUFFLE_ENABLE",
        ),
        (
            {"NAME": "shuffle_points", "SHUFFLE_ENABLED": True},
            r"DATA_PROCESSOR\[1\]\.SHUFFLE_ENABLED.*'train'",
        ),
        (
            {"NAME": "shuffle_points", "SHUFFLE_ENABLED": {"test": True}},
            r"DATA_PROCESSOR\[1\]\.SHUFFLE_ENABLED\.train",
        ),
        ({**VOXELS, "VOXEL_SIZE": [0.1, 0.1]}, r"DATA_PROCESSOR\[1\]\.VOXEL_SIZE"),
        ({**VOXELS, "VOXEL_SIZE": [0.1, 0.1, 0.0]}, r"DATA_PROCESSOR\[1\]\.VOXEL_SIZE"),
        (
            {"NAME": "transform_points_to_voxels", "VOXEL_SIZE": [1, 1, 1]},
            r"DATA_PROCESSOR\[1\]\.MAX_POINTS_PER_VOXEL",
        ),
    ],
)
def test_wrong_configurations(step, message):
    with pytest.raises(InputError, match=r"DATA_CONFIG\." + message):
        processor(MASK, step)


def test_wrong_number_of_columns():
    with pytest.raises(InputError, match="5.*4"):
        VoxelGeneratorWrapper([1, 1, 1], RANGE, 4, 5, 10).generate(make_points(columns=5))


@needs_golden
@needs_kitti_sample
@pytest.mark.parametrize(
    "model, size, most_points", [("second", [0.05, 0.05, 0.1], 5), ("pointpillar", [0.16, 0.16, 4], 32)]
)
@pytest.mark.parametrize("frame", ["000000", "000007"])
def test_recorded_samples(model, size, most_points, frame):
    """From the points in the camera's view to voxels, as OpenPCDet makes them in test mode."""
    case = cases("10_infos/dataset_item.npz")[f"{model}_f{frame}"]
    points = np.fromfile(KITTI_SAMPLE / f"training/velodyne/{frame}.bin", dtype=np.float32).reshape(-1, 4)
    points = points[np.unpackbits(case["fov_mask_packed"])[: len(points)].astype(bool)]
    point_range = RANGE if model == "second" else np.array([0, -39.68, -3, 69.12, 39.68, 1], dtype=np.float32)
    step = {
        **VOXELS,
        "VOXEL_SIZE": size,
        "MAX_POINTS_PER_VOXEL": most_points,
        "MAX_NUMBER_OF_VOXELS": {"train": 16000, "test": 40000},
    }
    result = processor(MASK, SHUFFLE, step, training=False, point_range=point_range).forward(
        {"points": points, "use_lead_xyz": True}
    )
    assert [len(points), len(result["points"])] == case["n_points"][1:].tolist()
    np.testing.assert_array_equal(result["points"][:20], case["points_first20"])
    np.testing.assert_array_equal(result["voxel_coords"], case["voxel_coords"])
    np.testing.assert_array_equal(result["voxel_num_points"], case["voxel_num_points"])
    assert_matches_samples(result["voxels"], case, "voxels", rtol=1e-7, atol=0)
    assert_matches_samples(result["points"], case, "points", rtol=1e-7, atol=0)
