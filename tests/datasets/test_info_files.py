"""Info files, also those that other tools write."""

import copy

import numpy as np
import pytest

from pcdet_focal.datasets.info_files import load_infos
from pcdet_focal.datasets.publish import save_pickle
from pcdet_focal.errors import InputError

ANNOS = {
    "name": ["Car", "Pedestrian", "DontCare"],
    "bbox": [[1, 2, 30, 40], [1.5, 2, 3, 40], [0, 0, 9, 9]],
    "dimensions": [[4, 1.5, 1.6], [0.8, 1.7, 0.6], [-1, -1, -1]],
    "location": [[1, 2, 3]] * 3,
    "gt_boxes_lidar": [[1, 2, 3, 4, 1.6, 1.5, 0.1], [5, 6, 3, 0.8, 0.6, 1.7, 0]],  # without DontCare
    "difficulty": [0, 1, -1],
    "tracks": [7, 8],
    "source": "a tool",
}


def infos(annos) -> list[dict]:
    return [{"point_cloud": {"lidar_idx": "000007"}}, {"point_cloud": {"lidar_idx": "000042"}, "annos": annos}]


def load(tmp_path, content):
    save_pickle(content, tmp_path / "infos.pkl")
    return load_infos(tmp_path, ["infos.pkl"], "make_infos")


def test_lists_become_arrays(tmp_path):
    annos = load(tmp_path, infos(ANNOS))[1]["annos"]
    assert annos["name"].dtype.kind == "U" and annos["name"].tolist() == ANNOS["name"]
    for key in ("bbox", "dimensions", "location", "gt_boxes_lidar", "difficulty", "tracks"):
        np.testing.assert_array_equal(annos[key], np.array(ANNOS[key]))
    assert annos["source"] == "a tool"


def test_frames_without_objects(tmp_path):
    annos = load(tmp_path, infos({key: [] for key in ("name", "bbox", "gt_boxes_lidar", "difficulty")}))[1]["annos"]
    assert {key: value.shape for key, value in annos.items()} == {
        "name": (0,),
        "bbox": (0, 4),
        "gt_boxes_lidar": (0, 7),
        "difficulty": (0,),
    }


def test_arrays_stay_as_they_are(tmp_path):
    arrays = {key: np.array(value) if isinstance(value, list) else value for key, value in ANNOS.items()}
    arrays["gt_boxes_lidar"] = np.zeros((2, 9))  # with velocities
    annos = load(tmp_path, infos(arrays))[1]["annos"]
    for key, value in arrays.items():
        np.testing.assert_array_equal(annos[key], value)
        assert getattr(annos[key], "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("bbox", [[1, 2, 3, 4], [1, 2, 3], [1, 2, 3, 4]], r"annos\.bbox: its rows have different lengths"),
        ("bbox", [[1, 2, 3, 4]], r"annos\.bbox has 1 rows for 2 objects"),
        ("bbox", np.zeros((3, 3)), r"annos\.bbox is \(3, 3\); \(objects, 4\) is needed"),
        ("location", [["a", "b", "c"]] * 3, r"annos\.location: it holds <U1 in the place of numbers"),
        ("difficulty", [None, 1, 2], r"annos\.difficulty: it holds object"),
        ("difficulty", np.array(3), r"annos\.difficulty has no rows for 2 objects"),
        ("gt_boxes_lidar", [1, 2], r"annos\.gt_boxes_lidar is \(2,\)"),
        ("name", None, r"annos must be a mapping of arrays"),
    ],
)
def test_what_does_not_fit_is_named_by_file_frame_and_key(tmp_path, key, value, told):
    annos = {**copy.deepcopy(ANNOS), key: value}
    with pytest.raises(InputError, match=rf"infos\.pkl, frame 000042: {told}"):
        load(tmp_path, infos(annos))


def test_annos_that_are_no_mapping(tmp_path):
    with pytest.raises(InputError, match=r"infos\.pkl, frame 000042: annos must be a mapping"):
        load(tmp_path, infos([1, 2]))
    with pytest.raises(InputError, match=r"infos\.pkl is not a list of frames; make it anew with: make_infos"):
        load(tmp_path, {"a": 1})
