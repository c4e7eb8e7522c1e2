"""OpenPCDet's data sets on a CPU, with stand-ins for what it has as compiled extensions only.

The stand-ins are written from what the extensions compute, in plain numpy, and know nothing of this package. The one
exception is the overlap of boxes in ground-truth sampling, which is this package's exact one.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pcdet_focal.engine.benchmark.openpcdet import make_importable
from pcdet_focal.ops import sparse_conv
from pcdet_focal.ops.iou3d_nms import iou3d_nms_utils as exact


def points_in_boxes(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(M, N) int: point n is in box m. A margin of 1 cm on length and width, none on the height, in float32."""
    points, boxes = np.asarray(points, np.float32), np.asarray(boxes, np.float32)
    inside = np.zeros((len(boxes), len(points)), np.int32)
    margin, half = np.float32(1e-2), np.float32(0.5)
    for m, (x, y, z, dx, dy, dz, heading) in enumerate(boxes):
        sx, sy = points[:, 0] - x, points[:, 1] - y
        cos, sin = np.cos(-heading), np.sin(-heading)
        near = (np.abs(sx * cos - sy * sin) < dx * half + margin) & (np.abs(sx * sin + sy * cos) < dy * half + margin)
        inside[m] = near & (np.abs(points[:, 2] - z) <= dz * half)
    return inside


def in_hull(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(N,) bool: points in the cuboid with these corners (8, 3), in the order of boxes_to_corners_3d. In the place of
    scipy's Delaunay triangulation.
    """
    edges = (corners[[1, 3, 4]] - corners[0]).astype(np.float64)  # along y, x, z
    along = (points.astype(np.float64) - corners[0]) @ edges.T
    return ((along >= 0) & (along <= np.square(edges).sum(1))).all(1)


class VoxelGenerator:
    """spconv's: voxels in the order of their first points, each with its first points, until there are enough."""

    def __init__(self, vsize_xyz, coors_range_xyz, num_point_features, max_num_points_per_voxel, max_num_voxels):
        self.size, self.range = np.float32(vsize_xyz), np.float32(coors_range_xyz)
        self.cells = np.round((self.range[3:] - self.range[:3]) / self.size).astype(np.int64)
        self.max_points, self.max_voxels = max_num_points_per_voxel, max_num_voxels

    def generate(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cells = np.floor((points[:, :3] - self.range[:3]) / self.size).astype(np.int64)
        rows: dict[tuple[int, ...], list[int]] = {}
        for n in np.flatnonzero(((cells >= 0) & (cells < self.cells)).all(1)):
            key = tuple(cells[n])
            if key in rows or len(rows) < self.max_voxels:
                rows.setdefault(key, []).append(n)
        voxels = np.zeros((len(rows), self.max_points, points.shape[1]), np.float32)
        for voxel, held in zip(voxels, rows.values()):
            held = held[: self.max_points]
            voxel[: len(held)] = points[held]
        counts = np.array([min(len(held), self.max_points) for held in rows.values()], np.int32)
        return voxels, np.array(list(rows), np.int32).reshape(-1, 3)[:, ::-1].copy(), counts


def open_checkout(checkout: Path) -> type:
    """OpenPCDet's KittiDataset. Changes torch and numpy: only for a process that does nothing else."""
    make_importable()
    import spconv

    # spconv has no float64 on a CPU; before anything of OpenPCDet's models is imported
    spconv.pytorch = sys.modules["spconv.pytorch"] = sparse_conv
    sys.path[:0] = [str(checkout)]
    from pcdet.datasets.augmentor import database_sampler
    from pcdet.datasets.kitti import kitti_dataset
    from pcdet.datasets.processor import data_processor
    from pcdet.ops.roiaware_pool3d import roiaware_pool3d_utils
    from pcdet.utils import box_utils

    kitti_dataset.Path = Path  # which it imports for the command line only
    box_utils.in_hull = in_hull
    roiaware_pool3d_utils.points_in_boxes_cpu = points_in_boxes_of_tensors
    database_sampler.iou3d_nms_utils.boxes_bev_iou_cpu = exact.boxes_bev_iou_cpu
    data_processor.VoxelGeneratorWrapper = VoxelGenerator
    kitti_dataset.KittiDataset.get_image_shape = lambda self, idx: np.array(
        json.loads((self.root_path / "image_shapes.json").read_text())[idx], np.int32
    )
    return kitti_dataset.KittiDataset


def config(name: str) -> Any:
    """OpenPCDet's configuration ``kitti_models/NAME.yaml``."""
    import pcdet
    from easydict import EasyDict
    from pcdet.config import cfg_from_yaml_file

    before = os.getcwd()
    os.chdir(Path(pcdet.__file__).parents[1] / "tools")
    try:
        return cfg_from_yaml_file(f"cfgs/kitti_models/{name}.yaml", EasyDict())
    finally:
        os.chdir(before)


def changed(part: Any, changes: dict[str, Any] | None) -> Any:
    """A part of a configuration, with other values at some dotted names."""
    for key, value in (changes or {}).items():
        *path, last = key.split(".")
        functools.reduce(dict.__getitem__, path, part)[last] = value
    return part


def points_in_boxes_of_tensors(points, boxes):
    """The same for tensors, or arrays as OpenPCDet's callers have them."""
    import torch

    found = points_in_boxes(np.asarray(points)[:, :3], np.asarray(boxes)[:, :7])
    return torch.from_numpy(found) if isinstance(points, torch.Tensor) else found


# what the source of the rotated overlap for CPUs includes and does not need for the overlap itself
_HEADERS = {
    "cuda.h": "",
    "cuda_runtime_api.h": "",
    "torch/serialize/tensor.h": "",
    "torch/extension.h": """namespace at { struct Tensor {
        bool is_contiguous() { return true; }
        int size(int) { return 0; }
        template <class T> T* data() { return nullptr; }
        template <class T> T* data_ptr() { return nullptr; }
    }; }""",
}
_LIBRARY = """
extern "C" void each(bool iou, const float* a, long n, const float* b, long m, float* out) {
    for (long i = 0; i < n; i++)
        for (long j = 0; j < m; j++)
            *out++ = iou ? iou_bev(a + 7 * i, b + 7 * j) : box_overlap(a + 7 * i, b + 7 * j);
}
"""


class Overlaps:
    """In the place of the extension iou3d_nms_cuda: its source for CPUs, compiled with ``c++``, and greedy NMS."""

    def __init__(self, checkout: Path):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for header, text in _HEADERS.items():
                (folder / header).parent.mkdir(parents=True, exist_ok=True)
                (folder / header).write_text(text)
            source = checkout / "pcdet/ops/iou3d_nms/src/iou3d_cpu.cpp"
            (folder / "all.cpp").write_text(f'#define __device__\n#include <cassert>\n#include "{source}"\n{_LIBRARY}')
            command = ["c++", "-O2", "-w", "-shared", "-fPIC", f"-I{folder}", "all.cpp", "-o", "all.so"]
            subprocess.run(command, cwd=folder, check=True)
            self._library = ctypes.CDLL(str(folder / "all.so"))

    def _each(self, iou: bool, a, b) -> np.ndarray:
        a, b = (np.ascontiguousarray(boxes.detach().numpy(), np.float32) for boxes in (a, b))
        out = np.zeros((len(a), len(b)), np.float32)
        n, m = ctypes.c_long(len(a)), ctypes.c_long(len(b))
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (a, b, out)]
        self._library.each(ctypes.c_bool(iou), pointers[0], n, pointers[1], m, pointers[2])
        return out

    def boxes_iou_bev_cpu(self, a, b, out) -> None:
        out.numpy()[:] = self._each(True, a, b)

    boxes_iou_bev_gpu = boxes_iou_bev_cpu

    def boxes_overlap_bev_gpu(self, a, b, out) -> None:
        out.numpy()[:] = self._each(False, a, b)

    def boxes_aligned_overlap_bev_gpu(self, a, b, out) -> None:
        out.numpy()[:] = self._each(False, a, b).diagonal()[:, None]

    paired_boxes_overlap_bev_gpu = boxes_aligned_overlap_bev_gpu

    def nms_gpu(self, boxes, keep, threshold) -> int:
        return greedy(self._each(True, boxes, boxes), keep, threshold)

    def nms_normal_gpu(self, boxes, keep, threshold) -> int:
        """By the overlap of the boxes as if their heading were 0."""
        low, high = (boxes[:, :2] + sign * boxes[:, 3:5] / 2 for sign in (-1, 1))
        shared = np.maximum(np.minimum(high[:, None], high) - np.maximum(low[:, None], low), 0).prod(2)
        area = (high - low).prod(1)
        return greedy((shared / np.maximum(area[:, None] + area - shared, 1e-8)).numpy(), keep, threshold)


def greedy(overlaps: np.ndarray, keep, threshold: float) -> int:
    """Write the rows that no kept earlier row overlaps by more than the threshold into ``keep``; give their number."""
    kept: list[int] = []
    for n, row in enumerate(overlaps):
        if not (row[kept] > threshold).any():
            kept.append(n)
    keep.numpy()[: len(kept)] = kept
    return len(kept)


def exact_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) areas that rectangles (x, y, dx, dy, angle) share, by shapely in float64."""
    import shapely

    def polygons(boxes: np.ndarray) -> np.ndarray:
        x, y, dx, dy, angle = boxes.astype(np.float64).T[..., None]
        u, v = np.array([1, -1, -1, 1]) * dx / 2, np.array([1, 1, -1, -1]) * dy / 2
        corners = x + u * np.cos(angle) - v * np.sin(angle), y + u * np.sin(angle) + v * np.cos(angle)
        return shapely.polygons(np.stack(corners, axis=-1))

    return shapely.area(shapely.intersection(polygons(a)[:, None], polygons(b)[None]))


def use_overlaps(checkout: Path) -> None:
    """Rotated overlaps and NMS by ``Overlaps``; after ``open_checkout``."""
    import torch
    from pcdet.ops.iou3d_nms import iou3d_nms_utils

    iou3d_nms_utils.iou3d_nms_cuda = Overlaps(checkout)
    torch.cuda.FloatTensor = torch.FloatTensor
