"""Rotated NMS on the CPU (numba). The kernel stands beside the overlap that it calls: see the note there."""

from ..rotated_iou.cpu import nms_rotated

__all__ = ["nms_rotated"]
