"""The classes of each number of axes, with spconv 2.3's arguments.

``algo``, ``fp32_accum``, ``record_voxel_count`` and ``large_kernel_fast_algo`` are spconv's; they have no effect here.
Positions are in the order of ``spatial_shape``: (z, y, x) in 3-D.
"""

from __future__ import annotations

from typing import Any

from .modules import Size, SparseConvolution, SparseMaxPool


class _Conv(SparseConvolution):
    """A convolution whose number of axes is its class's."""

    ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        algo: Any = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
    ):
        super().__init__(
            type(self).ndim,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            indice_key,
            name,
        )


class _Regular(_Conv):
    """An output wherever an input falls under the kernel; sorted by (batch, *position) on the CPU."""

    kind = "SparseConv"


class _Submanifold(_Conv):
    """Outputs are the input voxels, in their order. stride and padding have no effect, as in spconv. The centre of an
    even kernel is the cell at half its size.
    """

    kind, subm = "SubMConv", True


class _Transposed(_Conv):
    """As a dense transposed convolution: an output wherever the kernel of an input reaches."""

    kind, transposed = "SparseConvTranspose", True


class _Inverse(SparseConvolution):
    """The transpose of the SparseConv (or max pooling) with the same indice_key: from its outputs back to exactly its
    input voxels, in their order.
    """

    kind, inverse = "SparseInverseConv", True
    ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        indice_key: str,
        bias: bool = True,
        algo: Any = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
    ):
        super().__init__(
            type(self).ndim, in_channels, out_channels, kernel_size, bias=bias, indice_key=indice_key, name=name
        )


class _MaxPool(SparseMaxPool):
    """Max pooling whose number of axes is its class's; the default stride is the window."""

    ndim: int

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        indice_key: str | None = None,
        algo: Any = None,
        record_voxel_count: bool = False,
        name: str | None = None,
    ):
        stride = kernel_size if stride is None else stride
        super().__init__(type(self).ndim, kernel_size, stride, padding, dilation, indice_key, name)


class SubMConv1d(_Submanifold):
    """Submanifold convolution of (x,) grids."""

    ndim = 1


class SubMConv2d(_Submanifold):
    """Submanifold convolution of (y, x) grids."""

    ndim = 2


class SubMConv3d(_Submanifold):
    """Submanifold convolution of (z, y, x) grids."""

    ndim = 3


class SubMConv4d(_Submanifold):
    """Submanifold convolution of four-dimensional grids."""

    ndim = 4


class SparseConv1d(_Regular):
    """Sparse convolution of (x,) grids."""

    ndim = 1


class SparseConv2d(_Regular):
    """Sparse convolution of (y, x) grids."""

    ndim = 2


class SparseConv3d(_Regular):
    """Sparse convolution of (z, y, x) grids."""

    ndim = 3


class SparseConv4d(_Regular):
    """Sparse convolution of four-dimensional grids."""

    ndim = 4


class SparseInverseConv1d(_Inverse):
    """Inverse convolution of (x,) grids."""

    ndim = 1


class SparseInverseConv2d(_Inverse):
    """Inverse convolution of (y, x) grids."""

    ndim = 2


class SparseInverseConv3d(_Inverse):
    """Inverse convolution of (z, y, x) grids."""

    ndim = 3


class SparseInverseConv4d(_Inverse):
    """Inverse convolution of four-dimensional grids."""

    ndim = 4


class SparseConvTranspose1d(_Transposed):
    """Transposed convolution of (x,) grids."""

    ndim = 1


class SparseConvTranspose2d(_Transposed):
    """Transposed convolution of (y, x) grids."""

    ndim = 2


class SparseConvTranspose3d(_Transposed):
    """Transposed convolution of (z, y, x) grids."""

    ndim = 3


class SparseConvTranspose4d(_Transposed):
    """Transposed convolution of four-dimensional grids."""

    ndim = 4


class SparseMaxPool1d(_MaxPool):
    """Max pooling of (x,) grids."""

    ndim = 1


class SparseMaxPool2d(_MaxPool):
    """Max pooling of (y, x) grids."""

    ndim = 2


class SparseMaxPool3d(_MaxPool):
    """Max pooling of (z, y, x) grids."""

    ndim = 3


class SparseMaxPool4d(_MaxPool):
    """Max pooling of four-dimensional grids."""

    ndim = 4
