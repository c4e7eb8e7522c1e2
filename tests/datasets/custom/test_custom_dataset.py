"""Custom data: infos and database in closed form, samples, evaluation, and a clear message for each fault of a
folder.
"""

import re
import shutil

import numpy as np
import pytest
import tiny_custom
import tiny_kitti
import torch

from pcdet_focal.config import Config, cfg_from_yaml_file
from pcdet_focal.datasets import build_dataloader
from pcdet_focal.datasets.custom import custom_dataset
from pcdet_focal.datasets.custom.custom_dataset import CustomDataset, create_custom_infos
from pcdet_focal.datasets.custom.reader import read_labels
from pcdet_focal.datasets.publish import save_pickle
from pcdet_focal.errors import InputError
from pcdet_focal.safe_pickle import load_pickle

CLASSES = ["Vehicle", "Pedestrian", "Cyclist"]
BOX = np.array([10.0, 2.0, -0.8, 4.0, 1.6, 1.5, 0.5])
FRAMES = {"train": ["a1", "a2"], "val": ["b1"]}


def scan(columns: int = 4) -> np.ndarray:
    """float64 (57, columns): 20 points away from the box, then 37 inside it, in the box's own axes before they are
    turned.
    """
    random = np.random.RandomState(0)
    own = random.uniform(-0.45, 0.45, (37, 3)) * BOX[3:6]
    cos, sin = np.cos(BOX[6]), np.sin(BOX[6])
    inside = (
        np.column_stack([own[:, 0] * cos - own[:, 1] * sin, own[:, 0] * sin + own[:, 1] * cos, own[:, 2]]) + BOX[:3]
    )
    xyz = np.concatenate([random.uniform([20, -5, -2], [30, 5, 1], (20, 3)), inside])
    return np.column_stack([xyz, *[random.uniform(0, 1, 57) for _ in range(columns - 3)]])


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "custom"
    for name in ("ImageSets", "points", "labels"):
        (root / name).mkdir(parents=True)
    for split, ids in FRAMES.items():
        (root / "ImageSets" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for frame_id in ids:
            np.save(root / "points" / f"{frame_id}.npy", scan())
            (root / "labels" / f"{frame_id}.txt").write_text(" ".join(map(str, BOX)) + " Vehicle\n")
    return root


@pytest.fixture
def cfg(folder):
    cfg = cfg_from_yaml_file(tiny_kitti.REPOSITORY / "cfgs/dataset_configs/custom_dataset.yaml", Config())
    cfg.DATA_PATH = str(folder)
    return cfg


def create(cfg, folder):
    return create_custom_infos(cfg, CLASSES, folder, folder, workers=2)


# ---- infos and database
# ------------------------------------------------------------------------------------------------------------


def test_infos_and_database_of_known_objects(folder, cfg):
    counts = create(cfg, folder)
    assert counts == {"custom_infos_train.pkl": 2, "custom_infos_val.pkl": 1, "custom_dbinfos_train.pkl: Vehicle": 2}
    first, second = load_pickle(folder / "custom_infos_train.pkl")
    assert first["point_cloud"] == {"num_features": 4, "lidar_idx": "a1"} and second["point_cloud"]["lidar_idx"] == "a2"
    annos = first["annos"]
    assert annos["name"].tolist() == ["Vehicle"] and annos["num_points_in_gt"].tolist() == [37]
    assert annos["gt_boxes_lidar"].dtype == np.float32
    np.testing.assert_array_equal(annos["gt_boxes_lidar"], BOX[None].astype(np.float32))

    index = load_pickle(folder / "custom_dbinfos_train.pkl")
    assert list(index) == ["Vehicle"]
    entry = index["Vehicle"][1]
    assert {key: entry[key] for key in ("name", "path", "gt_idx", "num_points_in_gt")} == {
        "name": "Vehicle",
        "path": "gt_database/a2_Vehicle_0.bin",
        "gt_idx": 0,
        "num_points_in_gt": 37,
    }
    # float32 whatever the array was: what the sampler reads
    points = np.fromfile(folder / entry["path"], np.float32).reshape(-1, 4)
    np.testing.assert_allclose(points + np.float32([*BOX[:3], 0]), scan()[-37:], atol=1e-5)


def test_every_split_that_is_there_and_a_test_split_without_labels(folder, cfg):
    (folder / "ImageSets/val.txt").unlink()
    (folder / "ImageSets/test.txt").write_text("b1\n")
    (folder / "labels/b1.txt").unlink()
    assert create(cfg, folder)["custom_infos_test.pkl"] == 1
    assert "annos" not in load_pickle(folder / "custom_infos_test.pkl")[0]
    cfg.INFO_PATH["test"], cfg.DATA_SPLIT["test"] = ["custom_infos_test.pkl"], "test"
    dataset = CustomDataset(cfg, CLASSES, training=False, root_path=folder)
    assert "gt_boxes" not in dataset[0] and dataset.evaluation([], CLASSES) == (None, {})


def test_the_command_finds_classes_and_folder_in_the_configuration(folder, cfg, tmp_path, capsys, monkeypatch):
    """OpenPCDet's command always takes data/custom beside its own code and the classes Vehicle, Pedestrian, Cyclist."""
    content = tiny_custom.config(folder)
    path = tiny_kitti.write_config(tmp_path / "model.yaml", content)
    monkeypatch.chdir(tmp_path)
    assert custom_dataset.main(["create_custom_infos", str(path), "--workers", "1"]) == 0
    assert "custom_dbinfos_train.pkl: Vehicle: 2" in capsys.readouterr().out
    data_only = content["DATA_CONFIG"]
    data_only["DATA_PATH"] = "nowhere"
    path = tiny_kitti.write_config(tmp_path / "data.yaml", {"DATA_CONFIG": data_only})
    assert custom_dataset.main(["create_custom_infos", str(path)]) == 2
    assert "DATA_CONFIG.DATA_PATH" in capsys.readouterr().err
    assert custom_dataset.main(["create_custom_infos", str(path), "--data_path", str(folder)]) == 0


def test_frames_without_objects_and_other_columns(folder, cfg):
    """OpenPCDet's reader raises IndexError for an empty label file and takes a scan of any number of columns."""
    (folder / "labels/a2.txt").write_text("\n# nothing here\n")
    cfg.POINT_FEATURE_ENCODING["src_feature_list"] = ["x", "y", "z", "intensity", "ring"]
    with pytest.raises(
        InputError,
        match=r"frame a1: .*a1\.npy .*\(57, 4\) .*float64.* 5 .*x, y, z, intensity, ring",
    ):
        create(cfg, folder)
    for path in (folder / "points").iterdir():
        np.save(path, scan(5))
    create(cfg, folder)
    infos = load_pickle(folder / "custom_infos_train.pkl")
    assert infos[0]["point_cloud"]["num_features"] == 5
    assert infos[1]["annos"]["gt_boxes_lidar"].shape == (0, 7) and infos[1]["annos"]["name"].shape == (0,)
    cfg.DATA_AUGMENTOR.AUG_CONFIG_LIST[0]["NUM_POINT_FEATURES"] = 5
    dataset = CustomDataset(cfg, CLASSES, root_path=folder)
    np.random.seed(0)
    sample = dataset[1]  # has the object that is pasted, whose five columns become the model's four
    assert sample["frame_id"] == "a2" and sample["points"].shape[1] == 4 and len(sample["gt_boxes"]) == 1
    cfg.DATA_AUGMENTOR["AUG_CONFIG_LIST"] = []
    assert CustomDataset(cfg, CLASSES, root_path=folder)[1]["frame_id"] == "a1"  # one without an object is replaced


def test_a_label_file_may_have_more_columns_and_any_blanks(tmp_path):
    path = tmp_path / "l.txt"
    path.write_text("1 2 3   4 5 6\t0.5 Vehicle\r\n\n1 2 3 4 5 6 0.5 9.5 -1 Cyclist\n")
    boxes, names = read_labels(path, "l")
    np.testing.assert_array_equal(boxes, np.float32([[1, 2, 3, 4, 5, 6, 0.5]] * 2))
    assert names.tolist() == ["Vehicle", "Cyclist"]


def test_a_label_file_is_written_as_it_is_read(tmp_path):
    boxes = np.array([BOX, BOX + 1])
    CustomDataset.create_label_file_with_name_and_box(["Vehicle"], ["Vehicle", "Tree"], boxes, tmp_path / "l.txt")
    read, names = read_labels(tmp_path / "l.txt", "l")
    np.testing.assert_allclose(read, boxes[:1], atol=1e-4)
    assert names.tolist() == ["Vehicle"]


# ---- samples
# ----------------------------------------------------------------------------------------------------------------------


def test_the_frame_is_named_by_its_info_and_not_by_the_place_in_the_split(folder, cfg):
    """OpenPCDet names frame i of the infos after line i of the split file: wrong where INFO_PATH lists two files."""
    create(cfg, folder)
    cfg.INFO_PATH["test"] = ["custom_infos_val.pkl", "custom_infos_train.pkl"]
    dataset = CustomDataset(cfg, CLASSES, training=False, root_path=folder)
    assert [dataset[i]["frame_id"] for i in range(3)] == ["b1", "a1", "a2"]
    assert len(dataset.infos) == 3 and dataset.infos is dataset.custom_infos


def test_training_batches(folder, cfg):
    create(cfg, folder)
    cfg.DATA_PROCESSOR[-1]["VOXEL_SIZE"] = [0.2, 0.2, 6]
    dataset, loader, _ = build_dataloader(cfg, CLASSES, batch_size=2, dist=False, root_path=folder, workers=0, seed=1)
    assert isinstance(dataset, CustomDataset)
    (batch,) = loader
    assert (
        batch["gt_boxes"].shape[0] == 2
        and batch["gt_boxes"].shape[2] == 8
        and set(batch["gt_boxes"][..., 7].ravel()) <= {0, 1}
    )
    assert sorted(batch["frame_id"]) == ["a1", "a2"]
    dataset.merge_all_iters_to_one_epoch(True, 3)
    assert len(dataset) == 6


def test_infos_and_database_as_openpcdet_makes_them(folder, cfg):
    """Without num_points_in_gt; and its tutorial filters by a difficulty that its database has not, which raises
    KeyError there.
    """
    create(cfg, folder)
    for name in ("custom_infos_train.pkl", "custom_dbinfos_train.pkl"):
        content = load_pickle(folder / name)
        for info in content if isinstance(content, list) else ():
            del info["annos"]["num_points_in_gt"]
        for entries in content.values() if isinstance(content, dict) else ():
            entries[:] = [
                {key: entry[key] for key in ("name", "path", "gt_idx", "box3d_lidar", "num_points_in_gt")}
                for entry in entries
            ]
        save_pickle(content, folder / name)
    sampling = cfg.DATA_AUGMENTOR.AUG_CONFIG_LIST[0]
    sampling["PREPARE"] = {"filter_by_min_points": ["Vehicle:5"], "filter_by_difficulty": [-1]}
    sampling["LIMIT_WHOLE_SCENE"] = False
    (folder / "labels/a1.txt").write_text("")
    dataset = CustomDataset(cfg, CLASSES, root_path=folder)
    assert len(dataset.data_augmentor.data_augmentor_queue[0].db_infos["Vehicle"]) == 2
    assert dataset[0]["frame_id"] == "a1" and len(dataset[0]["gt_boxes"]) == 1


def test_boxes_with_few_points_can_be_left_out(folder, cfg):
    empty = np.array([-10.0, 0, 0, 4, 2, 2, 0])
    for path in (folder / "labels").iterdir():
        path.write_text("".join(" ".join(map(str, box)) + " Vehicle\n" for box in (BOX, empty)))
    create(cfg, folder)
    found = {"name": np.array(["Vehicle"]), "boxes_lidar": BOX[None], "score": np.array([0.9])}
    for least, boxes in ((0, 2), (1, 1)):
        cfg["FILTER_MIN_POINTS_IN_GT"] = least
        dataset = CustomDataset(cfg, CLASSES, training=False, root_path=folder)
        assert len(dataset[0]["gt_boxes"]) == boxes
        text, _ = dataset.evaluation([found], CLASSES)
        assert f"Car ground truth: {boxes}, {boxes}, {boxes} count" in text
    for info in dataset.infos:
        del info["annos"]["num_points_in_gt"]  # as OpenPCDet's are
    with pytest.raises(InputError, match="FILTER_MIN_POINTS_IN_GT: .* create-infos"):
        dataset[0]


# ---- evaluation
# --------------------------------------------------------------------------------------------------------------------


def grid(start: float) -> np.ndarray:
    """(50, 7): so many boxes that the 41 points of the curve are all reached; ``start`` is the y of the first row."""
    shifts = np.zeros((50, 7))
    shifts[:, 0], shifts[:, 1] = np.arange(50) % 10 * 6, start + np.arange(50) // 10 * 4
    return BOX + shifts


def lines(boxes: np.ndarray, name: str) -> str:
    return "".join(f"{' '.join(map(str, box))} {name}\n" for box in boxes)


def test_detections_equal_to_the_truth_are_perfect_and_others_are_not(folder, cfg):
    (folder / "labels/b1.txt").write_text(lines(grid(0), "Vehicle"))
    create(cfg, folder)
    dataset = CustomDataset(cfg, CLASSES, training=False, root_path=folder)
    batch, out = {"frame_id": np.array(["b1"])}, folder.parent
    prediction = {
        "pred_boxes": torch.tensor(grid(0)),
        "pred_scores": torch.linspace(0.9, 0.5, 50),
        "pred_labels": torch.ones(50, dtype=torch.int64),
    }
    annos = dataset.generate_prediction_dicts(batch, [prediction], CLASSES, out)
    assert sorted(annos[0]) == ["boxes_lidar", "frame_id", "name", "pred_labels", "score"]
    assert (
        (out / "b1.txt").read_text().startswith("10.0000 2.0000 -0.8000 4.0000 1.6000 1.5000 0.5000 0.9000 Vehicle\n")
    )
    # a result file is a label file
    np.testing.assert_allclose(read_labels(out / "b1.txt", "b1")[0], grid(0), atol=1e-4)
    text, figures = dataset.evaluation(annos, CLASSES, eval_metric="kitti")
    assert figures["Car_3d/moderate_R40"] == figures["Car_bev/easy_R40"] == pytest.approx(100)
    assert "Car AP_R40@0.70, 0.70, 0.70:" in text and figures["Pedestrian_3d/easy_R40"] == 0
    annos[0]["boxes_lidar"] = annos[0]["boxes_lidar"] + np.array([0, 0, 1.0, 0, 0, 0, 0])
    _, figures = dataset.evaluation(annos, CLASSES, eval_metric="kitti")
    assert figures["Car_3d/moderate_R40"] == 0 and figures["Car_bev/easy_R40"] == pytest.approx(100)


def test_labels_in_the_old_lidar_convention(folder, cfg):
    """INFO_WITH_FAKELIDAR: x y z w l h r with z of the underside and r = -heading - pi/2."""
    boxes = grid(0)
    old = np.column_stack(
        [boxes[:, :2], boxes[:, 2] - boxes[:, 5] / 2, boxes[:, 4], boxes[:, 3], boxes[:, 5], -boxes[:, 6] - np.pi / 2]
    )
    (folder / "labels/b1.txt").write_text(lines(old, "Vehicle"))
    create(cfg, folder)
    found = {"name": np.array(["Vehicle"] * 50), "boxes_lidar": boxes, "score": np.linspace(0.9, 0.5, 50)}
    for with_fakelidar, ap in ((True, 100), (False, 0)):
        cfg["INFO_WITH_FAKELIDAR"] = with_fakelidar
        _, figures = CustomDataset(cfg, CLASSES, training=False, root_path=folder).evaluation([found], CLASSES)
        assert figures["Car_3d/easy_R40"] == pytest.approx(ap)


def test_classes_that_are_not_mapped_are_left_out_and_those_that_share_a_kitti_class_are_told_apart(folder, cfg):
    """OpenPCDet raises KeyError for a label that MAP_CLASS_TO_KITTI lacks, and cuts the new names to the length of the
    longest old one.
    """
    for frame_id in ("a1", "a2"):
        (folder / f"labels/{frame_id}.txt").write_text("")
    buses, lorries, people = grid(0), grid(30), grid(-30)
    (folder / "labels/b1.txt").write_text(
        lines(buses, "Bus") + lines(lorries, "Lorry") + lines(grid(60), "Tree") + lines(people, "Ped")
    )
    cfg["MAP_CLASS_TO_KITTI"] = {"Bus": "Car", "Lorry": "Car", "Ped": "Pedestrian"}
    classes = ["Bus", "Lorry", "Ped"]
    create_custom_infos(cfg, classes, folder, folder, workers=1)
    dataset = CustomDataset(cfg, classes, training=False, root_path=folder)
    before = [{key: value.copy() for key, value in info["annos"].items()} for info in dataset.infos]
    found = {
        "name": np.array(["Bus"] * 50 + ["Ped"] * 50),
        "boxes_lidar": np.concatenate([buses, people]),
        "score": np.linspace(0.9, 0.5, 100),
    }
    text, figures = dataset.evaluation([found], classes, eval_metric="kitti")
    assert figures["Pedestrian_3d/easy_R40"] == figures["Bus_as_Car_3d/easy_R40"] == pytest.approx(100)
    assert figures["Car_3d/easy_R40"] == pytest.approx(50) and figures["Lorry_as_Car_3d/easy_R40"] == 0
    assert "Ped_as_Pedestrian_3d/easy_R40" not in figures
    assert (
        re.search(r"^Bus alone, by the rules of Car:$", text, re.M) and "Car ground truth: 100, 100, 100 count" in text
    )
    for old, info in zip(before, dataset.infos):
        assert all(np.array_equal(old[key], info["annos"][key]) for key in old)  # nothing is changed in place


def test_evaluation_that_is_not_possible_is_told_early(folder, cfg):
    create(cfg, folder)
    with pytest.raises(InputError, match=r"MAP_CLASS_TO_KITTI .*'Tram'"):
        CustomDataset(cfg, ["Tram"], training=False, root_path=folder)
    dataset = CustomDataset(cfg, CLASSES, training=False, root_path=folder)
    with pytest.raises(InputError, match=r"EVAL_METRIC .*'waymo'"):
        dataset.evaluation([], CLASSES, eval_metric="waymo")
    cfg["MAP_CLASS_TO_KITTI"]["Vehicle"] = "Cars"
    with pytest.raises(InputError, match=r"MAP_CLASS_TO_KITTI\.Vehicle .*'Cars'.* Car"):
        CustomDataset(cfg, CLASSES, training=False, root_path=folder)
    CustomDataset(cfg, CLASSES, root_path=folder)  # training needs no map


# ---- faults
# ----------------------------------------------------------------------------------------------------------------------


def label(text):
    return lambda root: (root / "labels/a1.txt").write_text(text)


FAULTS = {
    "no label file": (
        lambda root: (root / "labels/a1.txt").unlink(),
        r"frame a1: .*a1\.txt",
    ),
    "no scan": (lambda root: (root / "points/b1.npy").unlink(), r"frame b1: .*b1\.npy"),
    "no labels at all": (
        lambda root: shutil.rmtree(root / "labels"),
        r"(?s)labels.* frame a1.*<DATA_PATH>/",
    ),
    "no lists": (
        lambda root: shutil.rmtree(root / "ImageSets"),
        r"(?s)train\.txt .*val\.txt.*ImageSets/train\.txt",
    ),
    "class first": (label("Vehicle 1 2 3 4 5 6 0.5\n"), r"a1\.txt:1: .*x .*'Vehicle'"),
    "no class": (label("# x\n1 2 3 4 5 6 0.5\n"), r"a1\.txt:2: .*7 .*x y z dx dy dz heading class"),
    "a class with a blank": (
        label("1 2 3 4 5 6 0.5 big Vehicle\n"),
        r"a1\.txt:1: .*'big'",
    ),
    "NaN": (label("1 2 nan 4 5 6 0.5 Vehicle\n"), r"a1\.txt:1: .*z .*nan"),
    "no size": (label("1 2 3 4 0 6 0.5 Vehicle\n"), r"a1\.txt:1: .*dx, dy, dz .*4, 0, 6"),
    "not an array": (
        lambda root: (root / "points/a1.npy").write_bytes(b"1 2 3"),
        r"frame a1: .*a1\.npy",
    ),
    "NaN points": (
        lambda root: np.save(root / "points/a1.npy", scan() * np.nan),
        r"frame a1: .*57 .*57 .*DROP_NONFINITE_POINTS",
    ),
    "twice": (lambda root: (root / "ImageSets/val.txt").write_text("b1\nb1\n"), r"val\.txt: frame b1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_nothing_is_made(folder, cfg, fault):
    change, told = FAULTS[fault]
    change(folder)
    with pytest.raises(InputError, match=told):
        create(cfg, folder)
    assert not [path for path in folder.iterdir() if path.name not in ("ImageSets", "points", "labels")]


def test_missing_infos_are_told_with_the_command(folder, cfg):
    with pytest.raises(
        InputError,
        match=r"custom_infos_val\.pkl.*create-infos CFG",
    ):
        build_dataloader(cfg, CLASSES, 1, dist=False, root_path=folder, workers=0, training=False)
