"""What is written is KITTI: file sizes and formats, labels that give the cast boxes back, folders that are never half
done.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from pcdet_focal.config import Config, cfg_from_yaml_file
from pcdet_focal.datasets.kitti.kitti_dataset import create_kitti_infos
from pcdet_focal.datasets.synthetic import (
    SyntheticConfig,
    camera,
    kitti_writer,
    occlusion_level,
    simulate_frame,
    write_kitti_folder,
)
from pcdet_focal.datasets.synthetic.__main__ import main
from pcdet_focal.errors import InputError

CONFIG = SyntheticConfig(seed=5)
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "synthetic"
    assert write_kitti_folder(root, 4, 2, CONFIG, progress=False)
    return root


def read_calib(path):
    return {
        line.split(":")[0]: np.array(line.split(":")[1].split(), np.float64)
        for line in path.read_text().splitlines()
        if line
    }


def read_labels(path):
    return [line.split() for line in path.read_text().splitlines()]


def test_folder_has_kittis_files_and_sizes(folder):
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "ImageSets",
        "image_shapes.json",
        "synthetic.json",
        "training",
    ]
    assert (folder / "ImageSets" / "train.txt").read_text().split() == ["000000", "000001", "000002", "000003"]
    assert (folder / "ImageSets" / "val.txt").read_text().split() == ["000004", "000005"]
    assert len((folder / "ImageSets" / "trainval.txt").read_text().split()) == 6
    assert json.loads((folder / "image_shapes.json").read_text())["000005"] == [375, 1242]
    for index in range(6):
        stored = np.fromfile(folder / "training" / "velodyne" / f"{index:06d}.bin", "<f4").reshape(-1, 4)
        np.testing.assert_array_equal(stored, simulate_frame(CONFIG, index).points)
        assert stored[:, 3].min() >= 0.0 and stored[:, 3].max() <= 1.0 and len(np.unique(stored[:, 3])) > 20
        calib = read_calib(folder / "training" / "calib" / f"{index:06d}.txt")
        assert list(calib) == ["P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"]
        assert [len(v) for v in calib.values()] == [12, 12, 12, 12, 9, 12, 12]
        plane = (folder / "training" / "planes" / f"{index:06d}.txt").read_text().splitlines()
        assert len(plane) == 4 and len(plane[3].split()) == 4
        for fields in read_labels(folder / "training" / "label_2" / f"{index:06d}.txt"):
            assert len(fields) == 15 and fields[0] in ("Car", "Van", "Pedestrian", "Cyclist", "DontCare")


def test_labels_read_back_hold_their_objects_points(folder):
    """Through the written calibration: heading = -(ry + pi / 2), centre = bottom + h / 2; more than 99 % of the
    noiseless hits are inside.
    """
    classes = set()
    for index in range(6):
        calib = read_calib(folder / "training" / "calib" / f"{index:06d}.txt")
        rect, velo = np.eye(4), np.eye(4)
        rect[:3, :3], velo[:3] = calib["R0_rect"].reshape(3, 3), calib["Tr_velo_to_cam"].reshape(3, 4)
        back = np.linalg.inv(rect @ velo)
        frame = simulate_frame(CONFIG, index)
        labels = [
            fields
            for fields in read_labels(folder / "training" / "label_2" / f"{index:06d}.txt")
            if fields[0] != "DontCare"
        ]
        assert len(labels) >= 5
        taken = set()
        for fields in labels:
            h, w, l, x, y, z, ry = (float(v) for v in fields[8:15])
            centre = (back @ [x, y, z, 1.0])[:3] + [0.0, 0.0, h / 2]
            heading = -(ry + math.pi / 2)
            number = min(range(len(frame.objects)), key=lambda k: np.linalg.norm(frame.objects[k].box[:3] - centre))
            item = frame.objects[number]
            assert item.name == fields[0] and number not in taken
            taken.add(number)
            np.testing.assert_allclose(centre, item.box[:3], atol=1e-3)
            np.testing.assert_allclose((l, w, h), item.box[3:6], atol=1e-4)
            assert math.cos(heading - item.box[6]) > 1 - 1e-7
            own = frame.exact[frame.owner == number] - centre
            c, s = math.cos(heading), math.sin(heading)
            own = np.abs(np.stack([own[:, 0] * c + own[:, 1] * s, own[:, 1] * c - own[:, 0] * s, own[:, 2]], axis=1))
            assert len(own) and (own <= np.array([l, w, h]) / 2 + 1e-3).all(axis=1).mean() > 0.99
            classes.add(item.name)
    assert classes >= {"Car", "Pedestrian", "Cyclist"}


def test_boxes_in_the_image_surround_the_projected_points(folder):
    for index in range(6):
        frame = simulate_frame(CONFIG, index)
        p2 = frame.calib["P2"]
        for fields in read_labels(folder / "training" / "label_2" / f"{index:06d}.txt"):
            left, top, right, bottom = (float(v) for v in fields[4:8])
            assert 0 <= left < right <= 1241 and 0 <= top < bottom <= 374
            if fields[0] == "DontCare":
                continue
            truncation, alpha, x, z, ry = (
                float(fields[1]),
                float(fields[3]),
                float(fields[11]),
                float(fields[13]),
                float(fields[14]),
            )
            touches = left <= 0 or top <= 0 or right >= 1241 or bottom >= 374
            assert 0.0 <= truncation <= 1.0 and (truncation == 0.0 or touches)
            assert math.cos(alpha - (ry - math.atan2(x, z))) > 0.9999
            number = min(
                range(len(frame.objects)),
                key=lambda k: np.linalg.norm(
                    camera.lidar_to_rect(frame.objects[k].box[None, :3], frame.calib)[0][[0, 2]] - [x, z]
                ),
            )
            own = frame.exact[(frame.owner == number)]
            own = own[camera.in_image(own, frame.calib)]
            image = camera.lidar_to_rect(own, frame.calib) @ p2[:, :3].T + p2[:, 3]
            u, v = image[:, 0] / image[:, 2], image[:, 1] / image[:, 2]
            inside = (u > left - 1.5) & (u < right + 1.5) & (v > top - 1.5) & (v < bottom + 1.5)
            assert inside.mean() > 0.98  # the box is upright for the camera, the shape for the LiDAR: a degree apart


def test_truncation_is_the_share_outside_the_image():
    calib = camera.calibration()
    p2 = calib["P2"]
    # A thin plate 10 m ahead, 2 m high and 4 m wide, whose middle projects on the left edge of the image.
    x = (0.0 - p2[0, 2]) * 10.0 / p2[0, 0] - p2[0, 3] / p2[0, 0]
    box, truncation = camera.project_box(np.array([x, 1.0, 10.0]), (2.0, 1e-6, 4.0), 0.0, calib)
    assert truncation == pytest.approx(0.5, abs=0.01)
    assert box[0] == 0.0 and box[2] == pytest.approx(2.0 * p2[0, 0] / 10.0, rel=0.01)
    assert camera.project_box(np.array([0.0, 1.0, -10.0]), (2.0, 1.0, 4.0), 0.0, calib) is None
    assert camera.project_box(np.array([60.0, 1.0, 10.0]), (2.0, 1.0, 4.0), 0.0, calib) is None
    # a car beside the camera, partly behind it
    across, much = camera.project_box(np.array([1.6, 1.7, 0.5]), (1.5, 1.6, 4.0), 1.57, calib)
    assert np.isfinite(across).all() and much > 0.5


def test_occlusion_levels():
    assert [occlusion_level(share) for share in (1.0, 0.81, 0.6, 0.3, 0.05, 0.0)] == [0, 0, 1, 2, 3, 3]


def test_the_same_request_is_not_repeated_and_another_one_replaces_it(tmp_path):
    root = tmp_path / "data"
    assert write_kitti_folder(root, 1, 1, CONFIG, progress=False)
    scan = root / "training" / "velodyne" / "000000.bin"
    first = scan.stat().st_mtime_ns
    assert not write_kitti_folder(root, 1, 1, CONFIG, progress=False)
    assert scan.stat().st_mtime_ns == first
    create_kitti_infos(
        cfg_from_yaml_file(REPOSITORY / "cfgs/dataset_configs/kitti_dataset.yaml", Config()),
        ["Car"],
        root,
        root,
        workers=1,
    )
    made = [
        root / name
        for name in ("kitti_infos_train.pkl", "kitti_dbinfos_train.pkl", "gt_database", "gt_database_global.npy")
    ]
    assert all(path.exists() for path in made)
    assert write_kitti_folder(root, 2, 1, CONFIG, progress=False)
    assert len(list((root / "training" / "velodyne").iterdir())) == 3 and not any(path.exists() for path in made)
    (root / "notes.txt").write_text("mine")
    assert not write_kitti_folder(root, 2, 1, CONFIG, progress=False)
    with pytest.raises(InputError, match="notes.txt"):
        write_kitti_folder(root, 1, 1, CONFIG, progress=False)
    assert (root / "notes.txt").exists() and [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_an_incomplete_folder_is_made_again(tmp_path):
    root = tmp_path / "data"
    write_kitti_folder(root, 1, 1, CONFIG, progress=False)
    (root / "training" / "label_2" / "000001.txt").unlink()
    assert write_kitti_folder(root, 1, 1, CONFIG, progress=False)
    assert (root / "training" / "label_2" / "000001.txt").exists()


def test_foreign_folders_and_bad_counts_are_refused(tmp_path):
    (tmp_path / "thing.txt").write_text("x")
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        write_kitti_folder(tmp_path, 1, 1, CONFIG, progress=False)
    with pytest.raises(InputError, match=r"thing\.txt"):
        write_kitti_folder(tmp_path / "thing.txt", 1, 1, CONFIG, progress=False)
    with pytest.raises(InputError, match="num_train"):
        write_kitti_folder(tmp_path / "new", -1, 1, CONFIG, progress=False)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["thing.txt"]


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def stop(config, index):
        if index == 1:
            raise KeyboardInterrupt
        return simulate_frame(config, index)

    monkeypatch.setattr(kitti_writer, "simulate_frame", stop)
    with pytest.raises(KeyboardInterrupt):
        write_kitti_folder(tmp_path / "data", 2, 1, CONFIG, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, capsys):
    root = str(tmp_path / "data")
    arguments = ["--root", root, "--num_train", "1", "--num_val", "1", "--seed", "2", "--quiet"]
    assert main(arguments) == 0 and root in capsys.readouterr().out
    made = {path: path.stat().st_mtime_ns for path in Path(root).rglob("*")}
    assert main(arguments) == 0 and root in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path(root).rglob("*")} == made  # what is there stays
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thing.txt").write_text("x")
    assert main(["--root", str(tmp_path / "other"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert (
        main(["--root", str(tmp_path / "new"), "--seed", "-1", "--quiet"]) == 2 and "seed -1" in capsys.readouterr().err
    )


def test_a_config_that_cannot_be_is_named():
    for wrong in ({"seed": -1}, {"cars": (5, 2)}, {"pedestrians": (-1, 2)}, {"slope": 0.5}, {"undulation": -0.1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            SyntheticConfig(**wrong)
    crowd = simulate_frame(SyntheticConfig(cars=(150, 150), pedestrians=(150, 150), cyclists=(60, 60)), 0)
    assert len(crowd.objects) > 150


def test_the_package_s_own_calibration_gives_the_boxes_back(folder):
    """The reader's side: Calibration and the camera-to-LiDAR box conversion on the written files."""
    from pcdet_focal.utils.box_utils import boxes3d_kitti_camera_to_lidar
    from pcdet_focal.utils.calibration_kitti import Calibration

    frame = simulate_frame(CONFIG, 0)
    calib = Calibration(folder / "training" / "calib" / "000000.txt")
    labels = [
        fields for fields in read_labels(folder / "training" / "label_2" / "000000.txt") if fields[0] != "DontCare"
    ]
    # x y z l h w ry
    camera_boxes = np.array([[float(fields[k]) for k in (11, 12, 13, 10, 8, 9, 14)] for fields in labels], np.float32)
    boxes = boxes3d_kitti_camera_to_lidar(camera_boxes, calib)
    truth = np.array([item.box for item in frame.objects])
    for box in boxes:
        match = truth[np.linalg.norm(truth[:, :3] - box[:3], axis=1).argmin()]
        np.testing.assert_allclose(box[:6], match[:6], atol=2e-3)
        assert math.cos(box[6] - match[6]) > 1 - 1e-6
