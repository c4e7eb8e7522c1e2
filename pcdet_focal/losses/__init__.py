"""Losses: pure functions first, ``nn.Module`` second, one family a file.

Every head puts a loss together in the same four steps: elementwise loss -> weights (``weights``, broadcast checked) ->
normaliser and reduction (``normalizers``) -> loss weight. Names and results of the modules are OpenPCDet's.
"""

from . import mmdet  # noqa: F401  registers mmdetection's names
from .asymmetric import (
    AsymmetricLoss,
    AsymmetricLossMultiLabel,
    AsymmetricLossSingleLabel,
    asymmetric_loss,
    asymmetric_loss_single_label,
)
from .balanced_l1 import BalancedL1Loss, balanced_l1_loss
from .bce import (
    BinaryCrossEntropyLoss,
    LabelSmoothingLoss,
    binary_cross_entropy,
    label_smoothing_cross_entropy,
    smooth_binary_targets,
)
from .center_iou import calculate_iou_loss_centerhead, calculate_iou_reg_loss_centerhead
from .centernet import FocalLossCenterNet, RegLossCenterNet, neg_loss_cornernet
from .corner import CornerLoss, get_corner_loss_lidar
from .cross_entropy import WeightedCrossEntropyLoss, binary_cross_entropy_with_logits, one_hot_cross_entropy
from .equalization import EqualizedFocalLoss, equalized_focal_loss
from .focal_from_labels import sigmoid_focal_loss_from_labels
from .from_labels import LossFromLabels
from .gaussian_focal import GaussianFocalLoss, gaussian_focal_loss
from .ghm import GHMC, GHMR, authentic_smooth_l1, ghmc_loss, ghmr_loss
from .head_classification import HeadClassificationLoss, logits_of_softmax
from .head_losses import build_head_box_loss, build_head_classification_loss, build_head_direction_loss
from .head_regression import HeadBoxLoss, HeadDirectionLoss
from .image import (
    CIoULoss,
    DIoULoss,
    DistributionFocalLoss,
    EQLV2Loss,
    GIoULoss,
    IoULoss,
    SeesawLoss,
    ciou_loss,
    compute_fg_mask,
    diou_loss,
    distribution_focal_loss,
    eql_v2_weights,
    giou_loss,
    iou_loss,
    seesaw_loss,
    yolo,  # noqa: F401  YOLOv5's names stay in losses.yolo: its FocalLoss wraps a criterion
)
from .normalizers import (
    BatchNormalizer,
    EmaNormalizer,
    GlobalNormalizer,
    NoNormalizer,
    PerSampleNormalizer,
    anchor_weights_from_labels,
    build_normalizer,
    one_hot_from_labels,
)
from .positives import gather_rows_once, positive_rows
from .quality_focal import QualityFocalLoss, quality_focal_loss
from .quality_from_labels import quality_focal_loss_from_labels, varifocal_loss_from_labels
from .reduction import weight_reduce_loss
from .registry import build_loss, loss_style, register_loss, registered_losses
from .rotated_iou import RotatedIoULoss, rotated_iou_loss
from .schedules import GammaSchedule, build_gamma_schedule, set_training_progress
from .sigmoid_focal import SigmoidFocalClassificationLoss, sigmoid_focal_loss, sigmoid_focal_loss_star
from .smooth_l1 import L1Loss, WeightedL1Loss, WeightedSmoothL1Loss, code_difference, smooth_l1
from .softmax_focal import SoftmaxFocalLoss, softmax_focal_loss
from .sparse import FocalLossSparse, IouLossSparse, IouRegLossSparse, RegLossSparse, neg_loss_sparse
from .varifocal import VarifocalLoss, varifocal_loss
from .weights import expand_anchor_weights

__all__ = [
    "AsymmetricLoss",
    "AsymmetricLossMultiLabel",
    "AsymmetricLossSingleLabel",
    "BalancedL1Loss",
    "BatchNormalizer",
    "BinaryCrossEntropyLoss",
    "CIoULoss",
    "CornerLoss",
    "DIoULoss",
    "DistributionFocalLoss",
    "EQLV2Loss",
    "EmaNormalizer",
    "EqualizedFocalLoss",
    "FocalLossCenterNet",
    "FocalLossSparse",
    "GHMC",
    "GHMR",
    "GIoULoss",
    "GammaSchedule",
    "GaussianFocalLoss",
    "GlobalNormalizer",
    "HeadBoxLoss",
    "HeadClassificationLoss",
    "HeadDirectionLoss",
    "IoULoss",
    "IouLossSparse",
    "IouRegLossSparse",
    "L1Loss",
    "LabelSmoothingLoss",
    "LossFromLabels",
    "NoNormalizer",
    "PerSampleNormalizer",
    "QualityFocalLoss",
    "RegLossCenterNet",
    "RegLossSparse",
    "RotatedIoULoss",
    "SeesawLoss",
    "SigmoidFocalClassificationLoss",
    "SoftmaxFocalLoss",
    "VarifocalLoss",
    "WeightedCrossEntropyLoss",
    "WeightedL1Loss",
    "WeightedSmoothL1Loss",
    "anchor_weights_from_labels",
    "asymmetric_loss",
    "asymmetric_loss_single_label",
    "authentic_smooth_l1",
    "balanced_l1_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "build_gamma_schedule",
    "build_head_box_loss",
    "build_head_classification_loss",
    "build_head_direction_loss",
    "build_loss",
    "build_normalizer",
    "calculate_iou_loss_centerhead",
    "calculate_iou_reg_loss_centerhead",
    "ciou_loss",
    "code_difference",
    "compute_fg_mask",
    "diou_loss",
    "distribution_focal_loss",
    "eql_v2_weights",
    "equalized_focal_loss",
    "expand_anchor_weights",
    "gather_rows_once",
    "gaussian_focal_loss",
    "get_corner_loss_lidar",
    "ghmc_loss",
    "ghmr_loss",
    "giou_loss",
    "iou_loss",
    "label_smoothing_cross_entropy",
    "logits_of_softmax",
    "loss_style",
    "neg_loss_cornernet",
    "neg_loss_sparse",
    "one_hot_cross_entropy",
    "one_hot_from_labels",
    "positive_rows",
    "quality_focal_loss",
    "quality_focal_loss_from_labels",
    "register_loss",
    "registered_losses",
    "rotated_iou_loss",
    "seesaw_loss",
    "set_training_progress",
    "sigmoid_focal_loss",
    "sigmoid_focal_loss_star",
    "sigmoid_focal_loss_from_labels",
    "smooth_binary_targets",
    "smooth_l1",
    "softmax_focal_loss",
    "varifocal_loss",
    "varifocal_loss_from_labels",
    "weight_reduce_loss",
]
