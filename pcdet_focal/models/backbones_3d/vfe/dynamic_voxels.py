"""Points grouped by voxel without a limit on voxels or points: what the dynamic encoders share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class DynamicVoxels(nn.Module):
    """The grid of a dynamic encoder: which voxel holds which point.

    Args:
        axes: 3 for voxels, 2 for pillars over the whole height.
        voxel_size: (3,) metres. grid_size: (3,) cells along x, y, z. point_cloud_range: (6,) metres.
    """

    def __init__(
        self, axes: int, voxel_size: Sequence[float], grid_size: Sequence[int], point_cloud_range: Sequence[float]
    ):
        super().__init__()
        self.cells = [int(n) for n in grid_size[:axes]]
        size = [float(v) for v in voxel_size]
        # Centre of the first voxel, rounded to float32 as in OpenPCDet, whose range is float32.
        offsets = [float(np.float32(size[i] / 2) + np.float32(point_cloud_range[i])) for i in range(3)]
        self.register_buffer("voxel_size", torch.tensor(size, dtype=torch.float64), persistent=False)
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.float64), persistent=False)
        for name, values in (("low", point_cloud_range[:axes]), ("size", voxel_size[:axes]), ("high_cell", self.cells)):
            self.register_buffer(name, torch.tensor(np.asarray(values, np.float32)), persistent=False)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Group points (N, 1 + C), the batch index first.

        Returns:
            the K points inside the grid; their cells (K, axes) as x, y(, z); the voxels (M, 1 + axes) int32 as batch,
            x, y(, z), ascending; and the voxel (K,) of each point.
        """
        cells = ((points[:, 1 : 1 + len(self.cells)] - self.low) / self.size).floor()
        inside = ((cells >= 0) & (cells < self.high_cell)).all(dim=1)  # never true of a NaN
        points, cells = points[inside], cells[inside].long()
        key = points[:, 0].long()
        for axis, count in enumerate(self.cells):
            key = key * count + cells[:, axis]
        key, voxel_of_point = torch.unique(key, return_inverse=True)
        columns = []
        for count in reversed(self.cells):
            columns.append(key % count)
            key = key.div(count, rounding_mode="floor")
        return points, cells, torch.stack([key, *reversed(columns)], dim=1).int(), voxel_of_point

    def offsets_from_centre(self, xyz: Tensor, cells: Tensor) -> Tensor:
        """Points (K, 3) relative to the centres of their pillars (K, 2), and in z of the range."""
        cells = torch.nn.functional.pad(cells.to(xyz.dtype) * self.voxel_size[:2].to(xyz.dtype), (0, 1))  # (K, 3)
        return xyz - (cells + self.offsets.to(xyz.dtype))
