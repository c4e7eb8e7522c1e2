from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .vfe_template import VFETemplate


class PFNLayer(nn.Module):
    """One layer of PointPillars' feature net: linear, norm, ReLU, then the maximum over a pillar's points.

    Every layer but the last hands each point's feature on beside the pillar's maximum, each of half the channels.
    """

    def __init__(self, in_channels: int, out_channels: int, use_norm: bool = True, last_layer: bool = False):
        super().__init__()
        self.last_vfe = last_layer
        out_channels = out_channels if last_layer else out_channels // 2
        self.linear = nn.Linear(in_channels, out_channels, bias=not use_norm)
        self.norm = nn.BatchNorm1d(out_channels, eps=1e-3, momentum=0.01) if use_norm else None

    def forward(self, inputs: Tensor) -> Tensor:
        """(M, P, in) -> (M, 1, out) from the last layer, else (M, P, out)."""
        x = self.linear(inputs)  # (M, P, out)
        if self.norm is not None and x.shape[0]:
            # The padding rows count as well, as they do in the original. As (M, out, P), not (M * P, out): there torch sums in float32 on a CPU.
            x = self.norm(x.permute(0, 2, 1)).permute(0, 2, 1)
        x = x.relu()
        x_max = x.max(dim=1, keepdim=True).values  # not amax: among equal points the gradient goes to one
        return x_max if self.last_vfe else torch.cat([x, x_max.expand_as(x)], dim=2)


class PillarVFE(VFETemplate):
    """PointPillars' encoder: each point is described by itself, its offset from the pillar's mean and from the pillar's centre."""

    def __init__(self, model_cfg, num_point_features: int, voxel_size, point_cloud_range, **kwargs):
        super().__init__(model_cfg=model_cfg)
        self.with_distance = model_cfg.WITH_DISTANCE
        self.use_absolute_xyz = model_cfg.USE_ABSLOTE_XYZ
        channels = num_point_features + (6 if self.use_absolute_xyz else 3) + bool(self.with_distance)
        self.num_filters = list(model_cfg.NUM_FILTERS)
        widths = [channels, *self.num_filters]
        self.pfn_layers = nn.ModuleList(
            PFNLayer(widths[i], widths[i + 1], model_cfg.USE_NORM, last_layer=i == len(widths) - 2) for i in range(len(widths) - 1)
        )
        self.voxel_size = [float(v) for v in voxel_size]
        # Centre of the first pillar, rounded to float32 as in OpenPCDet, whose range is float32: in float64 the same figures come out.
        self.offsets = [float(np.float32(self.voxel_size[i] / 2) + np.float32(point_cloud_range[i])) for i in range(3)]

    def get_output_feature_dim(self) -> int:
        return self.num_filters[-1]

    def forward(self, batch_dict: dict, **kwargs) -> dict:
        """Reads ``voxels`` (M, P, C), ``voxel_num_points`` (M,), ``voxel_coords`` (M, 4) as batch, z, y, x; adds ``pillar_features`` (M, F)."""
        voxels, num_points, coords = batch_dict["voxels"], batch_dict["voxel_num_points"], batch_dict["voxel_coords"]
        xyz = voxels[..., :3]
        mean = xyz.sum(dim=1, keepdim=True) / num_points.clamp(min=1).type_as(voxels).view(-1, 1, 1)
        centre = coords[:, [3, 2, 1]].to(voxels.dtype) * voxels.new_tensor(self.voxel_size) + voxels.new_tensor(self.offsets)  # (M, 3)
        parts = [voxels if self.use_absolute_xyz else voxels[..., 3:], xyz - mean, xyz - centre.unsqueeze(1)]
        if self.with_distance:
            parts.append(xyz.norm(dim=2, keepdim=True))
        features = torch.cat(parts, dim=-1)
        filled = torch.arange(voxels.shape[1], device=voxels.device) < num_points.view(-1, 1)  # (M, P)
        features = features * filled.unsqueeze(-1)
        for layer in self.pfn_layers:
            features = layer(features)
        batch_dict["pillar_features"] = features.squeeze(1)
        return batch_dict
