"""OpenPCDet's ``pcdet.utils.common_utils``: its functions on angles, points and voxels live in ``geometry``, on runs
and processes in ``engine``.
"""

from typing import Any

import numpy as np

from ..arrays import check_numpy_to_torch  # noqa: F401
from ..engine.distributed import get_dist_info, init_dist_pytorch, init_dist_slurm, merge_results_dist  # noqa: F401
from ..engine.run_log import AverageMeter, create_logger, set_random_seed, worker_init_fn  # noqa: F401
from ..geometry.angles import angle2matrix, limit_period, rotate_points_along_z  # noqa: F401
from ..geometry.points import (  # noqa: F401
    generate_voxel2pinds,
    get_pad_params,
    get_voxel_centers,
    mask_points_by_range,
    scatter_point_inds,
)


def __getattr__(name: str) -> Any:
    if name in ("drop_info_with_name", "keep_arrays_by_name"):  # asked for only now: their package imports numba
        from ..datasets import info_rows

        return getattr(info_rows, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def sa_create(name: str, var: np.ndarray) -> np.ndarray:
    """A read-only copy of ``var`` in shared memory under ``name``. Needs the package SharedArray; this package's own
    data sets map a file instead.
    """
    import SharedArray

    shared = SharedArray.create(name, var.shape, dtype=var.dtype)
    shared[...] = var
    shared.flags.writeable = False
    return shared
