"""For each box the anchors whose centres are nearest to it, and the anchor that overlaps it most: what ATSS chooses
from.

Work and memory grow with the boxes: no table of anchors times boxes is made on a regular grid, on a CPU or a GPU.
"""

from __future__ import annotations

from torch import Tensor

from ...errors import InputError
from ..backend import choose_backend

__all__ = ["search_anchors"]


def search_anchors(
    anchors: Tensor, boxes: Tensor, selected: Tensor, topk: int, match_height: bool = False
) -> tuple[Tensor, Tensor]:
    """Nearest and most overlapping anchors.

    Distances are between centres in 3-D, in float64; of equal ones the anchor of the lower index comes first. The
    overlap is the exact rotated IoU in the bird's-eye view, with ``match_height`` of the volumes, compared in float32,
    so that anchors that are each other's mirror image tie on every device; of equal ones the lower index.

    Args:
        anchors: (nz, ny, nx, n_sizes, n_rotations, 7+) x, y, z, dx, dy, dz, heading; metres and radians.
        boxes: (M, 7+) in the same frame, on the same device.
        selected: (M,) bool; the rows of the other boxes in the result mean nothing.
        topk: how many nearest anchors, at least 1.
        match_height: see above.

    Returns:
        nearest (M, min(topk, N)) int64, in ascending order of the distance, and best (M,) int64: indices into the N
        flattened anchors. A box that no anchor meets has 0 as its best.

    Raises:
        InputError: shapes or devices that do not fit, or no anchors.
    """
    if anchors.dim() != 6 or anchors.shape[-1] < 7 or not anchors.numel():
        raise InputError(
            "anchors must have shape (nz, ny, nx, n_sizes, n_rotations, 7 or more), none of them 0, not "
            f"{tuple(anchors.shape)}."
        )
    if boxes.dim() != 2 or boxes.shape[1] < 7 or selected.shape != boxes.shape[:1]:
        raise InputError(
            f"boxes must have shape (M, 7 or more) and selected (M,), not {tuple(boxes.shape)} and "
            f"{tuple(selected.shape)}."
        )
    if not anchors.device == boxes.device == selected.device:
        raise InputError(
            f"anchors, boxes and selected must be on one device, but they are on {anchors.device}, {boxes.device} and "
            f"{selected.device}."
        )
    if topk < 1:
        raise InputError(f"topk must be at least 1, not {topk}.")
    boxes = boxes[:, :7].detach().double()
    backend = choose_backend(boxes.device, "anchor_search", has_cuda=True)
    if backend == "cuda":
        from . import cuda

        return cuda.search(anchors, boxes, selected, topk, match_height)
    if backend == "cpu":
        from . import cpu

        nearest_and_best = cpu.search(anchors, boxes, selected, topk, match_height)
        if nearest_and_best is not None:
            return nearest_and_best
    from . import reference

    return reference.search(anchors, boxes, selected, topk, match_height)
