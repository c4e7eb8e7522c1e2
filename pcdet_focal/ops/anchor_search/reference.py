"""Definition of the search, in plain torch on any device: every anchor against every box, a few boxes at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rotated_iou import boxes_iou3d, boxes_iou_bev

_PAIRS_AT_ONCE = 1 << 22  # 32 MB a table in float64


def search(anchors: Tensor, boxes: Tensor, selected: Tensor, topk: int, match_height: bool) -> tuple[Tensor, Tensor]:
    """See :func:`pcdet_focal.ops.anchor_search.search_anchors`; boxes (M, 7) float64."""
    flat = anchors.detach().reshape(-1, anchors.shape[-1])[:, :7].double()  # (N, 7)
    overlap = boxes_iou3d if match_height else boxes_iou_bev
    nearest = [torch.zeros(0, min(topk, len(flat)), dtype=torch.int64, device=boxes.device)]
    best = [torch.zeros(0, dtype=torch.int64, device=boxes.device)]
    for some in boxes.split(max(1, _PAIRS_AT_ONCE // len(flat))):
        x, y, z = (flat[None, :, :3] - some[:, None, :3]).unbind(2)  # (m, N)
        nearest.append((x * x + y * y + z * z).sort(dim=1, stable=True).indices[:, :topk])
        best.append(_first_of_largest(overlap(flat, some).float()))
    return torch.cat(nearest), torch.cat(best)


def _first_of_largest(values: Tensor) -> Tensor:
    """(N, m) -> (m,): the row of the largest value of each column, of equal ones the first."""
    row = torch.arange(len(values), device=values.device)[:, None]
    return torch.where(values == values.amax(0), row, len(values)).amin(0)
