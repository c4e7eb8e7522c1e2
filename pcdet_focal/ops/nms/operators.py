"""The suppression as one torch operator, ``torch.ops.pcdet_focal.nms``, for tracers, exporters and compilers: the loop
over boxes is no graph.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

# written out, because older torch does not read annotations that are text
_SCHEMA = "(Tensor ranked, Tensor? group, float[] thresholds, int[] pre, int[] post) -> Tensor"


@custom_op("pcdet_focal::nms", mutates_args=(), schema=_SCHEMA)
def nms(ranked: Tensor, group: Tensor | None, thresholds: list[float], pre: list[int], post: list[int]) -> Tensor:
    """See :func:`pcdet_focal.ops.nms._positions`."""
    from . import _positions

    return _positions(ranked, group, thresholds, pre, post)


@nms.register_fake
def _(ranked, group, thresholds, pre, post):
    return ranked.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
