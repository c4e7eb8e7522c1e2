"""3-D backbones by the NAME that a configuration's MODEL.BACKBONE_3D gives."""

from ...registry import BACKBONES_3D
from .spconv_backbone import VoxelBackBone8x, VoxelResBackBone8x
from .spconv_backbone_2d import PillarBackBone8x, PillarRes18BackBone8x

__all__ = BACKBONES_3D.add(
    {
        "VoxelBackBone8x": VoxelBackBone8x,
        "VoxelResBackBone8x": VoxelResBackBone8x,
        "PillarBackBone8x": PillarBackBone8x,
        "PillarRes18BackBone8x": PillarRes18BackBone8x,
    }
)
