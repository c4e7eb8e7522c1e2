from .centerpoint import CenterPoint


class PillarNet(CenterPoint):
    """PillarNet (Shi, Li, Ma: "PillarNet: Real-Time and High-Performance Pillar-based 3D Object Detection", ECCV 2022):
    sparse 2-D convolutions over pillars, with a CenterHead or an anchor head."""
