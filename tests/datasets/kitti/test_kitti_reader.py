"""Files of a KITTI folder: what is read from good ones, and one clear message for each bad one."""

import json

import numpy as np
import pytest
from golden_data import KITTI_SAMPLE, needs_kitti_sample
from PIL import Image

from pcdet_focal.datasets.kitti import reader
from pcdet_focal.datasets.kitti.object3d import Object3d, get_objects_from_label
from pcdet_focal.errors import InputError

CAR = "Car 0.10 1 -1.52 40.00 10.00 60.00 55.00 1.50 1.60 4.00 -1.00 1.60 20.00 -1.57"


def write_image(path, height: int, width: int):
    Image.new("RGB", (width, height), (255, 0, 0)).save(path)
    return path


def write_points(path, points):
    np.asarray(points, dtype=np.float32).tofile(path)
    return path


def test_points_are_read_as_they_are(tmp_path):
    points = np.array([[1, 2, 3, 0.5], [4, 5, 6, 1.0]], dtype=np.float32)
    read = reader.read_points(write_points(tmp_path / "a.bin", points), "a")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, points)


def test_an_empty_scan_has_no_points(tmp_path):
    assert reader.read_points(write_points(tmp_path / "a.bin", []), "a").shape == (0, 4)


def test_truncated_scan(tmp_path):
    path = tmp_path / "000007.bin"
    path.write_bytes(b"\0" * 39)
    with pytest.raises(InputError, match=r"frame 000007: .*000007\.bin .*39.*16"):
        reader.read_points(path, "000007")


def test_missing_scan_and_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"frame 000007: .*000007\.bin"):
        reader.read_points(tmp_path / "000007.bin", "000007")
    with pytest.raises(InputError, match=r"(?s)velodyne.* frame 000007 .*training/label_2/"):
        reader.read_points(tmp_path / "velodyne" / "000007.bin", "000007")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 3])
def test_nonfinite_points_are_counted_or_dropped(tmp_path, value, column):
    points = np.arange(20, dtype=np.float32).reshape(5, 4)
    bad = points.copy()
    bad[[2, 4], column] = value
    path = write_points(tmp_path / "000007.bin", bad)
    with pytest.raises(InputError, match=r"frame 000007: .*2 .*5 .*000007\.bin.* 2.*DROP_NONFINITE_POINTS: True"):
        reader.read_points(path, "000007")
    np.testing.assert_array_equal(reader.read_points(path, "000007", drop_nonfinite=True), points[[0, 1, 3]])


@needs_kitti_sample
@pytest.mark.parametrize("frame_id", ["000001", "000008", "000010"])
def test_size_of_real_images(frame_id):
    recorded = json.loads((KITTI_SAMPLE / "image_shapes.json").read_text())[frame_id]
    assert list(reader.image_shape(KITTI_SAMPLE / "training/image_2" / f"{frame_id}.png")) == recorded


def test_image_size_from_the_image_then_table_of_the_split_then_table_of_the_root(tmp_path):
    training = tmp_path / "training"
    (training / "image_2").mkdir(parents=True)
    (tmp_path / "image_shapes.json").write_text('{"a": [11, 12], "b": [21, 22], "c": [31, 32]}')
    (training / "image_shapes.json").write_text('{"a": [13, 14], "b": [23, 24]}')
    write_image(training / "image_2" / "a.png", 15, 16)
    shapes = [reader.read_image_shape(training, frame_id) for frame_id in "abc"]
    assert [shape.tolist() for shape in shapes] == [[15, 16], [23, 24], [31, 32]]
    assert all(shape.dtype == np.int32 for shape in shapes)
    with pytest.raises(InputError, match=r"frame d: .*d\.png .*\"d\""):
        reader.read_image_shape(training, "d")


@pytest.mark.parametrize("content", ["[1, 2]", "{nonsense", '{"a": [1]}', '{"a": [0, 5]}', '{"a": ["1", "2"]}'])
def test_a_garbled_table_of_image_sizes(tmp_path, content):
    (tmp_path / "image_shapes.json").write_text(content)
    with pytest.raises(InputError, match=r"image_shapes\.json"):
        reader.read_image_shape(tmp_path / "training", "a")


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png"])
def test_images_of_several_formats(tmp_path, suffix):
    folder = tmp_path / "training/image_2"
    folder.mkdir(parents=True)
    path = write_image(folder / f"a{suffix}", 6, 9)
    assert reader.find_image(tmp_path / "training", "a") == path
    assert reader.read_image_shape(tmp_path / "training", "a").tolist() == [6, 9]
    np.testing.assert_allclose(reader.read_image(path), np.broadcast_to([1.0, 0.0, 0.0], (6, 9, 3)), atol=0.02)


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG", b"\xff\xd8\xff\xe0" + b"\0" * 40, b"\x89PNG\r\n\x1a\n\0\0\0\rTEXT" + b"\0" * 8]
)
def test_not_an_image(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png"):
        reader.image_shape(path)


def test_an_image_that_is_cut_off(tmp_path):
    path = write_image(tmp_path / "a.png", 60, 90)
    path.write_bytes(path.read_bytes()[:-40])
    assert reader.image_shape(path) == (60, 90)
    with pytest.raises(InputError, match=r"a\.png"):
        reader.read_image(path)


def test_road_plane_points_up_and_is_normalised(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("# Matrix\nWIDTH 4\nHEIGHT 1\n0 2 0 -3.2\n")
    np.testing.assert_allclose(reader.read_road_plane(path), [0, -1, 0, 1.6])
    assert reader.read_road_plane(tmp_path / "none.txt") is None


@pytest.mark.parametrize(
    "content", ["", "a\nb\nc\n", "a\nb\nc\n1 2 3\n", "a\nb\nc\n1 2 x 4\n", "a\nb\nc\n1 nan 3 4\n", "a\nb\nc\n0 0 0 4\n"]
)
def test_a_garbled_road_plane(tmp_path, content):
    path = tmp_path / "a.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=r"a\.txt, line 4"):
        reader.read_road_plane(path)


def test_label_fields():
    car = Object3d(CAR)
    assert (car.cls_type, car.cls_id, car.truncation, car.occlusion, car.alpha) == ("Car", 1, 0.10, 1, -1.52)
    assert (car.h, car.w, car.l, car.ry, car.score) == (1.5, 1.6, 4.0, -1.57, -1.0)
    np.testing.assert_array_equal(car.box2d, np.float32([40, 10, 60, 55]))
    np.testing.assert_array_equal(car.loc, np.float32([-1, 1.6, 20]))
    assert Object3d(CAR + " 0.75").score == 0.75
    assert car.to_kitti_format() == CAR


@pytest.mark.parametrize(
    "height, truncation, occlusion, level",
    [
        (39.0, 0.15, 0, 0),
        (38.9, 0.15, 0, 1),
        (39.0, 0.16, 0, 1),
        (39.0, 0.0, 1, 1),
        (24.0, 0.3, 1, 1),
        (23.9, 0.0, 0, -1),
        (24.0, 0.31, 1, 2),
        (24.0, 0.5, 2, 2),
        (60.0, 0.51, 0, -1),
        (60.0, 0.0, 3, -1),
    ],
)
def test_difficulty_at_the_borders(height, truncation, occlusion, level):
    """The height counts both border pixels, so 39 pixels between the edges are 40 high."""
    words = CAR.split()
    words[1:3] = [str(truncation), str(occlusion)]
    words[5], words[7] = "100", str(100 + height)
    car = Object3d(" ".join(words))
    assert car.level == level
    assert car.level_str == {0: "Easy", 1: "Moderate", 2: "Hard", -1: "UnKnown"}[level]


def test_corners_of_a_turned_box():
    """l along x at ry = 0; ry = pi / 2 turns +x to -z (y is down)."""
    words = CAR.split()
    words[14] = "0"
    corners = Object3d(" ".join(words)).generate_corners3d()
    np.testing.assert_allclose(corners[0], [-1 + 2, 1.6, 20 + 0.8], atol=1e-6)
    np.testing.assert_allclose(corners[6], [-1 - 2, 0.1, 20 - 0.8], atol=1e-6)
    words[14] = str(np.pi / 2)
    np.testing.assert_allclose(Object3d(" ".join(words)).generate_corners3d()[0], [-1 + 0.8, 1.6, 20 - 2], atol=1e-5)


@pytest.mark.parametrize(
    "line, what",
    [
        (" ".join(CAR.split()[:12]), "15 .*12: 'Car"),
        ("Car", " 1"),
        (CAR.replace("1.60 20.00", "1.6o 20.00"), "y .*'1.6o'"),
        (CAR.replace("4.00", "nan"), "length .*nan"),
        (CAR.replace("1.50", "0.0"), "Car .*height 0.0"),
    ],
)
def test_a_bad_label_line_is_named(tmp_path, line, what):
    path = tmp_path / "000007.txt"
    path.write_text(f"{CAR}\n\n{line}\n")
    with pytest.raises(InputError, match=rf"000007\.txt, line 3: .*{what}"):
        get_objects_from_label(path)


@pytest.mark.parametrize(
    ("more", "score"), [("", -1.0), (" 0.5", 0.5), (" 0.5 7", 0.5), (" 0.5 a 3 b", 0.5), (" id_7 0.5", -1.0)]
)
def test_a_label_line_may_have_more_columns(tmp_path, more, score):
    path = tmp_path / "000007.txt"
    path.write_text(f"{CAR}{more}\n")
    (read,) = get_objects_from_label(path)
    assert read.score == score and read.ry == -1.57 and read.cls_type == "Car"


def test_labels_from_windows(tmp_path):
    path = tmp_path / "000007.txt"
    for content in (f"{CAR}\r\n{CAR}\r\n".encode("utf-8-sig"), f"{CAR}\r\n{CAR}".encode("utf-16")):
        path.write_bytes(content)
        assert [read.cls_type for read in get_objects_from_label(path)] == ["Car", "Car"]
    path.write_text(CAR.replace("1.60 20.00", "1,60 20.00"))
    with pytest.raises(InputError, match=r"000007\.txt, line 1: .*'1,60', .*point instead of the comma"):
        get_objects_from_label(path)


def test_no_object_is_no_mistake(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n")
    assert get_objects_from_label(path) == []


def test_door():
    from pcdet_focal.utils import object3d_kitti

    assert object3d_kitti.Object3d is Object3d and object3d_kitti.get_objects_from_label is get_objects_from_label
