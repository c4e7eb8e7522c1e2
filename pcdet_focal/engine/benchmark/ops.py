"""Cases of what has a kernel of its own: overlaps, NMS, points in boxes, voxels, targets, KITTI AP, sparse
convolutions.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ...errors import InputError
from ...evaluation.kitti import evaluate_kitti
from ...models.backbones_3d import VoxelBackBone8x
from ...ops import backend
from ...ops.nms import nms_rotated
from ...ops.points_in_boxes import points_in_boxes_index
from ...ops.rotated_iou import boxes_iou_bev
from ...ops.sparse_conv import backends as sparse_backends
from ...ops.voxelize import voxelize
from . import losses, workloads
from .measure import Case, Side
from .step import QUICK_EVERY, simulated_batch

VOXEL_SIZE, LIMITS = (0.05, 0.05, 0.1), (0, -40, -3, 70.4, 40, 1)  # second.yaml


@contextmanager
def environment(variable: str, value: str) -> Iterator[None]:
    """With the variable set so."""
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def forced(side: Side, value: str = "reference", variable: str = backend.VARIABLE) -> Side:
    """The side with a backend forced."""

    def run():
        with environment(variable, value):
            return side()

    return run


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def scattered_boxes(count: int, seed: int = 0) -> np.ndarray:
    """(count, 7) float32 of cars' size on 70 x 70 m."""
    rng = np.random.default_rng(seed)
    low, high = [0, -35, -1.2, 3.2, 1.4, 1.3, -np.pi], [70, 35, -0.8, 4.6, 1.9, 1.8, np.pi]
    return rng.uniform(low, high, (count, 7)).astype(np.float32)


def polygons(boxes: np.ndarray) -> np.ndarray:
    """The boxes seen from above as shapely polygons."""
    import shapely

    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * boxes[:, None, 3:5].astype(np.float64) / 2  # (N, 4, 2)
    cos, sin = np.cos(boxes[:, 6:7].astype(np.float64)), np.sin(boxes[:, 6:7].astype(np.float64))
    turned = np.stack(
        [corners[..., 0] * cos - corners[..., 1] * sin, corners[..., 0] * sin + corners[..., 1] * cos], axis=-1
    )
    return shapely.polygons(turned + boxes[:, None, :2])


def rotated_iou(device: torch.device, quick: bool) -> Iterator[Case]:
    """Matrix of bird's-eye overlaps of rotated boxes."""
    counts = (40, 20) if quick else (1000, 200)
    a, b = (torch.from_numpy(scattered_boxes(count, seed)).to(device) for seed, count in enumerate(counts))
    sides = {"ours": lambda: boxes_iou_bev(a, b), "reference": forced(lambda: boxes_iou_bev(a, b))}
    if device.type == "cpu" and has("shapely"):
        import shapely

        def by_shapely() -> np.ndarray:
            one, other = polygons(a.numpy())[:, None], polygons(b.numpy())[None]
            shared = shapely.area(shapely.intersection(one, other))
            return shared / (shapely.area(one) + shapely.area(other) - shared)

        sides["shapely"] = by_shapely
    yield Case(
        "rotated_iou",
        "boxes on 70 x 70 m",
        losses.text(*counts),
        sides,
        device,
        note="shapely: one vectorised call over all pairs",
    )


def rotated_nms(device: torch.device, quick: bool) -> Iterator[Case]:
    """Greedy NMS at 0.01."""
    count = 64 if quick else 4096
    boxes = torch.from_numpy(scattered_boxes(count)).to(device)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(0)).to(device)
    sides = {
        "ours": lambda: nms_rotated(boxes, scores, 0.01),
        "reference": forced(lambda: nms_rotated(boxes, scores, 0.01)),
    }
    if device.type == "cpu" and has("shapely"):
        sides["shapely loop"] = lambda: suppress_pair_by_pair(boxes.numpy(), scores.numpy(), 0.01)
        sides["shapely"] = lambda: suppress_row_by_row(boxes.numpy(), scores.numpy(), 0.01)
    yield Case(
        "rotated_nms",
        "threshold 0.01, 70 x 70 m",
        f"{count:,} boxes",
        sides,
        device,
        note="shapely loop: box by box against those that stayed, one by one; shapely: each box that stays against "
        "all that are left at once",
    )


def suppress_pair_by_pair(boxes: np.ndarray, scores: np.ndarray, thresh: float) -> np.ndarray:
    """Indices of the boxes that stay, best first: the loop that one writes down."""
    shapes, kept = polygons(boxes), []
    areas = [shape.area for shape in shapes]
    for i in np.argsort(-scores, kind="stable"):
        for k in kept:
            shared = shapes[i].intersection(shapes[k]).area
            if shared > thresh * (areas[i] + areas[k] - shared):
                break
        else:
            kept.append(i)
    return np.array(kept)


def suppress_row_by_row(boxes: np.ndarray, scores: np.ndarray, thresh: float) -> np.ndarray:
    """The same with one vectorised call for each box that stays."""
    import shapely

    left = np.argsort(-scores, kind="stable")
    shapes = polygons(boxes)
    areas, kept = shapely.area(shapes), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        shared = shapely.area(shapely.intersection(shapes[best], shapes[left]))
        left = left[shared / (areas[best] + areas[left] - shared) <= thresh]
    return np.array(kept)


def points_in_boxes(device: torch.device, quick: bool) -> Iterator[Case]:
    """The box of every point of a scan."""
    frame = workloads.scan(0, full=not quick)
    points = torch.from_numpy(frame.points).to(device)
    boxes = torch.from_numpy(np.stack([item.box for item in frame.objects]).astype(np.float32)).to(device)
    sides = {
        "ours": lambda: points_in_boxes_index(points, boxes),
        "reference": forced(lambda: points_in_boxes_index(points, boxes)),
    }
    yield Case("points_in_boxes", "simulated scan", f"{len(points):,} points, {len(boxes)} boxes", sides, device)


def voxels(device: torch.device, quick: bool) -> Iterator[Case]:
    """A whole scan of 360 degrees into second.yaml's voxels of 5 x 5 x 10 cm."""
    for max_voxels in (16_000, 40_000):
        yield _voxels(max_voxels, device, quick)


def _voxels(max_voxels: int, device: torch.device, quick: bool) -> Case:
    points = torch.from_numpy(workloads.scan(0, full=not quick).points).to(device)
    array = points.numpy() if device.type == "cpu" else points

    def ours():
        return voxelize(array, VOXEL_SIZE, LIMITS, 5, max_voxels)

    sides = {"ours": ours, "reference": forced(ours)}
    if device.type == "cpu" and (library := spconv()) is not None:
        # from torch's tensors: cumm's tv.from_numpy ends the process under numpy 2
        from spconv.pytorch.utils import PointToVoxel

        peer = PointToVoxel(
            vsize_xyz=VOXEL_SIZE,
            coors_range_xyz=LIMITS,
            num_point_features=4,
            max_num_voxels=max_voxels,
            max_num_points_per_voxel=5,
        )
        sides[library] = lambda: peer(points)
    return Case("voxels", f"at most {max_voxels:,} voxels", f"{len(points):,} points", sides, device)


def spconv() -> str | None:
    """``"spconv"`` where a build that works on a CPU is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its import warns of does not concern the cases here
        try:
            sparse_backends.load_library("spconv")
        except InputError:
            return None
    return "spconv"


def target_assignment(device: torch.device, quick: bool) -> Iterator[Case]:
    """Ground truth to labels and box codes; the reference is the package's own dense definition, eager is OpenPCDet's
    way.
    """
    for case in losses.target_assignment(device, quick):
        yield Case(case.row, case.case, case.shape, {**case.sides, "reference": forced(case.sides["ours"])}, device)


def kitti_ap(device: torch.device, quick: bool) -> Iterator[Case]:
    """KITTI average precision of a validation set, all classes, difficulties, metrics and overlaps, from annotations in
    memory.
    """
    if device.type == "cpu":
        frames = 20 if quick else 3769
        gt, dt = annotations(frames)
        num_boxes = sum(len(anno["name"]) for anno in dt) / frames
        sides = {
            "ours": lambda: evaluate_kitti(
                gt, dt, ["Car", "Pedestrian", "Cyclist"], num_threads=torch.get_num_threads()
            )
        }
        yield Case(
            "kitti_ap",
            "validation set",
            f"{frames:,} frames, {num_boxes:.0f} detections each",
            sides,
            device,
            note="kernels compiled before",
        )


def annotations(frames: int) -> tuple[list[dict], list[dict]]:
    """Ground truth of 8 objects a frame; detections: a shaken copy of each, and 6 that are wrong."""
    rng = np.random.default_rng(0)
    gt, dt = [], []
    for _ in range(frames):
        objects = _objects(rng, 8)
        shaken = {key: value.copy() for key, value in objects.items() if key not in ("truncated", "occluded")}
        for key, scale in (("location", 0.1), ("bbox", 2.0), ("alpha", 0.1), ("rotation_y", 0.1)):
            shaken[key] = shaken[key] + rng.normal(0, scale, shaken[key].shape)
        wrong = _objects(rng, 6)
        detections = {key: np.concatenate([shaken[key], wrong[key]]) for key in shaken}
        gt.append(objects)
        dt.append({**detections, "score": np.concatenate([rng.uniform(0.3, 1, 8), rng.uniform(0, 0.6, 6)])})
    return gt, dt


def _objects(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    corner, size = rng.uniform([0, 100], [1100, 200], (count, 2)), rng.uniform(20, 150, (count, 2))
    names = rng.choice(["Car", "Pedestrian", "Cyclist"], count, p=[0.7, 0.2, 0.1])
    return {
        "name": names,
        "truncated": rng.uniform(0, 0.4, count),
        "occluded": rng.integers(0, 3, count),
        "alpha": rng.uniform(-3, 3, count),
        "bbox": np.concatenate([corner, corner + size], axis=1),
        "rotation_y": rng.uniform(-3, 3, count),
        "dimensions": np.where((names == "Car")[:, None], [3.9, 1.5, 1.6], [0.8, 1.7, 0.6])
        * rng.uniform(0.9, 1.1, (count, 3)),
        "location": rng.uniform([-20, 1.4, 5], [20, 1.8, 60], (count, 3)),
    }


def sparse_backbone(device: torch.device, quick: bool) -> Iterator[Case]:
    """SECOND's VoxelBackBone8x on one simulated scan, forward, and forward with backward."""
    if device.type == "cpu":  # on a GPU spconv is what computes it
        for backward in (False, True):
            yield _sparse_backbone(backward, device, quick)


def _sparse_backbone(backward: bool, device: torch.device, quick: bool) -> Case:
    cfg = workloads.kitti_config("second", quick)
    batch = simulated_batch(cfg, 1, device, every=QUICK_EVERY if quick else 1)
    features = batch["voxels"].sum(dim=1) / batch["voxel_num_points"].unsqueeze(1)  # (M, 4)
    torch.manual_seed(0)
    net = VoxelBackBone8x(cfg.MODEL.BACKBONE_3D, 4, workloads.grid_size(cfg)).train()
    parameters = list(net.parameters())

    def run():
        with torch.set_grad_enabled(backward):
            out = net({"voxel_features": features, "voxel_coords": batch["voxel_coords"], "batch_size": 1})[
                "encoded_spconv_tensor"
            ]
            return torch.autograd.grad(out.features.square().mean(), parameters) if backward else out

    sides = {"ours": run}
    if (library := spconv()) is not None:
        sides[library] = forced(run, library, sparse_backends.VARIABLE)
    return Case(
        "sparse_backbone",
        "forward and backward" if backward else "forward",
        f"{len(features):,} voxels",
        sides,
        device,
        note="spconv: its Native algorithm, the only one on a CPU, on one thread",
    )


ROWS: dict[str, Callable[[torch.device, bool], Iterator[Case]]] = {
    "rotated_iou": rotated_iou,
    "rotated_nms": rotated_nms,
    "points_in_boxes": points_in_boxes,
    "voxels": voxels,
    "target_assignment": target_assignment,
    "kitti_ap": kitti_ap,
    "sparse_backbone": sparse_backbone,
}
