"""2-D detection, for no head of this package: losses of YOLO-style grid heads with YOLOv5's names and signatures.

``smooth_BCE``, ``BCEBlurWithLogitsLoss``, ``FocalLoss`` and ``QFocalLoss`` around a BCE criterion, ``bbox_iou``, and
``ComputeLoss`` for heads that predict (B, anchors, H, W, 5 + classes) on one or more bird's-eye grids. ``FocalLoss``
and ``QFocalLoss`` here wrap a criterion; mmdetection's ``FocalLoss`` and ``QualityFocalLoss`` are
``pcdet_focal.losses.build_loss("FocalLoss")`` and so on.
"""

from ...bce_blur import BCEBlurWithLogitsLoss, bce_blur_with_logits
from .boxes import bbox_iou
from .compute_loss import ComputeLoss
from .criteria import FocalLoss, QFocalLoss, smooth_BCE
from .targets import build_layer_targets, grid_candidates

__all__ = [
    "BCEBlurWithLogitsLoss",
    "ComputeLoss",
    "FocalLoss",
    "QFocalLoss",
    "bbox_iou",
    "bce_blur_with_logits",
    "build_layer_targets",
    "grid_candidates",
    "smooth_BCE",
]
