"""The overlap of pairs of boxes as a torch operator, ``torch.ops.pcdet_focal.aligned_iou``: one node in the graph of
torch.compile or torch.export.
"""

from __future__ import annotations

import torch
from torch.library import custom_op


@custom_op("pcdet_focal::aligned_iou", mutates_args=(), schema="(Tensor boxes_a, Tensor boxes_b, int what) -> Tensor")
def aligned_iou(boxes_a, boxes_b, what):
    from . import _aligned

    return _aligned(boxes_a, boxes_b, what)


@aligned_iou.register_fake
def _(boxes_a, boxes_b, what):
    return boxes_a.new_empty(boxes_a.shape[:1], dtype=torch.promote_types(boxes_a.dtype, boxes_b.dtype))
