from __future__ import annotations

import torch
from torch import Tensor, nn

from ....errors import InputError
from ....ops.scatter import scatter_mean
from .dynamic_voxels import DynamicVoxels
from .pillar_vfe import PFNLayer
from .vfe_template import VFETemplate

PFNLayerV2 = PFNLayer  # OpenPCDet's name of the layer in this file


class _DynamicPillars(VFETemplate):
    """Pillars of any number of points; a subclass says how a point is described, and what the batch is called."""

    def __init__(self, model_cfg, channels: int, voxel_size, grid_size, point_cloud_range):
        super().__init__(model_cfg=model_cfg)
        self.with_distance = model_cfg.WITH_DISTANCE
        self.use_absolute_xyz = model_cfg.USE_ABSLOTE_XYZ
        self.num_filters = list(model_cfg.NUM_FILTERS)
        if not self.num_filters:
            raise InputError("MODEL.VFE.NUM_FILTERS must have at least one entry")
        widths = [channels + bool(self.with_distance), *self.num_filters]
        self.pfn_layers = nn.ModuleList(
            PFNLayerV2(widths[i], widths[i + 1], model_cfg.USE_NORM, last_layer=i == len(widths) - 2)
            for i in range(len(widths) - 1)
        )
        self.pillars = DynamicVoxels(2, voxel_size, grid_size, point_cloud_range)

    def get_output_feature_dim(self) -> int:
        return self.num_filters[-1]

    def encode(self, parts: list[Tensor], xyz: Tensor, pillar_of_point: Tensor, count: int) -> Tensor:
        """Descriptions (K, ...) of the points -> features (count, F) of their pillars."""
        if self.with_distance:
            parts = [*parts, xyz.norm(dim=1, keepdim=True)]
        features = torch.cat(parts, dim=1)
        for layer in self.pfn_layers:
            features = layer(features, pillar_of_point, count)
        return features


class DynamicPillarVFE(_DynamicPillars):
    """PointPillars' encoder without a limit on pillars or points: a point is described by itself, its offset from the
    pillar's mean and centre.
    """

    def __init__(self, model_cfg, num_point_features: int, voxel_size, grid_size, point_cloud_range, **kwargs):
        channels = num_point_features + (6 if model_cfg.USE_ABSLOTE_XYZ else 3)
        super().__init__(model_cfg, channels, voxel_size, grid_size, point_cloud_range)

    def forward(self, batch_dict: dict, **kwargs) -> dict:
        """Reads ``points`` (N, 1 + C); adds ``pillar_features`` and ``voxel_features``, both (M, F), and
        ``voxel_coords`` (M, 4) as batch, z, y, x.
        """
        points, cells, pillars, pillar_of_point = self.pillars(batch_dict["points"])
        xyz = points[:, 1:4]
        mean = scatter_mean(xyz, pillar_of_point, len(pillars))
        described = points[:, 1:] if self.use_absolute_xyz else points[:, 4:]
        parts = [described, xyz - mean[pillar_of_point], self.pillars.offsets_from_centre(xyz, cells)]
        batch_dict["pillar_features"] = self.encode(parts, xyz, pillar_of_point, len(pillars))
        batch_dict["voxel_features"] = batch_dict["pillar_features"]
        batch, x, y = pillars.unbind(1)
        batch_dict["voxel_coords"] = torch.stack([batch, torch.zeros_like(batch), y, x], dim=1)
        return batch_dict


class DynamicPillarVFESimple2D(_DynamicPillars):
    """PillarNet's encoder: a point is described by its offset from the pillar's centre and by itself (its features
    only, without USE_ABSLOTE_XYZ).
    """

    def __init__(self, model_cfg, num_point_features: int, voxel_size, grid_size, point_cloud_range, **kwargs):
        channels = num_point_features + (3 if model_cfg.USE_ABSLOTE_XYZ else 0)
        super().__init__(model_cfg, channels, voxel_size, grid_size, point_cloud_range)

    def forward(self, batch_dict: dict, **kwargs) -> dict:
        """Reads ``points`` (N, 1 + C); adds ``pillar_features`` (M, F) and ``pillar_coords`` (M, 3) int32 as batch, y,
        x.
        """
        points, cells, pillars, pillar_of_point = self.pillars(batch_dict["points"])
        xyz = points[:, 1:4]
        parts = [
            self.pillars.offsets_from_centre(xyz, cells),
            points[:, 1:] if self.use_absolute_xyz else points[:, 4:],
        ]
        batch_dict["pillar_features"] = self.encode(parts, xyz, pillar_of_point, len(pillars))
        batch_dict["pillar_coords"] = pillars[:, [0, 2, 1]].contiguous()
        return batch_dict
