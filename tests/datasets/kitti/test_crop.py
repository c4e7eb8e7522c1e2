"""The crop to the image in one pass, against the projection written out and on the real frames against the recorded
rule.
"""

import numpy as np
from golden_data import KITTI_SAMPLE, needs_kitti_sample
from hypothesis import given, settings
from hypothesis import strategies as st

from pcdet_focal.datasets.kitti.crop import index_in_image
from pcdet_focal.datasets.kitti.kitti_dataset import KittiDataset
from pcdet_focal.datasets.kitti.reader import read_image_shape
from pcdet_focal.geometry.calibration import Calibration

NUMBERS = st.floats(-0.3, 0.3)


@given(
    seed=st.integers(0, 2**32 - 1),
    turn=st.tuples(NUMBERS, NUMBERS, NUMBERS),
    shift=st.tuples(NUMBERS, NUMBERS, NUMBERS),
    offset=st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(-0.01, 0.01)),
    focal=st.floats(50, 900),
    columns=st.integers(3, 6),
)
@settings(max_examples=60, deadline=None)
def test_against_the_projection_written_out(seed, turn, shift, offset, focal, columns):
    """Skewed cameras of any kind; points within a thousandth of a pixel of the border may go either way."""
    forward = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]) + np.array(
        [[0, turn[0], turn[1]], [-turn[0], 0, turn[2]], [-turn[1], -turn[2], 0]]
    )
    p2 = np.array([[focal, 0, 300, offset[0]], [0, focal, 100, offset[1]], [0, 0, 1, offset[2]]])
    calib = Calibration({"P2": p2, "R0": np.eye(3), "Tr_velo2cam": np.column_stack([forward, shift])})
    points = np.random.default_rng(seed).normal(size=(400, columns)).astype(np.float32) * 20
    points[:4, :3] = [[0, 0, 0], [np.nan, 0, 0], [np.inf, 0, 0], [10, np.nan, 0]]
    with np.errstate(all="ignore"):
        x, y, z = (points[:, :3].astype(np.float64) @ forward.T + shift).T
        u, v = (focal * x + 300 * z + offset[0]) / z, (focal * y + 100 * z + offset[1]) / z
        margin = np.min([u, 600 - u, v, 200 - v, z * 1e3], axis=0)  # inside where it is above zero
    got = np.zeros(len(points), dtype=bool)
    index = index_in_image(points, (200, 600), calib)
    got[index] = True
    clear = ~(np.abs(margin) < 1e-3)
    np.testing.assert_array_equal(got[clear], (margin > 0)[clear])
    assert (np.diff(index) > 0).all()


@needs_kitti_sample
def test_real_frames_keep_the_points_of_openpcdets_rule():
    for path in sorted((KITTI_SAMPLE / "training/velodyne").glob("*.bin")):
        points = np.fromfile(path, dtype=np.float32).reshape(-1, 4)
        calib, shape = (
            Calibration(KITTI_SAMPLE / f"training/calib/{path.stem}.txt"),
            read_image_shape(KITTI_SAMPLE / "training", path.stem),
        )
        flag = KittiDataset.get_fov_flag(calib.lidar_to_rect(points[:, :3]), shape, calib)
        np.testing.assert_array_equal(index_in_image(points, shape, calib), np.flatnonzero(flag), err_msg=path.stem)


def test_a_camera_that_sees_nothing():
    calib = Calibration({"P2": np.eye(3, 4), "R0": np.eye(3), "Tr_velo2cam": np.eye(3, 4)})
    for points in (np.zeros((0, 4), np.float32), np.float32([[0, 0, 0, 1], [1, 1, -1, 1]])):
        assert index_in_image(points, (200, 600), calib).shape == (0,)
