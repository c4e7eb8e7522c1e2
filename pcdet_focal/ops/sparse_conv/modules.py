"""nn.Modules with spconv 2.x's names, arguments, parameter names and kernel layout (out, *kernel, in); every backend
runs behind them.

The parameters belong to these modules, so a model's ``state_dict`` is the same whatever backend ran it, and
``model.to(device)`` changes the backend with the device.
"""

from __future__ import annotations

import enum
import math
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ...errors import InputError
from ..backend import choose_backend
from ..scatter import scatter_max
from . import reference
from .backends import load_library, select_backend
from .tensor import SparseConvTensor

Size = int | Sequence[int]

# spconv's own module for one of ours, by backend and kind of device; outside the modules so that these copy and pickle
# as ever
_twins: weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, str], nn.Module]] = weakref.WeakKeyDictionary()


def _each_axis(value: Size, ndim: int, name: str) -> list[int]:
    values = [value] * ndim if isinstance(value, int) else [int(v) for v in value]
    if len(values) != ndim:
        raise InputError(f"sparse convolution: {name}={value} needs one value, or one for each of the {ndim} axes")
    return values


def _own_engine(device: torch.device) -> ModuleType:
    if device.type == "cpu" and choose_backend(device, "sparse_conv") != "reference":
        from . import cpu

        return cpu
    return reference


class SparseModule(nn.Module):
    """A module that takes a SparseConvTensor; SparseSequential applies any other module to the features alone."""

    def __init__(self, name: str | None = None):
        super().__init__()
        self.name = name


class SparseSequential(SparseModule):
    """Modules one after another; those that are no SparseModule see the features, and are passed over while there is no
    voxel.
    """

    def __init__(self, *args: Any, **kwargs: nn.Module):
        super().__init__()
        named = (
            args[0].items()
            if len(args) == 1 and isinstance(args[0], OrderedDict)
            else ((str(i), module) for i, module in enumerate(args))
        )
        for name, module in [*named, *kwargs.items()]:
            if name in self._modules:
                raise InputError(f"SparseSequential: the name {name!r} is given twice")
            self.add_module(name, module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self):
        return iter(self._modules.values())

    def __getitem__(self, index: int) -> nn.Module:
        return list(self._modules.values())[index]

    def add(self, module: nn.Module, name: str | None = None) -> None:
        """Append a module."""
        self.add_module(str(len(self._modules)) if name is None else name, module)

    def forward(self, x: Any) -> Any:
        for module in self._modules.values():
            if isinstance(module, SparseModule) or not isinstance(x, SparseConvTensor):
                x = module(x)
            elif x.indices.shape[0] != 0:  # batch normalisation refuses an empty batch
                x = x.replace_feature(module(x.features))
        return x


class _Windowed(SparseModule):
    """The common part of convolutions and pooling: a window that moves over the grid, and its kernel map."""

    subm = inverse = transposed = False

    def __init__(
        self,
        ndim: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        indice_key: str | None = None,
        name: str | None = None,
    ):
        super().__init__(name)
        self.ndim, self.indice_key = ndim, indice_key
        self.kernel_size, self.stride = _each_axis(kernel_size, ndim, "kernel_size"), _each_axis(stride, ndim, "stride")
        self.padding, self.dilation = _each_axis(padding, ndim, "padding"), _each_axis(dilation, ndim, "dilation")

    def _kernel_map(self, x: SparseConvTensor, engine: ModuleType) -> tuple[Any, dict[str, Any]]:
        """(kernel map, indice_dict of the result)."""
        kernel_map = x.find_indice_pair(self.indice_key)
        if self.inverse:
            if kernel_map is None or kernel_map.geometry.subm:
                raise InputError(
                    "inverse convolution: the input did not come through a strided convolution with indice_key "
                    f"{self.indice_key!r}"
                )
            self._check_reuse(
                kernel_map.geometry.kernel_size, kernel_map.geometry.out_shape, len(kernel_map.geometry.out_indices), x
            )
            return kernel_map.inverse(), x.indice_dict
        if kernel_map is not None:
            if not (self.subm and kernel_map.geometry.subm):
                raise InputError(
                    f"sparse convolution: indice_key {self.indice_key!r} is taken by another layer; "
                    "only submanifold convolutions share one"
                )
            self._check_reuse(
                kernel_map.geometry.kernel_size, kernel_map.geometry.in_shape, len(kernel_map.geometry.in_indices), x
            )
            if list(kernel_map.geometry.dilation) != self.dilation:
                raise InputError(
                    f"sparse convolution: layers that share indice_key {self.indice_key!r} have dilations "
                    f"{list(kernel_map.geometry.dilation)} and {self.dilation}"
                )
            return kernel_map, x.indice_dict
        if self.subm:
            made = engine.build_subm_map(x.indices, x.spatial_shape, x.batch_size, self.kernel_size, self.dilation)
        else:
            build = engine.build_transposed_map if self.transposed else engine.build_conv_map
            made = build(
                x.indices, x.spatial_shape, x.batch_size, self.kernel_size, self.stride, self.padding, self.dilation
            )
        return made, x.indice_dict if self.indice_key is None else {**x.indice_dict, self.indice_key: made}

    def _check_reuse(self, kernel_size: Sequence[int], shape: Sequence[int], rows: int, x: SparseConvTensor) -> None:
        if list(kernel_size) != self.kernel_size or list(shape) != x.spatial_shape or rows != len(x.indices):
            raise InputError(
                f"sparse convolution: the kernel map of indice_key {self.indice_key!r} was made for kernel "
                f"{list(kernel_size)}, "
                f"spatial shape {list(shape)} and {rows} voxels; here are kernel {self.kernel_size}, "
                f"{x.spatial_shape} and "
                f"{len(x.indices)} voxels"
            )

    def _forward_library(self, x: SparseConvTensor, backend: str) -> SparseConvTensor:
        library = load_library(backend)
        twins = _twins.setdefault(self, {})
        backend_and_device = (backend, x.features.device.type)
        if backend_and_device not in twins:
            twins[backend_and_device] = self._make_twin(library, x.features.device)
        twin = twins[backend_and_device]
        # shared, and renewed where .to() replaced them
        twin._parameters.update(self._parameters)
        twin.training = self.training
        y = twin(
            library.SparseConvTensor(x.features, x.indices, x.spatial_shape, x.batch_size, indice_dict=x.indice_dict)
        )
        return SparseConvTensor(y.features, y.indices, y.spatial_shape, x.batch_size, indice_dict=y.indice_dict)

    def _make_twin(self, library: ModuleType, device: torch.device) -> nn.Module:
        arguments: dict[str, Any] = dict(indice_key=self.indice_key)
        if device.type == "cpu":
            arguments["algo"] = library.ops.ConvAlgo.Native  # the default asks for a CUDA stream
        if not self.inverse:
            arguments.update(stride=self.stride, padding=self.padding, dilation=self.dilation)
        with torch.random.fork_rng(devices=[]):  # its unused initial weights must not move torch's generator
            return self._build(getattr(library, f"{self.kind}{self.ndim}d"), arguments)


class SparseConvolution(_Windowed):
    """The common part of all sparse convolutions; use the classes with the number of axes in their name.

    Parameters:
        weight: (out_channels, *kernel_size, in_channels / groups), initialised as spconv does (the same draws from
            torch's generator).
        bias: (out_channels), or None.

    A convolution with a one-cell kernel and stride 1 is a matrix product with the memory of ``weight`` read as
    (in_channels, out_channels), which is not the transpose of (out_channels, in_channels): spconv 2.x does so, and its
    checkpoints rely on it. ``groups`` above 1, which spconv refuses, are those of a dense convolution.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        name: str | None = None,
    ):
        super().__init__(ndim, kernel_size, stride, padding, dilation, indice_key, name)
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise InputError(
                f"sparse convolution: groups={groups} must divide the {in_channels} channels of the input and the "
                f"{out_channels} of the output"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        one_cell = math.prod(self.kernel_size) == 1 and (self.subm or math.prod(self.stride) == 1)
        self.conv1x1 = one_cell and groups == 1 and not self.transposed
        if self.conv1x1 and not self.subm and any(self.padding):
            raise InputError(
                f"sparse convolution: a one-cell kernel with stride 1 takes no padding, not {self.padding}"
            )
        self.weight = nn.Parameter(torch.zeros(out_channels, *self.kernel_size, in_channels // groups))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1 / sqrt(fan in) for weight and bias (He's rule with a = sqrt(5))."""
        fan_in = self.in_channels // self.groups * math.prod(self.kernel_size)
        bound = math.sqrt(3.0) * (nn.init.calculate_gain("leaky_relu", math.sqrt(5)) / math.sqrt(fan_in))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}, indice_key={self.indice_key}"
        )

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        """(n_out, out_channels) features at the output voxels; the kernel map is kept in the result's ``indice_dict``
        under ``indice_key``.

        Raises:
            InputError: the input's channels, type or kernel map do not fit this layer, an index lies outside the grid,
                or a voxel occurs twice.
        """
        if x.features.shape[1] != self.in_channels:
            raise InputError(
                f"sparse convolution {self.indice_key or ''}: the input has {x.features.shape[1]} channels, "
                f"this layer takes {self.in_channels}"
            )
        backend = select_backend(x.features.device)
        if backend != "native":
            if self.groups != 1:
                raise InputError(f"sparse convolution: {backend} has no groups, this layer has {self.groups}")
            return self._forward_library(x, backend)
        features, weight, bias = self._same_type(x.features)
        if self.conv1x1:
            out = features @ weight.reshape(self.in_channels, self.out_channels)
            return x.replace_feature(out if bias is None else out + bias)
        engine = _own_engine(features.device)
        kernel_map, maps = self._kernel_map(x, engine)
        geometry = kernel_map.geometry
        if self.groups == 1:
            out = engine.sparse_conv(features, weight, bias, kernel_map)
        else:
            parts = zip(features.chunk(self.groups, 1), weight.chunk(self.groups))
            out = torch.cat([engine.sparse_conv(f.contiguous(), w, None, kernel_map) for f, w in parts], 1)
            out = out if bias is None else out + bias
        return SparseConvTensor(out, geometry.out_indices, geometry.out_shape, x.batch_size, indice_dict=maps)

    def _build(self, cls: type, arguments: dict[str, Any]) -> nn.Module:
        return cls(self.in_channels, self.out_channels, self.kernel_size, bias=self.bias is not None, **arguments)

    def _same_type(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(features.device.type) and features.dtype != torch.float64:
            return features.float(), weight.float(), None if bias is None else bias.float()
        if features.dtype != weight.dtype or features.device != weight.device:
            raise InputError(
                f"sparse convolution {self.indice_key or ''}: the input is {features.dtype} on {features.device}, the "
                "weights are "
                f"{weight.dtype} on {weight.device}; move or convert one of them"
            )
        return features, weight, bias


class SparseMaxPool(_Windowed):
    """The common part of max pooling; use the classes with the number of axes in their name."""

    kind = "SparseMaxPool"

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        """(n_out, C): the largest feature of the voxels under the window; cells without a voxel do not count. Outputs
        and ``indice_key`` are those of a SparseConv with this window.
        """
        backend = select_backend(x.features.device)
        if backend != "native":
            return self._forward_library(x, backend)
        kernel_map, maps = self._kernel_map(x, _own_engine(x.features.device))
        geometry, (rows_in, rows_out) = kernel_map.geometry, kernel_map.all_pairs()
        out = scatter_max(x.features[rows_in], rows_out, len(geometry.out_indices)).to(x.features.dtype)
        return SparseConvTensor(out, geometry.out_indices, geometry.out_shape, x.batch_size, indice_dict=maps)

    def _build(self, cls: type, arguments: dict[str, Any]) -> nn.Module:
        return cls(self.kernel_size, **arguments)


class SparseGlobalMaxPool(SparseModule):
    """The largest feature of each sample's voxels, (B, C); 0 for a sample without voxels."""

    def forward(self, x: SparseConvTensor) -> torch.Tensor:
        return scatter_max(x.features, x.indices[:, 0], x.batch_size)


class ToDense(SparseModule):
    """(B, C, *spatial_shape), see :meth:`SparseConvTensor.dense`."""

    def forward(self, x: SparseConvTensor) -> torch.Tensor:
        return x.dense()


class ConvAlgo(enum.Enum):
    """spconv's names of algorithms, for code that passes ``algo=``; the backend here decides for itself."""

    Native = 0
    MaskImplicitGemm = 1
    MaskSplitImplicitGemm = 2
