"""OpenPCDet's ``pcdet.utils.box_utils``; the functions live in ``geometry``."""

from ..geometry.boxes import (  # noqa: F401
    area,
    bbox3d_overlaps_diou,
    boxes3d_lidar_to_aligned_bev_boxes,
    boxes3d_nearest_bev_iou,
    boxes_iou_normal,
    boxes_to_corners_3d,
    center_to_corner2d,
    enlarge_box3d,
    mask_boxes_outside_range_numpy,
    pairwise_iou,
    remove_points_in_boxes3d,
)
from ..geometry.camera_boxes import (  # noqa: F401
    boxes3d_kitti_camera_to_imageboxes,
    boxes3d_kitti_camera_to_lidar,
    boxes3d_kitti_fakelidar_to_lidar,
    boxes3d_kitti_lidar_to_fakelidar,
    boxes3d_lidar_to_kitti_camera,
    boxes3d_to_corners3d_kitti_camera,
    corners_rect_to_camera,
)
from ..geometry.hulls import in_hull  # noqa: F401
from ..ops.roiaware_pool3d import roiaware_pool3d_utils  # noqa: F401
