"""Which points of a scan the camera sees, in one pass over the points (numba, one thread: it runs inside data-loader
workers).
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from ...geometry.calibration import Calibration


def index_in_image(points: np.ndarray, image_shape: Sequence[int], calib: Calibration) -> np.ndarray:
    """Indices (K,) int64, ascending, of the points (N, 3 + C) in the LiDAR frame that fall into an image of
    ``image_shape`` (height, width).

    The same points as ``KittiDataset.get_fov_flag``, OpenPCDet's rule, which divides by the rectified depth; the
    matrices are multiplied first and the rest is float64, so that only points within float32's rounding of the image's
    border may differ.
    """
    to_rect = np.vstack([calib.R0.astype(np.float64) @ calib.V2C.astype(np.float64), [0.0, 0.0, 0.0, 1.0]])  # (4, 4)
    image = calib.P2.astype(np.float64) @ to_rect  # (3, 4): u * z, v * z and the depth with the camera's offset
    image[2, 3] -= calib.P2[2, 3]
    return _index_in_image(
        np.ascontiguousarray(points), image, to_rect[2], float(image_shape[1]), float(image_shape[0])
    )


@numba.njit(cache=True, nogil=True)
def _index_in_image(points, image, forward, width, height):
    indices = np.empty(points.shape[0], np.int64)
    n = 0
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        distance = forward[0] * x + forward[1] * y + forward[2] * z + forward[3]
        # the same, where the last row of P2 is KITTI's 0 0 1
        depth = image[2, 0] * x + image[2, 1] * y + image[2, 2] * z + image[2, 3]
        if not (distance > 0.0 and depth >= 0.0):  # behind the camera, or not a number
            continue
        u = image[0, 0] * x + image[0, 1] * y + image[0, 2] * z + image[0, 3]
        v = image[1, 0] * x + image[1, 1] * y + image[1, 2] * z + image[1, 3]
        if u >= 0.0 and u < width * distance and v >= 0.0 and v < height * distance:
            indices[n] = i
            n += 1
    return indices[:n].copy()
