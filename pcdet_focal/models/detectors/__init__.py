from __future__ import annotations

from torch import nn

from ..registry import find_by_name
from .centerpoint import CenterPoint
from .detector3d_template import Detector3DTemplate
from .pillarnet import PillarNet
from .pointpillar import PointPillar
from .second_net import SECONDNet

__all__ = {
    "Detector3DTemplate": Detector3DTemplate,
    "SECONDNet": SECONDNet,
    "PointPillar": PointPillar,
    "CenterPoint": CenterPoint,
    "PillarNet": PillarNet,
}


def build_detector(model_cfg, num_class: int, dataset) -> nn.Module:
    """The detector class that ``model_cfg.NAME`` names, built; raises InputError for a name that is not supported."""
    return find_by_name(__all__, model_cfg.NAME, "MODEL.NAME")(
        model_cfg=model_cfg, num_class=num_class, dataset=dataset
    )
