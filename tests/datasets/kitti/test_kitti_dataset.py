"""The KITTI data set on a made-up folder: infos and database in closed form, batches, and a clear message for each
fault of a folder.
"""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from pcdet_focal.config import Config
from pcdet_focal.datasets import build_dataloader, publish
from pcdet_focal.datasets.augmentor.object_points import ObjectPoints
from pcdet_focal.datasets.kitti import kitti_dataset
from pcdet_focal.datasets.kitti.database import write_database
from pcdet_focal.datasets.kitti.kitti_dataset import KittiDataset, create_kitti_infos
from pcdet_focal.datasets.kitti.kitti_utils import transform_annotations_to_kitti_format
from pcdet_focal.errors import InputError
from pcdet_focal.safe_pickle import load_pickle

CLASSES = ["Car", "Pedestrian", "Cyclist"]
CAR_BOX = [20, 1, -1.6 + 0.75, 4.0, 1.6, 1.5, 0]
MADE = [
    "gt_database",
    "gt_database_global.npy",
    "kitti_dbinfos_train.pkl",
    "kitti_infos_train.pkl",
    "kitti_infos_trainval.pkl",
    "kitti_infos_val.pkl",
]


def create(folder, cfg):
    return create_kitti_infos(cfg, CLASSES, folder, folder, workers=2)


def assert_nothing_made(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["ImageSets", "image_shapes.json", "training"]


def test_infos_of_a_known_frame(kitti_folder, dataset_cfg):
    counts = create(kitti_folder, dataset_cfg)
    assert counts == {
        "kitti_infos_train.pkl": 3,
        "kitti_infos_val.pkl": 1,
        "kitti_infos_trainval.pkl": 4,
        "kitti_dbinfos_train.pkl: Car": 3,
    }
    info = load_pickle(kitti_folder / "kitti_infos_train.pkl")[0]
    assert info["point_cloud"] == {"num_features": 4, "lidar_idx": "000001"}
    annos = info["annos"]
    assert (
        annos["name"].tolist() == ["Car", "DontCare"]
        and annos["index"].tolist() == [0, -1]
        and annos["difficulty"].tolist() == [0, -1]
    )
    np.testing.assert_allclose(annos["gt_boxes_lidar"], [CAR_BOX], atol=1e-6)
    assert annos["num_points_in_gt"].tolist() == [37, -1]
    assert [len(frames) for frames in map(load_pickle, (kitti_folder / name for name in MADE[3:]))] == [3, 4, 1]


def test_database_of_known_objects(kitti_folder, dataset_cfg):
    create(kitti_folder, dataset_cfg)
    index = load_pickle(kitti_folder / "kitti_dbinfos_train.pkl")
    assert list(index) == ["Car"]
    assert [entry["path"] for entry in index["Car"]] == [
        f"gt_database/{frame}_Car_0.bin" for frame in ("000001", "000003", "000004")
    ]
    packed = np.load(kitti_folder / "gt_database_global.npy")
    assert packed.shape == (3 * 37, 4)
    for entry in index["Car"]:
        points = np.fromfile(kitti_folder / entry["path"], dtype=np.float32).reshape(-1, 4)
        scan = np.fromfile(kitti_folder / "training/velodyne" / f"{entry['image_idx']}.bin", dtype=np.float32).reshape(
            -1, 4
        )
        assert entry["num_points_in_gt"] == len(points) == 37
        np.testing.assert_array_equal(packed[slice(*entry["global_data_offset"])], points)
        np.testing.assert_allclose(points + np.float32([*CAR_BOX[:3], 0]), scan[-37:], atol=1e-5)


def test_database_of_scans_with_another_number_of_columns(tmp_path):
    """Other data sets use the same writer: whatever their points have is kept, and nothing at all makes an empty
    database.
    """
    points = np.random.default_rng(0).uniform(-1, 1, (50, 6)).astype(np.float32)
    annos = {
        "name": np.array(["Car"]),
        "gt_boxes_lidar": np.array([[0, 0, 0, 1, 1, 1, 0.0]]),
        "difficulty": np.array([0]),
        "bbox": np.zeros((1, 4)),
        "score": np.zeros(1),
    }
    index = write_database(
        [{"point_cloud": {"lidar_idx": "a"}, "annos": annos}], lambda _: points, tmp_path / "gt_database", num_workers=1
    )
    inside = points[(np.abs(points[:, :2]) < 0.51).all(axis=1) & (np.abs(points[:, 2]) <= 0.5)]
    np.testing.assert_array_equal(np.load(tmp_path / "gt_database_global.npy"), inside)
    np.testing.assert_array_equal(ObjectPoints(tmp_path, 6).read(index["Car"][0]), inside)
    assert write_database([], lambda _: points, tmp_path / "other", num_workers=1) == {}
    assert len(np.load(tmp_path / "other_global.npy")) == 0


def test_making_again_replaces_everything(kitti_folder, dataset_cfg):
    create(kitti_folder, dataset_cfg)
    (kitti_folder / "gt_database/stale.bin").write_bytes(b"")
    (kitti_folder / "ImageSets/train.txt").write_text("000003\n")
    assert create(kitti_folder, dataset_cfg)["kitti_infos_train.pkl"] == 1
    assert [path.name for path in (kitti_folder / "gt_database").iterdir()] == ["000003_Car_0.bin"]
    assert sorted(path.name for path in kitti_folder.iterdir()) == sorted(
        [*MADE, "ImageSets", "image_shapes.json", "training"]
    )


def test_splits_that_are_there(kitti_folder, dataset_cfg):
    (kitti_folder / "ImageSets/val.txt").unlink()
    (kitti_folder / "testing").mkdir()
    for part in ("velodyne", "calib"):
        (kitti_folder / "testing" / part).mkdir()
        for path in (kitti_folder / "training" / part).glob("000002.*"):
            (kitti_folder / "testing" / part / path.name).write_bytes(path.read_bytes())
    (kitti_folder / "ImageSets/test.txt").write_text("000002\n")
    counts = create(kitti_folder, dataset_cfg)
    assert counts == {"kitti_infos_train.pkl": 3, "kitti_infos_test.pkl": 1, "kitti_dbinfos_train.pkl: Car": 3}
    assert "annos" not in load_pickle(kitti_folder / "kitti_infos_test.pkl")[0]

    dataset_cfg.DATA_SPLIT, dataset_cfg.INFO_PATH = {"test": "test"}, {"test": ["kitti_infos_test.pkl"]}
    dataset = KittiDataset(dataset_cfg, CLASSES, training=False, root_path=kitti_folder)
    assert "gt_boxes" not in dataset[0] and dataset.evaluation([], CLASSES) == (None, {})


def test_dontcare_lines_may_stand_anywhere(kitti_folder, dataset_cfg):
    label = kitti_folder / "training/label_2/000001.txt"
    car, dont_care = label.read_text().splitlines()
    label.write_text("\n".join([dont_care, car, dont_care, car.replace("Car", "Van")]) + "\n")
    create(kitti_folder, dataset_cfg)
    annos = load_pickle(kitti_folder / "kitti_infos_train.pkl")[0]["annos"]
    assert annos["name"].tolist() == ["Car", "Van", "DontCare", "DontCare"] and annos["num_points_in_gt"].tolist() == [
        37,
        37,
        -1,
        -1,
    ]
    assert (kitti_folder / "gt_database/000001_Van_1.bin").is_file()
    dataset = KittiDataset(
        dataset_cfg,
        CLASSES,
        training=False,
        root_path=kitti_folder,
    )
    dataset.kitti_infos = load_pickle(kitti_folder / "kitti_infos_train.pkl")
    np.testing.assert_allclose(dataset[0]["gt_boxes"], [[*CAR_BOX, 1]], atol=1e-5)


def test_a_frame_without_objects(kitti_folder, dataset_cfg):
    """Infos are made of it; training draws another frame in its place, or trains on it on demand; evaluation has it."""
    for name in ("000001", "000002"):
        (kitti_folder / f"training/label_2/{name}.txt").write_text("")
    create(kitti_folder, dataset_cfg)
    annos = load_pickle(kitti_folder / "kitti_infos_train.pkl")[0]["annos"]
    assert {key: value.shape for key, value in annos.items()} == {
        **{
            key: (0,)
            for key in (
                "name",
                "truncated",
                "occluded",
                "alpha",
                "rotation_y",
                "score",
                "difficulty",
                "index",
                "num_points_in_gt",
            )
        },
        "bbox": (0, 4),
        "dimensions": (0, 3),
        "location": (0, 3),
        "gt_boxes_lidar": (0, 7),
    }
    dataset = KittiDataset(dataset_cfg, CLASSES, training=True, root_path=kitti_folder)
    assert dataset[0]["frame_id"] in ("000003", "000004")
    dataset_cfg.ALLOW_EMPTY_FRAMES = True
    assert dataset[0]["frame_id"] == "000001" and dataset[0]["gt_boxes"].shape == (0, 8)
    dataset, loader, _ = build_dataloader(
        dataset_cfg, CLASSES, 2, dist=False, root_path=kitti_folder, workers=0, training=False
    )
    assert iter(loader)._dataset is dataset  # where OpenPCDet's hooks look for it
    (batch,) = loader
    assert batch["gt_boxes"].shape == (1, 0, 8) and batch["frame_id"].tolist() == ["000002"]


def test_the_replacing_frame_brings_its_own_image_size(kitti_folder, dataset_cfg):
    (kitti_folder / "training/label_2/000001.txt").write_text("")
    shapes = json.loads((kitti_folder / "image_shapes.json").read_text())
    shapes["000001"] = [39, 99]
    (kitti_folder / "image_shapes.json").write_text(json.dumps(shapes))
    create(kitti_folder, dataset_cfg)
    item = KittiDataset(dataset_cfg, CLASSES, training=True, root_path=kitti_folder)[0]
    assert item["frame_id"] != "000001" and item["image_shape"].tolist() == [40, 100]


def batches(folder, cfg, workers, seed, epochs=1, global_seed=None, **more):
    if global_seed is not None:
        np.random.seed(global_seed)
    _, loader, sampler = build_dataloader(
        cfg, CLASSES, 2, dist=False, root_path=folder, workers=workers, seed=seed, training=True, **more
    )
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found.append(list(loader))
    return found


def assert_same_batches(a, b):
    for one, two in zip(itertools.chain(*a), itertools.chain(*b), strict=True):
        assert one.keys() == two.keys()
        for key in one.keys() - {"calib"}:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_batches_do_not_depend_on_the_number_of_workers(kitti_folder, dataset_cfg):
    create(kitti_folder, dataset_cfg)
    alone, helped = (batches(kitti_folder, dataset_cfg, workers, seed=3, epochs=2) for workers in (0, 2))
    assert_same_batches(alone, helped)
    assert_same_batches(alone, batches(kitti_folder, dataset_cfg, 1, seed=3, epochs=2, persistent_workers=True))
    first, second = (
        {frame: angle for batch in epoch for frame, angle in zip(batch["frame_id"], batch["noise_rot"])}
        for epoch in alone
    )
    assert first.keys() == second.keys() == {"000001", "000003", "000004"}
    assert len({*first.values(), *second.values()}) == 6
    other = batches(kitti_folder, dataset_cfg, 0, seed=4)
    assert not {angle for batch in other[0] for angle in batch["noise_rot"]} & set(first.values())


def test_without_a_seed_numpys_global_state_decides(kitti_folder, dataset_cfg):
    create(kitti_folder, dataset_cfg)
    one, same, other = (batches(kitti_folder, dataset_cfg, 0, seed=None, global_seed=seed) for seed in (8, 8, 9))
    assert_same_batches(one, same)
    assert not np.isin(one[0][0]["noise_rot"], other[0][0]["noise_rot"]).any()


def test_merged_epochs(kitti_folder, dataset_cfg):
    create(kitti_folder, dataset_cfg)
    dataset, loader, _ = build_dataloader(
        dataset_cfg,
        CLASSES,
        2,
        dist=False,
        root_path=kitti_folder,
        workers=0,
        seed=1,
        merge_all_iters_to_one_epoch=True,
        total_epochs=4,
    )
    frames = [frame for batch in loader for frame in batch["frame_id"]]
    assert len(dataset) == 12 and sorted(frames) == sorted(["000001", "000003", "000004"] * 4)
    assert dataset[11]["frame_id"] == "000004"
    with pytest.raises(IndexError):
        dataset[12]


def _share_of_rank(rank, folder, cfg, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=2)
    np.random.seed(100 + rank)  # different on each rank, as after --fix_random_seed: rank 0's draw must win
    for training in (True, False):
        _, loader, _ = build_dataloader(cfg, CLASSES, 1, dist=True, root_path=folder, workers=0, training=training)
        frames = [str(frame) for batch in loader for frame in batch["frame_id"]]
        (out / f"{'train' if training else 'test'}{rank}.json").write_text(json.dumps(frames))
    torch.distributed.destroy_process_group()


def test_two_processes_share_out_the_frames(kitti_folder, dataset_cfg, tmp_path):
    create(kitti_folder, dataset_cfg)
    dataset_cfg.INFO_PATH = {"train": ["kitti_infos_trainval.pkl"], "test": ["kitti_infos_trainval.pkl"]}
    processes = [
        torch.multiprocessing.get_context("fork").Process(
            target=_share_of_rank, args=(rank, kitti_folder, dataset_cfg, tmp_path)
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    train, test = (
        [json.loads((tmp_path / f"{mode}{rank}.json").read_text()) for rank in range(2)] for mode in ("train", "test")
    )
    assert sorted(train[0] + train[1]) == ["000001", "000002", "000003", "000004"]
    assert test == [["000001", "000004"], ["000003", "000002"]]


def test_crop_in_closed_form():
    """Focal length 100, centre (50, 20), image 100 wide and 40 high: at depth 10 it shows -5 <= x < 5 and -2 <= y <
    2.
    """
    calib = kitti_calib()
    rect = np.float32(
        [
            [0, 0, 10],
            [-5, 0, 10],
            [-5.01, 0, 10],
            [4.99, 0, 10],
            [5, 0, 10],
            [0, -2, 10],
            [0, 2, 10],
            [0, 0, -10],
            [0, 0, 0],
        ]
    )
    flag = KittiDataset.get_fov_flag(rect, (40, 100), calib)
    assert flag.tolist() == [True, True, False, True, False, True, False, False, False]
    assert KittiDataset.get_fov_flag(np.zeros((0, 3), np.float32), (40, 100), calib).shape == (0,)


def kitti_calib():
    from pcdet_focal.geometry.calibration import Calibration

    return Calibration(
        {
            "P2": np.float32([[100, 0, 50, 0], [0, 100, 20, 0], [0, 0, 1, 0]]),
            "R0": np.eye(3, dtype=np.float32),
            "Tr_velo2cam": np.float32([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]),
        }
    )


def test_an_empty_scan_is_evaluated_but_not_trained_on(kitti_folder, dataset_cfg):
    for name in ("000001", "000002"):
        (kitti_folder / f"training/velodyne/{name}.bin").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"frame 00000[12]: .*00000[12]\.bin"):
        create(kitti_folder, dataset_cfg)
    _, loader, _ = build_dataloader(
        dataset_cfg, CLASSES, 1, dist=False, root_path=kitti_folder, workers=0, training=False
    )
    with pytest.warns(UserWarning, match="frame 000002: "):
        (batch,) = loader
    assert (
        batch["points"].shape == (0, 5) and batch["gt_boxes"].shape == (1, 1, 8) and batch["voxels"].shape[1:] == (5, 4)
    )
    with pytest.raises(InputError, match="frame 000001: .*velodyne"):
        KittiDataset(dataset_cfg, CLASSES, training=True, root_path=kitti_folder)[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_met_while_loading_is_told_without_a_traceback(kitti_folder, dataset_cfg, workers):
    create(kitti_folder, dataset_cfg)
    path = kitti_folder / "training/velodyne/000002.bin"
    path.write_bytes(b"123")
    _, loader, _ = build_dataloader(
        dataset_cfg, CLASSES, 1, dist=False, root_path=kitti_folder, workers=workers, training=False
    )
    with pytest.raises(InputError) as raised:
        next(iter(loader))
    message = str(raised.value)
    assert message.startswith("frame 000002: ") and str(path) in message and "Traceback" not in message


def spoil(path, content):
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)


@pytest.mark.parametrize(
    "path, content, message",
    [
        (
            "training/velodyne/000003.bin",
            b"\0" * 1000,
            r"frame 000003: .*000003\.bin .*1000.*16",
        ),
        (
            "training/velodyne/000003.bin",
            np.float32([[1, 2, np.nan, 0]]).tobytes(),
            r"frame 000003: .*DROP_NONFINITE_POINTS",
        ),
        ("training/label_2/000003.txt", "Car 0 0 1\n", r"000003\.txt, line 1: .*15"),
        ("training/calib/000003.txt", "P2: 1 0 0 0 0 1 0 0 0 0 1 0\n", r"000003\.txt: .*R0_rect"),
        ("image_shapes.json", "{}", r"frame 00000\d: .*00000\d\.png"),
        ("ImageSets/val.txt", "000777\n", r"frame 000777: .*000777\.txt"),
    ],
)
def test_a_bad_file_is_named_and_nothing_half_written_stays(kitti_folder, dataset_cfg, path, content, message):
    spoil(kitti_folder / path, content)
    with pytest.raises(InputError, match=message):
        create(kitti_folder, dataset_cfg)
    assert_nothing_made(kitti_folder)


def test_a_failing_run_leaves_what_an_earlier_one_made(kitti_folder, dataset_cfg):
    create(kitti_folder, dataset_cfg)
    before = {path: path.read_bytes() for path in kitti_folder.rglob("*") if path.is_file()}
    spoil(kitti_folder / "training/label_2/000004.txt", "Car\n")
    with pytest.raises(InputError, match="000004.txt, line 1"):
        create(kitti_folder, dataset_cfg)
    spoil(kitti_folder / "training/label_2/000004.txt", before[kitti_folder / "training/label_2/000004.txt"])
    assert {path: path.read_bytes() for path in kitti_folder.rglob("*") if path.is_file()} == before


def test_points_that_are_not_finite_can_be_left_out(kitti_folder, dataset_cfg):
    path = kitti_folder / "training/velodyne/000001.bin"
    points = np.fromfile(path, dtype=np.float32).reshape(-1, 4)
    points[[0, -1], 2] = np.nan
    points.tofile(path)
    dataset_cfg.DROP_NONFINITE_POINTS = True
    create(kitti_folder, dataset_cfg)
    assert load_pickle(kitti_folder / "kitti_infos_train.pkl")[0]["annos"]["num_points_in_gt"].tolist() == [36, -1]
    assert np.isfinite(KittiDataset(dataset_cfg, CLASSES, training=True, root_path=kitti_folder)[0]["points"]).all()


def test_missing_folders_show_the_layout(tmp_path, dataset_cfg, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError,
        match=r"(?s)DATA_CONFIG\.DATA_PATH.* \S+/data/kitti .*\S+/tools/data/kitti.*ImageSets/train\.txt",
    ):
        KittiDataset(dataset_cfg, CLASSES)
    (tmp_path / "data/kitti/ImageSets").mkdir(parents=True)
    (tmp_path / "data/kitti/ImageSets/train.txt").write_text("000001\n")
    with pytest.raises(
        InputError,
        match=r"(?s)\S+/data/kitti/training/calib.* frame 000001 .*training/label_2",
    ):
        create_kitti_infos(dataset_cfg, CLASSES, tmp_path / "data/kitti", tmp_path / "data/kitti")
    with pytest.raises(InputError, match=r"train\.txt .*val\.txt .*test\.txt .*ImageSets"):
        create_kitti_infos(dataset_cfg, CLASSES, tmp_path, tmp_path)


def test_infos_that_were_not_made_yet(kitti_folder, dataset_cfg):
    with pytest.raises(InputError, match=r"kitti_infos_train\.pkl .*create-infos CFG"):
        build_dataloader(dataset_cfg, CLASSES, 2, dist=False, root_path=kitti_folder)


@pytest.mark.parametrize("content", [b"", b"junk", b"\x80\x04}q\0.", b"cos\nsystem\n(S'true'\ntR."])
def test_a_damaged_or_hostile_info_file(kitti_folder, dataset_cfg, content):
    (kitti_folder / "kitti_infos_train.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"kitti_infos_train\.pkl"):
        KittiDataset(dataset_cfg, CLASSES, root_path=kitti_folder)


def test_publishing_moves_all_or_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/old").write_text("old")
    with pytest.raises(KeyError), publish.published(tmp_path) as folder:
        (folder / "a").mkdir()
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "old"]
    with publish.published(tmp_path) as folder:
        (folder / "a").mkdir()
        (folder / "a/new").write_text("new")
        (folder / "b").write_text("b")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["a", "a/new", "b"]


def test_command_line(kitti_folder, tmp_path, capsys):
    cfg_file = tmp_path / "cfg.yaml"
    cfg_file.write_text(
        f"DATASET: KittiDataset\nDATA_PATH: {kitti_folder}\nPOINT_CLOUD_RANGE: [0, -40, -3, 70.4, 40, 1]\nDATA_SPLIT: "
        f"{{train: train, test: val}}\n"
        "INFO_PATH: {train: [kitti_infos_train.pkl], test: [kitti_infos_val.pkl]}\nFOV_POINTS_ONLY: "
        "True\nDATA_AUGMENTOR: []\nDATA_PROCESSOR: []\n"
        "POINT_FEATURE_ENCODING: {encoding_type: absolute_coordinates_encoding, used_feature_list: [x, y, z], "
        "src_feature_list: [x, y, z, intensity]}\n"
    )
    command = [sys.executable, "-m", "pcdet_focal.datasets.kitti.kitti_dataset", "create_kitti_infos", str(cfg_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Warning" not in done.stderr
    assert done.stdout == (
        f"written to {kitti_folder}:\n  kitti_infos_train.pkl: 3\n  kitti_infos_val.pkl: 1\n  "
        "kitti_infos_trainval.pkl: 4\n"
        "  kitti_dbinfos_train.pkl: Car: 3\n"
    )
    assert kitti_dataset.main(["create_kitti_infos", str(cfg_file), "--data_path", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: ")
        and "DATA_CONFIG.DATA_PATH" in error
        and str(tmp_path / "nowhere") in error
        and "Traceback" not in error
    )


def test_lidar_boxes_in_kittis_form():
    annos = [
        {"name": np.array(["car"]), "boxes_lidar": np.array([[10.0, 2, -1, 4, 1.6, 1.5, 0.3]])},
        {"gt_names": np.array([]), "gt_boxes_lidar": np.zeros((0, 7))},
    ]
    kept = annos[0]["boxes_lidar"].copy()
    one, none = transform_annotations_to_kitti_format(annos, {"car": "Car"})
    assert one is annos[0] and one["name"].tolist() == ["Car"]
    np.testing.assert_allclose(one["location"], [[-2, 1.75, 10]])
    np.testing.assert_allclose(one["dimensions"], [[4, 1.5, 1.6]])
    np.testing.assert_allclose(one["rotation_y"], [-0.3 - np.pi / 2])
    np.testing.assert_allclose(one["alpha"], [np.arctan2(2, 10) - 0.3 - np.pi / 2])
    np.testing.assert_array_equal(one["boxes_lidar"], kept)
    assert none["location"].shape == (0, 3) and none["bbox"].shape == (0, 4) and "gt_names" not in none


def test_config_without_a_needed_key_names_it(kitti_folder):
    with pytest.raises(InputError, match="POINT_CLOUD_RANGE"):
        KittiDataset(Config({"DATASET": "KittiDataset"}), CLASSES, root_path=kitti_folder)
