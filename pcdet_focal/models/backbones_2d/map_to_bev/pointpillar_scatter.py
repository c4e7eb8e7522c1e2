from __future__ import annotations

import torch
from torch import Tensor, nn

from ....errors import InputError


class PointPillarScatter(nn.Module):
    """Puts every pillar's feature at its place on a dense bird's-eye map."""

    def __init__(self, model_cfg, grid_size, **kwargs):
        super().__init__()
        self.model_cfg = model_cfg
        self.num_bev_features = model_cfg.NUM_BEV_FEATURES
        self.nx, self.ny, self.nz = (int(n) for n in grid_size)
        if self.nz != 1:
            raise InputError(
                "PointPillarScatter needs one voxel over the whole height, VOXEL_SIZE and POINT_CLOUD_RANGE give "
                f"{self.nz}"
            )

    def forward(self, batch_dict: dict, **kwargs) -> dict:
        """Reads ``pillar_features`` (M, C), ``voxel_coords`` (M, 4) as batch, z, y, x, ``batch_size``; adds
        ``spatial_features`` (B, C, ny, nx).
        """
        size = (int(batch_dict["batch_size"]), self.nz, self.ny, self.nx)
        batch_dict["spatial_features"] = _scatter(batch_dict["pillar_features"], batch_dict["voxel_coords"], size)
        return batch_dict


class PointPillarScatter3d(nn.Module):
    """Puts the features of nz voxels above each other at their place on a map, layer after layer of each channel."""

    def __init__(self, model_cfg, grid_size, **kwargs):
        super().__init__()
        self.model_cfg = model_cfg
        self.nx, self.ny, self.nz = (int(n) for n in model_cfg.INPUT_SHAPE)
        self.num_bev_features = model_cfg.NUM_BEV_FEATURES
        self.num_bev_features_before_compression = model_cfg.NUM_BEV_FEATURES // self.nz
        if self.num_bev_features % self.nz:
            raise InputError(
                f"MODEL.MAP_TO_BEV.NUM_BEV_FEATURES: {self.num_bev_features} is no multiple of the {self.nz} layers "
                "of INPUT_SHAPE"
            )

    def forward(self, batch_dict: dict, **kwargs) -> dict:
        """Reads ``pillar_features`` (M, C), ``voxel_coords`` (M, 4) as batch, z, y, x, ``batch_size``; adds
        ``spatial_features`` (B, C * nz, ny, nx).
        """
        size = (int(batch_dict["batch_size"]), self.nz, self.ny, self.nx)
        batch_dict["spatial_features"] = _scatter(batch_dict["pillar_features"], batch_dict["voxel_coords"], size)
        return batch_dict


def _scatter(features: Tensor, coords: Tensor, size: tuple[int, int, int, int]) -> Tensor:
    """Features (M, C) at ``coords`` (M, 4) of a map (B, C * nz, ny, nx), which is zero elsewhere."""
    batch_size, nz, ny, nx = size
    channels, coords = features.shape[1], coords.long()
    # Straight into the contiguous map. Left in channels-last order it would be quicker to fill, but torch's batch
    # norm on a CPU then sums in float32, and training losses come out wrong in the fourth digit.
    # (M,), of the first channel
    cells = ((coords[:, 0] * channels * nz + coords[:, 1]) * ny + coords[:, 2]) * nx + coords[:, 3]
    places = cells.unsqueeze(1) + torch.arange(channels, device=cells.device) * (nz * ny * nx)  # (M, C)
    canvas = features.new_zeros(batch_size * channels * nz * ny * nx)
    return canvas.scatter_(0, places.flatten(), features.flatten()).view(batch_size, channels * nz, ny, nx)
