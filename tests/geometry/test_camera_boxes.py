"""Camera boxes against OpenPCDet's recorded numbers, round trips and the definition of KITTI's rotation_y."""

import numpy as np
import pytest
import torch
from golden_data import cases, needs_golden

from pcdet_focal.geometry.boxes import boxes_to_corners_3d
from pcdet_focal.geometry.calibration import Calibration
from pcdet_focal.geometry.camera_boxes import (
    boxes3d_kitti_camera_to_imageboxes,
    boxes3d_kitti_camera_to_lidar,
    boxes3d_kitti_fakelidar_to_lidar,
    boxes3d_kitti_lidar_to_fakelidar,
    boxes3d_lidar_to_kitti_camera,
    boxes3d_to_corners3d_kitti_camera,
    corners_rect_to_camera,
)

BOXES = cases("03_geometry/box_utils.npz")
FRAMES = cases("03_geometry/calibration.npz")
CLOSE = dict(rtol=1e-5, atol=1e-5)
METRES = dict(rtol=1e-4, atol=1e-3)
PIXELS = dict(rtol=1e-4, atol=1e-2)


def made_up_calibration():
    """LiDAR (x forward, y left, z up) -> camera (x right, y down, z forward) up to a small turn, camera 0.27 m ahead
    and 0.08 m down.
    """
    axes = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    angle = 0.02
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return Calibration(
        {
            "P2": np.array([[720.0, 0, 610, 45], [0, 720, 173, 0.2], [0, 0, 1, 0.003]]),
            "R0": turn,
            "Tr_velo2cam": np.concatenate([axes, [[0.0], [-0.08], [-0.27]]], axis=1),
        }
    )


def lidar_boxes(n=20, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.uniform([8, -15, -2], [60, 15, 0], (n, 3)), rng.uniform(0.5, 5, (n, 3)), rng.uniform(-4, 4, (n, 1))],
        axis=1,
    )


def frame(name):
    case = FRAMES[name]
    return case, Calibration({"P2": case["P2"], "R0": case["R0"], "Tr_velo2cam": case["V2C"]})


def check(function, given, recorded, tolerance, *arguments):
    """numpy and torch give the recorded numbers in float32, float64 stays float64, and the input stays as it was."""
    before = given.copy()
    out = function(given, *arguments)
    assert isinstance(out, np.ndarray) and out.dtype == np.float32
    np.testing.assert_allclose(out, recorded, **tolerance)
    by_torch = function(torch.from_numpy(given), *arguments)
    assert by_torch.dtype == torch.float32
    np.testing.assert_allclose(by_torch.numpy(), out, rtol=tolerance["rtol"], atol=tolerance["atol"])
    wide = function(given.astype(np.float64), *arguments)
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, recorded, rtol=1e-4, atol=tolerance["atol"])
    np.testing.assert_allclose(
        function(torch.from_numpy(given.astype(np.float64)), *arguments).numpy(), wide, rtol=1e-12, atol=1e-9
    )
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    "case, function",
    [
        ("fakelidar_to_lidar", boxes3d_kitti_fakelidar_to_lidar),
        ("lidar_to_fakelidar", boxes3d_kitti_lidar_to_fakelidar),
        ("corners3d_kitti_camera", boxes3d_to_corners3d_kitti_camera),
    ],
)
def test_recorded(case, function):
    check(function, BOXES[case]["boxes"], BOXES[case]["out"], CLOSE)


@needs_golden
@pytest.mark.parametrize("name", ["f000000", "f000001"])
def test_recorded_frames(name):
    case, calib = frame(name)
    check(boxes3d_lidar_to_kitti_camera, case["boxes_lidar"], case["boxes_camera"], METRES, calib)
    check(boxes3d_kitti_camera_to_lidar, case["boxes_camera"], case["boxes_lidar_back"], METRES, calib)
    check(boxes3d_kitti_camera_to_imageboxes, case["boxes_camera"], case["image_boxes_unclipped"], PIXELS, calib)
    check(
        boxes3d_kitti_camera_to_imageboxes,
        case["boxes_camera"],
        case["image_boxes_375x1242"],
        PIXELS,
        calib,
        np.array([375, 1242]),
    )


@needs_golden
@pytest.mark.parametrize("name", ["000000", "000001"])
def test_recorded_labels(name):
    _, calib = frame("f" + name)
    labels = FRAMES["labels" + name]
    check(boxes3d_kitti_camera_to_lidar, labels["boxes_camera"], labels["boxes_lidar"], METRES, calib)


def test_lidar_camera_round_trip():
    calib, boxes = made_up_calibration(), lidar_boxes()
    camera = boxes3d_lidar_to_kitti_camera(boxes, calib)
    np.testing.assert_allclose(boxes3d_kitti_camera_to_lidar(camera, calib), boxes, atol=1e-12)
    np.testing.assert_allclose(
        camera[:, 3:7], np.stack([boxes[:, 3], boxes[:, 5], boxes[:, 4], -boxes[:, 6] - np.pi / 2], axis=1)
    )
    with_velocity = np.concatenate([boxes, np.ones((len(boxes), 2))], axis=1)
    np.testing.assert_array_equal(boxes3d_lidar_to_kitti_camera(with_velocity, calib), camera)


def test_fakelidar_round_trip():
    boxes = lidar_boxes()
    np.testing.assert_allclose(
        boxes3d_kitti_fakelidar_to_lidar(boxes3d_kitti_lidar_to_fakelidar(boxes)), boxes, atol=1e-12
    )


def test_integers_are_numbers_too():
    calib, boxes = made_up_calibration(), lidar_boxes().round().astype(np.int64)
    for function in (boxes3d_lidar_to_kitti_camera, boxes3d_kitti_camera_to_lidar):
        out = function(boxes, calib)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, function(boxes.astype(np.float64), calib), rtol=1e-5, atol=1e-5)


def test_camera_corners_closed_form():
    # ry = -90 degrees: the front (+x of the box) looks along +z, away from the camera; y grows downwards from the
    # bottom at y = 2
    corners = boxes3d_to_corners3d_kitti_camera(np.array([[1.0, 2, 10, 4, 1.5, 2, -np.pi / 2]]))[0]
    np.testing.assert_allclose(corners[0:4, [0, 2]], [[0, 12], [2, 12], [2, 8], [0, 8]], atol=1e-12)
    np.testing.assert_allclose(corners[:, 1], [2.0] * 4 + [0.5] * 4)
    middle = boxes3d_to_corners3d_kitti_camera(np.array([[1.0, 2, 10, 4, 1.5, 2, -np.pi / 2]]), bottom_center=False)[0]
    np.testing.assert_allclose(middle[:, 1], [2.75] * 4 + [1.25] * 4)


def test_camera_corners_are_the_lidar_corners_seen_from_the_camera():
    calib = made_up_calibration()
    calib.R0 = np.eye(3)  # without the small turn ry = -heading - pi / 2 is exact
    boxes = lidar_boxes()
    corners = boxes3d_to_corners3d_kitti_camera(boxes3d_lidar_to_kitti_camera(boxes, calib))
    expected = calib.lidar_to_rect(boxes_to_corners_3d(boxes).reshape(-1, 3)).reshape(-1, 8, 3)
    np.testing.assert_allclose(corners, expected, atol=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_box_from_its_corners(kind):
    boxes = lidar_boxes()
    for box in boxes:
        box[6] = (box[6] + np.pi) % (2 * np.pi) - np.pi
        back = corners_rect_to_camera(boxes3d_to_corners3d_kitti_camera(kind(box[None]))[0])
        assert back.shape == (7,)
        np.testing.assert_allclose(np.asarray(back), box, atol=1e-12)


def test_image_rectangle_of_a_box_straight_ahead():
    calib = made_up_calibration()
    calib.P2 = np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]])
    box = np.array([[0.0, 1, 10, 2, 2, 4, 0]])  # x -1..1, y -1..1, z 8..12: the near face is the widest
    np.testing.assert_allclose(
        boxes3d_kitti_camera_to_imageboxes(box, calib), [[600 - 87.5, 180 - 87.5, 600 + 87.5, 180 + 87.5]]
    )
    np.testing.assert_allclose(boxes3d_kitti_camera_to_imageboxes(box, calib, (200, 620)), [[512.5, 92.5, 619, 199]])


def test_no_boxes():
    calib, none = made_up_calibration(), np.zeros((0, 7), dtype=np.float32)
    for function in (boxes3d_lidar_to_kitti_camera, boxes3d_kitti_camera_to_lidar):
        assert function(none, calib).shape == (0, 7)
    assert boxes3d_kitti_lidar_to_fakelidar(none).shape == (0, 7)
    assert boxes3d_to_corners3d_kitti_camera(none).shape == (0, 8, 3)
    assert boxes3d_kitti_camera_to_imageboxes(none, calib, (375, 1242)).shape == (0, 4)


def test_a_calibration_of_another_library_will_do():
    """Only the method names count: here one that knows numpy alone, as OpenPCDet's does."""

    class NumpyOnly:
        def lidar_to_rect(self, points):
            return np.dot(points, np.diag([1.0, 2.0, 3.0]))

        def rect_to_img(self, points):
            return np.hstack((points[:, 0:1], points[:, 1:2])), points[:, 2]

    boxes = lidar_boxes()
    np.testing.assert_allclose(boxes3d_lidar_to_kitti_camera(boxes, NumpyOnly())[:, 0], boxes[:, 0])
    assert boxes3d_kitti_camera_to_imageboxes(boxes, NumpyOnly()).shape == (20, 4)
