"""Does the voxel grid fit the range, and every layer of the network the grid?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from ...models import module_fit
from .findings import Finding

_SPARSE_8X = ("VoxelBackBone8x", "VoxelResBackBone8x")


def check_divisible(point_cloud_range: Sequence[float], voxel_size: Sequence[float], key_path: str) -> list[Finding]:
    """Whether the range is a whole number of voxels along each axis."""
    findings = []
    for axis, name in enumerate("xyz"):
        cells = (point_cloud_range[axis + 3] - point_cloud_range[axis]) / voxel_size[axis]
        if abs(cells - round(cells)) > 1e-3:
            whole = math.ceil(cells - 1e-3)
            end = point_cloud_range[axis] + whole * voxel_size[axis]
            change = (
                f"set the upper {name} of POINT_CLOUD_RANGE to {end:g}, which is {whole} voxels of "
                f"{voxel_size[axis]:g} m"
            )
            where = f"DATA_CONFIG.POINT_CLOUD_RANGE and {key_path}"
            findings.append(
                Finding("error", "range and voxels", f"the range along {name} is {cells:.3f} voxels", where, change)
            )
    return findings


def encoded_height(cells: int) -> int:
    """Layers that VoxelBackBone8x leaves of a grid ``cells`` high: one is added, three convolutions of stride 2, one
    more at the end.
    """
    height = cells + 1
    for pad in (1, 1, 0, 0):
        height = (height + 2 * pad - 3) // 2 + 1
    return height


def check_network(
    grid: Sequence[int], point_cloud_range: Sequence[float], voxel_size: Sequence[float], model: Mapping[str, Any]
) -> list[Finding]:
    """Whether the network's feature maps fit together on a grid (x, y, z); a misfit is a crash in the first step, deep
    inside.
    """
    findings: list[Finding] = []
    grid = [int(cells) for cells in grid]
    sparse, pillars = model.get("BACKBONE_3D", {}), model.get("MAP_TO_BEV", {}).get("NAME") == "PointPillarScatter"
    stride = 1
    if sparse.get("NAME") in _SPARSE_8X:
        stride = 8
        findings += _check_height(grid[2], point_cloud_range, voxel_size, sparse, model)
    elif pillars and grid[2] != 1:
        height = point_cloud_range[5] - point_cloud_range[2]
        findings.append(
            Finding(
                "error",
                "pillar height",
                f"the grid is {grid[2]} voxels high, and a pillar is one voxel over the whole height",
                "DATA_CONFIG.DATA_PROCESSOR[transform_points_to_voxels].VOXEL_SIZE",
                f"set the height of VOXEL_SIZE to {height:g}",
            )
        )
    if not pillars and stride == 1:
        return findings  # another backbone: nothing is known of its strides
    return findings + _check_levels(grid, stride, point_cloud_range, voxel_size, model)


def check_modules(grid: Sequence[int], data_cfg: Mapping[str, Any], model: Any) -> list[Finding]:
    """What building the detector would refuse."""
    columns = data_cfg["POINT_FEATURE_ENCODING"]["used_feature_list"]
    keys = frozenset(("points", "batch_size", "gt_boxes", "voxels", "voxel_num_points", "voxel_coords"))
    given = module_fit.Given(keys, tuple(int(cells) for cells in grid), len(columns))
    try:
        module_fit.check_modules(model, given, tuple(module_fit.STAGES))
    except InputError as error:
        path, _, what = str(error).partition(": ")
        return [Finding("error", "modules", what, path)]
    return []


def _check_height(
    cells: int, point_cloud_range: Sequence[float], voxel_size: Sequence[float], sparse: Mapping, model: Mapping
) -> list[Finding]:
    left = encoded_height(cells)
    channels = model.get("MAP_TO_BEV", {}).get("NUM_BEV_FEATURES")
    if channels is None or left * 128 == channels or sparse.get("last_pad"):
        return []
    height = point_cloud_range[5] - point_cloud_range[2]
    fitting = [number for number in range(1, 200) if encoded_height(number) * 128 == channels]
    change = f"set NUM_BEV_FEATURES to {128 * left}" if left > 0 else "take lower voxels"
    if fitting:
        # 40 is what OpenPCDet's configurations have
        best = min(fitting, key=lambda number: abs(number - (40 if 40 in fitting else cells)))
        change = (
            f"set the height of VOXEL_SIZE to {height / best:g} ({best} voxels over the {height:g} m of "
            "POINT_CLOUD_RANGE)" + (f", or MODEL.MAP_TO_BEV.NUM_BEV_FEATURES to {128 * left}" if left > 0 else "")
        )
    return [
        Finding(
            "error",
            "grid height",
            f"{cells} voxels of height leave {left} layers of 128 channels, and NUM_BEV_FEATURES is {channels}",
            "DATA_CONFIG.POINT_CLOUD_RANGE with VOXEL_SIZE and MODEL.MAP_TO_BEV.NUM_BEV_FEATURES",
            change,
        )
    ]


def _check_levels(
    grid: list[int], stride: int, point_cloud_range: Sequence[float], voxel_size: Sequence[float], model: Mapping
) -> list[Finding]:
    """The levels of the 2-D backbone after upsampling, and the map that the anchors are laid on."""
    backbone = model.get("BACKBONE_2D", {})
    strides, ups = list(backbone.get("LAYER_STRIDES") or []), list(backbone.get("UPSAMPLE_STRIDES") or [])
    multiple = stride * math.prod(strides)
    findings: list[Finding] = []
    for axis, name in enumerate("xy"):
        size = grid[axis]
        for _ in range(int(math.log2(stride))):
            size = (size + 1) // 2
        sizes = []
        for level_stride, up in zip(strides, ups):
            size = -(-size // level_stride)
            sizes.append(round(size * up) if up >= 1 else size // round(1 / up))
        expected = {
            grid[axis] // entry["feature_map_stride"]
            for entry in model.get("DENSE_HEAD", {}).get("ANCHOR_GENERATOR_CONFIG", ())
            if isinstance(entry, Mapping) and "feature_map_stride" in entry
        }
        cells = math.ceil(grid[axis] / multiple) * multiple
        end = point_cloud_range[axis] + cells * voxel_size[axis]
        remedy = f"set the upper {name} of POINT_CLOUD_RANGE to {end:g}: {cells} voxels, a multiple of {multiple}"
        where = "DATA_CONFIG.POINT_CLOUD_RANGE with VOXEL_SIZE and MODEL.BACKBONE_2D.LAYER_STRIDES"
        voxels = f"{grid[axis]} voxels along {name}"
        laid = ", ".join(map(str, sorted(expected)))
        if len(set(sizes)) > 1:
            what = f"{voxels} give maps of {', '.join(map(str, sizes))} cells, which do not fit together"
            findings.append(Finding("error", "backbone strides", what, where, remedy))
        elif sizes and expected and expected != set(sizes):
            if grid[axis] % multiple:
                what = f"{voxels} give a map of {sizes[0]} cells, and anchors for {laid}"
                findings.append(Finding("error", "backbone strides", what, where, remedy))
            elif axis == 0:
                right = grid[axis] // sizes[0]
                what = (
                    f"the head's map has {sizes[0]} cells along {name}, one every {right} voxels, and anchors are "
                    f"laid for {laid}"
                )
                where = "MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG[..].feature_map_stride"
                findings.append(
                    Finding("error", "anchor stride", what, where, f"set every feature_map_stride to {right}")
                )
    return findings


def head_map_sizes(grid: Sequence[int], entry: Mapping[str, Any]) -> tuple[int, int]:
    """Cells (x, y) that the anchors of an entry of ANCHOR_GENERATOR_CONFIG are laid on."""
    nx, ny = np.asarray(grid[:2]) // entry["feature_map_stride"]
    return int(nx), int(ny)
