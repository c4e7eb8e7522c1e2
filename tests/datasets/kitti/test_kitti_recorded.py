"""Infos, database, crop, samples and predictions: what OpenPCDet's own code gave on simulated frames (``python -m
tests.record`` made it) and on real ones, and an independent count.
"""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny_kitti
import torch
from golden_data import (
    GOLDEN,
    KITTI_SAMPLE,
    RECORDED,
    assert_matches_samples,
    cases,
    cases_of,
    needs_golden,
    needs_kitti_sample,
)

from pcdet_focal.config import Config, cfg_from_yaml_file
from pcdet_focal.datasets import build_dataloader
from pcdet_focal.datasets.kitti.kitti_dataset import KittiDataset
from pcdet_focal.datasets.kitti.object3d import difficulty_level
from pcdet_focal.geometry.calibration import Calibration
from pcdet_focal.ops.points_in_boxes import count_points_in_boxes
from pcdet_focal.safe_pickle import load_pickle

REPOSITORY = Path(__file__).resolve().parents[3]
CLASSES = ["Car", "Pedestrian", "Cyclist"]
needs_real_frames = [needs_golden, needs_kitti_sample]
LEVELS = {"easy": 0, "moderate": 1, "hard": 2, "none": -1}


@dataclass(frozen=True)
class Source:
    """Frames in KITTI's layout, with infos and database made of them, and what was recorded on them."""

    folder: Path
    records: Path
    tested: tuple[str, str]  # frames whose samples were recorded
    trained: dict[str, list[tuple[str, int]]]  # model -> frame and seed of each training sample

    def json(self, name: str) -> dict:
        return json.loads((self.records / name).read_text(encoding="utf-8"))

    def cases(self, name: str) -> dict:
        return cases_of(self.records / name)


@pytest.fixture(params=["simulated", pytest.param("kitti", marks=needs_real_frames)])
def source(request) -> Source:
    if request.param == "simulated":
        trained = {"second": [("000002", 91548), ("000004", 865113)]}
        trained["pointpillar"] = [("000002", 825516), ("000004", 482983)]
        trained["pointpillar_newaugs"] = [("000002", 9), ("000004", 11)]
        return Source(tiny_kitti.dataset(), RECORDED / "simulated/10_infos", ("000000", "000002"), trained)
    trained = {"second": [("000007", 91548), ("000142", 865113)]}
    trained["pointpillar"] = [("000007", 825516), ("000142", 482983)]
    folder = request.getfixturevalue("sample_folder")
    return Source(folder, GOLDEN / "10_infos", ("000000", "000007"), trained)


def model_cfg(name, **changes):
    """DATA_CONFIG of cfgs/kitti_models/<name>.yaml as the recordings had it: no shuffling of points, every difficulty
    in the database.
    """
    cfg = cfg_from_yaml_file(REPOSITORY / f"cfgs/kitti_models/{name}.yaml", Config()).DATA_CONFIG
    for step in cfg.DATA_PROCESSOR:
        if step.NAME == "shuffle_points":
            step.SHUFFLE_ENABLED = {"train": False, "test": False}
    cfg.update(changes)
    return cfg


def open_dataset(root, name, training=False, **changes):
    return KittiDataset(model_cfg(name, **changes), CLASSES, training=training, root_path=root)


def index_of(dataset, frame_id):
    return [info["point_cloud"]["lidar_idx"] for info in dataset.kitti_infos].index(frame_id)


def test_infos(source):
    recorded = source.json("infos.json")
    infos = load_pickle(source.folder / "kitti_infos_train.pkl")
    assert [info["point_cloud"]["lidar_idx"] for info in infos] == recorded["sample_ids"]
    for info, want in zip(infos, recorded["infos"]):
        assert set(info) == set(want)
        assert info["point_cloud"] == want["point_cloud"]
        for part, exact in (("image", None), ("calib", None), ("annos", ("gt_boxes_lidar", "num_points_in_gt"))):
            assert set(info[part]) == set(want[part])
            for key, value in want[part].items():
                got, kind = info[part][key], recorded["dtypes"][part][key]
                if kind == "str":
                    assert got == value
                    continue
                assert got.dtype.kind == "U" if key == "name" else got.dtype == np.dtype(kind), key
                if exact and key in exact:
                    tolerance = dict(atol=1, rtol=0) if key == "num_points_in_gt" else dict(atol=1e-5, rtol=1e-5)
                    np.testing.assert_allclose(got, np.array(value).reshape(got.shape), err_msg=key, **tolerance)
                else:
                    np.testing.assert_array_equal(got, np.array(value).reshape(got.shape), err_msg=key)


def test_infos_without_labels_and_without_counting(source):
    recorded = source.json("infos.json")
    dataset = open_dataset(source.folder, "second")
    (bare,) = dataset.get_infos(num_workers=1, has_label=False, sample_id_list=["000000"])
    assert set(bare) == set(recorded["without_labels"][0])
    (uncounted,) = dataset.get_infos(num_workers=1, count_inside_pts=False, sample_id_list=["000000"])
    assert sorted(uncounted["annos"]) == recorded["keys_without_counting"]


def test_database(source):
    recorded = source.json("dbinfos.json")
    index = load_pickle(source.folder / "kitti_dbinfos_train.pkl")
    assert list(index) == recorded["class_order"]
    assert sorted(path.name for path in (source.folder / "gt_database").iterdir()) == sorted(recorded["files"])
    for name, entries in index.items():
        assert len(entries) == len(recorded["dbinfos"][name])
        for got, want in zip(entries, recorded["dbinfos"][name]):
            for key in ("name", "path", "image_idx", "gt_idx", "difficulty", "score"):
                assert got[key] == want[key]
            np.testing.assert_array_equal(got["bbox"], np.float32(want["bbox"]))
            np.testing.assert_allclose(got["box3d_lidar"], want["box3d_lidar"], atol=1e-5, rtol=1e-5)
            points = np.fromfile(source.folder / got["path"], dtype=np.float32).reshape(-1, 4)
            assert len(points) == got["num_points_in_gt"]
            assert abs(len(points) - want["n_points"]) <= 2
            if len(points) == want["n_points"] and len(points):
                np.testing.assert_allclose(
                    points.astype(np.float64).sum(0), want["sum"], rtol=1e-4, atol=1e-4 * len(points)
                )
                np.testing.assert_allclose(points[: len(want["first_points"])], want["first_points"], atol=1e-5)
                np.testing.assert_allclose(points[-1], want["last_point"], atol=1e-5)


@needs_kitti_sample
def test_points_and_difficulty_of_every_labelled_object(sample_folder):
    """An independent count of the points of the full scan in each box, and of its difficulty, over all 15 frames."""
    expected = json.loads((KITTI_SAMPLE / "expected_points.json").read_text())
    dataset = open_dataset(sample_folder, "second")
    infos = {info["point_cloud"]["lidar_idx"]: info for info in load_pickle(sample_folder / "kitti_infos_trainval.pkl")}
    assert sorted(infos) == sorted(expected)
    differing = {}
    for frame_id, frame in expected.items():
        annos, points = infos[frame_id]["annos"], dataset.get_lidar(frame_id)
        assert len(points) == frame["points"]
        assert infos[frame_id]["image"]["image_shape"].tolist() == frame["image_shape"]
        counts = count_points_in_boxes(points[:, :3], annos["gt_boxes_lidar"], margin=0.0)
        assert annos["name"][: len(counts)].tolist() == [obj["type"] for obj in frame["objects"]]
        np.testing.assert_allclose(
            counts, [obj["points_full"] for obj in frame["objects"]], atol=1, rtol=0, err_msg=frame_id
        )

        height = annos["bbox"][:, 3].astype(np.float64) - annos["bbox"][:, 1]
        levels = [difficulty_level(*values) for values in zip(height, annos["truncated"], annos["occluded"])][
            : len(counts)
        ]
        assert levels == [LEVELS[obj["difficulty"]] for obj in frame["objects"]]
        differing |= {
            (frame_id, i): (annos["difficulty"][i], levels[i])
            for i in range(len(levels))
            if annos["difficulty"][i] != levels[i]
        }
    # In the infos the height counts both border pixels (OpenPCDet's rule, also in test_infos): that lifts the three
    # objects just below a border.
    assert differing == {("000008", 4): (0, 1), ("000142", 6): (0, 1), ("000142", 9): (1, -1)}


@pytest.mark.parametrize("name", ["second", "pointpillar"])
def test_items_and_batch_in_test_mode(source, name):
    recorded = source.cases("dataset_item.npz")
    dataset = open_dataset(source.folder, name, INFO_PATH={"test": ["kitti_infos_train.pkl"]})
    items = []
    for frame_id in source.tested:
        item, case = dataset[index_of(dataset, frame_id)], recorded[f"{name}_f{frame_id}"]
        items.append(item)
        assert item["frame_id"] == case["frame_id"]
        assert set(item) == {
            "frame_id",
            "calib",
            "gt_boxes",
            "road_plane",
            "points",
            "lidar_aug_matrix",
            "use_lead_xyz",
            "voxels",
            "voxel_coords",
            "voxel_num_points",
            "image_shape",
        }
        np.testing.assert_allclose(item["gt_boxes"], case["gt_boxes"], rtol=1e-5, atol=1e-5)
        assert item["gt_boxes"].dtype == item["points"].dtype == np.float32
        np.testing.assert_allclose(
            item["road_plane"], source.cases("db_sampler.npz")[f"road_plane_{frame_id}"]["plane"], rtol=1e-6
        )
        np.testing.assert_array_equal(item["image_shape"], case["image_shape"])
        np.testing.assert_array_equal(item["lidar_aug_matrix"], case["lidar_aug_matrix"])
        assert item["use_lead_xyz"] == case["use_lead_xyz"]
        assert len(item["points"]) == case["n_points"][2]
        np.testing.assert_array_equal(item["points"][:20], case["points_first20"])
        np.testing.assert_array_equal(item["points"][-20:], case["points_last20"])
        np.testing.assert_array_equal(item["voxel_coords"], case["voxel_coords"])
        np.testing.assert_array_equal(item["voxel_num_points"], case["voxel_num_points"])
        assert_matches_samples(item["points"], case, "points", rtol=0, atol=0)
        assert_matches_samples(item["voxels"], case, "voxels", rtol=0, atol=0)

    batch, case = dataset.collate_batch(items), recorded[f"{name}_collate"]
    np.testing.assert_allclose(batch["gt_boxes"], case["gt_boxes"], rtol=1e-5, atol=1e-5)
    for key in ("points", "voxels", "voxel_coords"):
        assert_matches_samples(batch[key], case, key, rtol=0, atol=0)
    for key in ("frame_id", "image_shape", "use_lead_xyz"):
        np.testing.assert_array_equal(batch[key], case[key])
    assert batch["batch_size"] == case["batch_size"]
    assert batch["voxel_num_points"].sum() == case["voxel_num_points_sum"]
    assert batch["road_plane"].shape == (2, 4) and len(batch["calib"]) == 2


@pytest.mark.parametrize("place", [0, 1])
def test_crop_to_the_image(source, place):
    frame_id = source.tested[place]
    case = source.cases("dataset_item.npz")[f"second_f{frame_id}"]
    dataset = open_dataset(source.folder, "second")
    points, calib = dataset.get_lidar(frame_id), dataset.get_calib(frame_id)
    flag = dataset.get_fov_flag(calib.lidar_to_rect(points[:, :3]), dataset.get_image_shape(frame_id), calib)
    assert len(points) == case["n_points"][0] and flag.sum() == case["n_points"][1]
    np.testing.assert_array_equal(np.packbits(flag), case["fov_mask_packed"])


@needs_kitti_sample
def test_crop_of_another_recording(sample_folder):
    case = cases("03_geometry/calibration.npz")["fov_flag"]
    dataset = open_dataset(sample_folder, "second")
    points, calib = dataset.get_lidar("000001"), dataset.get_calib("000001")
    kept = np.flatnonzero(dataset.get_fov_flag(calib.lidar_to_rect(points[:, :3]), (375, 1242), calib))
    assert len(points) == case["n_points"] and len(kept) == case["n_kept"]
    np.testing.assert_array_equal(kept[:500], case["first_kept"])


@pytest.mark.parametrize("name", ["second", "pointpillar", "pointpillar_newaugs"])
@pytest.mark.parametrize("place", [0, 1])
def test_items_in_training_mode(source, name, place):
    """The whole chain of a training frame: objects pasted, scene flipped, turned and scaled, ranges, voxels."""
    if name not in source.trained:
        pytest.skip("recorded on the simulated frames")
    frame_id, seed = source.trained[name][place]
    case = source.cases("db_sampler.npz")[f"train_item_{name}_{frame_id}"]
    dataset = open_dataset(source.folder, name, training=True)
    np.random.seed(seed)
    item = dataset[index_of(dataset, frame_id)]
    assert set(item) == {
        "frame_id",
        "gt_boxes",
        "points",
        "flip_x",
        "noise_rot",
        "noise_scale",
        "lidar_aug_matrix",
        "use_lead_xyz",
        "voxels",
        "voxel_coords",
        "voxel_num_points",
        "image_shape",
        *(("calib", "noise_translate") if name == "pointpillar_newaugs" else ()),
    }
    assert item["flip_x"] == case["flip_x"]
    for key in ("noise_rot", "noise_scale"):
        np.testing.assert_allclose(item[key], case[key], rtol=1e-7)
    # OpenPCDet leaves a flip along x out of this matrix unless there is one along y as well; here it is in.
    flip = np.diag([1.0, -1.0 if case["flip_x"] else 1.0, 1.0, 1.0])
    np.testing.assert_allclose(item["lidar_aug_matrix"], case["lidar_aug_matrix"] @ flip, atol=1e-6)
    np.testing.assert_allclose(item["gt_boxes"], case["gt_boxes"], rtol=1e-5, atol=2e-5)
    assert len(item["points"]) == case["n_points"]
    assert_matches_samples(item["points"], case, "points", rtol=1e-5, atol=2e-5)
    assert len(item["voxels"]) == case["n_voxels"]
    assert item["voxel_num_points"].sum() == case["voxel_num_points_sum"]
    assert_matches_samples(item["voxel_coords"], case, "voxel_coords", rtol=0, atol=0)
    assert_matches_samples(item["voxels"], case, "voxels", rtol=1e-5, atol=2e-5)


@needs_golden
def test_predictions_become_annotations(tmp_path):
    case = cases("03_geometry/generate_prediction_dicts.npz")["frame"]
    calib = Calibration({"P2": case["P2"], "R0": case["R0"], "Tr_velo2cam": case["V2C"]})
    batch = {
        "frame_id": np.array(["000001", "000002"]),
        "calib": [calib, calib],
        "image_shape": torch.tensor([[375, 1242], [375, 1242]]),
    }
    predictions = [
        {key: torch.from_numpy(case[key]) for key in ("pred_boxes", "pred_scores", "pred_labels")},
        {
            "pred_boxes": torch.zeros(0, 7),
            "pred_scores": torch.zeros(0),
            "pred_labels": torch.zeros(0, dtype=torch.int64),
        },
    ]
    anno, empty = KittiDataset.generate_prediction_dicts(batch, predictions, CLASSES, output_path=tmp_path)
    for key in (
        "name",
        "truncated",
        "occluded",
        "alpha",
        "bbox",
        "dimensions",
        "location",
        "rotation_y",
        "score",
        "boxes_lidar",
    ):
        want = case[f"out_{key}"]
        if key == "name":
            assert anno[key].tolist() == want.tolist()
        else:
            np.testing.assert_allclose(anno[key], want, rtol=1e-4, atol=1e-2 if key == "bbox" else 1e-3, err_msg=key)
        assert empty[key].shape == (0, *want.shape[1:])
    assert (anno["frame_id"], empty["frame_id"]) == ("000001", "000002")

    lines = (tmp_path / "000001.txt").read_text().splitlines()
    assert len(lines) == 40 and (tmp_path / "000002.txt").read_text() == ""
    words = lines[0].split()
    assert words[:3] == [case["out_name"][0], "-1", "-1"] and len(words) == 16
    length, height, width = case["out_dimensions"][0]
    want = [case["out_alpha"][0], *case["out_bbox"][0], height, width, length, *case["out_location"][0]]
    want += [case["out_rotation_y"][0], case["out_score"][0]]
    np.testing.assert_allclose([float(word) for word in words[3:]], want, rtol=1e-4, atol=1e-2)


@needs_kitti_sample
def test_samples_from_the_packed_file_and_from_small_files_are_the_same(sample_folder, tmp_path):
    """A folder as OpenPCDet makes it (small files, no offsets in the index), and one with the packed file alone, here
    and in two workers.
    """
    for name in ("openpcdet", "packed"):
        (tmp_path / name).mkdir()
        for path in sample_folder.iterdir():
            if path.name not in ("gt_database", "gt_database_global.npy", "kitti_dbinfos_train.pkl"):
                (tmp_path / name / path.name).symlink_to(path)
    (tmp_path / "packed/gt_database_global.npy").symlink_to(sample_folder / "gt_database_global.npy")
    (tmp_path / "packed/kitti_dbinfos_train.pkl").symlink_to(sample_folder / "kitti_dbinfos_train.pkl")
    (tmp_path / "openpcdet/gt_database").symlink_to(sample_folder / "gt_database")
    index = load_pickle(sample_folder / "kitti_dbinfos_train.pkl")
    ours = ("global_data_offset", "global_data_crc32")
    index = {
        name: [{key: value for key, value in entry.items() if key not in ours} for entry in entries]
        for name, entries in index.items()
    }
    (tmp_path / "openpcdet/kitti_dbinfos_train.pkl").write_bytes(pickle.dumps(index))

    def batches(folder, workers):
        cfg = cfg_from_yaml_file(REPOSITORY / "cfgs/kitti_models/second.yaml", Config())
        _, loader, _ = build_dataloader(
            cfg.DATA_CONFIG, CLASSES, 2, dist=False, root_path=folder, workers=workers, seed=5
        )
        return list(loader)

    wanted = batches(tmp_path / "openpcdet", 0)
    # objects were pasted
    assert sum(len(batch["gt_boxes"]) for batch in wanted) == 8 and wanted[0]["gt_boxes"].shape[1] > 10
    for got in (batches(tmp_path / "packed", 0), batches(tmp_path / "packed", 2), batches(sample_folder, 0)):
        for one, other in zip(wanted, got):
            for key in ("points", "voxels", "voxel_coords", "gt_boxes", "frame_id"):
                np.testing.assert_array_equal(one[key], other[key])
