"""Losses: pure functions first, ``nn.Module`` second, one family a file.

Every head puts a loss together in the same four steps: elementwise loss -> weights (``weights``, broadcast checked) -> normaliser and reduction
(``normalizers``) -> loss weight. Names and results of the modules are OpenPCDet's.
"""
from . import mmdet  # noqa: F401  registers mmdetection's names
from .balanced_l1 import BalancedL1Loss, balanced_l1_loss
from .center_iou import calculate_iou_loss_centerhead, calculate_iou_reg_loss_centerhead
from .centernet import FocalLossCenterNet, RegLossCenterNet, neg_loss_cornernet
from .corner import get_corner_loss_lidar
from .cross_entropy import WeightedCrossEntropyLoss, binary_cross_entropy_with_logits, one_hot_cross_entropy
from .focal_from_labels import sigmoid_focal_loss_from_labels
from .foreground_mask import compute_fg_mask
from .gaussian_focal import GaussianFocalLoss, gaussian_focal_loss
from .iou import CIoULoss, DIoULoss, GIoULoss, IoULoss, ciou_loss, diou_loss, giou_loss, iou_loss
from .normalizers import PerSampleNormalizer, anchor_weights_from_labels, one_hot_from_labels
from .positives import gather_rows_once, positive_rows
from .reduction import weight_reduce_loss
from .registry import build_loss, loss_style, register_loss, registered_losses
from .rotated_iou import RotatedIoULoss, rotated_iou_loss
from .sigmoid_focal import SigmoidFocalClassificationLoss, sigmoid_focal_loss
from .smooth_l1 import L1Loss, WeightedL1Loss, WeightedSmoothL1Loss, code_difference, smooth_l1
from .sparse import FocalLossSparse, IouLossSparse, IouRegLossSparse, RegLossSparse, neg_loss_sparse
from .weights import expand_anchor_weights

__all__ = [
    "BalancedL1Loss", "CIoULoss", "DIoULoss", "GIoULoss", "IoULoss", "RotatedIoULoss",
    "balanced_l1_loss", "ciou_loss", "diou_loss", "giou_loss", "iou_loss", "rotated_iou_loss",
    "FocalLossCenterNet", "FocalLossSparse", "GaussianFocalLoss", "IouLossSparse", "IouRegLossSparse", "L1Loss", "PerSampleNormalizer",
    "RegLossCenterNet", "RegLossSparse", "SigmoidFocalClassificationLoss", "WeightedCrossEntropyLoss", "WeightedL1Loss", "WeightedSmoothL1Loss",
    "anchor_weights_from_labels", "binary_cross_entropy_with_logits", "build_loss", "calculate_iou_loss_centerhead",
    "calculate_iou_reg_loss_centerhead", "code_difference", "compute_fg_mask", "expand_anchor_weights", "gather_rows_once",
    "gaussian_focal_loss", "get_corner_loss_lidar", "loss_style", "neg_loss_cornernet", "neg_loss_sparse", "one_hot_cross_entropy",
    "one_hot_from_labels", "positive_rows", "register_loss", "registered_losses", "sigmoid_focal_loss", "sigmoid_focal_loss_from_labels",
    "smooth_l1", "weight_reduce_loss",
]
