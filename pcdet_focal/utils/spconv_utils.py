"""OpenPCDet's import of sparse convolution: ``from pcdet_focal.utils.spconv_utils import spconv, replace_feature``."""

from __future__ import annotations

import torch
from torch import nn

from ..ops import sparse_conv as spconv
from ..ops.sparse_conv import SparseConvTensor, convert_spconv_kernel

__all__ = ["convert_spconv_kernel", "find_all_spconv_keys", "replace_feature", "spconv"]


def find_all_spconv_keys(model: nn.Module, prefix: str = "") -> set[str]:
    """The state-dict keys of the kernels of all sparse convolutions in ``model``, with ``prefix`` before them."""
    start = f"{prefix}." if prefix else ""
    names = [name for name, module in model.named_modules() if isinstance(module, spconv.SparseConvolution)]
    return {f"{start}{name}.weight" if name else f"{start}weight" for name in names}


def replace_feature(out: SparseConvTensor, new_features: torch.Tensor) -> SparseConvTensor:
    """``out`` with other features (N, C)."""
    return out.replace_feature(new_features)
