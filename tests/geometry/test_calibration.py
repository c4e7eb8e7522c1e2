"""The KITTI calibration: recorded numbers, real files, round trips, and what is said about files that are wrong."""

import pickle
import re

import numpy as np
import pytest
import torch
from golden_data import KITTI_SAMPLE, cases, needs_golden, needs_kitti_sample

from pcdet_focal.errors import InputError
from pcdet_focal.geometry.boxes import boxes_to_corners_3d
from pcdet_focal.geometry.calibration import Calibration, get_calib_from_file
from pcdet_focal.geometry.camera_boxes import boxes3d_to_corners3d_kitti_camera

RECORDED = cases("03_geometry/calibration.npz")
METRES = dict(rtol=1e-4, atol=1e-3)
PIXELS = dict(rtol=1e-4, atol=1e-2)
FRAMES = ["f000000", "f000001"]
GOOD = [
    "P0: 700 0 600 0 0 700 180 0 0 0 1 0",
    "P1: 700 0 600 -380 0 700 180 0 0 0 1 0",
    "P2: 7.0e+02 0.0 6.0e+02 4.5e+01 0.0 7.0e+02 1.8e+02 2.0e-01 0.0 0.0 1.0 3.0e-03",
    "P3: 700 0 600 -330 0 700 180 2 0 0 1 0.003",
    "R0_rect: 1 0 0 0 1 0 0 0 1",
    "Tr_velo_to_cam: 0 -1 0 0.01 0 0 -1 -0.08 1 0 0 -0.27",
    "Tr_imu_to_velo: 1 0 0 -0.8 0 1 0 0.3 0 0 1 -0.8",
]


def of(case):
    return Calibration({"P2": case["P2"], "R0": case["R0"], "Tr_velo2cam": case["V2C"]})


def written(path, lines, end="\n"):
    path.write_text(end.join(lines) + end + end, newline="")
    return path


@needs_golden
@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_recorded(name, kind):
    case = RECORDED[name]
    calib = of(case)
    lidar, rect = kind(case["pts_lidar"]), kind(case["pts_rect"])
    before = case["pts_lidar"].copy(), case["pts_rect"].copy()

    out = calib.lidar_to_rect(lidar)
    assert type(out) is type(lidar) and out.dtype == lidar.dtype
    np.testing.assert_allclose(out, case["lidar_to_rect"], **METRES)
    np.testing.assert_allclose(calib.rect_to_lidar(rect), case["rect_to_lidar"], **METRES)
    for points, function, recorded in (
        (lidar, calib.lidar_to_img, "lidar_to_img"),
        (rect, calib.rect_to_img, "rect_to_img"),
    ):
        pixels, depth = function(points)
        assert pixels.dtype == lidar.dtype and depth.dtype == lidar.dtype
        np.testing.assert_allclose(pixels, case[recorded], **PIXELS)
        np.testing.assert_allclose(depth, case[f"{recorded}_depth"], **METRES)
    np.testing.assert_array_equal(case["pts_lidar"], before[0])
    np.testing.assert_array_equal(case["pts_rect"], before[1])


@needs_golden
@pytest.mark.parametrize("name", FRAMES)
def test_img_to_rect_recorded(name):
    case = RECORDED[name]
    calib = of(case)
    u, v = case["rect_to_img"].T
    out = calib.img_to_rect(u, v, case["rect_to_img_depth"])
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, case["img_to_rect"], **METRES)
    np.testing.assert_array_equal(
        calib.img_to_rect(*map(torch.from_numpy, (u.copy(), v.copy(), case["rect_to_img_depth"]))).numpy(), out
    )


@needs_golden
@pytest.mark.parametrize("name", FRAMES)
def test_corners_to_image_recorded(name):
    case = RECORDED[name]
    corners = boxes3d_to_corners3d_kitti_camera(case["boxes_camera"])
    for kind in (np.asarray, torch.from_numpy):
        rectangles, pixels = of(case).corners3d_to_img_boxes(kind(corners))
        np.testing.assert_allclose(rectangles, case["corners3d_to_img_boxes"], **PIXELS)
        assert tuple(pixels.shape) == (60, 8, 2)
        np.testing.assert_array_equal(np.asarray(pixels).min(axis=1), np.asarray(rectangles)[:, :2])
        np.testing.assert_array_equal(np.asarray(pixels).max(axis=1), np.asarray(rectangles)[:, 2:])


@needs_golden
@needs_kitti_sample
def test_points_in_the_image_recorded():
    calib = Calibration(KITTI_SAMPLE / "training" / "calib" / "000001.txt")
    points = np.fromfile(KITTI_SAMPLE / "training" / "velodyne" / "000001.bin", dtype=np.float32).reshape(-1, 4)
    case = RECORDED["fov_flag"]
    assert len(points) == case["n_points"]
    pixels, depth = calib.lidar_to_img(points[:, 0:3])
    kept = ((pixels >= 0) & (pixels < [1242, 375])).all(axis=1) & (depth >= 0)
    assert abs(int(kept.sum()) - int(case["n_kept"])) <= 2
    first = kept.nonzero()[0][:500]
    assert len(set(first.tolist()) ^ set(case["first_kept"].tolist())) <= 4


@needs_golden
@needs_kitti_sample
@pytest.mark.parametrize("name", FRAMES)
def test_files_give_the_recorded_matrices(name):
    calib = Calibration(str(KITTI_SAMPLE / "training" / "calib" / f"{name[1:]}.txt"))
    for attribute in ("P2", "R0", "V2C"):
        matrix = getattr(calib, attribute)
        assert matrix.dtype == np.float32
        np.testing.assert_array_equal(matrix, RECORDED[name][attribute])


@needs_kitti_sample
def test_every_real_file_reads():
    paths = sorted((KITTI_SAMPLE / "training" / "calib").glob("*.txt"))
    assert paths
    for path in paths:
        calib = Calibration(path)
        np.testing.assert_allclose(calib.R0 @ calib.R0.T, np.eye(3), atol=1e-4)
        np.testing.assert_allclose(calib.V2C[:, :3] @ calib.V2C[:, :3].T, np.eye(3), atol=1e-4)
        assert 700 < calib.fu < 730 and 0.03 < abs(calib.tx) < 0.1


def test_attributes_and_file_contents(tmp_path):
    path = written(tmp_path / "000000.txt", GOOD)
    read = get_calib_from_file(path)
    assert set(read) == {"P2", "P3", "R0", "Tr_velo2cam"}
    assert all(matrix.dtype == np.float32 for matrix in read.values())
    calib = Calibration(path)
    assert (calib.fu, calib.fv, calib.cu, calib.cv) == (700, 700, 600, 180)
    assert calib.tx == pytest.approx(-45 / 700) and calib.ty == pytest.approx(-0.2 / 700)
    np.testing.assert_array_equal(calib.V2C[:, 3], np.array([0.01, -0.08, -0.27], dtype=np.float32))
    np.testing.assert_allclose(calib.lidar_to_rect(np.array([[10.0, 2, 1]])), [[-1.99, -1.08, 9.73]], atol=1e-7)
    np.testing.assert_array_equal(calib.cart_to_hom(np.array([[1, 2, 3]])), [[1, 2, 3, 1]])
    again = pickle.loads(pickle.dumps(calib))
    np.testing.assert_array_equal(again.P2, calib.P2)


@pytest.mark.parametrize(
    "lines, end",
    [
        (GOOD[::-1], "\n"),
        (GOOD, "\r\n"),
        ([line for line in GOOD if line[:2] not in ("P0", "P1", "P3")], "\n"),
        ([line.replace(": ", ":") for line in GOOD], "\n"),
        ([line.replace("R0_rect:", "R_rect").replace("Tr_velo_to_cam:", "Tr_velo_cam") for line in GOOD], "\n"),
    ],
    ids=["any order", "CRLF", "only what is needed", "no blank after the colon", "names of the tracking benchmark"],
)
def test_other_ways_to_write_the_same_file(tmp_path, lines, end):
    usual, other = Calibration(written(tmp_path / "a.txt", GOOD)), Calibration(written(tmp_path / "b.txt", lines, end))
    for attribute in ("P2", "R0", "V2C"):
        np.testing.assert_array_equal(getattr(other, attribute), getattr(usual, attribute))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_round_trips_in_float64(tmp_path, kind):
    calib = Calibration(written(tmp_path / "c.txt", GOOD))
    points = kind(np.random.default_rng(0).uniform([2, -20, -2], [60, 20, 2], (200, 3)))
    rect = calib.lidar_to_rect(points)
    assert rect.dtype == points.dtype
    np.testing.assert_allclose(calib.rect_to_lidar(rect), points, atol=1e-12)
    pixels, depth = calib.rect_to_img(rect)
    # the projection leaves P2[2, 3] = 3 mm out of the depth, the way back as well
    np.testing.assert_allclose(calib.img_to_rect(pixels[:, 0], pixels[:, 1], depth), rect, atol=1e-4)


def test_float32_points_come_back_to_a_hundredth_of_a_millimetre():
    rng = np.random.default_rng(1)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    calib = Calibration(
        {"P2": np.eye(3, 4), "R0": np.eye(3), "Tr_velo2cam": np.concatenate([turn, rng.normal(size=(3, 1))], axis=1)}
    )
    points = rng.uniform(-70, 70, (500, 3)).astype(np.float32)
    np.testing.assert_allclose(calib.rect_to_lidar(calib.lidar_to_rect(points)), points, atol=5e-5)


def test_nothing_to_project(tmp_path):
    calib = Calibration(written(tmp_path / "c.txt", GOOD))
    none = np.zeros((0, 3), dtype=np.float32)
    assert calib.rect_to_lidar(none).shape == (0, 3)
    pixels, depth = calib.lidar_to_img(none)
    assert pixels.shape == (0, 2) and depth.shape == (0,)
    assert calib.corners3d_to_img_boxes(boxes_to_corners_3d(np.zeros((0, 7))))[0].shape == (0, 4)


def edited(index, line):
    return GOOD[:index] + [line] + GOOD[index + 1 :]


@pytest.mark.parametrize(
    "lines, message",
    [
        (
            edited(2, "P2: 700 0 600 45 0 700 180 0.2 0 0 1"),
            r"bad\.txt, line 3: P2 .*12.*11",
        ),
        (edited(4, "R0_rect: 1 0 0 0 1 0 0 0 1 0"), r"bad\.txt, line 5: R0_rect .*9.*10"),
        (edited(2, "P2:"), r"bad\.txt, line 3: P2 .*12.*0"),
        (edited(4, "R0_rect: 1 0 0 0 one 0 0 0 1"), r"bad\.txt, line 5: .*R0_rect is 'one'"),
        (
            edited(5, "Tr_velo_to_cam: 0 -1 0 nan 0 0 -1 0 1 0 0 0"),
            r"bad\.txt, line 6: .*Tr_velo_to_cam .*finite",
        ),
        (GOOD[:4] + GOOD[5:], r"bad\.txt: .*R0_rect"),
        (GOOD[:5], r"bad\.txt: .*Tr_velo_to_cam"),
        ([""], r"bad\.txt: .*P2"),
    ],
)
def test_wrong_files_are_named_with_the_line(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        Calibration(written(tmp_path / "bad.txt", lines))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt"):
        Calibration(tmp_path / "none.txt")
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        Calibration(tmp_path)
    (tmp_path / "scan.bin").write_bytes(np.random.default_rng(0).integers(0, 256, 400, dtype=np.uint8).tobytes())
    with pytest.raises(InputError, match=r"scan\.bin, line 1"):
        Calibration(tmp_path / "scan.bin")


def test_mappings():
    good = {"P2": np.eye(3, 4), "R0": np.eye(3).tolist(), "Tr_velo2cam": np.eye(3, 4, dtype=np.float32)}
    calib = Calibration(good)
    assert (calib.P2.dtype, calib.R0.dtype, calib.V2C.dtype) == (np.float64, np.float32, np.float32)
    with pytest.raises(InputError, match=r"Tr_velo2cam.*'P2', 'R0'"):
        Calibration({key: good[key] for key in ("P2", "R0")})
    with pytest.raises(InputError, match="key R0: .*9.*12"):
        Calibration({**good, "R0": np.eye(3, 4)})
    with pytest.raises(InputError, match="key P2"):
        Calibration({**good, "P2": "P2"})
