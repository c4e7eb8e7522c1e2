"""What every data set shares, on a made-up one: seeding, epochs, frames without objects, batches, the augmentation
matrix, samplers.
"""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pcdet_focal.config import Config
from pcdet_focal.datasets import DatasetTemplate, build_dataloader
from pcdet_focal.datasets.paths import resolve_data_path
from pcdet_focal.datasets.samplers import EpochSampler
from pcdet_focal.errors import InputError

CLASSES = ["Car", "Pedestrian"]
CFG = {
    "DATASET": "BoxesEverywhere",
    "DATA_PATH": "nowhere",
    "POINT_CLOUD_RANGE": [0, -10, -2, 20, 10, 2],
    "DATA_AUGMENTOR": [
        {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x"]},
        {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [-0.2, 0.2]},
        {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [0.95, 1.05]},
    ],
    "POINT_FEATURE_ENCODING": {
        "encoding_type": "absolute_coordinates_encoding",
        "used_feature_list": ["x", "y", "z", "intensity"],
        "src_feature_list": ["x", "y", "z", "intensity"],
    },
    "DATA_PROCESSOR": [
        {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True},
        {"NAME": "shuffle_points", "SHUFFLE_ENABLED": {"train": True, "test": False}},
        {
            "NAME": "transform_points_to_voxels",
            "VOXEL_SIZE": [0.5, 0.5, 4],
            "MAX_POINTS_PER_VOXEL": 8,
            "MAX_NUMBER_OF_VOXELS": {"train": 500, "test": 500},
        },
    ],
}


class MadeUp(DatasetTemplate):
    """``names[i]`` are the objects of frame i, all at (10, 0, 0)."""

    def __init__(self, names, training=True, **cfg):
        super().__init__(Config({**copy.deepcopy(CFG), **cfg}), CLASSES, training=training)
        self.names = names
        self.read = []

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        self.read.append(index)
        random = np.random.RandomState(index)  # the frame itself, apart from the global state
        names = np.array(self.names[index], dtype=str)
        return self.prepare_data(
            {
                "frame_id": str(index),
                "points": random.uniform([1, -9, -1, 0], [19, 9, 1, 1], (200, 4)).astype(np.float32),
                "gt_boxes": np.tile(np.float32([10, 0, 0, 4, 2, 1.5, 0.3]), (len(names), 1)),
                "gt_names": names,
            }
        )


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_attributes():
    dataset = MadeUp([["Car"]])
    np.testing.assert_array_equal(dataset.point_cloud_range, np.float32(CFG["POINT_CLOUD_RANGE"]))
    np.testing.assert_array_equal(dataset.grid_size, [40, 40, 1])
    assert dataset.voxel_size == [0.5, 0.5, 4]
    assert (dataset.mode, MadeUp([["Car"]], training=False).mode) == ("train", "test")
    assert dataset.depth_downsample_factor is None and MadeUp([["Car"]], training=False).data_augmentor is None
    dataset.merge_all_iters_to_one_epoch(epochs=7)
    assert dataset._merge_all_iters_to_one_epoch and dataset.total_epochs == 7


def test_classes_are_chosen_and_numbered():
    item = MadeUp([["Van", "Pedestrian", "Car", "Tram"]], training=False)[0]
    assert item["gt_boxes"][:, 7].tolist() == [2, 1] and "gt_names" not in item


def test_every_sample_has_randomness_of_its_own():
    """The same whatever was asked before; another one for another index, epoch or seed; and the global state is as it
    was.
    """
    dataset = MadeUp([["Car"]] * 4)
    dataset.seed = 5
    np.random.seed(1)
    before = np.random.get_state()
    first = dataset.__getitems__([0, 1, 2])
    after = np.random.get_state()
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]
    np.random.rand(10)
    assert_same(first[2], dataset.__getitems__([2])[0])

    angle = {first[0]["noise_rot"], first[1]["noise_rot"], first[2]["noise_rot"]}
    dataset.set_epoch(1)
    angle.add(dataset.__getitems__([0])[0]["noise_rot"])
    dataset.set_epoch(0)
    dataset.seed = 6
    angle.add(dataset.__getitems__([0])[0]["noise_rot"])
    assert len(angle) == 5

    dataset.seed = None  # then the global state decides
    np.random.seed(3)
    a = dataset.__getitems__([0])[0]
    np.random.seed(3)
    assert_same(a, dataset.__getitems__([0])[0])
    assert dataset.__getitems__([0])[0]["noise_rot"] != a["noise_rot"]


def test_running_workers_see_the_epoch():
    dataset = MadeUp([["Car"]] * 4)
    dataset.seed = 5
    loader = DataLoader(dataset, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=dataset.collate_batch)
    angles = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        angles.append([angle for batch in loader for angle in batch["noise_rot"]])
    assert angles[0] == angles[2] and not set(angles[0]) & set(angles[1])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda dataset: pickle.loads(pickle.dumps(dataset))])
def test_copies(copied):
    dataset = MadeUp([["Car"]] * 2)
    dataset.logger = open(__file__)  # something that does not pickle, as log handlers do not
    dataset.seed = 3
    dataset.set_epoch(2)
    other = copied(dataset)
    dataset.logger.close()
    assert_same(other.__getitems__([1])[0], dataset.__getitems__([1])[0])
    other.set_epoch(9)
    assert dataset.__getitems__([1])[0]["noise_rot"] != other.__getitems__([1])[0]["noise_rot"]


def test_a_training_frame_without_objects_is_replaced_by_the_draw_of_randint():
    dataset = MadeUp([["Van"], [], ["Car"], ["Pedestrian"]])
    np.random.seed(11)
    # frame 0's flip, angle, scale
    np.random.choice([False, True], replace=False, p=[0.5, 0.5]), np.random.uniform(), np.random.uniform()
    # no shuffling: no further draws
    dataset.data_processor.data_processor_queue = dataset.data_processor.data_processor_queue[:1]
    want, draws = [0], 0
    while want[-1] in (0, 1):
        want.append(np.random.randint(4))
        draws += 1
        np.random.choice([False, True], replace=False, p=[0.5, 0.5]), np.random.uniform(), np.random.uniform()
    np.random.seed(11)
    item = dataset[0]
    assert dataset.read == want and item["frame_id"] == str(want[-1]) and len(item["gt_boxes"]) == 1


def test_frames_without_objects_on_demand_and_in_test_mode():
    item = MadeUp([["Van"]], ALLOW_EMPTY_FRAMES=True)[0]
    assert item["gt_boxes"].shape == (0, 8) and item["gt_boxes"].dtype == np.float32 and len(item["points"])
    assert MadeUp([[]], training=False)[0]["gt_boxes"].shape == (0, 8)


def test_no_frame_with_an_object_is_an_error_not_an_endless_search():
    dataset = MadeUp([["Van"], []])
    with pytest.raises(InputError, match=r"60 .* Car, Pedestrian .*ALLOW_EMPTY_FRAMES: True"):
        dataset[0]
    dataset.names[1] = ["Car"]
    assert dataset[0]["frame_id"] == "1"  # the search can be repeated


def test_training_without_labels():
    dataset = MadeUp([["Car"]])
    with pytest.raises(InputError, match="frame 000007"):
        dataset.prepare_data({"frame_id": "000007", "points": np.zeros((3, 4), np.float32)})


def test_the_matrix_of_the_augmentation_moves_points_as_the_augmentation_did():
    dataset = MadeUp([["Car"]])
    point = np.array([1.0, 2.0, 3.0, 1.0])
    steps = {
        "flip_x": True,
        "flip_y": True,
        "noise_rot": np.pi / 2,
        "noise_scale": 2.0,
        "noise_translate": np.array([[10.0, 20.0, 30.0]]),
    }
    matrix = dataset.set_lidar_aug_matrix(steps)["lidar_aug_matrix"]
    # (1, 2) -> flipped along x (1, -2), along y (-1, -2) -> a quarter turn (2, -1) -> doubled (4, -2) -> moved
    np.testing.assert_allclose(matrix @ point, [14, 18, 36, 1], atol=1e-12)
    np.testing.assert_array_equal(dataset.set_lidar_aug_matrix({})["lidar_aug_matrix"], np.eye(4))
    np.testing.assert_array_equal(
        dataset.set_lidar_aug_matrix({"flip_x": True})["lidar_aug_matrix"], np.diag([1, -1, 1, 1])
    )
    assert dataset.set_lidar_aug_matrix({"flip_x": False})["lidar_aug_matrix"][1, 1] == 1


def test_collate_pads_boxes_and_adds_the_batch_index():
    boxes = np.arange(24, dtype=np.float32).reshape(3, 8)
    samples = [
        {
            "frame_id": "a",
            "points": np.full((2, 4), 5, np.float32),
            "voxels": np.ones((1, 8, 4)),
            "voxel_coords": np.full((1, 3), 7, np.int32),
            "gt_boxes": boxes[:1],
            "use_lead_xyz": True,
            "calib": "one",
            "road_plane": np.arange(4.0),
            "images": np.ones((2, 3, 3)),
            "noise_rot": 0.5,
        },
        {
            "frame_id": "b",
            "points": np.zeros((0, 4), np.float32),
            "voxels": np.ones((0, 8, 4)),
            "voxel_coords": np.zeros((0, 3), np.int32),
            "gt_boxes": boxes[:0],
            "use_lead_xyz": True,
            "calib": "two",
            "images": np.ones((1, 4, 3)),
            "noise_rot": 0.6,
        },
        {
            "frame_id": "c",
            "points": np.full((1, 4), 6, np.float32),
            "voxels": np.ones((2, 8, 4)),
            "voxel_coords": np.full((2, 3), 8, np.int32),
            "gt_boxes": boxes,
            "use_lead_xyz": True,
            "calib": "three",
            "road_plane": np.arange(4.0),
            "images": np.ones((2, 2, 3)),
            "noise_rot": 0.7,
        },
    ]
    batch = DatasetTemplate.collate_batch(samples)
    np.testing.assert_array_equal(batch["points"], np.float32([[0, 5, 5, 5, 5], [0, 5, 5, 5, 5], [2, 6, 6, 6, 6]]))
    np.testing.assert_array_equal(batch["voxel_coords"], np.int32([[0, 7, 7, 7], [2, 8, 8, 8], [2, 8, 8, 8]]))
    assert (
        batch["points"].dtype == np.float32
        and batch["voxel_coords"].dtype == np.int32
        and batch["voxels"].shape == (3, 8, 4)
    )
    want = np.zeros((3, 3, 8), np.float32)
    want[0, :1], want[2] = boxes[:1], boxes
    np.testing.assert_array_equal(batch["gt_boxes"], want)
    assert (
        batch["calib"] == ["one", "two", "three"]
        and batch["frame_id"].tolist() == ["a", "b", "c"]
        and batch["batch_size"] == 3
    )
    np.testing.assert_array_equal(batch["road_plane"], [[0, 1, 2, 3], [np.nan] * 4, [0, 1, 2, 3]])
    assert batch["images"].shape == (3, 2, 4, 3) and batch["images"].sum() == (6 + 4 + 4) * 3
    np.testing.assert_array_equal(batch["noise_rot"], [0.5, 0.6, 0.7])


def test_collate_without_any_box():
    empty = {"frame_id": "a", "points": np.ones((2, 4), np.float32), "gt_boxes": np.zeros((0, 8), np.float32)}
    assert DatasetTemplate.collate_batch([empty, empty])["gt_boxes"].shape == (2, 0, 8)


def test_collate_names_key_and_frames_that_do_not_fit():
    one, two = {"frame_id": "a", "image_shape": np.zeros(2)}, {"frame_id": "b", "image_shape": np.zeros(3)}
    with pytest.raises(InputError, match=r"'image_shape' .*a: \(2,\), b: \(3,\)"):
        DatasetTemplate.collate_batch([one, two])
    with pytest.raises(InputError, match=" a .*'gt_boxes'"):
        DatasetTemplate.collate_batch([{"frame_id": "a"}, {"frame_id": "b", "gt_boxes": np.zeros((1, 8))}])
    with pytest.raises(InputError, match="gt_boxes"):
        DatasetTemplate.collate_batch([{"gt_boxes": np.zeros((1, 8))}, {"gt_boxes": np.zeros((1, 10))}])


def test_generic_prediction_dicts():
    batch = {"frame_id": ["a", "b"], "metadata": ["x", "y"]}
    predictions = [
        {"pred_boxes": torch.ones(2, 9), "pred_scores": torch.tensor([0.5, 0.25]), "pred_labels": torch.tensor([2, 1])},
        {"pred_boxes": torch.ones(0, 9), "pred_scores": torch.ones(0), "pred_labels": torch.ones(0, dtype=torch.int64)},
    ]
    one, two = DatasetTemplate.generate_prediction_dicts(batch, predictions, CLASSES)
    assert one["name"].tolist() == ["Pedestrian", "Car"] and one["boxes_lidar"].shape == (2, 9)
    assert (one["frame_id"], one["metadata"], two["frame_id"]) == ("a", "x", "b")
    assert len(two["name"]) == len(two["score"]) == 0 and two["boxes_lidar"].shape == (0, 9)


@pytest.mark.parametrize("frames, world_size", [(10, 1), (10, 3), (12, 4), (2, 5)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_out_the_frames(frames, world_size, shuffle):
    samplers = [EpochSampler(range(frames), rank, world_size, shuffle=shuffle, seed=4) for rank in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    length = -(-frames // world_size)
    assert [len(share) for share in shares] == [len(sampler) for sampler in samplers] == [length] * world_size
    joined = [share[i] for i in range(length) for share in shares]  # as results of the ranks are put together
    assert sorted(joined[:frames]) == list(range(frames))
    assert joined[frames:] == (joined[:frames] * world_size)[: len(joined) - frames]
    if frames > 2:  # two frames are in order half of the time
        assert (joined[:frames] != list(range(frames))) is shuffle


def test_order_is_a_function_of_seed_and_epoch():
    sampler = EpochSampler(range(20), seed=4)
    first, second = list(sampler), list(sampler)  # a loop that never calls set_epoch has a new order each time
    assert first != second and sorted(second) == list(range(20)) and sampler.epoch == 1
    sampler.set_epoch(0)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) == second
    sampler.set_epoch(1, skip=6)
    assert list(sampler) == second[6:] and len(sampler) == 20
    sampler.set_epoch(1)
    assert list(sampler) == second
    assert list(EpochSampler(range(20), seed=5)) != first
    assert list(EpochSampler(range(20), shuffle=False)) == list(range(20))


def test_the_sampler_tells_the_data_set_its_epoch():
    dataset = MadeUp([["Car"]] * 3)
    sampler = EpochSampler(dataset)
    sampler.set_epoch(4)
    assert int(dataset._epoch) == 4
    list(sampler), list(sampler)
    assert int(dataset._epoch) == 5


def test_unknown_data_set():
    with pytest.raises(
        InputError,
        match=r"DATA_CONFIG\.DATASET: .*'KitiDataset' .*KittiDataset",
    ):
        build_dataloader(Config({"DATASET": "KitiDataset"}), CLASSES, 2, dist=False)


def test_data_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_data_path("/somewhere/kitti") == type(tmp_path)("/somewhere/kitti")
    assert resolve_data_path("../data/kitti") == tmp_path / "../data/kitti"  # nowhere yet: the first meaning
    (tmp_path / "data" / "kitti").mkdir(parents=True)
    assert resolve_data_path("data/kitti") == tmp_path / "data/kitti"
    # as seen from tools/, where OpenPCDet's commands start
    assert resolve_data_path("../data/kitti") == tmp_path / "data/kitti"
