from __future__ import annotations

import torch

from ....ops.scatter import scatter_mean
from .dynamic_voxels import DynamicVoxels
from .vfe_template import VFETemplate


class DynamicMeanVFE(VFETemplate):
    """A voxel's feature is the mean of all its points; there is no limit on voxels or on points in a voxel."""

    def __init__(self, model_cfg, num_point_features: int, voxel_size, grid_size, point_cloud_range, **kwargs):
        super().__init__(model_cfg=model_cfg)
        self.num_point_features = num_point_features
        self.voxels = DynamicVoxels(3, voxel_size, grid_size, point_cloud_range)

    def get_output_feature_dim(self) -> int:
        return self.num_point_features

    @torch.no_grad()
    def forward(self, batch_dict: dict, **kwargs) -> dict:
        """Reads ``points`` (N, 1 + C); adds ``voxel_features`` (M, C) and ``voxel_coords`` (M, 4) int32 as batch, z, y,
        x.
        """
        points, _, voxels, voxel_of_point = self.voxels(batch_dict["points"])
        batch_dict["voxel_features"] = scatter_mean(points[:, 1:], voxel_of_point, len(voxels))
        batch_dict["voxel_coords"] = voxels[:, [0, 3, 2, 1]].contiguous()
        return batch_dict
