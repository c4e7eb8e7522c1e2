"""Boxes for the targets of a CenterHead with three heads on a map of 40 x 32 cells, and how ``data/center_targets.npz``
was made from them.

The file holds what OpenPCDet's CenterHead.assign_targets (v0.6.0, commit 8caccce) gave for ``boxes()`` in float32: for
each head h and sample b the cells that are not 0 of the heat maps (``hm{h}_idx``, ``hm{h}_val``), ``inds{h}``,
``masks{h}``, ``boxes{h}`` and ``src{h}``, the first 12 slots.
"""

import numpy as np
from easydict import EasyDict

NAMES = ["car", "truck", "bus", "pedestrian", "cone"]
HEADS = [["car"], ["truck", "bus"], ["pedestrian", "cone"]]
RANGE = np.array([-10.0, -8.0, -3.0, 10.0, 8.0, 1.0], np.float32)
VOXEL, STRIDE, WIDTH, HEIGHT = [0.25, 0.25, 0.2], 2, 40, 32
SLOTS = 12


def head_cfg(**changes) -> EasyDict:
    """DENSE_HEAD of such a head with velocities; keyword arguments replace entries."""
    cfg = EasyDict(
        NAME="CenterHead",
        CLASS_AGNOSTIC=False,
        CLASS_NAMES_EACH_HEAD=HEADS,
        SHARED_CONV_CHANNEL=8,
        USE_BIAS_BEFORE_NORM=True,
        NUM_HM_CONV=2,
        SEPARATE_HEAD_CFG={
            "HEAD_ORDER": ["center", "center_z", "dim", "rot", "vel"],
            "HEAD_DICT": {
                name: {"out_channels": n, "num_conv": 2}
                for name, n in (("center", 2), ("center_z", 1), ("dim", 3), ("rot", 2), ("vel", 2))
            },
        },
        TARGET_ASSIGNER_CONFIG={
            "FEATURE_MAP_STRIDE": STRIDE,
            "NUM_MAX_OBJS": 50,
            "GAUSSIAN_OVERLAP": 0.1,
            "MIN_RADIUS": 2,
        },
        LOSS_CONFIG={
            "LOSS_WEIGHTS": {"cls_weight": 1.0, "loc_weight": 0.25, "code_weights": [1.0] * 6 + [0.2] * 2 + [1.0] * 2}
        },
        POST_PROCESSING={
            "SCORE_THRESH": 0.1,
            "POST_CENTER_LIMIT_RANGE": [-12.0, -12.0, -5.0, 12.0, 12.0, 5.0],
            "MAX_OBJ_PER_SAMPLE": 60,
            "NMS_CONFIG": {"NMS_TYPE": "nms_gpu", "NMS_THRESH": 0.2, "NMS_PRE_MAXSIZE": 1000, "NMS_POST_MAXSIZE": 83},
        },
    )
    cfg.update(EasyDict(changes))
    return cfg


def boxes() -> np.ndarray:
    """(2, 14, 10) float32: ordinary, overlapping, on the border, beyond it, of no size; padding in the middle and at
    the end.
    """
    rng = np.random.default_rng(5)
    dims = {1: (4.2, 1.9, 1.6), 2: (8.0, 2.6, 3.0), 3: (11.0, 2.9, 3.4), 4: (0.8, 0.7, 1.8), 5: (0.4, 0.4, 1.0)}
    made = np.zeros((2, 14, 10))
    for sample in range(2):
        for row in range(12):
            label = int(rng.integers(1, 6))
            made[sample, row] = [
                rng.uniform(-10, 10),
                rng.uniform(-8, 8),
                rng.uniform(-2, 0),
                *np.array(dims[label]) * rng.uniform(0.7, 1.4, 3),
                rng.uniform(-4, 4),
                *rng.uniform(-3, 3, 2),
                label,
            ]
    made[0, 1] = made[0, 0] + np.array([0.6, 0.3, 0, 0, 0, 0, 0, 0, 0, 0])  # two of a class in neighbouring cells
    made[0, 2, :2] = 10.0, 8.0  # the far corner
    made[0, 3, :2] = -13.0, 9.5  # outside: its centre goes to the border
    made[0, 4, 3] = 0.0
    made[0, 5] = 0.0
    made[1, 6, 4] = -1.0
    return made.astype(np.float32)
