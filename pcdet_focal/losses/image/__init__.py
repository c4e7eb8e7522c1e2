"""2-D detection, for no head of this package: losses of image boxes, grids of anchors and long-tailed classes.

They have mmdetection's, YOLOv5's or OpenPCDet's names, and ``build_loss`` makes the registered ones for models of
other packages.
"""

from . import yolo
from .distribution_focal import DistributionFocalLoss, distribution_focal_loss
from .eqlv2 import EQLV2Loss, eql_v2_weights
from .foreground_mask import compute_fg_mask
from .iou import CIoULoss, DIoULoss, GIoULoss, IoULoss, ciou_loss, diou_loss, giou_loss, iou_loss
from .seesaw import SeesawLoss, seesaw_loss

__all__ = [
    "CIoULoss",
    "DIoULoss",
    "DistributionFocalLoss",
    "EQLV2Loss",
    "GIoULoss",
    "IoULoss",
    "SeesawLoss",
    "ciou_loss",
    "compute_fg_mask",
    "diou_loss",
    "distribution_focal_loss",
    "eql_v2_weights",
    "giou_loss",
    "iou_loss",
    "seesaw_loss",
    "yolo",
]
