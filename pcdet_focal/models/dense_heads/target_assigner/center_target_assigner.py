from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...model_utils.centernet_utils import draw_gaussians, gaussian_radius


class CenterTargetAssigner(nn.Module):
    """Tells the cells of center-based heads what to predict: heat maps with a peak at every object, and box codes at
    the peaks.

    Args:
        classes_of_heads: for each head the 0-based classes of its heat maps.
        point_cloud_range: (6,) metres. voxel_size: (3,) metres. feature_map_stride: voxels in a cell.
        num_max_objs: slots of a head; objects beyond are dropped. gaussian_overlap, min_radius: of the Gaussians, in
            cells.
    """

    def __init__(
        self,
        classes_of_heads: Sequence[Sequence[int]],
        point_cloud_range,
        voxel_size,
        feature_map_stride: int,
        num_max_objs: int,
        gaussian_overlap: float,
        min_radius: int,
    ):
        super().__init__()
        self.widths = [len(classes) for classes in classes_of_heads]
        self.point_cloud_range, self.voxel_size, self.feature_map_stride = (
            point_cloud_range,
            voxel_size,
            feature_map_stride,
        )
        self.num_max_objs, self.gaussian_overlap, self.min_radius = num_max_objs, gaussian_overlap, min_radius
        count = 1 + sum(self.widths)
        head_of, place_of = torch.full((count,), -1), torch.zeros(count, dtype=torch.long)  # by label: 0 is padding
        for head, classes in enumerate(classes_of_heads):
            for position, index in enumerate(classes):
                head_of[index + 1], place_of[index + 1] = head, position
        self.register_buffer("head_of", head_of, persistent=False)
        self.register_buffer("place_of", place_of, persistent=False)
        starts = [sum(self.widths[:head]) for head in range(len(self.widths))]
        self.register_buffer("first_map", torch.tensor(starts), persistent=False)
        self.register_buffer("width_of", torch.tensor(self.widths), persistent=False)

    def assign_targets(self, gt_boxes: Tensor, map_size: tuple[int, int]) -> dict[str, list[Tensor]]:
        """
        Args:
            gt_boxes: (B, T, 8 or 10) x, y, z, dx, dy, dz, heading(, vx, vy), 1-based class; rows of class 0 pad. Not
                changed.
            map_size: (W, H) cells of the map.

        Returns:
            lists with one tensor a head, M = num_max_objs:
            ``heatmaps`` (B, classes, H, W); ``target_boxes`` (B, M, 8 or 10): offset in the cell (2), z, log sizes (3),
            cos, sin(, vx, vy); ``inds`` (B, M) long, flat cells; ``masks`` (B, M) long, 1 where a slot holds an object;
            ``target_boxes_src`` (B, M, 8 or 10): the boxes, their class counted in the head from 1.
            Boxes of a size that is not positive, or not finite, take a slot but are no objects. Centres beyond the map
            are moved to its border.
        """
        (batch_size, rows, _), (width, height) = gt_boxes.shape, map_size
        heads, slots = len(self.widths), self.num_max_objs
        labels = gt_boxes[..., -1].long().clamp(min=0)
        head, class_in_head = self.head_of[labels], self.place_of[labels]  # (B, T)
        of_head = head.unsqueeze(-1) == torch.arange(heads, device=head.device)  # (B, T, heads)
        slot = (of_head.cumsum(dim=1) * of_head).sum(-1) - 1  # (B, T), -1 for none
        taken = (slot >= 0) & (slot < slots)

        cells = [
            (
                (gt_boxes[..., axis] - self.point_cloud_range[axis]) / self.voxel_size[axis] / self.feature_map_stride
            ).clamp(min=0, max=size - 0.5)
            for axis, size in enumerate(map_size)
        ]
        center = torch.stack(cells, dim=-1)  # (B, T, 2)
        sizes = [gt_boxes[..., 3 + axis] / self.voxel_size[axis] / self.feature_map_stride for axis in (0, 1)]
        valid = taken & (gt_boxes[..., 3:6] > 0).all(-1) & gt_boxes[..., :7].isfinite().all(-1)
        corner = torch.where(valid.unsqueeze(-1), center, 0).int()  # (B, T, 2)
        radius = gaussian_radius(*sizes, min_overlap=self.gaussian_overlap)
        radius = torch.where(valid, radius, 0).int().clamp(min=self.min_radius)

        batch = torch.arange(batch_size, device=head.device).unsqueeze(1)
        # the maps of a head lie together
        maps = self.first_map[head] * batch_size + batch * self.width_of[head] + class_in_head
        heat = draw_gaussians(
            corner.view(-1, 2).long(),
            radius.flatten().long(),
            torch.where(valid, maps, 0).flatten(),
            valid.flatten(),
            (batch_size * sum(self.widths), height, width),
            gt_boxes.dtype,
        )

        heading, rest = gt_boxes[..., 6:7], gt_boxes[..., 7:-1]
        codes = torch.cat(
            [center - corner, gt_boxes[..., 2:3], gt_boxes[..., 3:6].log(), heading.cos(), heading.sin(), rest], dim=-1
        )
        flat = (corner[..., 1] * width + corner[..., 0]).long()
        in_head = torch.cat([gt_boxes[..., :-1], (class_in_head + 1).unsqueeze(-1).to(gt_boxes.dtype)], dim=-1)
        # the last row takes the rest
        row = torch.where(taken, (head * batch_size + batch) * slots + slot, heads * batch_size * slots).flatten()
        table = {
            "target_boxes": torch.where(valid.unsqueeze(-1), codes, 0),
            "inds": flat * valid,
            "masks": valid.long(),
            "target_boxes_src": in_head,
        }
        targets = {
            "heatmaps": [
                part.view(batch_size, -1, height, width) for part in heat.split([batch_size * n for n in self.widths])
            ]
        }
        for key, values in table.items():
            values = values.view(batch_size * rows, -1)
            filled = values.new_zeros(heads * batch_size * slots + 1, values.shape[1]).index_copy_(0, row, values)
            by_head = filled[:-1].view(heads, batch_size, slots, -1)
            targets[key] = list((by_head.squeeze(-1) if key in ("inds", "masks") else by_head).unbind(0))
        return targets
