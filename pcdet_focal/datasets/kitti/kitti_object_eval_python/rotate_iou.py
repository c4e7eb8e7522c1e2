"""OpenPCDet's name for overlaps of rotated rectangles; here they are exact, in float64, on the CPU."""

from __future__ import annotations

import numpy as np

from ....ops.rotated_iou import OVERLAP_BEV
from ....ops.rotated_iou.cpu import iou_matrix


def rotate_iou_gpu_eval(boxes: np.ndarray, query_boxes: np.ndarray, criterion: int = -1, device_id: int = 0):
    """Overlaps of all pairs of rectangles.

    Args:
        boxes, query_boxes: (N, 5), (K, 5): centre, sizes, angle in radians, positive clockwise (x, z, l, w, rotation_y
            of KITTI's camera boxes).
        criterion: -1 intersection over union; 0 over the area of the query box, 1 over that of the box; 2 the
            intersection itself.
        device_id: OpenPCDet's; not used.

    Returns:
        (N, K), of the type of ``boxes``.
    """
    a, b = _upright(boxes), _upright(query_boxes)
    shared = iou_matrix(a, b, OVERLAP_BEV) if len(a) and len(b) else np.zeros((len(a), len(b)))
    area_a, area_b = (a[:, 3] * a[:, 4])[:, None], (b[:, 3] * b[:, 4])[None]
    whole = {-1: area_a + area_b - shared, 0: area_b, 1: area_a}.get(criterion, np.ones(1))
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0).astype(boxes.dtype)


def _upright(rectangles: np.ndarray) -> np.ndarray:
    """(N, 5) as boxes (N, 7) of the rotated IoU kernel."""
    boxes = np.zeros((len(rectangles), 7))
    boxes[:, [0, 1, 3, 4]], boxes[:, 5], boxes[:, 6] = rectangles[:, :4], 1.0, -rectangles[:, 4]
    return boxes
