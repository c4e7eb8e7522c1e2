"""OpenPCDet's module names re-export the functions of geometry; importing them stays light."""

import subprocess
import sys

import pytest

import pcdet_focal.geometry.box_coders
import pcdet_focal.geometry.boxes
from pcdet_focal.utils import box_coder_utils, box_utils, calibration_kitti, common_utils

NAMES = {
    box_utils: """area bbox3d_overlaps_diou boxes3d_kitti_camera_to_imageboxes boxes3d_kitti_camera_to_lidar
        boxes3d_kitti_fakelidar_to_lidar boxes3d_kitti_lidar_to_fakelidar boxes3d_lidar_to_aligned_bev_boxes
        boxes3d_lidar_to_kitti_camera boxes3d_nearest_bev_iou boxes3d_to_corners3d_kitti_camera boxes_iou_normal
        boxes_to_corners_3d center_to_corner2d corners_rect_to_camera enlarge_box3d in_hull
            mask_boxes_outside_range_numpy pairwise_iou remove_points_in_boxes3d""",
    box_coder_utils: "PointResidualCoder PreviousResidualDecoder PreviousResidualRoIDecoder ResidualCoder",
    calibration_kitti: "Calibration get_calib_from_file",
    common_utils: """angle2matrix check_numpy_to_torch generate_voxel2pinds get_pad_params get_voxel_centers
        limit_period mask_points_by_range rotate_points_along_z scatter_point_inds""",
}


@pytest.mark.parametrize("module", NAMES, ids=lambda module: module.__name__)
def test_names_of_openpcdet(module):
    missing = [name for name in NAMES[module].split() if not callable(getattr(module, name, None))]
    assert not missing
    homes = ("pcdet_focal.geometry.", "pcdet_focal.arrays")
    assert all(getattr(module, name).__module__.startswith(homes) for name in NAMES[module].split())


def test_doors_lead_to_the_same_objects():
    assert box_utils.boxes_to_corners_3d is pcdet_focal.geometry.boxes.boxes_to_corners_3d
    assert box_coder_utils.ResidualCoder is pcdet_focal.geometry.box_coders.ResidualCoder


def test_the_doors_import_nothing_heavy():
    code = (
        "import sys; import pcdet_focal.utils.box_utils, pcdet_focal.utils.common_utils, "
        "pcdet_focal.utils.calibration_kitti; "
        "print([name for name in ('scipy', 'numba', 'triton', 'spconv', 'matplotlib', 'plotly', 'tensorboard') if "
        "name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
