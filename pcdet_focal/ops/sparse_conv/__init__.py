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
from .layers import (
    SparseConv1d,
    SparseConv2d,
    SparseConv3d,
    SparseConv4d,
    SparseConvTranspose1d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseConvTranspose4d,
    SparseInverseConv1d,
    SparseInverseConv2d,
    SparseInverseConv3d,
    SparseInverseConv4d,
    SparseMaxPool1d,
    SparseMaxPool2d,
    SparseMaxPool3d,
    SparseMaxPool4d,
    SubMConv1d,
    SubMConv2d,
    SubMConv3d,
    SubMConv4d,
)
from .layouts import convert_spconv_kernel
from .modules import (
    ConvAlgo,
    SparseConvolution,
    SparseGlobalMaxPool,
    SparseMaxPool,
    SparseModule,
    SparseSequential,
    ToDense,
)
from .tensor import SparseConvTensor

__all__ = [
    "ConvAlgo",
    "SparseConv1d",
    "SparseConv2d",
    "SparseConv3d",
    "SparseConv4d",
    "SparseConvTensor",
    "SparseConvTranspose1d",
    "SparseConvTranspose2d",
    "SparseConvTranspose3d",
    "SparseConvTranspose4d",
    "SparseConvolution",
    "SparseGlobalMaxPool",
    "SparseInverseConv1d",
    "SparseInverseConv2d",
    "SparseInverseConv3d",
    "SparseInverseConv4d",
    "SparseMaxPool",
    "SparseMaxPool1d",
    "SparseMaxPool2d",
    "SparseMaxPool3d",
    "SparseMaxPool4d",
    "SparseModule",
    "SparseSequential",
    "SubMConv1d",
    "SubMConv2d",
    "SubMConv3d",
    "SubMConv4d",
    "ToDense",
    "convert_spconv_kernel",
    "select_backend",
]
