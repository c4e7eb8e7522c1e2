"""OpenPCDet's module of losses: re-exports; the code lives in ``pcdet_focal.losses``."""

from ..losses.center_iou import calculate_iou_loss_centerhead, calculate_iou_reg_loss_centerhead
from ..losses.centernet import (
    FocalLossCenterNet,
    RegLossCenterNet,
    _gather_feat,
    _reg_loss,
    _transpose_and_gather_feat,
    neg_loss_cornernet,
)
from ..losses.corner import get_corner_loss_lidar
from ..losses.cross_entropy import WeightedCrossEntropyLoss
from ..losses.gaussian_focal import GaussianFocalLoss
from ..losses.image import compute_fg_mask
from ..losses.sigmoid_focal import SigmoidFocalClassificationLoss
from ..losses.smooth_l1 import L1Loss, WeightedL1Loss, WeightedSmoothL1Loss
from ..losses.sparse import FocalLossSparse, IouLossSparse, IouRegLossSparse, RegLossSparse, neg_loss_sparse

__all__ = [
    "FocalLossCenterNet",
    "FocalLossSparse",
    "GaussianFocalLoss",
    "IouLossSparse",
    "IouRegLossSparse",
    "L1Loss",
    "RegLossCenterNet",
    "RegLossSparse",
    "SigmoidFocalClassificationLoss",
    "WeightedCrossEntropyLoss",
    "WeightedL1Loss",
    "WeightedSmoothL1Loss",
    "_gather_feat",
    "_reg_loss",
    "_transpose_and_gather_feat",
    "calculate_iou_loss_centerhead",
    "calculate_iou_reg_loss_centerhead",
    "compute_fg_mask",
    "get_corner_loss_lidar",
    "neg_loss_cornernet",
    "neg_loss_sparse",
]
