"""Sparse convolution for CPU and GPU behind spconv 2.x's module interface.

CPU tensors run on our own code (``cpu.py``: numba kernels; ``reference.py``: the definition in plain torch), CUDA
tensors on spconv or spconv-triton, whichever is installed; ``backends.py`` says how that is chosen and
PCDET_FOCAL_SPARSE forces one.

    >>> import torch
    >>> from pcdet_focal.ops import sparse_conv as spconv
    >>> indices = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2]])
    >>> x = spconv.SparseConvTensor(torch.ones(2, 4), indices, spatial_shape=[4, 4, 4], batch_size=1)
    >>> net = spconv.SparseSequential(spconv.SubMConv3d(4, 16, 3, indice_key="subm"), torch.nn.ReLU())
    >>> net(x).features.shape
    torch.Size([2, 16])
"""

from .backends import select_backend
from .layouts import convert_spconv_kernel
from .modules import (
    SparseConv2d,
    SparseConv3d,
    SparseConvolution,
    SparseInverseConv2d,
    SparseInverseConv3d,
    SparseModule,
    SparseSequential,
    SubMConv2d,
    SubMConv3d,
)
from .tensor import SparseConvTensor

__all__ = [
    "SparseConv2d",
    "SparseConv3d",
    "SparseConvTensor",
    "SparseConvolution",
    "SparseInverseConv2d",
    "SparseInverseConv3d",
    "SparseModule",
    "SparseSequential",
    "SubMConv2d",
    "SubMConv3d",
    "convert_spconv_kernel",
    "select_backend",
]
