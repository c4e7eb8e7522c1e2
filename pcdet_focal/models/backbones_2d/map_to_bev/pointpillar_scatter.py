from __future__ import annotations

import torch
from torch import nn

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
        features, coords = batch_dict["pillar_features"], batch_dict["voxel_coords"].long()
        batch_size = int(batch_dict["batch_size"])
        # Straight into the contiguous map. Left in channels-last order it would be quicker to fill, but torch's batch
        # norm on a CPU then sums in float32, and training losses come out wrong in the fourth digit.
        # (M,), of the first channel
        cells = coords[:, 0] * (self.num_bev_features * self.ny * self.nx) + coords[:, 2] * self.nx + coords[:, 3]
        # (M, C)
        places = cells.unsqueeze(1) + torch.arange(self.num_bev_features, device=cells.device) * (self.ny * self.nx)
        canvas = features.new_zeros(batch_size * self.num_bev_features * self.ny * self.nx)
        canvas.scatter_(0, places.flatten(), features.flatten())
        batch_dict["spatial_features"] = canvas.view(batch_size, self.num_bev_features, self.ny, self.nx)
        return batch_dict
