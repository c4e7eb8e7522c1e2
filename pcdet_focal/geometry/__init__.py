"""Boxes, angles, calibration and box coders, in plain torch and numpy.

- ``angles.py``: ``limit_period``, ``rotate_points_along_z``, ``angle2matrix``
- ``points.py``: ``mask_points_by_range``, ``get_voxel_centers`` and index helpers of sparse voxel tensors
- ``boxes.py``: boxes in the LiDAR frame: corners, range masks, points in boxes, overlaps without polygon clipping
- ``points_in_boxes.py``: points in or outside boxes in float64, for the augmentation
- ``camera_boxes.py``: boxes in the KITTI camera frame, to and from the LiDAR frame, their image rectangles
- ``rectangles.py``: whether two rotated rectangles are apart, for numba code
- ``hulls.py``: ``in_hull``: points inside the convex hull of a few corners
- ``box_coders.py``: ``ResidualCoder`` and its relatives: boxes <-> regression targets
- ``calibration.py``: ``Calibration``: LiDAR <-> rectified camera <-> image, from a KITTI calib file

Boxes are (x, y, z, dx, dy, dz, heading) in the LiDAR frame (x forward, y left, z up), in metres, centre-based, heading
in radians anticlockwise from +x, unless a name says camera. numpy in gives numpy out, torch in gives torch out on the
same device. float64 stays float64. Inputs are never changed.
"""
