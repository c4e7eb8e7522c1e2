"""The list of augmentations: what it hands on, what it leaves in the dict, and what it says about a wrong
configuration.
"""

import pickle

import numpy as np
import pytest
from easydict import EasyDict

from pcdet_focal.datasets.augmentor.data_augmentor import DataAugmentor
from pcdet_focal.errors import InputError

FLIP = {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x", "y"]}
ROTATE = {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [-0.78539816, 0.78539816]}
SCALE = {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [0.95, 1.05]}
MOVE = {"NAME": "random_world_translation", "NOISE_TRANSLATE_STD": [0.5, 0.5, 0.2]}
WORLD = [FLIP, ROTATE, SCALE, MOVE]
LOCAL = [
    {"NAME": "random_local_translation", "LOCAL_TRANSLATION_RANGE": [-0.5, 0.5], "ALONG_AXIS_LIST": ["x", "y", "z"]},
    {"NAME": "random_local_rotation", "LOCAL_ROT_ANGLE": 0.3},
    {"NAME": "random_local_scaling", "LOCAL_SCALE_RANGE": [0.9, 1.1]},
    {
        "NAME": "random_local_frustum_dropout",
        "INTENSITY_RANGE": [0.1, 0.3],
        "DIRECTION": ["top", "bottom", "left", "right"],
    },
    {
        "NAME": "random_local_pyramid_aug",
        "DROP_PROB": 0.3,
        "SPARSIFY_PROB": 0.3,
        "SPARSIFY_MAX_NUM": 5,
        "SWAP_PROB": 0.3,
        "SWAP_MAX_NUM": 5,
    },
]


def make_frame(n=4, columns=7):
    rng = np.random.default_rng(0)
    parts = [
        np.arange(n)[:, None] * [9.0, 3.0, 0.0],
        rng.uniform(2, 4, (n, 3)),
        rng.uniform(-3, 3, (n, 1)),
        np.ones((n, columns - 7)),
    ]
    boxes = np.concatenate(parts, axis=1)
    points = np.concatenate(
        [rng.uniform(-2, 2, (400, 3)) + boxes[rng.integers(0, n, 400), :3], rng.uniform(0, 1, (400, 1))], axis=1
    )
    return {
        "frame_id": "000001",
        "points": points.astype(np.float32),
        "gt_boxes": boxes.astype(np.float32),
        "gt_names": np.array(["Car", "Van", "Car", "Bus"])[:n],
        "gt_boxes_mask": np.array([True, False, True, False])[:n],
        "road_plane": np.array([0.0, -1.0, 0.0, 1.7]),
    }


def matrix_of(result):
    """The 4x4 matrix that what was drawn describes, written out here once more."""
    matrix = np.diag([-1.0 if result["flip_y"] else 1.0, -1.0 if result["flip_x"] else 1.0, 1.0])
    c, s = np.cos(result["noise_rot"]), np.sin(result["noise_rot"])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ matrix * result["noise_scale"], result["noise_translate"][0]


@pytest.mark.parametrize("seed", range(4))
def test_what_was_drawn_explains_the_points(seed):
    frame = make_frame()
    before = pickle.dumps(frame)
    np.random.seed(seed)
    result = DataAugmentor(None, EasyDict(AUG_CONFIG_LIST=WORLD, DISABLE_AUG_LIST=["placeholder"]), ["Car"]).forward(
        frame
    )
    assert pickle.dumps(frame) == before
    matrix, shift = matrix_of(result)
    assert result["noise_translate"].shape == (1, 3)
    np.testing.assert_allclose(result["points"][:, :3], frame["points"][:, :3] @ matrix.T + shift, atol=2e-5)
    np.testing.assert_allclose(result["gt_boxes"][:, :3], frame["gt_boxes"][[0, 2], :3] @ matrix.T + shift, atol=2e-5)
    assert result["gt_names"].tolist() == ["Car", "Car"]
    assert not {"gt_boxes_mask", "road_plane"} & result.keys()


def test_headings_are_wrapped():
    frame = {**make_frame(), "gt_boxes_mask": np.ones(4, dtype=bool)}
    frame["gt_boxes"][:, 6] = [7.0, -9.0, np.float32(np.pi) + 0.1, 0.5]
    result = DataAugmentor(None, [], ["Car"]).forward(frame)
    np.testing.assert_allclose(np.exp(1j * result["gt_boxes"][:, 6]), np.exp(1j * frame["gt_boxes"][:, 6]), atol=1e-6)
    assert (np.abs(result["gt_boxes"][:, 6]) <= np.pi + 1e-6).all()
    assert result["gt_boxes"].dtype == np.float32


@pytest.mark.parametrize("columns", [7, 9])
def test_every_step_runs_pickled_and_repeats_with_a_seed(columns):
    frame = make_frame(columns=columns)
    before = pickle.dumps(frame)
    augmentor = DataAugmentor(None, [*WORLD, *LOCAL], ["Car"], logger=object())
    travelled = pickle.loads(pickle.dumps(augmentor))
    assert travelled.logger is None and len(travelled.data_augmentor_queue) == 9
    results = []
    for which in (augmentor, travelled, augmentor):
        np.random.seed(11)
        results.append(which.forward(frame))
    assert pickle.dumps(frame) == before
    for key in ("points", "gt_boxes", "noise_rot", "noise_scale", "flip_x"):
        np.testing.assert_array_equal(results[0][key], results[1][key])
        np.testing.assert_array_equal(results[0][key], results[2][key])
    assert results[0]["gt_boxes"].shape == (2, columns)


def test_disabled_steps_and_rebuilding_the_list():
    config = EasyDict(AUG_CONFIG_LIST=WORLD, DISABLE_AUG_LIST=["random_world_flip", "random_world_translation"])
    augmentor = DataAugmentor(None, config, ["Car"])
    result = augmentor.forward(make_frame())
    assert {"noise_rot", "noise_scale"} <= result.keys() and not {"flip_x", "noise_translate"} & result.keys()
    config.DISABLE_AUG_LIST = [entry["NAME"] for entry in WORLD]
    augmentor.disable_augmentation(config)
    np.testing.assert_array_equal(augmentor.forward(make_frame())["points"], make_frame()["points"])
    # without DISABLE_AUG_LIST
    assert len(DataAugmentor(None, {"AUG_CONFIG_LIST": WORLD}, ["Car"]).data_augmentor_queue) == 4


def test_frustum_dropout_keeps_names_beside_their_boxes():
    # OpenPCDet shortens gt_boxes alone, and fails on gt_boxes_mask or mislabels what is left
    frame = make_frame()
    config = [{"NAME": "random_world_frustum_dropout", "INTENSITY_RANGE": [0.5, 0.6], "DIRECTION": ["left"]}]
    np.random.seed(0)
    result = DataAugmentor(None, config, ["Car"]).data_augmentor_queue[0](dict(frame))
    n = len(result["gt_boxes"])
    assert 0 < n < 4
    np.testing.assert_array_equal(result["gt_boxes"], frame["gt_boxes"][:n])  # boxes lie from right to left
    assert result["gt_names"].tolist() == frame["gt_names"][:n].tolist() and len(result["gt_boxes_mask"]) == n
    np.random.seed(0)
    assert DataAugmentor(None, config, ["Car"]).forward(frame)["gt_names"].tolist() == [
        x for x in frame["gt_names"][:n] if x == "Car"
    ]


def test_proposals_move_with_the_boxes():
    frame = make_frame(columns=9)
    frame["roi_boxes"] = np.stack([frame["gt_boxes"]] * 3)
    np.random.seed(2)
    augmentor = DataAugmentor(None, WORLD, ["Car"])
    before = frame["roi_boxes"].copy()
    result = augmentor.forward({**frame, "gt_boxes_mask": np.ones(4, dtype=bool)})
    np.testing.assert_array_equal(frame["roi_boxes"], before)
    for rois in result["roi_boxes"]:
        np.testing.assert_allclose(rois[:, :6], result["gt_boxes"][:, :6], rtol=1e-6)
        np.testing.assert_allclose(np.exp(1j * rois[:, 6]), np.exp(1j * result["gt_boxes"][:, 6]), atol=1e-6)
        np.testing.assert_allclose(rois[:, 7:], result["gt_boxes"][:, 7:], rtol=1e-6)


def test_a_single_number_is_a_symmetric_range():
    np.random.seed(0)
    augmentor = DataAugmentor(None, [{"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": 0.4}], ["Car"])
    angles = [augmentor.forward(make_frame())["noise_rot"] for _ in range(30)]
    assert -0.4 <= min(angles) < -0.1 and 0.1 < max(angles) <= 0.4


def test_a_subclass_adds_a_step():
    class Mine(DataAugmentor):
        def lift(self, data_dict=None, config=None):
            if data_dict is None:
                return lambda data_dict: self.lift(data_dict, config)
            return {**data_dict, "points": data_dict["points"] + np.float32(config["BY"])}

    result = Mine(None, [{"NAME": "lift", "BY": 2}], ["Car"]).forward(make_frame())
    np.testing.assert_allclose(result["points"], make_frame()["points"] + 2, rtol=1e-6)


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"NAME": "random_wold_flip"}, r"AUG_CONFIG_LIST\[1\]\.NAME.*'random_wold_flip'.*random_world_flip"),
        ({"ALONG_AXIS_LIST": ["x"]}, r"AUG_CONFIG_LIST\[1\]\.NAME"),
        ({"NAME": "forward"}, r"AUG_CONFIG_LIST\[1\]\.NAME.*'forward'"),
        (
            {"NAME": "random_world_flip", "ALONG_AXIS_LST": ["x"]},
            r"AUG_CONFIG_LIST\[1\]\.ALONG_AXIS_LIST.*ALONG_AXIS_LST",
        ),
        ({"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["z"]}, r"AUG_CONFIG_LIST\[1\]\.ALONG_AXIS_LIST\[0\] .*'z'"),
        (
            {"NAME": "random_world_flip", "ALONG_AXIS_LIST": "x"},
            r"AUG_CONFIG_LIST\[1\]\.ALONG_AXIS_LIST",
        ),
        (
            {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [0.5]},
            r"AUG_CONFIG_LIST\[1\]\.WORLD_ROT_ANGLE",
        ),
        (
            {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": 0.5},
            r"AUG_CONFIG_LIST\[1\]\.WORLD_SCALE_RANGE",
        ),
        (
            {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [1.1, 0.9]},
            r"AUG_CONFIG_LIST\[1\]\.WORLD_SCALE_RANGE",
        ),
        (
            {"NAME": "random_world_translation", "NOISE_TRANSLATE_STD": [1, 2]},
            r"AUG_CONFIG_LIST\[1\]\.NOISE_TRANSLATE_STD",
        ),
        ({"NAME": "random_local_pyramid_aug", "DROP_PROB": 0.1}, r"AUG_CONFIG_LIST\[1\]\.SPARSIFY_PROB"),
        ({**LOCAL[-1], "SWAP_PROB": "often"}, r"AUG_CONFIG_LIST\[1\]\.SWAP_PROB"),
        (
            {"NAME": "random_world_frustum_dropout", "INTENSITY_RANGE": [0, 0.2], "DIRECTION": ["botom"]},
            r"AUG_CONFIG_LIST\[1\]\.DIRECTION\[0\] .*'botom'.* bottom",
        ),
        ({"NAME": "gt_sampling", "DB_INFO_PATH": []}, r"AUG_CONFIG_LIST\[1\]\.PREPARE"),
    ],
)
def test_wrong_configurations(entry, message):
    with pytest.raises(InputError, match=r"DATA_CONFIG\.DATA_AUGMENTOR\." + message):
        DataAugmentor("nowhere", {"AUG_CONFIG_LIST": [FLIP, entry], "DISABLE_AUG_LIST": []}, ["Car"])


def test_missing_list_and_missing_image():
    with pytest.raises(InputError, match=r"DATA_CONFIG\.DATA_AUGMENTOR\.AUG_CONFIG_LIST"):
        DataAugmentor(None, {"AUG_CONFIG_LST": []}, ["Car"])
    with pytest.raises(InputError, match="000001.*GET_ITEM_LIST|'images'.*000001"):
        DataAugmentor(None, [{"NAME": "random_image_flip", "ALONG_AXIS_LIST": ["horizontal"]}], ["Car"]).forward(
            make_frame()
        )


def test_image_flip_mirrors_the_image_boxes_too():
    class Pinhole:  # camera and LiDAR frame are one: z forward
        def lidar_to_img(self, p):
            return p[:, :2] / p[:, 2:3] * 10 + 20, p[:, 2]

        def img_to_rect(self, u, v, depth_rect):
            return np.stack([(u - 20) / 10 * depth_rect, (v - 20) / 10 * depth_rect, depth_rect], axis=1)

        def rect_to_lidar(self, p):
            return p

    frame = make_frame()
    frame["gt_boxes"][:, 2] = 10.0
    image = np.arange(2 * 40 * 3, dtype=np.float32).reshape(2, 40, 3)
    boxes2d = np.array([[1.0, 2.0, 11.0, 7.0]] * 4)
    frame.update(
        images=image,
        depth_maps=image[..., 0],
        calib=Pinhole(),
        gt_boxes2d=boxes2d,
        gt_boxes_mask=np.ones(4, dtype=bool),
    )
    augmentor = DataAugmentor(None, [{"NAME": "random_image_flip", "ALONG_AXIS_LIST": ["horizontal"]}], ["Car"])
    seen = set()
    for seed in range(8):
        np.random.seed(seed)
        result = augmentor.forward(frame)
        flipped = bool(result["gt_boxes2d"][0, 0] != 1.0)
        seen.add(flipped)
        np.testing.assert_array_equal(result["images"], image[:, ::-1] if flipped else image)
        np.testing.assert_allclose(result["gt_boxes2d"][0], [29.0, 2.0, 39.0, 7.0] if flipped else boxes2d[0])
        # the image centre is x = 0
        np.testing.assert_allclose(
            result["gt_boxes"][:, 0], (-1 if flipped else 1) * frame["gt_boxes"][:, 0], atol=1e-5
        )
    assert seen == {True, False}


@pytest.mark.parametrize("axes", [None, ["x", "y", "z"], ["y"]])
def test_one_translation_for_all_axes(axes):
    """As files of OpenPCDet 0.5 have it."""
    std = {"NOISE_TRANSLATE_STD": 0.5} if axes is None else {"NOISE_TRANSLATE_STD": 0.5, "ALONG_AXIS_LIST": axes}
    three = {"NOISE_TRANSLATE_STD": [0.5 if axis in (axes or "xyz") else 0.0 for axis in "xyz"]}
    moved = []
    for entry in (std, three):
        np.random.seed(3)
        config = {"AUG_CONFIG_LIST": [{"NAME": "random_world_translation", **entry}], "DISABLE_AUG_LIST": []}
        moved.append(DataAugmentor("nowhere", config, ["Car"]).forward(make_frame()))
    np.testing.assert_array_equal(moved[0]["points"], moved[1]["points"])
    shift = moved[0]["points"][0, :3] - make_frame()["points"][0, :3]
    assert [axis for axis, value in zip("xyz", shift) if value] == (axes or ["x", "y", "z"])


@pytest.mark.parametrize("std", [-0.5, True, "0.5", None, [0.5, True, 0.1]])
def test_translations_that_are_no_numbers(std):
    entry = {"NAME": "random_world_translation", "NOISE_TRANSLATE_STD": std}
    with pytest.raises(InputError, match=r"AUG_CONFIG_LIST\[0\]\.NOISE_TRANSLATE_STD must be three .*or one"):
        DataAugmentor("nowhere", {"AUG_CONFIG_LIST": [entry], "DISABLE_AUG_LIST": []}, ["Car"])
