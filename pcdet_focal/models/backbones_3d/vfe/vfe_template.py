from __future__ import annotations

from torch import nn


class VFETemplate(nn.Module):
    """A voxel feature encoder: turns the points of each voxel into one feature vector."""

    def __init__(self, model_cfg, **kwargs):
        super().__init__()
        self.model_cfg = model_cfg

    def get_output_feature_dim(self) -> int:
        """Channels of the features it makes."""
        raise NotImplementedError
