"""Each mistake put into a good data set or configuration is found and named, with what to change; good ones give no
warning.
"""

import re
import shutil

import checked_data
import numpy as np
import pytest
import tiny_custom
import tiny_kitti
from golden_data import KITTI_SAMPLE, needs_kitti_sample

from pcdet_focal.config import Config, cfg_from_yaml_file
from pcdet_focal.datasets.custom.custom_dataset import create_custom_infos
from pcdet_focal.datasets.kitti.dataset import KittiDataset
from pcdet_focal.engine.checks import check_dataset, labels, report_lines
from pcdet_focal.errors import InputError

CLASSES = ["Vehicle", "Pedestrian", "Cyclist"]


def checked(root, change_config=None, model="pointpillar", **arguments):
    cfg = checked_data.config(root, model)
    if change_config is not None:
        change_config(cfg)
    return check_dataset(cfg, progress=False, **arguments)


def complaints(report):
    return [finding for finding in report.findings if finding.severity != "note"]


def assert_named(report, check, advice):
    named = [finding for finding in complaints(report) if finding.check == check]
    text = "\n".join(report_lines(report.findings))
    assert named, f"{check} is not found:\n{text}"
    assert any(re.search(advice, finding.change) for finding in named), text
    return named


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return tiny_custom.write_folder(
        tmp_path_factory.mktemp("good") / "custom", checked_data.FRAMES, 2, checked_data.good
    )


# ---- no false alarms
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["pointpillar", "second"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_good_data_give_no_warning(good, model, split):
    report = checked(good, model=model, split=split)
    assert not complaints(report), "\n".join(report_lines(report.findings))
    assert (report.num_frames, report.num_scans) == ((8, 8) if split == "train" else (2, 2)) and report.num_boxes > 20
    assert [title for title, _ in report.examples] == ["as labelled"] * 12


def test_a_street_straight_ahead_gives_no_warning(tmp_path):
    report = checked(tiny_custom.write_folder(tmp_path / "custom", checked_data.FRAMES, 0))
    assert not complaints(report), "\n".join(report_lines(report.findings))


def test_a_sensor_of_few_beams_gives_no_error(tmp_path):
    """With a twelfth of the points many boxes are empty, which is true; no mistake is made up."""
    report = checked(
        tiny_custom.write_folder(tmp_path / "custom", checked_data.FRAMES, 0, checked_data.sparse(checked_data.good))
    )
    assert {finding.check for finding in complaints(report)} <= {"boxes without points"} and not report.count("error")


@pytest.mark.parametrize("model", ["pointpillar", "second"])
def test_the_simulated_kitti_folder_gives_no_warning(model):
    cfg = cfg_from_yaml_file(tiny_kitti.REPOSITORY / f"cfgs/synthetic_models/{model}.yaml", Config())
    cfg.DATA_CONFIG.DATA_PATH = str(tiny_kitti.dataset())
    report = check_dataset(cfg, progress=False)
    assert not complaints(report), "\n".join(report_lines(report.findings))
    assert report.num_frames == tiny_kitti.NUM_TRAIN and "info files" not in {
        finding.check for finding in report.findings
    }


def test_objects_without_rectangles_are_counted():
    def frame(frame_id, bbox, names):
        annos = {"name": np.array(names), "bbox": np.array(bbox, np.float32).reshape(-1, 4)}
        return {"point_cloud": {"lidar_idx": frame_id}, "annos": annos}

    infos = [
        frame("000001", [[1, 2, 30, 40], [0, 0, 0, 0], [5, 5, 5, 9]], ["Car", "Car", "Cyclist"]),
        frame("000002", [[0, 0, 0, 0]], ["Van"]),
        frame("000003", [], []),
        {"point_cloud": {"lidar_idx": "000004"}, "annos": {"name": np.array(["Car"])}},
    ]
    (finding,) = labels.check_rectangles(infos, ["Car", "Cyclist"])
    assert finding.severity == "warning" and "000001" in finding.where
    assert finding.what.startswith("2 of 3 objects have no 2-D rectangle")
    assert not labels.check_rectangles(infos[1:], ["Car", "Cyclist"])


@needs_kitti_sample
@pytest.mark.parametrize("model", ["second", "pointpillar"])
@pytest.mark.parametrize("split, frames", [("train", 8), ("val", 7)])
def test_real_kitti_frames_give_no_warning(model, split, frames):
    cfg = cfg_from_yaml_file(tiny_kitti.REPOSITORY / f"cfgs/kitti_models/{model}.yaml", Config())
    cfg.DATA_CONFIG.DATA_PATH = str(KITTI_SAMPLE)
    report = check_dataset(cfg, split, progress=False)
    assert not complaints(report), "\n".join(report_lines(report.findings))
    assert report.num_frames == frames


# ---- mistakes in the data
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mistake", checked_data.DATA_MISTAKES)
def test_a_mistake_in_the_data_is_named(tmp_path, mistake):
    change, check, advice = checked_data.DATA_MISTAKES[mistake]
    root = tiny_custom.write_folder(tmp_path / "custom", checked_data.FRAMES, 0, change)

    def paste_no_cyclists(cfg):
        if check == "class imbalance":
            cfg.DATA_CONFIG.DATA_AUGMENTOR.AUG_CONFIG_LIST[0]["SAMPLE_GROUPS"] = ["Vehicle:20"]

    report = checked(root, paste_no_cyclists)
    named = assert_named(report, check, advice)
    others = {finding.check for finding in report.findings if finding.severity == "error"} - {check}
    assert others <= {"empty grid"}, others  # the mistake, and not what follows from it
    if named[0].examples:
        assert report.examples[0][1] in [example for finding in complaints(report) for example in finding.examples]


@pytest.fixture(scope="module")
def real_frames():
    """[(points, LiDAR boxes, names, camera boxes x y z l w h ry)] of the real frames."""
    cfg = cfg_from_yaml_file(tiny_kitti.REPOSITORY / "cfgs/kitti_models/second.yaml", Config())
    dataset = KittiDataset(cfg.DATA_CONFIG, cfg.CLASS_NAMES, training=False, root_path=KITTI_SAMPLE)
    frames = []
    for split in ("train", "val"):
        dataset.set_split(split)
        for frame_id in dataset.sample_id_list:
            annos = dataset.get_info(frame_id, count_inside_pts=False)["annos"]
            own = annos["name"] != "DontCare"
            camera = np.column_stack([annos["location"], annos["dimensions"][:, [0, 2, 1]], annos["rotation_y"]])[own]
            names = [{"Car": "Vehicle", "Van": "Vehicle"}.get(name, name) for name in annos["name"][own]]
            frames.append((dataset.get_lidar(frame_id), annos["gt_boxes_lidar"], names, camera))
    return frames


REAL = {
    "good": (lambda lidar, camera: lidar, None, ""),
    "KITTI's own camera boxes": (
        lambda lidar, camera: camera,
        "wrong frame",
        r"z_camera, -x_camera, -y_camera \+ dz/2",
    ),
    "bottom-centred": (
        lambda lidar, camera: checked_data.columns("x", "y", "z", bottom=-0.5)(lidar),
        "z origin",
        r"write z \+ dz/2",
    ),
    "heading sign": (
        lambda lidar, camera: checked_data.columns("x", "y", "z", heading=(-1, 0))(lidar),
        "heading sign",
        r"write -heading",
    ),
    "rotation_y as heading": (
        lambda lidar, camera: np.c_[lidar[:, :6], camera[:, 6]],
        "heading convention",
        r"pi/2 - heading",
    ),
    "length and width swapped": (
        lambda lidar, camera: checked_data.swap_sizes(lidar),
        "length and width swapped",
        r"swap dx and dy",
    ),
    "height, width, length": (
        lambda lidar, camera: lidar[:, [0, 1, 2, 5, 4, 3, 6]],
        "order of sizes",
        r"length width height",
    ),
    "heights from the ground": (
        lambda lidar, camera: lidar + np.array([0, 0, 1.73, 0, 0, 0, 0]),
        "z offset",
        r"add -1\.[78]\d to z",
    ),
    "left-handed": (
        lambda lidar, camera: checked_data.columns("x", "-y", "z", heading=(-1, 0))(lidar),
        "wrong frame",
        r"y = -y_old",
    ),
}


@needs_kitti_sample
@pytest.mark.parametrize("mistake", REAL)
def test_a_mistake_in_real_frames_is_named(tmp_path, real_frames, mistake):
    change, check, advice = REAL[mistake]
    root = tmp_path / "custom"
    for folder in ("points", "labels", "ImageSets"):
        (root / folder).mkdir(parents=True)
    for index, (points, lidar, names, camera) in enumerate(real_frames):
        tiny_custom.write_frame(root, f"{index:06d}", points[::2], change(lidar.copy(), camera), names)
    (root / "ImageSets/train.txt").write_text("".join(f"{index:06d}\n" for index in range(len(real_frames))))
    report = checked(root)
    if check is None:
        assert not complaints(report), "\n".join(report_lines(report.findings))
    else:
        assert_named(report, check, advice)
        assert {finding.check for finding in complaints(report)} == {check}


# ---- mistakes in the configuration
# -------------------------------------------------------------------------------------------------


def point_range(*limits):
    return lambda cfg: cfg.DATA_CONFIG.update(POINT_CLOUD_RANGE=list(limits))


def voxels(**entries):
    return lambda cfg: checked_data.voxels(cfg).update(entries)


def anchors(place, **entries):
    def change(cfg):
        for entry in cfg.MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG[place]:
            entry.update(entries)

    return change


def sampling(**entries):
    return lambda cfg: cfg.DATA_CONFIG.DATA_AUGMENTOR.AUG_CONFIG_LIST[0].update(entries)


ALL = slice(None)
CONFIG_MISTAKES = {
    "range, x": (
        "pointpillar",
        point_range(-76.8, -76.8, -4, 76.9, 76.8, 2),
        "range and voxels",
        r"upper x of POINT_CLOUD_RANGE to 77,",
    ),
    "range, z": (
        "second",
        point_range(-76.8, -76.8, -4, 76.8, 76.8, 2.1),
        "range and voxels",
        r"upper z of POINT_CLOUD_RANGE to 2\.15,",
    ),
    "strides, x": (
        "pointpillar",
        point_range(-76.8, -76.8, -4, 76.4, 76.8, 2),
        "backbone strides",
        r"upper x of POINT_CLOUD_RANGE to 76\.8: 768",
    ),
    "strides, y": (
        "second",
        point_range(-76.8, -76.8, -4, 76.8, 75.9, 2),
        "backbone strides",
        r"upper y of POINT_CLOUD_RANGE to 76\.8: 1536 voxels",
    ),
    "pillars of half the height": (
        "pointpillar",
        voxels(VOXEL_SIZE=[0.2, 0.2, 3]),
        "pillar height",
        r"height of VOXEL_SIZE to 6",
    ),
    "layers": (
        "second",
        voxels(VOXEL_SIZE=[0.1, 0.1, 0.1]),
        "grid height",
        r"VOXEL_SIZE to 0\.15 \(40 voxels.*NUM_BEV_FEATURES to 384",
    ),
    "feature map": ("pointpillar", anchors(ALL, feature_map_stride=4), "anchor stride", r"feature_map_stride to 2"),
    "anchor size": (
        "pointpillar",
        anchors(slice(0, 1), anchor_sizes=[[8.0, 2.4, 3.0]]),
        "anchor size",
        r"anchor_sizes: \[\[(3\.9|4\.\d)\d?, 1\.6",
    ),
    "anchor overlap": (
        "pointpillar",
        anchors(slice(0, 1), anchor_sizes=[[8.0, 2.4, 3.0]]),
        "anchor overlap",
        r"anchor_sizes: \[\[",
    ),
    "anchor height": (
        "pointpillar",
        anchors(ALL, anchor_bottom_heights=[0]),
        "anchor height",
        r"anchor_bottom_heights: \[-1\.7\d?\]",
    ),
    "anchor class": (
        "pointpillar",
        anchors(slice(0, 1), class_name="Vehicel"),
        "class entries",
        r"did you mean Vehicle",
    ),
    "no anchors": (
        "pointpillar",
        lambda cfg: cfg.MODEL.DENSE_HEAD.update(
            ANCHOR_GENERATOR_CONFIG=cfg.MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG[:2]
        ),
        "class entries",
        r"one for each class",
    ),
    "sample groups": (
        "pointpillar",
        sampling(SAMPLE_GROUPS=["Vehicle:20", "Cycilst:15"]),
        "class entries",
        r"did you mean Cyclist",
    ),
    "fewest points": (
        "pointpillar",
        sampling(PREPARE={"filter_by_min_points": ["Car:5"]}),
        "class entries",
        r"write it as in CLASS_NAMES",
    ),
    "columns": ("pointpillar", sampling(NUM_POINT_FEATURES=5), "point features", r"NUM_POINT_FEATURES: 4"),
    "few voxels": (
        "pointpillar",
        voxels(MAX_NUMBER_OF_VOXELS={"train": 2000, "test": 60000}),
        "too many voxels",
        r"_VOXELS\.train to \d+000",
    ),
    "full voxels": ("pointpillar", voxels(MAX_POINTS_PER_VOXEL=1), "full voxels", r"MAX_POINTS_PER_VOXEL to 2"),
    "small range": (
        "pointpillar",
        point_range(-12.8, -12.8, -4, 12.8, 12.8, 2),
        "boxes out of range",
        r"98 % of which are within x -?\d",
    ),
    "range above": (
        "pointpillar",
        point_range(-76.8, -76.8, 0, 76.8, 76.8, 6),
        "boxes out of range",
        r"; z -\d\.\d to -\d\.\d m",
    ),
    "range elsewhere": (
        "pointpillar",
        point_range(200, 200, -4, 353.6, 353.6, 2),
        "empty grid",
        r"choose a range that holds the scene",
    ),
}


@pytest.mark.parametrize("mistake", CONFIG_MISTAKES)
def test_a_mistake_in_the_configuration_is_named(good, mistake):
    model, change, check, advice = CONFIG_MISTAKES[mistake]
    assert_named(checked(good, change, model, num_scans=4), check, advice)


# ---- files
# ----------------------------------------------------------------------------------------------------------------------


def test_faulty_files_are_named_and_the_rest_is_checked(good, tmp_path):
    root = tmp_path / "custom"
    shutil.copytree(good, root)
    (root / "labels/000001.txt").write_text("Vehicle 1 2 3 4 5 6 0\n")
    (root / "labels/000002.txt").unlink()
    (root / "points/000003.npy").write_bytes(b"no array")
    np.save(root / "points/000004.npy", np.zeros((0, 4), np.float32))
    np.save(root / "points/000005.npy", np.load(root / "points/000005.npy") * np.float32([1, 1, 1, 0]))
    report = checked(root)
    unreadable = assert_named(report, "unreadable file", "mend what the message names")[0]
    assert (
        "000001.txt:1" in unreadable.what
        and "2 frames alike" in unreadable.what
        and unreadable.where == "frames 000001, 000002, 000003"
    )
    assert assert_named(report, "empty scan", "ImageSets")[0].where == "frames 000004"
    assert report.num_frames == 6 and report.num_scans == 5


def test_a_feature_that_is_the_same_everywhere(tmp_path, good):
    root = tiny_custom.write_folder(
        tmp_path / "custom", 3, 0, checked_data.on_points(lambda points: points * np.float32([1, 1, 1, 0]))
    )
    assert_named(checked(root), "constant feature", "leave intensity out of POINT_FEATURE_ENCODING.used_feature_list")


def test_infos_that_are_older_than_the_labels(good, tmp_path):
    root = tmp_path / "custom"
    shutil.copytree(good, root)
    create_custom_infos(checked_data.config(root).DATA_CONFIG, CLASSES, root, root, workers=1)
    assert not complaints(checked(root)) and "info files" not in {finding.check for finding in checked(root).findings}
    path = root / "labels/000001.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    named = assert_named(checked(root), "info files", "create-infos")[0]
    assert "1 frames have other labels" in named.what and "000001" in named.where


def test_nothing_to_check_is_an_error(good, tmp_path):
    with pytest.raises(InputError, match=r"ImageSets/none\.txt"):
        checked(good, split="none")
    with pytest.raises(InputError, match=r"DATASET: 'DatasetTemplate' .*CustomDataset"):
        checked(good, lambda cfg: cfg.DATA_CONFIG.update(DATASET="DatasetTemplate"))


def test_the_table_has_errors_first_and_says_what_to_change(good):
    report = checked(good, anchors(ALL, anchor_bottom_heights=[0]), num_scans=2)
    lines = report_lines(report.findings)
    heads = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert heads == sorted(heads, key=["error", "warning", "note"].index) and "warning" in heads
    assert (
        any(re.match(r" +-> anchor_bottom_heights: \[-1\.\d+\]$", line) for line in lines)
        and max(map(len, lines)) <= 150
    )
