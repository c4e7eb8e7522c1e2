"""OpenPCDet's ``pcdet.utils.commu_utils``: who am I among several processes, and values of all of them; they live in
``engine.distributed``.
"""

from ..engine.distributed import (  # noqa: F401
    all_gather,
    all_reduce,
    average_reduce_value,
    concat_all_gather,
    get_rank,
    get_world_size,
    is_main_process,
    reduce_dict,
    synchronize,
)
