from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ....ops.scatter import scatter_max
from .vfe_template import VFETemplate


class PFNLayer(nn.Module):
    """One layer of PointPillars' feature net: linear, norm, ReLU on every row, then the maximum over a pillar's rows.

    Every layer but the last hands each row's feature on beside the pillar's maximum, each of half the channels.
    """

    def __init__(self, in_channels: int, out_channels: int, use_norm: bool = True, last_layer: bool = False):
        super().__init__()
        self.last_vfe = last_layer
        out_channels = out_channels if last_layer else out_channels // 2
        self.linear = nn.Linear(in_channels, out_channels, bias=not use_norm)
        self.norm = nn.BatchNorm1d(out_channels, eps=1e-3, momentum=0.01) if use_norm else None

    def forward(self, inputs: Tensor, pillar: Tensor, count: int, repeats: Tensor | None = None) -> Tensor:
        """Encode the rows of all pillars.

        Args:
            inputs: (R, in). pillar: (R,) long, the pillar of each row; a row with a negative one belongs to none.
            count: M, the number of pillars.
            repeats: (R,) integers, how often the batch norm counts each row; None for once.
        Returns:
            (M, out) pillars from the last layer, else (R, out) rows.
        """
        x = self.linear(inputs)
        if self.norm is not None and (not self.norm.training or len(x)):  # in training it refuses an empty batch
            x = self.norm(x) if repeats is None else repeated_batch_norm(self.norm, x, repeats)
        x = x.relu()
        x_max = scatter_max(x, pillar, count)
        return x_max if self.last_vfe else torch.cat([x, x_max[pillar]], dim=1)


def repeated_batch_norm(norm: nn.Module, x: Tensor, repeats: Tensor) -> Tensor:
    """``norm`` of a batch that holds each row of ``x`` (R, C) ``repeats`` (R,) times, without building that batch.

    The running statistics are updated as by the whole batch. Only a BatchNorm1d in training needs the closed form;
    another norm in training, such as SyncBatchNorm, gets the repeated rows. What comes out for a row with 0 repeats has
    no meaning.
    """
    if not norm.training:
        return norm(x)
    if type(norm) is not nn.BatchNorm1d:
        first = (repeats.cumsum(0) - repeats).clamp(max=repeats.sum() - 1)
        return norm(x.repeat_interleave(repeats, dim=0))[first]
    rows = x.to(torch.promote_types(x.dtype, torch.float32))
    weights = repeats.to(rows.dtype).unsqueeze(1)
    total = weights.sum()
    # torch.sum adds up pairwise; a matrix product loses the fifth digit here
    mean = (rows * weights).sum(dim=0) / total
    centred = rows - mean
    var = (centred.square() * weights).sum(dim=0) / total
    if norm.track_running_stats:
        norm.num_batches_tracked += 1
        with torch.no_grad():
            share = 1 / norm.num_batches_tracked.to(mean.dtype) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, share)
            norm.running_var.lerp_(var * (total / (total - 1).clamp(min=1)), share)
    scale = torch.rsqrt(var + norm.eps)
    normed = centred * (scale * norm.weight if norm.affine else scale)
    return (normed + norm.bias if norm.affine else normed).to(x.dtype)


class PillarVFE(VFETemplate):
    """PointPillars' encoder: each point is described by itself, its offset from the pillar's mean and from the pillar's
    centre.
    """

    def __init__(self, model_cfg, num_point_features: int, voxel_size, point_cloud_range, **kwargs):
        super().__init__(model_cfg=model_cfg)
        self.with_distance = model_cfg.WITH_DISTANCE
        self.use_absolute_xyz = model_cfg.USE_ABSLOTE_XYZ
        channels = num_point_features + (6 if self.use_absolute_xyz else 3) + bool(self.with_distance)
        self.num_filters = list(model_cfg.NUM_FILTERS)
        widths = [channels, *self.num_filters]
        self.pfn_layers = nn.ModuleList(
            PFNLayer(widths[i], widths[i + 1], model_cfg.USE_NORM, last_layer=i == len(widths) - 2)
            for i in range(len(widths) - 1)
        )
        size = [float(v) for v in voxel_size]
        # Centre of the first pillar, rounded to float32 as in OpenPCDet, whose range is float32.
        offsets = [float(np.float32(size[i] / 2) + np.float32(point_cloud_range[i])) for i in range(3)]
        self.register_buffer("voxel_size", torch.tensor(size, dtype=torch.float64), persistent=False)
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.float64), persistent=False)

    def get_output_feature_dim(self) -> int:
        return self.num_filters[-1]

    def forward(self, batch_dict: dict, **kwargs) -> dict:
        """Reads ``voxels`` (M, P, C), ``voxel_num_points`` (M,), ``voxel_coords`` (M, 4) as batch, z, y, x; adds
        ``pillar_features`` (M, F).
        """
        voxels, num_points, coords = (
            batch_dict["voxels"],
            batch_dict["voxel_num_points"],
            batch_dict["voxel_coords"].long(),
        )
        count, slots, channels = voxels.shape
        filled = torch.arange(slots, device=voxels.device) < num_points.view(-1, 1)  # (M, P)
        # (K,), the slots with a point; on CUDA this waits for their number
        slot = filled.flatten().nonzero().squeeze(1)
        pillar = slot.div(slots, rounding_mode="floor")
        mean = voxels[..., :3].sum(dim=1) / num_points.clamp(min=1).to(voxels.dtype).unsqueeze(1)
        # (M, 3)
        centre = coords[:, [3, 2, 1]].to(voxels.dtype) * self.voxel_size.to(voxels.dtype) + self.offsets.to(
            voxels.dtype
        )

        points = voxels.reshape(-1, channels)[slot]  # (K, C)
        xyz = points[:, :3]
        parts = [points if self.use_absolute_xyz else points[:, 3:], xyz - mean[pillar], xyz - centre[pillar]]
        if self.with_distance:
            parts.append(xyz.norm(dim=1, keepdim=True))
        features = torch.cat(parts, dim=1)

        # The batch norm and the maximum see a pillar's empty slots too, as zeros. They are all equal, so that one row
        # stands for them.
        empty = slots - num_points.clamp(max=slots)  # (M,)
        features = torch.cat([features, features.new_zeros(count, features.shape[1])])
        pillar = torch.cat([pillar, torch.where(empty > 0, torch.arange(count, device=voxels.device), -1)])
        repeats = torch.cat([torch.ones_like(slot), empty.long()])
        for layer in self.pfn_layers:
            features = layer(features, pillar, count, repeats)
        batch_dict["pillar_features"] = features
        return batch_dict
