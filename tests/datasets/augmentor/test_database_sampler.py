"""Pasting objects into small scenes made here, where the right answer can be written down."""

import pickle
import warnings

import numpy as np
import pytest

from pcdet_focal.datasets.augmentor import object_points
from pcdet_focal.datasets.augmentor.data_augmentor import DataAugmentor
from pcdet_focal.datasets.augmentor.database_sampler import DataBaseSampler
from pcdet_focal.errors import InputError

CLASSES = ["Car", "Pedestrian"]


def make_database(root, boxes, features=4, name="Car", dtype=np.float32, points_each=6):
    """One object a box; its points are at the box centre, their intensity (column 3) is the object's number."""
    (root / "gt_database").mkdir(exist_ok=True)
    infos = []
    for i, box in enumerate(boxes):
        points = np.zeros((points_each, features))
        points[:, 3] = i
        path = f"gt_database/{name}_{i}.bin"
        points.astype(dtype).tofile(root / path)
        box = np.array(box, dtype=np.float64)
        infos.append(
            {"name": name, "path": path, "box3d_lidar": box, "num_points_in_gt": points_each, "difficulty": i % 3}
        )
    return infos


def config(**changes):
    return {
        "NAME": "gt_sampling",
        "USE_ROAD_PLANE": False,
        "DB_INFO_PATH": ["dbinfos.pkl"],
        "PREPARE": {},
        "SAMPLE_GROUPS": ["Car:3"],
        "NUM_POINT_FEATURES": 4,
        "REMOVE_EXTRA_WIDTH": [0.0, 0.0, 0.0],
        "LIMIT_WHOLE_SCENE": False,
        **changes,
    }


def write(root, **infos):
    (root / "dbinfos.pkl").write_bytes(pickle.dumps(infos))


@pytest.fixture
def root(tmp_path):
    """Ten cars in a row, 10 m apart, 4 x 2 x 1.5 m."""
    write(tmp_path, Car=make_database(tmp_path, [[10.0 * i, 0, 0, 4, 2, 1.5, 0] for i in range(10)]), Pedestrian=[])
    return tmp_path


def make_scene(n_points=0, boxes=((200.0, 0, 0, 4, 2, 1.5, 0),), names=("Car",)):
    points = np.random.default_rng(0).uniform(-5, 100, (n_points, 4)) * [1, 0.05, 0.02, 1]
    return {
        "frame_id": "000003",
        "points": points.astype(np.float32),
        "gt_boxes": np.array(boxes, dtype=np.float32).reshape(-1, 7),
        "gt_names": np.array(names),
        "gt_boxes_mask": np.ones(len(names), dtype=bool),
    }


def test_points_boxes_and_names_arrive_together(root):
    sampler = DataBaseSampler(root, config(), CLASSES)
    scene = make_scene(3000)
    before = pickle.dumps(scene)
    np.random.seed(0)
    expected = np.random.permutation(10)[:3]
    np.random.seed(0)
    result = sampler(scene)
    assert pickle.dumps(scene) == before
    assert result["gt_names"].tolist() == ["Car"] * 4
    np.testing.assert_allclose(result["gt_boxes"][1:, 0], 10.0 * expected)
    np.testing.assert_allclose(result["points"][:18, 0], np.repeat(10.0 * expected, 6))
    np.testing.assert_allclose(result["points"][:18, 3], np.repeat(expected, 6))
    x, y, z = np.abs(scene["points"][:, :3].astype(np.float64)).T
    covered = np.zeros(3000, dtype=bool)
    for centre in 10.0 * expected:
        covered |= (np.abs(scene["points"][:, 0] - centre) < 2.01) & (y < 1.01) & (z <= 0.75)
    assert covered.sum() > 20
    np.testing.assert_array_equal(result["points"][18:], scene["points"][~covered])


def test_a_call_does_not_depend_on_earlier_calls(root):
    sampler = DataBaseSampler(root, config(), CLASSES)
    np.random.seed(4)
    first = sampler(make_scene())
    for _ in range(7):
        sampler(make_scene())
    np.random.seed(4)
    again = pickle.loads(pickle.dumps(sampler))(make_scene())
    np.random.seed(4)
    third = sampler(make_scene())
    for key in ("points", "gt_boxes"):
        np.testing.assert_array_equal(first[key], again[key])
        np.testing.assert_array_equal(first[key], third[key])


def test_one_permutation_over_many_calls(root):
    """OpenPCDet's way: the rest of a permutation is used up, however few are left, before a new one is drawn."""
    sampler = DataBaseSampler(root, config(ONE_PERMUTATION=True), CLASSES)
    np.random.seed(0)
    orders = [np.random.permutation(10), np.random.permutation(10)]
    np.random.seed(0)
    for order in orders:
        for first in (0, 3, 6, 9):
            drawn = sampler.sample_with_fixed_number("Car", {"sample_num": 3})
            np.testing.assert_array_equal([info["box3d_lidar"][0] for info in drawn], 10.0 * order[first : first + 3])


def test_what_collides_stays_out(tmp_path):
    # the second is turned away by the scene, the third and fourth by each other (though only one would do), the fifth
    # only touches the first
    boxes = [
        [0, 0, 0, 4, 2, 1, 0],
        [50, 0, 0, 4, 2, 1, 0],
        [20, 0, 0, 4, 2, 1, 0],
        [21, 0, 0, 4, 2, 1, 0.3],
        [4, 0, 0, 4, 2, 1, 0],
    ]
    write(tmp_path, Car=make_database(tmp_path, boxes))
    result = DataBaseSampler(tmp_path, config(SAMPLE_GROUPS=["Car:5"]), ["Car"])(
        make_scene(boxes=[[51, 1, 5, 4, 2, 1, 1]], names=["Van"])
    )
    assert sorted(result["gt_boxes"][1:, 0]) == [0, 4]
    assert result["gt_names"].tolist() == ["Van", "Car", "Car"]


def test_classes_avoid_each_other_in_order(tmp_path):
    walker = make_database(tmp_path, [[1, 0, 0, 1, 1, 2, 0]], name="Pedestrian")
    write(tmp_path, Car=make_database(tmp_path, [[0, 0, 0, 4, 2, 1, 0]]), Pedestrian=walker)
    for groups, winner in ((["Car:1", "Pedestrian:1"], "Car"), (["Pedestrian:1", "Car:1"], "Pedestrian")):
        result = DataBaseSampler(tmp_path, config(SAMPLE_GROUPS=groups), CLASSES)(make_scene(boxes=[], names=[]))
        assert result["gt_names"].tolist() == [winner]


def test_boxes_of_other_classes_leave_whether_or_not_something_is_pasted(root):
    for groups, pasted in ((["Car:2"], 2), (["Car:0"], 0)):
        scene = make_scene(boxes=[[200, 0, 0, 4, 2, 1, 0], [300, 0, 0, 9, 3, 3, 0]], names=["Car", "Truck"])
        scene["gt_boxes_mask"] = np.array([True, False])
        result = DataBaseSampler(root, config(SAMPLE_GROUPS=groups), CLASSES)(scene)
        assert result["gt_names"].tolist() == ["Car"] * (1 + pasted) and len(result["gt_boxes"]) == 1 + pasted
        assert "gt_boxes_mask" not in result


def test_limit_counts_what_the_scene_has(root):
    boxes = [[200.0 + 10 * i, 0, 0, 4, 2, 1, 0] for i in range(3)]
    for limit, total in ((True, 5), (False, 8)):
        sampler = DataBaseSampler(root, config(SAMPLE_GROUPS=["Car:5"], LIMIT_WHOLE_SCENE=limit), CLASSES)
        for _ in range(3):  # OpenPCDet keeps the reduced number in the group; here nothing is kept
            assert len(sampler(make_scene(boxes=boxes, names=["Car"] * 3))["gt_boxes"]) == total
            assert len(sampler(make_scene(boxes=[], names=[]))["gt_boxes"]) == 5


def test_wider_removal(root):
    scene = make_scene(4000)
    counts = []
    for extra in (0.0, 2.0):
        np.random.seed(1)
        counts.append(len(DataBaseSampler(root, config(REMOVE_EXTRA_WIDTH=[extra, 0, 0]), CLASSES)(scene)["points"]))
    assert counts[1] < counts[0]


class FlatGround:
    """LiDAR frame to camera frame: x right = -y, y down = -z, z forward = x."""

    def lidar_to_rect(self, p):
        return np.stack([-p[:, 1], -p[:, 2], p[:, 0]], axis=1)

    def rect_to_lidar(self, p):
        return np.stack([p[:, 2], -p[:, 0], -p[:, 1]], axis=1)


def test_objects_are_set_down_on_the_plane(root):
    sampler = DataBaseSampler(root, config(USE_ROAD_PLANE=True), CLASSES)
    plane = np.array([0.0, -1.0, 0.02, 1.73])  # y = 1.73 + 0.02 z: the ground falls away
    result = sampler({**make_scene(), "calib": FlatGround(), "road_plane": plane})
    ground = -(1.73 + 0.02 * result["gt_boxes"][1:, 0])
    np.testing.assert_allclose(result["gt_boxes"][1:, 2] - 0.75, ground, atol=1e-5)
    np.testing.assert_allclose(result["points"][:18, 2], np.repeat(ground + 0.75, 6), atol=1e-5)
    assert not {"calib", "road_plane"} & result.keys()
    without = sampler({**make_scene(), "calib": FlatGround()})  # OpenPCDet raises KeyError
    assert (without["gt_boxes"][:, 2] == 0).all() and "calib" not in without


def test_a_class_without_objects_is_skipped_with_one_warning(root):
    with pytest.warns(UserWarning, match="Pedestrian") as caught:
        sampler = DataBaseSampler(root, config(SAMPLE_GROUPS=["Car:1", "Pedestrian:4", "Cyclist:9"]), CLASSES)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [sampler(make_scene())["gt_names"].tolist() for _ in range(2)] == [["Car", "Car"]] * 2


def test_filters_and_their_log(root):
    class Log(list):
        def info(self, text, *arguments):
            self.append(text % arguments)

        warning = info

    log = Log()
    sampler = DataBaseSampler(
        root, config(PREPARE={"filter_by_difficulty": [2], "filter_by_min_points": ["Car:6"]}), CLASSES, logger=log
    )
    assert len(sampler.db_infos["Car"]) == 7
    assert "Database filter by difficulty Car: 10 => 7" in log and "Database filter by min points Car: 7 => 7" in log
    assert pickle.loads(pickle.dumps(sampler)).logger is None


def test_points_of_several_sweeps(tmp_path):
    """Databases with a time column: only the present goes into a scene of one sweep, only TIME_RANGE where that is
    asked.
    """
    infos = make_database(tmp_path, [[0, 0, 0, 4, 2, 1, 0]], features=5)
    points = np.zeros((6, 5), dtype=np.float32)
    points[:, 4] = [0.0, 0.1, 0.2, 0.3, 0.0, 0.5]
    points.tofile(tmp_path / infos[0]["path"])
    write(tmp_path, Car=infos)
    assert len(DataBaseSampler(tmp_path, config(NUM_POINT_FEATURES=5), ["Car"])(make_scene())["points"]) == 2
    scene = {**make_scene(), "points": np.zeros((0, 5), dtype=np.float32)}
    assert len(DataBaseSampler(tmp_path, config(NUM_POINT_FEATURES=5), ["Car"])(scene)["points"]) == 6
    timed = config(NUM_POINT_FEATURES=5, FILTER_OBJ_POINTS_BY_TIMESTAMP=True, TIME_RANGE=[0.2, 0.0])
    assert len(DataBaseSampler(tmp_path, timed, ["Car"])(scene)["points"]) == 4
    with pytest.raises(InputError, match="NUM_POINT_FEATURES.*5.*3"):
        DataBaseSampler(tmp_path, config(NUM_POINT_FEATURES=5), ["Car"])({**scene, "points": scene["points"][:, :3]})


def test_old_databases(tmp_path):
    """DATABASE_WITH_FAKELIDAR: bottom centre, w l h, and the angle of the camera frame; float64 points."""
    write(tmp_path, Car=make_database(tmp_path, [[5, 1, -1, 2, 4, 1.5, -np.pi / 2]], dtype=np.float64))
    result = DataBaseSampler(tmp_path, config(DATABASE_WITH_FAKELIDAR=True), ["Car"])(make_scene())
    np.testing.assert_allclose(result["gt_boxes"][1], [5, 1, -0.25, 4, 2, 1.5, 0], atol=1e-6)
    assert result["points"].dtype == np.float32


def test_one_packed_file_and_the_backup(tmp_path):
    infos = make_database(tmp_path, [[10.0 * i, 0, 0, 4, 2, 1, 0] for i in range(3)])
    np.save(
        tmp_path / "packed.npy",
        np.concatenate([np.fromfile(tmp_path / info["path"], dtype=np.float32).reshape(-1, 4) for info in infos]),
    )
    for i, info in enumerate(infos):
        info["global_data_offset"] = [6 * i, 6 * i + 6]
    write(tmp_path, Car=infos)
    np.random.seed(0)
    plain = DataBaseSampler(tmp_path, config(), ["Car"])(make_scene())
    packed = config(USE_SHARED_MEMORY=True, DB_DATA_PATH=["packed.npy"])
    backup = config(
        USE_SHARED_MEMORY=True,
        DB_DATA_PATH=["absent.npy"],
        DB_INFO_PATH=["absent.pkl"],
        BACKUP_DB_INFO={"DB_INFO_PATH": "dbinfos.pkl", "DB_DATA_PATH": "packed.npy", "NUM_POINT_FEATURES": 4},
    )
    for settings in (packed, backup):
        np.random.seed(0)
        sampler = pickle.loads(pickle.dumps(DataBaseSampler(tmp_path, settings, ["Car"])))
        np.testing.assert_array_equal(sampler(make_scene())["points"], plain["points"])
    assert backup["DB_INFO_PATH"] == ["absent.pkl"]  # OpenPCDet writes the backup into the configuration
    with pytest.raises(InputError, match="absent.npy.*create-infos"):
        DataBaseSampler(tmp_path, config(USE_SHARED_MEMORY=True, DB_DATA_PATH=["absent.npy"]), ["Car"])


def test_files_are_read_once_up_to_a_limit(root, monkeypatch):
    reads = []
    read_file = object_points.ObjectPoints._read_file
    monkeypatch.setattr(
        object_points.ObjectPoints, "_read_file", lambda self, info: reads.append(info["path"]) or read_file(self, info)
    )
    sampler = DataBaseSampler(root, config(SAMPLE_GROUPS=["Car:10"]), CLASSES)
    results = [sampler(make_scene()) for _ in range(3)]
    assert len(reads) == 10
    for result in results:  # what is kept is not changed by its use
        np.testing.assert_allclose(result["points"][:, 0], 10 * result["points"][:, 3])
    monkeypatch.setattr(object_points, "CACHE_BYTES", 2 * 6 * 4 * 4)
    sampler = pickle.loads(pickle.dumps(sampler))
    reads.clear()
    for _ in range(3):
        sampler(make_scene())
    assert len(reads) == 10 + 8 + 8


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"DB_INFO_PATH": ["absent.pkl"]}, r"DB_INFO_PATH\[0\].*absent\.pkl.*create-infos"),
        (
            {"PREPARE": {"filter_by_min_point": ["Car:5"]}},
            r"PREPARE\.filter_by_min_point.*filter_by_min_points",
        ),
        ({"PREPARE": {"filter_by_min_points": ["Car"]}}, r"PREPARE\.filter_by_min_points\[0\] .*'Car'.*'Car:15'"),
        ({"SAMPLE_GROUPS": ["Car:1", "Car:many"]}, r"SAMPLE_GROUPS\[1\] .*'Car:many'"),
        ({"REMOVE_EXTRA_WIDTH": [0.0]}, r"REMOVE_EXTRA_WIDTH"),
        ({"IMG_AUG_TYPE": "kitti"}, r"IMG_AUG_TYPE"),
    ],
)
def test_wrong_configurations(root, changes, message):
    with pytest.raises(InputError, match=r"DATA_CONFIG\.DATA_AUGMENTOR\.AUG_CONFIG_LIST\[0\]\." + message):
        DataAugmentor(root, [config(**changes)], CLASSES)


def test_missing_and_wrong_object_files(root):
    sampler = DataBaseSampler(root, config(SAMPLE_GROUPS=["Car:10"]), CLASSES)
    (root / "gt_database/Car_4.bin").write_bytes(b"\0" * 20)
    with pytest.raises(InputError, match=r"Car_4\.bin .*20 .*96 .*create-infos"):
        sampler(make_scene())
    (root / "gt_database/Car_4.bin").unlink()
    with pytest.raises(InputError, match=r"Car_4\.bin.*create-infos"):
        sampler(make_scene())


def test_scenes_that_cannot_take_objects(root):
    sampler = DataBaseSampler(root, config(), CLASSES)
    with pytest.raises(InputError, match="gt_boxes2d"):
        sampler({**make_scene(), "gt_boxes2d": np.zeros((1, 4))})
    with pytest.raises(InputError, match="7.*9"):
        sampler({**make_scene(), "gt_boxes": np.zeros((1, 9), dtype=np.float32)})
