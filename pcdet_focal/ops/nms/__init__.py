"""Greedy non-maximum suppression of boxes in the bird's-eye view."""
from __future__ import annotations

from typing import Optional

import torch

from pcdet_focal.errors import InputError
from pcdet_focal.ops.arrays import Array, as_tensors, check_columns, like_input
from pcdet_focal.ops.backend import choose_backend

__all__ = ["nms_rotated", "nms_axis_aligned"]


def nms_rotated(boxes: Array, scores: Array, thresh: float, pre_maxsize: Optional[int] = None) -> Array:
    """Boxes that no better box overlaps too much.

    In descending order of the scores (equal scores: the lower index first), a box stays unless its exact rotated IoU with one that
    stayed is above ``thresh``; an IoU of exactly ``thresh`` does not suppress.

    Args:
        boxes: (N, 7+) floating point: x, y, z, dx, dy, dz, heading; metres, radians; seen from above, so z and dz do not matter.
        scores: (N,).
        thresh: IoU, 0 or more.
        pre_maxsize: look at this many best scores only; None for all.

    Returns:
        (K,) int64 indices into ``boxes``, scores descending, on the device of ``boxes``; numpy for numpy input.

    Raises:
        InputError: wrong shapes, integer boxes, a negative threshold.
    """
    return _nms(boxes, scores, thresh, pre_maxsize, axis_aligned=False)


def nms_axis_aligned(boxes: Array, scores: Array, thresh: float, pre_maxsize: Optional[int] = None) -> Array:
    """The same for boxes taken as parallel to the axes: dx along x and dy along y whatever the heading (OpenPCDet's ``nms_normal_gpu``)."""
    return _nms(boxes, scores, thresh, pre_maxsize, axis_aligned=True)


def _nms(boxes: Array, scores: Array, thresh: float, pre_maxsize: Optional[int], axis_aligned: bool) -> Array:
    (boxes, scores), was_numpy = as_tensors(boxes=boxes, scores=scores)
    check_columns("boxes", boxes, 7)
    if scores.shape != boxes.shape[:1]:
        raise InputError(f"scores must have shape ({len(boxes)},), one for each box, not {tuple(scores.shape)}.")
    if not thresh >= 0:
        raise InputError(f"thresh must be an IoU of 0 or more, not {thresh}.")
    if pre_maxsize is not None and pre_maxsize < 0:
        raise InputError(f"pre_maxsize must be None or at least 0, not {pre_maxsize}.")
    order = torch.sort(scores, descending=True, stable=True).indices[:pre_maxsize]
    ranked = boxes[order, :7].double()
    if axis_aligned:
        ranked[:, 6] = 0
    if choose_backend(boxes.device, "nms") == "cpu":
        from pcdet_focal.ops.nms import cpu
        kept = torch.from_numpy(cpu.nms_rotated(ranked.cpu().numpy(), thresh)).to(order.device)
    else:
        from pcdet_focal.ops.nms import reference
        kept = reference.nms_rotated(ranked, thresh)
    return like_input(order[kept], was_numpy)
