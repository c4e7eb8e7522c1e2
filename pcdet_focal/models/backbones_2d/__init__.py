from .base_bev_backbone import BaseBEVBackbone, BaseBEVBackboneV1, BaseBEVResBackbone

__all__ = {
    "BaseBEVBackbone": BaseBEVBackbone,
    "BaseBEVBackboneV1": BaseBEVBackboneV1,
    "BaseBEVResBackbone": BaseBEVResBackbone,
}
