from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class AnchorGenerator:
    """Lays anchors on a bird's-eye grid.

    Args:
        anchor_range: (6,) x, y, z minimum then maximum, metres.
        anchor_generator_config: one mapping a class: ``anchor_sizes`` [[dx, dy, dz], ...], ``anchor_rotations`` in
            radians, ``anchor_bottom_heights`` (z of the underside), ``align_center``: anchors at cell centres;
            otherwise the first and the last anchor of a row stand on the borders of the range.
    """

    def __init__(self, anchor_range, anchor_generator_config):
        self.anchor_generator_cfg = anchor_generator_config
        self.anchor_range = np.asarray(anchor_range, dtype=np.float32)

    def generate_anchors(self, grid_sizes) -> tuple[list[Tensor], list[int]]:
        """``grid_sizes``: (nx, ny) of each class's feature map.

        Returns:
            for each class float32 anchors (n_heights, ny, nx, n_sizes, n_rotations, 7) as x, y, z, dx, dy, dz, heading
            with z at the centre, and the number of anchors at a location.
        """
        all_anchors, per_location = [], []
        for (nx, ny), config in zip(grid_sizes, self.anchor_generator_cfg):
            x = self._positions(0, int(nx), config.get("align_center", False))
            y = self._positions(1, int(ny), config.get("align_center", False))
            z = torch.tensor(config["anchor_bottom_heights"], dtype=torch.float32)
            sizes = torch.tensor(config["anchor_sizes"], dtype=torch.float32)
            rotations = torch.tensor(config["anchor_rotations"], dtype=torch.float32)
            shape = (len(z), len(y), len(x), len(sizes), len(rotations))
            anchors = torch.empty(*shape, 7)
            anchors[..., 0] = x.view(1, 1, -1, 1, 1)
            anchors[..., 1] = y.view(1, -1, 1, 1, 1)
            anchors[..., 2] = z.view(-1, 1, 1, 1, 1) + sizes[:, 2].view(1, 1, 1, -1, 1) / 2
            anchors[..., 3:6] = sizes.view(1, 1, 1, -1, 1, 3)
            anchors[..., 6] = rotations.view(1, 1, 1, 1, -1)
            all_anchors.append(anchors)
            per_location.append(len(rotations) * len(sizes) * len(z))
        return all_anchors, per_location

    def _positions(self, axis: int, count: int, align_center: bool) -> Tensor:
        # float32: so are OpenPCDet's, and its anchors are ours to the last bit
        low, high = self.anchor_range[axis], self.anchor_range[axis + 3]
        step = float(high - low) / (count if align_center else max(count - 1, 1))
        start = float(low) + (step / 2 if align_center else 0)
        # The end lies half a step beyond the last anchor, so that rounding can never lose it.
        return torch.arange(start, start + (count - 0.5) * step, step, dtype=torch.float32)
