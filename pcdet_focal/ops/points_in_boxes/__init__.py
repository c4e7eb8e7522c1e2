"""Which LiDAR points lie in which boxes.

Points are (x, y, z[, ...]) and boxes (x, y, z, dx, dy, dz, heading[, ...]) in one frame, metres and radians, further
columns ignored. With (u, v) the point in the box's own axes, it is inside when |z - z_box| <= dz/2, |u| < dx/2 + margin
and |v| < dy/2 + margin: OpenPCDet's rule, in its float32 arithmetic. Its CPU code has a margin of 1e-2 m, its CUDA code
of 1e-5 m; each function here has the default of the one that it stands for. A point with a NaN is in no box.

numpy or torch in, the same out.
"""

from __future__ import annotations

import torch

from ...arrays import Array, as_tensors, check_columns, like_input
from ...errors import InputError
from ..backend import choose_backend

__all__ = ["points_in_boxes_mask", "points_in_boxes_index", "count_points_in_boxes", "CPU_MARGIN", "CUDA_MARGIN"]

CPU_MARGIN = 1e-2
CUDA_MARGIN = 1e-5


def points_in_boxes_mask(points: Array, boxes: Array, margin: float = CPU_MARGIN) -> Array:
    """1 where a point is inside a box: points (N, 3+), boxes (M, 7+) -> (M, N) int32 of 0 and 1. Raises InputError for
    wrong shapes.
    """
    points, boxes, was_numpy = _checked(points, boxes)
    backend, device = _backend(points)
    return like_input(torch.as_tensor(backend.mask(points, boxes, margin), device=device), was_numpy)


def points_in_boxes_index(points: Array, boxes: Array, margin: float = CUDA_MARGIN) -> Array:
    """The first box that holds each point, -1 for none: points (N, 3+), boxes (M, 7+) -> (N,) int32.

    A batch works alike: points (B, N, 3+) with boxes (B, M, 7+) -> (B, N) int32, the index counting within the sample.
    """
    if getattr(points, "ndim", 2) == 3:
        if getattr(boxes, "ndim", 0) != 3 or len(boxes) != len(points):
            raise InputError(
                f"points {tuple(points.shape)} are a batch, so boxes must be (B, M, 7 or more) with the same B, "
                f"not {tuple(boxes.shape)}."
            )
        (batch_points, batch_boxes), was_numpy = as_tensors(points=points, boxes=boxes)
        if choose_backend(batch_points.device, "points_in_boxes", has_cuda=True) == "cuda":
            check_columns("points", batch_points, 3, dims=3)
            check_columns("boxes", batch_boxes, 7, dims=3)
            from . import cuda

            return like_input(cuda.index(batch_points.float(), batch_boxes[..., :7].float(), margin), was_numpy)
        samples = [points_in_boxes_index(p, b, margin) for p, b in zip(batch_points, batch_boxes)]
        if not samples:
            return like_input(
                torch.empty(batch_points.shape[:2], dtype=torch.int32, device=batch_points.device), was_numpy
            )
        return like_input(torch.stack(samples), was_numpy)
    points, boxes, was_numpy = _checked(points, boxes)
    backend, device = _backend(points)
    return like_input(torch.as_tensor(backend.index(points, boxes, margin), device=device), was_numpy)


def count_points_in_boxes(points: Array, boxes: Array, margin: float = CPU_MARGIN) -> Array:
    """How many points each box holds: points (N, 3+), boxes (M, 7+) -> (M,) int64. A point in two boxes counts in
    both.
    """
    points, boxes, was_numpy = _checked(points, boxes)
    backend, device = _backend(points)
    return like_input(torch.as_tensor(backend.count(points, boxes, margin), device=device), was_numpy)


def _checked(points: Array, boxes: Array) -> tuple[torch.Tensor, torch.Tensor, bool]:
    (points, boxes), was_numpy = as_tensors(points=points, boxes=boxes)
    check_columns("points", points, 3)
    check_columns("boxes", boxes, 7)
    return points.float().contiguous(), boxes[:, :7].float().contiguous(), was_numpy


def _backend(points: torch.Tensor):
    """The module that serves these points and the device of the result."""
    backend = choose_backend(points.device, "points_in_boxes", has_cuda=True)
    if backend == "cpu":
        from . import cpu as module
    elif backend == "cuda":
        from . import cuda as module
    else:
        from . import reference as module
    return module, points.device
