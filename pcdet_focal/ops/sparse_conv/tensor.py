"""A sparse tensor: features of the occupied voxels and where they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ...errors import InputError


class SparseConvTensor:
    """Features of N occupied voxels of a batch of grids; spconv's class of this name, for every backend.

    Args:
        features: (N, C) floating point.
        indices: (N, 1 + ndim) integers, (batch, *position), position in the order of ``spatial_shape`` (z, y, x in
            3-D). Each voxel once.
        spatial_shape: cells of each axis.
        batch_size: number of samples; a sample without voxels is fine, and so is N = 0.
        grid, voxel_num, benchmark: spconv's; kept out of use.
        indice_dict: kernel maps by ``indice_key``, made by the convolutions that this tensor came through.

    Raises:
        InputError: shapes that do not fit together.
    """

    def __init__(
        self,
        features: torch.Tensor,
        indices: torch.Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        grid: torch.Tensor | None = None,
        voxel_num: torch.Tensor | None = None,
        indice_dict: dict[str, Any] | None = None,
        benchmark: bool = False,
    ):
        self.grid = grid
        self.spatial_shape = [int(v) for v in spatial_shape]
        if (
            features.dim() != 2
            or indices.dim() != 2
            or indices.shape != (features.shape[0], 1 + len(self.spatial_shape))
        ):
            raise InputError(
                f"SparseConvTensor: features {tuple(features.shape)} and indices {tuple(indices.shape)} must be (N, "
                "C) and "
                f"(N, {1 + len(self.spatial_shape)}) for the spatial shape {self.spatial_shape}"
            )
        if indices.is_floating_point():
            raise InputError(f"SparseConvTensor: indices must be integers, not {indices.dtype}")
        self._features = features
        # spconv misreads indices that are not contiguous
        self.indices = indices.to(device=features.device, dtype=torch.int32).contiguous()
        self.batch_size = int(batch_size)
        self.indice_dict: dict[str, Any] = {} if indice_dict is None else indice_dict

    def __repr__(self) -> str:
        return (
            f"SparseConvTensor(features={tuple(self.features.shape)}, spatial_shape={self.spatial_shape}, "
            f"batch_size={self.batch_size})"
        )

    @property
    def features(self) -> torch.Tensor:
        """(N, C); to change them, use the tensor that ``replace_feature`` returns."""
        return self._features

    @property
    def spatial_size(self) -> int:
        """Cells of the whole grid."""
        return math.prod(self.spatial_shape)

    @classmethod
    def from_dense(cls, x: torch.Tensor) -> SparseConvTensor:
        """The cells of a dense tensor (B, *spatial_shape, C), channels last, that are not zero in every channel."""
        indices = (x != 0).any(-1).nonzero()
        return cls(x[tuple(indices.unbind(1))], indices, x.shape[1:-1], x.shape[0])

    def replace_feature(self, features: torch.Tensor) -> SparseConvTensor:
        """The same voxels and kernel maps with other features (N, C')."""
        return SparseConvTensor(
            features, self.indices, self.spatial_shape, self.batch_size, self.grid, indice_dict=self.indice_dict
        )

    def find_indice_pair(self, key: str | None) -> Any:
        """The kernel map stored under ``key``, None where there is none."""
        return None if key is None else self.indice_dict.get(key)

    def select_by_index(self, keep: torch.Tensor) -> SparseConvTensor:
        """Some of the voxels, by a boolean mask or row numbers; their kernel maps are made anew."""
        return SparseConvTensor(self.features[keep], self.indices[keep], self.spatial_shape, self.batch_size)

    def dense(self, channels_first: bool = True) -> torch.Tensor:
        """(B, C, *spatial_shape), or (B, *spatial_shape, C); zero where no voxel is."""
        cells = self.spatial_size
        batch, position = self.indices[:, 0].long(), torch.zeros_like(self.indices[:, 0], dtype=torch.long)
        for axis, n in enumerate(self.spatial_shape):
            position = position * n + self.indices[:, axis + 1]
        channels = self.features.shape[1]
        if channels_first:
            out = self.features.new_zeros((self.batch_size, channels, cells))
            out.transpose(1, 2)[batch, position] = self.features
            return out.view(self.batch_size, channels, *self.spatial_shape)
        out = self.features.new_zeros((self.batch_size, cells, channels))
        out[batch, position] = self.features
        return out.view(self.batch_size, *self.spatial_shape, channels)
