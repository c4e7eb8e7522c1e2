"""Overlap of rotated boxes in the bird's-eye view and in 3-D, exact.

Boxes are (x, y, z, dx, dy, dz, heading[, ...]): centre and sizes in metres, heading in radians anticlockwise from +x;
further columns are ignored. numpy or torch in, the same out, in the dtype and on the device of the input; inside
everything is float64 and relative to one box's centre, so that neither large coordinates nor tiny boxes lose digits.
Results carry no gradient, except those of ``paired_iou``.

A box with a size of zero (or below), or with a number that is not finite, overlaps nothing. Boxes that only touch have
overlap 0.
"""

from __future__ import annotations

import torch

from ...arrays import Array, as_tensors, check_columns, like_input
from ...errors import InputError
from ..backend import choose_backend
from . import operators
from .differentiable import paired_iou

__all__ = [
    "boxes_overlap_bev",
    "boxes_iou_bev",
    "boxes_iou3d",
    "boxes_aligned_iou_bev",
    "boxes_aligned_iou3d",
    "paired_iou",
]

OVERLAP_BEV, IOU_BEV, IOU_3D = 0, 1, 2


def boxes_overlap_bev(boxes_a: Array, boxes_b: Array) -> Array:
    """Area in square metres that each box of ``boxes_a`` (N, 7+) shares with each of ``boxes_b`` (M, 7+) seen from
    above: (N, M).
    """
    return _matrix(boxes_a, boxes_b, OVERLAP_BEV)


def boxes_iou_bev(boxes_a: Array, boxes_b: Array) -> Array:
    """Intersection over union of the rotated rectangles seen from above.

    Args:
        boxes_a: (N, 7+) floating point; boxes_b: (M, 7+).

    Returns:
        (N, M) in [0, 1]; 0 where both areas are zero.

    Raises:
        InputError: wrong shape, integer boxes, numpy mixed with torch, or two devices.
    """
    return _matrix(boxes_a, boxes_b, IOU_BEV)


def boxes_iou3d(boxes_a: Array, boxes_b: Array) -> Array:
    """Intersection over union of the volumes (overlap from above times overlap in height): boxes (N, 7+), (M, 7+) ->
    (N, M) in [0, 1].
    """
    return _matrix(boxes_a, boxes_b, IOU_3D)


def boxes_aligned_iou_bev(boxes_a: Array, boxes_b: Array) -> Array:
    """Bird's-eye view IoU of box i of ``boxes_a`` (N, 7+) with box i of ``boxes_b`` (N, 7+): (N,)."""
    return _aligned(boxes_a, boxes_b, IOU_BEV)


def boxes_aligned_iou3d(boxes_a: Array, boxes_b: Array) -> Array:
    """3-D IoU of box i of ``boxes_a`` (N, 7+) with box i of ``boxes_b`` (N, 7+): (N,)."""
    return _aligned(boxes_a, boxes_b, IOU_3D)


def _matrix(boxes_a: Array, boxes_b: Array, what: int) -> Array:
    a, b, dtype, was_numpy = _checked(boxes_a, boxes_b)
    backend = choose_backend(a.device, "rotated_iou", has_cuda=True)
    if backend == "cpu":
        from . import cpu

        result = torch.from_numpy(cpu.iou_matrix(a.cpu().numpy(), b.cpu().numpy(), what)).to(a.device)
    elif backend == "cuda":
        from . import cuda

        result = cuda.iou_matrix(a, b, what, _written(dtype))
    else:
        from . import reference

        result = reference.iou_matrix(a, b, what)
    return like_input(result.to(dtype), was_numpy)


def _aligned(boxes_a: Array, boxes_b: Array, what: int) -> Array:
    if torch.compiler.is_compiling():
        return operators.aligned_iou(boxes_a.detach(), boxes_b.detach(), what)
    a, b, dtype, was_numpy = _checked(boxes_a, boxes_b)
    if len(a) != len(b):
        raise InputError(f"boxes_a and boxes_b must have as many rows for an aligned IoU, not {len(a)} and {len(b)}.")
    backend = choose_backend(a.device, "rotated_iou", has_cuda=True)
    if backend == "cpu":
        from . import cpu

        result = torch.from_numpy(cpu.iou_aligned(a.cpu().numpy(), b.cpu().numpy(), what)).to(a.device)
    elif backend == "cuda":
        from . import cuda

        result = cuda.iou_aligned(a, b, what, _written(dtype))
    else:
        from . import reference

        result = reference.iou_aligned(a, b, what)
    return like_input(result.to(dtype), was_numpy)


def _written(dtype: torch.dtype) -> torch.dtype:
    """The type that a Triton kernel writes for a result of type ``dtype``: half types are rounded from float64
    afterwards, as on the CPU.
    """
    return dtype if dtype == torch.float32 else torch.float64


def _checked(boxes_a: Array, boxes_b: Array) -> tuple[torch.Tensor, torch.Tensor, torch.dtype, bool]:
    (a, b), was_numpy = as_tensors(boxes_a=boxes_a, boxes_b=boxes_b)
    check_columns("boxes_a", a, 7)
    check_columns("boxes_b", b, 7)
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a[:, :7].double().contiguous(), b[:, :7].double().contiguous(), dtype, was_numpy
