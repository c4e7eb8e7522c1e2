"""Label files: what is read, and what is said about a file that cannot be."""

import re

import numpy as np
import pytest

from pcdet_focal.errors import InputError
from pcdet_focal.evaluation.kitti import get_label_anno, get_label_annos, kitti_result_line

CAR = "Car 0.25 1 -1.57 614.24 181.78 727.31 284.77 1.57 1.73 4.15 1.00 1.75 13.22 -1.62"
REGION = "DontCare -1 -1 -10 5.00 229.89 214.12 367.61 -1 -1 -1 -1000 -1000 -1000 -10"


def test_fields_land_in_their_places(tmp_path):
    path = tmp_path / "000000.txt"
    path.write_text(f"{CAR}\n\n{REGION}\n")
    anno = get_label_anno(path)
    assert anno["name"].tolist() == ["Car", "DontCare"]
    assert (
        anno["truncated"].tolist() == [0.25, -1]
        and anno["occluded"].tolist() == [1, -1]
        and anno["alpha"].tolist() == [-1.57, -10]
    )
    assert anno["occluded"].dtype.kind == "i"
    np.testing.assert_array_equal(anno["bbox"], [[614.24, 181.78, 727.31, 284.77], [5, 229.89, 214.12, 367.61]])
    np.testing.assert_array_equal(anno["dimensions"], [[4.15, 1.57, 1.73], [-1, -1, -1]])  # length, height, width
    np.testing.assert_array_equal(anno["location"], [[1.0, 1.75, 13.22], [-1000, -1000, -1000]])
    assert anno["rotation_y"].tolist() == [-1.62, -10] and anno["score"].tolist() == [0, 0]


def test_scores_and_any_blanks_between_fields(tmp_path):
    path = tmp_path / "000000.txt"
    path.write_text("  " + CAR.replace(" ", " \t ") + " 0.75 \r\n")
    assert get_label_anno(path, require_score=True)["score"].tolist() == [0.75]


def test_a_word_after_the_fields_of_a_label_is_left_out_and_is_no_score(tmp_path):
    path = tmp_path / "000000.txt"
    path.write_text(f"{CAR} car_0012 153\n{CAR}\n")
    anno = get_label_anno(path)
    assert anno["score"].tolist() == [0, 0] and anno["rotation_y"].tolist() == [-1.62, -1.62]
    with pytest.raises(InputError, match=":1: score .*'car_0012'"):
        get_label_anno(path, require_score=True)
    path.write_text(f"{CAR} 0.5 153\n")
    assert get_label_anno(path)["score"].tolist() == [0.5]


def test_an_empty_file_has_no_objects(tmp_path):
    path = tmp_path / "000000.txt"
    path.write_text("\n")
    shapes = {key: value.shape for key, value in get_label_anno(path).items()}
    assert shapes == {
        "name": (0,),
        "truncated": (0,),
        "occluded": (0,),
        "alpha": (0,),
        "bbox": (0, 4),
        "dimensions": (0, 3),
        "location": (0, 3),
        "rotation_y": (0,),
        "score": (0,),
    }


@pytest.mark.parametrize(
    "text, named",
    [
        (f"{CAR}\nCar 0.00 0\n", r":2: 3 .*15"),
        (f"{CAR} 0.5\n\n{CAR}\n", ":3: 15 .*16"),
        (f"{CAR}\n{CAR.replace('1.75', 'abc')}\n", ":2: y .*'abc'"),
        (CAR.replace("4.15", "nan"), ":1: length .*'nan'"),
        (CAR.replace(" 1 ", " 1.5 "), r":1: occluded .*'1\.5'"),
        (f"{CAR} inf", ":1: score .*'inf'"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, named):
    path = tmp_path / "000123.txt"
    path.write_text(text)
    with pytest.raises(InputError, match="^" + re.escape(str(path)) + named):
        get_label_anno(path)


def test_missing_files_folders_and_scores(tmp_path):
    with pytest.raises(InputError, match=r"000007\.txt"):
        get_label_annos(tmp_path, [7])
    with pytest.raises(InputError, match="nowhere"):
        get_label_annos(tmp_path / "nowhere")
    (tmp_path / "000007.txt").write_text(CAR)
    with pytest.raises(InputError, match=r"000007\.txt:1: 15 .*16"):
        get_label_annos(tmp_path, [7], require_score=True)
    (tmp_path / "000007.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"000007\.txt"):
        get_label_annos(tmp_path)


def test_which_files_of_a_folder(tmp_path):
    for number in (12, 3, 5):
        (tmp_path / f"{number:06d}.txt").write_text("\n".join([CAR] * number))
    (tmp_path / "readme.txt").write_text("not a label")

    def counts(*args):
        return [len(anno["name"]) for anno in get_label_annos(tmp_path, *args)]

    assert counts() == [3, 5, 12]
    assert counts([12, 3]) == [12, 3]
    assert counts(["000005"]) == [5]
    assert counts(np.array([5, 12])) == [5, 12]
    with pytest.raises(InputError, match="000000.txt"):
        counts(4)


def test_a_written_line_is_read_back(tmp_path):
    line = kitti_result_line(
        {
            "name": "Car",
            "truncated": 0.25,
            "occluded": 1,
            "alpha": -1.57,
            "bbox": [614.24, 181.78, 727.31, 284.77],
            "dimensions": [1.57, 1.73, 4.15],
            "location": [1.0, 1.75, 13.22],
            "rotation_y": -1.62,
            "score": 0.5,
        },
        precision=2,
    )
    assert line == f"{CAR} 0.50"
    assert (
        kitti_result_line({"name": "Van", "bbox": [1, 2, 3, 4]}, precision=1)
        == "Van -1 -1 -10 1.0 2.0 3.0 4.0 -1 -1 -1 -1000 -1000 -1000 -10"
    )
    unknown = dict.fromkeys(("truncated", "occluded", "alpha", "dimensions", "location", "rotation_y"))
    assert kitti_result_line({"name": "DontCare", "bbox": [5, 229.89, 214.12, 367.61], **unknown}, 2) == REGION
    with pytest.raises(InputError, match="'score'"):
        kitti_result_line({"name": "Car", "bbox": [1, 2, 3, 4], "score": None})
    with pytest.raises(InputError, match="'bbox'"):
        kitti_result_line({"name": "Car"})
    with pytest.raises(InputError, match="'colour'"):
        kitti_result_line({"name": "Car", "bbox": [1, 2, 3, 4], "colour": 1})
