"""A pytest plugin (``-p mmdet3d_names``): this package's losses, anchors, coders, NMS, voxels and evaluation as
``mmdet3d``.

What differs is told here: z of mmdetection3d's anchors is that of the underside, and further columns hold one value
each; its labels begin at 0; its NMS takes x1, y1, x2, y2, heading.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from modules import Absent, module

from pcdet_focal import losses
from pcdet_focal.datasets.kitti.kitti_object_eval_python import eval as kitti
from pcdet_focal.geometry.box_coders import PointResidualCoder
from pcdet_focal.models.dense_heads.target_assigner.anchor_generator import AnchorGenerator
from pcdet_focal.models.model_utils import centernet_utils
from pcdet_focal.ops.nms import nms_axis_aligned, nms_rotated
from pcdet_focal.ops.voxelize import voxelize

# ---- anchors


class Anchor3DRangeGenerator:
    aligned, per_class = False, False

    def __init__(self, ranges, sizes, rotations, scales=(1,), custom_values=(), reshape_out=True, size_per_range=True):
        self.ranges = ranges if len(ranges) == len(sizes) else ranges * len(sizes)
        self.sizes, self.rotations, self.scales, self.custom_values = sizes, rotations, scales, custom_values
        self.flat, self.num_base_anchors = reshape_out, len(sizes) * len(rotations)

    def _anchors(self, grid, scale, i):
        """(1, ny, nx, 1, rotations, 7 + custom) of one size."""
        low, size = self.ranges[i], [scale * side for side in self.sizes[i]]
        config = {"anchor_sizes": [size], "anchor_rotations": self.rotations, "anchor_bottom_heights": [low[2]]}
        (made,), _ = AnchorGenerator(low, [{**config, "align_center": self.aligned}]).generate_anchors([grid[::-1]])
        made[..., 2] -= made[..., 5] / 2
        return torch.cat([made, *(torch.full_like(made[..., :1], value) for value in self.custom_values)], dim=-1)

    def single_level_grid_anchors(self, grid, scale, device="cpu"):
        made = torch.cat([self._anchors(grid, scale, i) for i in range(len(self.sizes))], dim=3)
        return made.flatten(0, -2) if self.flat else made

    def grid_anchors(self, grids, device="cpu"):
        if self.per_class:
            made = [self._anchors(grid, self.scales[0], i).movedim(-2, 0) for i, grid in enumerate(grids)]
            return [[one.flatten(0, -2) for one in made]]
        return [self.single_level_grid_anchors(grid, scale) for grid, scale in zip(grids, self.scales)]


class AlignedAnchor3DRangeGenerator(Anchor3DRangeGenerator):
    aligned = True


class AlignedAnchor3DRangeGeneratorPerCls(AlignedAnchor3DRangeGenerator):
    per_class = True


# ---- coders


class PointXYZWHLRBBoxCoder(PointResidualCoder):
    def encode(self, boxes, points, labels):
        return self.encode_torch(boxes, points, labels + 1)

    def decode(self, codes, points, labels):
        return self.decode_torch(codes, points, labels + 1)


class CenterPointBBoxCoder:
    def __init__(self, pc_range, out_size_factor, voxel_size, post_center_range, max_num, score_threshold):
        self.arguments = dict(point_cloud_range=pc_range, voxel_size=voxel_size, feature_map_stride=out_size_factor)
        self.arguments.update(K=max_num, score_thresh=score_threshold)
        self.arguments.update(post_center_limit_range=torch.tensor(post_center_range))

    def decode(self, heat, rot_sin, rot_cos, z, size, vel, reg, task_id):
        found = centernet_utils.decode_bbox_from_heatmap(
            heat, rot_cos, rot_sin, reg, z, size, vel=vel, **self.arguments
        )
        return [{key.replace("pred_boxes", "pred_bboxes")[5:]: value for key, value in one.items()} for one in found]


# ---- NMS, voxels, evaluation


def _nms_of(function):
    def nms(boxes, scores, thresh):
        low, high, heading = boxes[:, :2], boxes[:, 2:4], boxes[:, 4:]
        middle, size, none = (low + high) / 2, high - low, torch.zeros_like(heading)
        return function(torch.cat([middle, none, size, none + 1, heading], dim=1), scores, thresh)

    return nms


class VoxelGenerator:
    def __init__(self, *grid):
        self.grid = grid

    def generate(self, points):
        return voxelize(points, *self.grid, 20000)


ENTRIES: dict[str, Any] = {
    "Anchor3DRangeGenerator": Anchor3DRangeGenerator,
    "AlignedAnchor3DRangeGenerator": AlignedAnchor3DRangeGenerator,
    "AlignedAnchor3DRangeGeneratorPerCls": AlignedAnchor3DRangeGeneratorPerCls,
    "CenterPointBBoxCoder": CenterPointBBoxCoder,
    "PointXYZWHLRBBoxCoder": PointXYZWHLRBBoxCoder,
    "RotatedIoU3DLoss": losses.RotatedIoULoss,
    "VoxelGenerator": VoxelGenerator,
    "circle_nms": lambda boxes, radius: centernet_utils.circle_nms(torch.from_numpy(boxes), radius).tolist(),
    "do_eval": lambda *args: kitti.do_eval(*args[:4], "aos" in args[4]),
    "draw_heatmap_gaussian": centernet_utils.draw_gaussian_to_heatmap,
    "eval_class": kitti.eval_class,
    "nms_bev": _nms_of(nms_rotated),
    "nms_normal_bev": _nms_of(nms_axis_aligned),
}


def build(config):
    arguments = dict(config)
    return ENTRIES.get(arguments.pop("type"), Absent)(**arguments)


_REGISTRY = SimpleNamespace(build=build)
module("mmdet3d")
module("mmdet3d.registry", MODELS=_REGISTRY, TASK_UTILS=_REGISTRY)
for _name in ("evaluation", "models", "structures", "utils"):
    module(f"mmdet3d.{_name}", ENTRIES.get)
for _name in ("layers", "losses", "task_modules", "task_modules.assigners", "task_modules.voxel", "utils"):
    module(f"mmdet3d.models.{_name}", ENTRIES.get)
module("mmengine", DefaultScope=SimpleNamespace(get_instance=lambda *args, **kwargs: None))
module("mmengine.structures")
module("mmcv")
module("mmcv.cnn")


# ---- tests that ask for CUDA and only put their inputs there


def pytest_collection_modifyitems(items):
    for item in items:
        item.own_markers = [marker for marker in item.own_markers if marker.name != "skipif"]


@pytest.fixture(autouse=True)
def on_the_cpu(request, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, *args: tensor)
    if "anchor" not in request.node.name:  # these take the device that there is
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
