"""Sparse convolution as its definition, in plain torch: any device, any float type, slow.

For kernel offset k (last axis fastest) and every pair (input voxel i, output voxel o) with
``position_i = position_o * stride - padding + k * dilation``: ``out[o] += features[i] @ weight[:, k, :].T``. A
submanifold convolution keeps the input voxels as its outputs, with stride 1 and ``padding = kernel // 2 * dilation``; a
regular one has an output wherever at least one pair exists, sorted by (batch, *position).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ...errors import InputError
from .geometry import MapGeometry, conv_output_shape, transposed_output_shape


@dataclass(frozen=True)
class ReferenceMap:
    """Pairs of every kernel offset, as two equally long index tensors (input rows, output rows)."""

    geometry: MapGeometry
    pairs: list[tuple[torch.Tensor, torch.Tensor]]

    def all_pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(P,) input rows and (P,) output rows of all offsets together."""
        rows_in, rows_out = zip(*self.pairs)
        return torch.cat(rows_in), torch.cat(rows_out)

    def inverse(self) -> ReferenceMap:
        """The map from the outputs back to the inputs."""
        return ReferenceMap(self.geometry.inverse(), [(o, i) for i, o in self.pairs])


def _linear(indices: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    key = indices[:, 0].long()
    for axis, n in enumerate(shape):
        key = key * n + indices[:, axis + 1].long()
    return key


def _check(indices: torch.Tensor, shape: Sequence[int], batch_size: int) -> None:
    limits = torch.tensor([batch_size, *shape], device=indices.device)
    outside = ((indices < 0) | (indices >= limits)).any(1)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise InputError(
            f"sparse convolution: row {row} of the indices is {indices[row].tolist()}, outside batch size "
            f"{batch_size} and "
            f"spatial shape {list(shape)}; each row is (batch, *position), counted from 0"
        )
    ascending, order = _linear(indices, shape).sort(stable=True)
    repeats = (ascending[1:] == ascending[:-1]).nonzero()
    if len(repeats):
        first, second = order[repeats[0]].item(), order[repeats[0] + 1].item()
        raise InputError(
            f"sparse convolution: rows {first} and {second} of the indices are the same voxel "
            f"{indices[second].tolist()}; "
            "every voxel may occur once (merge the features first)"
        )


def _reached(
    indices: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_shape: Sequence[int],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For every offset: (input rows that reach an output, linear index of that output)."""
    steps, extent = indices.new_tensor(stride), indices.new_tensor(out_shape)
    for offset in itertools.product(*[range(k) for k in kernel_size]):
        shift = indices.new_tensor([p - o * d for p, o, d in zip(padding, offset, dilation)])
        moved = indices[:, 1:] + shift
        position = torch.div(moved, steps, rounding_mode="floor")
        rows = ((moved % steps == 0) & (position >= 0) & (position < extent)).all(1).nonzero().flatten()
        yield rows, _linear(torch.cat([indices[rows, :1], position[rows]], 1), out_shape)


def build_subm_map(
    indices: torch.Tensor, shape: Sequence[int], batch_size: int, kernel_size: Sequence[int], dilation: Sequence[int]
) -> ReferenceMap:
    """As ``kernel_map.build_subm_map``."""
    _check(indices, shape, batch_size)
    ascending, order = _linear(indices, shape).sort()
    padding = [k // 2 * d for k, d in zip(kernel_size, dilation)]
    pairs = []
    for rows, keys in _reached(indices, kernel_size, [1] * len(shape), padding, dilation, shape):
        index = torch.searchsorted(ascending, keys).clamp(max=max(len(ascending) - 1, 0))
        is_active = ascending[index] == keys
        pairs.append((rows[is_active], order[index[is_active]]))
    return ReferenceMap(
        MapGeometry(tuple(kernel_size), tuple(dilation), list(shape), list(shape), indices, indices, True), pairs
    )


def build_conv_map(
    indices: torch.Tensor,
    shape: Sequence[int],
    batch_size: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> ReferenceMap:
    """As ``kernel_map.build_conv_map``."""
    out_shape = conv_output_shape(shape, kernel_size, stride, padding, dilation)
    _check(indices, shape, batch_size)
    reached = list(_reached(indices, kernel_size, stride, padding, dilation, out_shape))
    return _with_outputs(reached, kernel_size, dilation, shape, out_shape, indices)


def build_transposed_map(
    indices: torch.Tensor,
    shape: Sequence[int],
    batch_size: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> ReferenceMap:
    """As ``kernel_map.build_transposed_map``."""
    out_shape = transposed_output_shape(shape, kernel_size, stride, padding, dilation)
    _check(indices, shape, batch_size)
    origin = indices[:, 1:] * indices.new_tensor(stride) - indices.new_tensor(padding)
    extent, reached = indices.new_tensor(out_shape), []
    for offset in itertools.product(*[range(k) for k in kernel_size]):
        position = origin + indices.new_tensor([o * d for o, d in zip(offset, dilation)])
        rows = ((position >= 0) & (position < extent)).all(1).nonzero().flatten()
        reached.append((rows, _linear(torch.cat([indices[rows, :1], position[rows]], 1), out_shape)))
    return _with_outputs(reached, kernel_size, dilation, shape, out_shape, indices)


def _with_outputs(
    reached: Sequence[tuple[torch.Tensor, torch.Tensor]],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    shape: Sequence[int],
    out_shape: list[int],
    indices: torch.Tensor,
) -> ReferenceMap:
    """The map whose outputs are all cells reached, sorted by (batch, *position)."""
    out_keys = torch.unique(torch.cat([keys for _, keys in reached]))
    pairs = [(rows, torch.searchsorted(out_keys, keys)) for rows, keys in reached]
    columns, rest = [], out_keys
    for n in reversed(out_shape):
        columns.append(rest % n)
        rest = torch.div(rest, n, rounding_mode="floor")
    out_indices = torch.stack([rest, *reversed(columns)], 1).int()
    return ReferenceMap(
        MapGeometry(tuple(kernel_size), tuple(dilation), list(shape), out_shape, indices, out_indices, False), pairs
    )


def sparse_conv(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, kernel_map: ReferenceMap
) -> torch.Tensor:
    """(n_out, out) features; ``weight`` is (out, *kernel, in). Differentiable in all three tensors, to any order."""
    out = features.new_zeros((len(kernel_map.geometry.out_indices), weight.shape[0]))
    by_offset = weight.flatten(1, -2)  # (out, K, in)
    for k, (rows_in, rows_out) in enumerate(kernel_map.pairs):
        out = out.index_add(0, rows_out, features[rows_in] @ by_offset[:, k].T)
    return out if bias is None else out + bias
