"""Definition of greedy NMS, in plain torch on any device."""

from __future__ import annotations

import torch

from ..rotated_iou.reference import iou_aligned, pairs_that_may_meet


def nms_rotated(boxes: torch.Tensor, thresh: float) -> torch.Tensor:
    """Greedy NMS of boxes (N, 7) float64 in the order given: positions that stay, (K,) int64, ascending.

    The pairs above the threshold are found on the device of the boxes; the greedy pass over them is sequential and runs
    on the host.
    """
    first, second = [boxes.new_zeros(0, dtype=torch.int64)], [boxes.new_zeros(0, dtype=torch.int64)]
    for i, j in pairs_that_may_meet(boxes, boxes):
        i, j = i[j > i], j[j > i]
        above = iou_aligned(boxes[i], boxes[j], what=1) > thresh
        first.append(i[above])
        second.append(j[above])
    # ascending in the first index, so the pairs of box i are one slice
    overlapped = torch.cat(second).cpu()
    ends = torch.bincount(torch.cat(first), minlength=len(boxes)).cumsum(0).tolist()
    stays = torch.ones(len(boxes), dtype=torch.bool)
    begin = 0
    for i, end in enumerate(ends):
        if stays[i]:
            stays[overlapped[begin:end]] = False
        begin = end
    return stays.nonzero().squeeze(1).to(boxes.device)
