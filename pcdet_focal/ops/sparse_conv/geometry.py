"""What every kernel map knows about its convolution, whichever backend made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...errors import InputError


@dataclass(frozen=True)
class MapGeometry:
    """Kernel, grids and voxels of one sparse convolution."""

    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]
    in_shape: list[int]
    out_shape: list[int]
    in_indices: torch.Tensor  # (n_in, 1 + ndim) int32
    out_indices: torch.Tensor  # (n_out, 1 + ndim) int32
    subm: bool

    def inverse(self) -> MapGeometry:
        """The same with inputs and outputs exchanged."""
        return MapGeometry(
            self.kernel_size, self.dilation, self.out_shape, self.in_shape, self.out_indices, self.in_indices, self.subm
        )


def transposed_output_shape(
    shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Cells of each axis after a transposed convolution, as for a dense one. Raises InputError when none is left."""
    out = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in zip(shape, kernel_size, stride, padding, dilation)
    ]
    if min(out) < 1:
        raise InputError(
            f"transposed sparse convolution: padding {list(padding)} leaves nothing of the spatial shape {list(shape)}"
        )
    return out


def conv_output_shape(
    shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Cells of each axis after a convolution, as for a dense one. Raises InputError when an axis has none left."""
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(shape, kernel_size, stride, padding, dilation)
    ]
    if min(out) < 1:
        raise InputError(
            f"sparse convolution: the spatial shape {list(shape)} is smaller than the kernel {list(kernel_size)} "
            f"(padding {list(padding)}, dilation {list(dilation)})"
        )
    return out
