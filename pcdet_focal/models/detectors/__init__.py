from __future__ import annotations

from torch import nn

from ...registry import DETECTORS
from .centerpoint import CenterPoint
from .detector3d_template import Detector3DTemplate
from .pillarnet import PillarNet
from .pointpillar import PointPillar
from .second_net import SECONDNet

__all__ = DETECTORS.add(
    {
        "Detector3DTemplate": Detector3DTemplate,
        "SECONDNet": SECONDNet,
        "PointPillar": PointPillar,
        "CenterPoint": CenterPoint,
        "PillarNet": PillarNet,
    }
)


def build_detector(model_cfg, num_class: int, dataset) -> nn.Module:
    """The detector class that ``model_cfg.NAME`` names, built; raises InputError for a name that is not supported."""
    return DETECTORS[model_cfg.NAME](model_cfg=model_cfg, num_class=num_class, dataset=dataset)
