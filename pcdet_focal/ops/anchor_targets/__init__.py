"""What every anchor of a detection head should predict: class label and box code.

Anchors and boxes are (x, y, z, dx, dy, dz, heading[, ...]) in one frame, metres and radians. The overlap that decides
is the bird's-eye IoU of boxes turned to the nearest axis, so on a regular grid of anchors only those near a box can
match: the CPU and the GPU backend look at those alone, and their work grows with the boxes instead of with boxes times
anchors. Labels are the reference's exactly, ties included.

Source: SECOND (Yan et al., Sensors 2018); OpenPCDet ``AxisAlignedTargetAssigner``.
"""

from __future__ import annotations

from torch import Tensor

from ...errors import InputError
from ..backend import choose_backend
from . import reference
from .reference import AssignmentRules

__all__ = ["AssignmentRules", "assign_anchor_targets"]


def assign_anchor_targets(all_anchors: list[Tensor], gt_boxes: Tensor, rules: AssignmentRules) -> dict[str, Tensor]:
    """Labels and regression targets of a batch.

    An anchor is positive if its best overlap with a box of its class reaches the class's ``matched`` threshold, or if
    it has the best overlap that some box finds (every anchor that ties for it; a box that no anchor meets claims none).
    It gets the label and the code of its own best box, of equal ones the first. It is background below ``unmatched``,
    and ignored between the two.

    Args:
        all_anchors: one tensor a class, (nz, ny, nx, n_sizes, n_rotations, 7+), x growing along nx and y along ny.
            Anchors that are not such a grid are served too, by the reference.
        gt_boxes: (B, T, 8+), the class last; rows of a class that ``rules`` does not name (0: padding) count for
            nothing.
        rules: thresholds, order and coder.

    Returns:
        ``box_cls_labels`` (B, N) int32: -1 ignored, 0 background, else the class; ``box_reg_targets`` (B, N, code
        size), zero but for the positives, and ``reg_weights`` (B, N), 1 for the positives, both of the anchors' dtype.
        Under mmdetection's names, ``label_weights``
        (B, N): 1 for every anchor that counts in classification, 0 for the ignored; and ``bbox_weights`` (B, N, code
            size): ``reg_weights``
        for each code, a view. The N anchors are location by location
        (nz, ny, nx), within a location class by class, size, rotation; with ``class_major`` class by class, then (size,
        rotation, nz, ny, nx).

    Raises:
        InputError: shapes that do not fit, or two devices.
    """
    if gt_boxes.dim() != 3 or gt_boxes.shape[2] < 8:
        raise InputError(f"gt_boxes must have shape (B, T, 8 or more), the class last, not {tuple(gt_boxes.shape)}.")
    if not len(all_anchors) == len(rules.class_ids) == len(rules.matched) == len(rules.unmatched):
        raise InputError(
            f"There must be as many tensors of anchors as classes and thresholds, not {len(all_anchors)} and "
            f"{len(rules.class_ids)}, {len(rules.matched)}, {len(rules.unmatched)}."
        )
    for i, anchors in enumerate(all_anchors):
        if anchors.dim() != 6 or anchors.shape[-1] < 7:
            raise InputError(
                f"all_anchors[{i}] must have shape (nz, ny, nx, n_sizes, n_rotations, 7 or more), not "
                f"{tuple(anchors.shape)}."
            )
        if anchors.device != gt_boxes.device:
            raise InputError(
                f"Anchors and boxes must be on one device: all_anchors[{i}] is on {anchors.device}, gt_boxes on "
                f"{gt_boxes.device}."
            )

    backend, result = choose_backend(gt_boxes.device, "anchor_targets", has_cuda=True), None
    if backend == "cpu":
        from . import cpu

        result = cpu.assign(all_anchors, gt_boxes, rules)
    elif backend == "cuda":
        from . import cuda

        result = cuda.assign(all_anchors, gt_boxes, rules)
    if result is None:
        result = reference.assign(all_anchors, gt_boxes, rules)
    return {**result, "bbox_weights": result["reg_weights"][..., None].expand_as(result["box_reg_targets"])}
