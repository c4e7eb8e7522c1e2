"""3-D backbones by the NAME that a configuration's MODEL.BACKBONE_3D gives."""
from .spconv_backbone import VoxelBackBone8x, VoxelResBackBone8x

__all__ = {
    "VoxelBackBone8x": VoxelBackBone8x,
    "VoxelResBackBone8x": VoxelResBackBone8x,
}
