"""Kernel maps (rulebooks): which input row meets which output row at which kernel offset.

Everything works on sorted keys. A voxel's key is its linear index (batch, z, y, x), so for one kernel offset the
neighbours of ascending keys are ascending too, and a walk with two fingers finds all of them: no hash table, no grid.
Memory and time are proportional to the number of voxels times the kernel volume, whatever the size of the scene.

Rows keep the order in which the caller gave them; "rank" below is a row's place in the sorted order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import torch

from ...errors import InputError
from ..threads import parallel_for
from . import reference
from .geometry import MapGeometry, conv_output_shape

# output rows of a block: 64 kB of 64 float32 channels, so that a block and the weights of an offset stay in the L2
# cache
BLOCK_ROWS = 256


@dataclass(frozen=True)
class Pairs:
    """Pairs (input row, output row), ordered by block of output ranks, then kernel offset, then output rank.

    ``segments[b, k] : segments[b, k + 1]`` are the pairs of offset k in block b; ``out_rows[rank]`` is the output row
    of a rank.
    """

    o_idx: np.ndarray  # (P,) int32
    i_idx: np.ndarray  # (P,) int32
    segments: np.ndarray  # (blocks, K + 1) int64
    out_rows: np.ndarray  # (n_out,) int32
    n_out: int
    block: int


class KernelMap:
    """All pairs of one sparse convolution; the arrangement that the backward pass needs is made when it is first asked
    for.

    ``in_table[k, rank of input]`` is the output row, -1 without one, and ``in_rows`` the input row of a rank (for
    regular convolutions).
    """

    def __init__(
        self,
        geometry: MapGeometry,
        forward_pairs: Pairs,
        in_table: np.ndarray | None = None,
        in_rows: np.ndarray | None = None,
    ):
        self.geometry = geometry
        self.forward_pairs = forward_pairs
        self._in_table, self._in_rows = in_table, in_rows
        self._backward_pairs: Pairs | None = None

    def backward_pairs(self) -> tuple[Pairs, bool]:
        """(pairs with the roles of input and output exchanged, whether their offsets count backwards)."""
        if self._backward_pairs is None:
            # submanifold, odd kernel: o meets i at offset k where i meets o at offset K - 1 - k, so the same list
            # serves with mirrored weights
            if self._in_table is None:
                return self.forward_pairs, True
            self._backward_pairs = _arrange(self._in_table, self._in_rows, self.forward_pairs.out_rows)
            self._in_table = None
        return self._backward_pairs, False

    def all_pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(P,) input rows and (P,) output rows of all offsets together."""
        pairs = self.forward_pairs
        return torch.from_numpy(pairs.i_idx).long(), torch.from_numpy(pairs.o_idx).long()

    def inverse(self) -> KernelMap:
        """The map of the inverse convolution, from this one's outputs back to its inputs."""
        back = KernelMap(self.geometry.inverse(), self.backward_pairs()[0])
        back._backward_pairs = self.forward_pairs
        return back


@numba.njit(cache=True, nogil=True)
def _linear_keys(indices, shape, margin, batch_size):
    """(keys, first row outside the grid or -1, whether the keys ascend strictly); ``margin`` empty cells surround every
    axis.
    """
    rows = indices.shape[0]
    keys = np.empty(rows, np.int64)
    ascending = True
    for n in range(rows):
        key = np.int64(indices[n, 0])
        if key < 0 or key >= batch_size:
            return keys, n, ascending
        for d in range(3):
            c = indices[n, d + 1]
            if c < 0 or c >= shape[d]:
                return keys, n, ascending
            key = key * (shape[d] + 2 * margin[d]) + c + margin[d]
        keys[n] = key
        if n > 0 and key <= keys[n - 1]:
            ascending = False
    return keys, -1, ascending


@numba.njit(cache=True, nogil=True)
def _first_repeat(keys):
    for n in range(1, keys.shape[0]):
        if keys[n] == keys[n - 1]:
            return n
    return -1


@numba.njit(cache=True, nogil=True)
def _fill_subm_table(table, keys, steps, first, last):
    """table[k, o] = rank of the voxel at offset k of voxel o, or -1, for the offsets first .. last - 1 below the centre
    and their mirror images.

    ``steps[k]`` is what offset k adds to a key; it is negative, so that the neighbour stands before.
    """
    half, n = steps.shape[0], keys.shape[0]
    for k in range(first, last):
        table[k], table[2 * half - k] = -1, -1
        step, finger = steps[k], 0
        for rank in range(n):
            key = keys[rank] + step
            while keys[finger] < key:
                finger += 1
            if keys[finger] == key:
                table[k, rank] = finger
                table[2 * half - k, finger] = rank


@numba.njit(cache=True, nogil=True)
def _fill_candidates(keys, ranks, count, indices, order, kernel, stride, padding, dilation, out_shape, first, last):
    """For the planes first .. last - 1 of the kernel, the outputs that the inputs reach at every offset k: ``keys[k,
    :count[k]]`` (ascending) and the ``ranks`` of those inputs; ``order[rank]`` is a row."""
    for kz in range(first, last):
        count[kz * kernel[1] * kernel[2] : (kz + 1) * kernel[1] * kernel[2]] = 0
        for rank in range(indices.shape[0]):
            row = order[rank]
            z = indices[row, 1] + padding[0] - kz * dilation[0]
            if z < 0 or z % stride[0] != 0 or z // stride[0] >= out_shape[0]:
                continue
            key_z = np.int64(indices[row, 0]) * out_shape[0] + z // stride[0]
            for ky in range(kernel[1]):
                y = indices[row, 2] + padding[1] - ky * dilation[1]
                if y < 0 or y % stride[1] != 0 or y // stride[1] >= out_shape[1]:
                    continue
                key_y = key_z * out_shape[1] + y // stride[1]
                for kx in range(kernel[2]):
                    x = indices[row, 3] + padding[2] - kx * dilation[2]
                    if x < 0 or x % stride[2] != 0 or x // stride[2] >= out_shape[2]:
                        continue
                    k = (kz * kernel[1] + ky) * kernel[2] + kx
                    keys[k, count[k]] = key_y * out_shape[2] + x // stride[2]
                    ranks[k, count[k]] = rank
                    count[k] += 1


@numba.njit(cache=True, nogil=True)
def _gather_keys(keys, count):
    everything, p = np.empty(count.sum(), np.int64), 0
    for k in range(keys.shape[0]):
        everything[p : p + count[k]] = keys[k, : count[k]]
        p += count[k]
    return everything


@numba.njit(cache=True, nogil=True)
def _distinct(ascending, shape):
    """Distinct keys and their (batch, z, y, x)."""
    keys, n = np.empty_like(ascending), 0
    for p in range(ascending.shape[0]):
        if n == 0 or ascending[p] != keys[n - 1]:
            keys[n] = ascending[p]
            n += 1
    indices = np.empty((n, 4), np.int32)
    for row in range(n):
        rest = keys[row]
        for d in (2, 1, 0):
            indices[row, d + 1] = rest % shape[d]
            rest //= shape[d]
        indices[row, 0] = rest
    return keys[:n].copy(), indices


@numba.njit(cache=True, nogil=True)
def _fill_tables(out_table, in_table, keys, ranks, count, out_keys, first, last):
    """out_table[k, o] = input rank or -1, and in_table[k, i] = output row or -1, for the offsets first .. last - 1."""
    for k in range(first, last):
        out_table[k], in_table[k] = -1, -1
        finger = 0
        for p in range(count[k]):
            key = keys[k, p]
            while out_keys[finger] < key:
                finger += 1
            out_table[k, finger] = ranks[k, p]
            in_table[k, ranks[k, p]] = finger


@numba.njit(cache=True, nogil=True)
def _count_pairs(counts, table, block, first, last):
    for b in range(first, last):
        for k in range(table.shape[0]):
            count = 0
            for rank in range(b * block, min((b + 1) * block, table.shape[1])):
                count += table[k, rank] >= 0
            counts[b, k] = count


@numba.njit(cache=True, nogil=True)
def _fill_pairs(o_idx, i_idx, segments, table, out_rows, in_rows, block, first, last):
    # one spare, so that the inner loop needs no branch
    o_buffer, i_buffer = np.empty(block + 1, np.int32), np.empty(block + 1, np.int32)
    for b in range(first, last):
        for k in range(table.shape[0]):
            count = 0
            for rank in range(b * block, min((b + 1) * block, table.shape[1])):
                other = table[k, rank]
                o_buffer[count] = out_rows[rank]
                i_buffer[count] = in_rows[max(other, 0)]
                count += other >= 0
            start = segments[b, k]
            for p in range(count):
                o_idx[start + p], i_idx[start + p] = o_buffer[p], i_buffer[p]


def _arrange(table: np.ndarray, out_rows: np.ndarray, in_rows: np.ndarray) -> Pairs:
    """The pairs of ``table[k, rank of output]`` = rank of input or -1, as row numbers in the order that the convolution
    wants.
    """
    volume, n = table.shape
    blocks = -(-n // BLOCK_ROWS)
    counts = np.empty((blocks, volume), np.int64)
    parallel_for(lambda first, last: _count_pairs(counts, table, BLOCK_ROWS, first, last), blocks)
    ends = np.cumsum(counts).reshape(blocks, volume)
    segments = np.concatenate([ends[:, :1] - counts[:, :1], ends], 1)
    total = int(counts.sum())
    o_idx, i_idx = np.empty(total, np.int32), np.empty(total, np.int32)
    parallel_for(
        lambda first, last: _fill_pairs(o_idx, i_idx, segments, table, out_rows, in_rows, BLOCK_ROWS, first, last),
        blocks,
    )
    return Pairs(o_idx, i_idx, segments, out_rows, n, BLOCK_ROWS)


def _three(values: Sequence[int], fill: int) -> np.ndarray:
    """A value for each of three axes; the missing leading ones of a 1-D or 2-D convolution get ``fill``."""
    return np.array([fill] * (3 - len(values)) + [int(v) for v in values], np.int64)


def _sorted_rows(
    indices: torch.Tensor, shape: Sequence[int], batch_size: int, margin: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """((N, 4) indices, keys in ascending order, row of each rank).

    Raises:
        InputError: an index outside the grid or the batch, or two rows with the same voxel.
    """
    rows = indices.numpy()
    if rows.shape[1] < 4:
        rows = np.concatenate([rows[:, :1], np.zeros((len(rows), 4 - rows.shape[1]), rows.dtype), rows[:, 1:]], 1)
    rows = np.ascontiguousarray(rows, np.int32)
    keys, bad, ascending = _linear_keys(rows, _three(shape, 1), margin, batch_size)
    if bad >= 0:
        raise InputError(
            f"sparse convolution: row {bad} of the indices is {indices[bad].tolist()}, outside batch size "
            f"{batch_size} and "
            f"spatial shape {list(shape)}; each row is (batch, *position), counted from 0"
        )
    if ascending:
        return rows, keys, np.arange(len(keys), dtype=np.int32)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    repeat = _first_repeat(keys)
    if repeat >= 0:
        raise InputError(
            f"sparse convolution: rows {order[repeat - 1]} and {order[repeat]} of the indices are the same voxel "
            f"{indices[int(order[repeat])].tolist()}; every voxel may occur once (merge the features first)"
        )
    return rows, keys, order.astype(np.int32)


def build_subm_map(
    indices: torch.Tensor, shape: Sequence[int], batch_size: int, kernel_size: Sequence[int], dilation: Sequence[int]
) -> KernelMap:
    """The map of a submanifold convolution: outputs are the inputs, offset k of output o is the voxel at o + (k -
    centre) * dilation.

    Args:
        indices: (N, 1 + ndim) int32 on the CPU, (batch, *position), any order.
        shape: cells of each axis. kernel_size: one number for each axis; the centre of an even one is its half.

    Raises:
        InputError: an index outside the grid, or a voxel that occurs twice.
    """
    if len(shape) > 3 or any(k % 2 == 0 for k in kernel_size):
        return _from_reference(reference.build_subm_map(indices, shape, batch_size, kernel_size, dilation))
    kernel, spread = _three(kernel_size, 1), _three(dilation, 1)
    margin = kernel // 2 * spread
    _, keys, rows = _sorted_rows(indices, shape, batch_size, margin)
    wide = _three(shape, 1) + 2 * margin
    offsets = np.stack(np.meshgrid(*[np.arange(k) for k in kernel], indexing="ij"), -1).reshape(-1, 3) * spread - margin
    steps = (offsets[:, 0] * wide[1] + offsets[:, 1]) * wide[2] + offsets[:, 2]
    half = len(steps) // 2
    table = np.empty((len(steps), len(keys)), np.int32)
    table[half] = np.arange(len(keys))
    parallel_for(lambda first, last: _fill_subm_table(table, keys, steps[:half], first, last), half)
    pairs = _arrange(table, rows, rows)
    return KernelMap(
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
) -> KernelMap:
    """The map of a regular sparse convolution: an output stands wherever at least one input falls under the kernel.

    Output rows are sorted by (batch, *position). Arguments and errors as for ``build_subm_map``.
    """
    if len(shape) > 3:
        return _from_reference(
            reference.build_conv_map(indices, shape, batch_size, kernel_size, stride, padding, dilation)
        )
    out_shape = conv_output_shape(shape, kernel_size, stride, padding, dilation)
    rows3, _, rows = _sorted_rows(indices, shape, batch_size, np.zeros(3, np.int64))
    kernel, volume = _three(kernel_size, 1), int(np.prod(kernel_size))
    keys, ranks, count = (
        np.empty((volume, len(rows)), np.int64),
        np.empty((volume, len(rows)), np.int32),
        np.empty(volume, np.int64),
    )
    settings = (kernel, _three(stride, 1), _three(padding, 0), _three(dilation, 1), _three(out_shape, 1))
    parallel_for(
        lambda first, last: _fill_candidates(keys, ranks, count, rows3, rows, *settings, first, last), int(kernel[0])
    )
    everything = _gather_keys(keys, count)
    everything.sort()
    out_keys, out_indices = _distinct(everything, _three(out_shape, 1))
    out_table, in_table = np.empty((volume, len(out_keys)), np.int32), np.empty((volume, len(rows)), np.int32)
    parallel_for(
        lambda first, last: _fill_tables(out_table, in_table, keys, ranks, count, out_keys, first, last), volume
    )
    pairs = _arrange(out_table, np.arange(len(out_keys), dtype=np.int32), rows)
    ndim = indices.shape[1] - 1
    out_indices = (
        np.ascontiguousarray(np.concatenate([out_indices[:, :1], out_indices[:, 4 - ndim :]], 1))
        if ndim < 3
        else out_indices
    )
    geometry = MapGeometry(
        tuple(kernel_size), tuple(dilation), list(shape), out_shape, indices, torch.from_numpy(out_indices), False
    )
    return KernelMap(geometry, pairs, in_table, rows)


def build_transposed_map(
    indices: torch.Tensor,
    shape: Sequence[int],
    batch_size: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> KernelMap:
    """The map of a transposed convolution: an output stands at ``position_i * stride - padding + k * dilation`` of
    every input i and offset k, sorted by (batch, *position). Arguments and errors as for ``build_subm_map``.
    """
    return _from_reference(
        reference.build_transposed_map(indices, shape, batch_size, kernel_size, stride, padding, dilation)
    )


def _from_reference(found: reference.ReferenceMap) -> KernelMap:
    """The same map for the fast convolution, of what has no fast builder: 4-D, even submanifold, transposed."""
    n_in, n_out = len(found.geometry.in_indices), len(found.geometry.out_indices)
    out_table, in_table = (np.full((len(found.pairs), n), -1, np.int32) for n in (n_out, n_in))
    for k, (rows_in, rows_out) in enumerate(found.pairs):
        out_table[k, rows_out.numpy()] = rows_in.numpy()
        in_table[k, rows_in.numpy()] = rows_out.numpy()
    in_rows = np.arange(n_in, dtype=np.int32)
    return KernelMap(found.geometry, _arrange(out_table, np.arange(n_out, dtype=np.int32), in_rows), in_table, in_rows)
