"""OpenPCDet's ``pcdet.utils.common_utils``: its functions on angles, points and voxels; they live in ``geometry``."""
from ..geometry.angles import angle2matrix, limit_period, rotate_points_along_z  # noqa: F401
from ..geometry.arrays import check_numpy_to_torch  # noqa: F401
from ..geometry.points import generate_voxel2pinds, get_pad_params, get_voxel_centers, mask_points_by_range, scatter_point_inds  # noqa: F401
