from ...registry import BACKBONES_2D
from .base_bev_backbone import BaseBEVBackbone, BaseBEVBackboneV1, BaseBEVResBackbone

__all__ = BACKBONES_2D.add(
    {
        "BaseBEVBackbone": BaseBEVBackbone,
        "BaseBEVBackboneV1": BaseBEVBackboneV1,
        "BaseBEVResBackbone": BaseBEVResBackbone,
    }
)
