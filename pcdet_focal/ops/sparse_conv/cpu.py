"""Sparse convolution on a CPU: one fused gather-multiply-scatter kernel for each of forward, input gradient and weight
gradient.

For every pair (input row i, output row o) of kernel offset k the forward pass is ``out[o] += features[i] @ weight[k]``.
Gathering the rows, calling a matrix product and scattering the result moves three times the memory that the product
needs; here a register tile of some output rows by some channels is held in vector registers while the input channels
run past it, reading ``features[i]`` where it lies and adding to ``out[o]`` where it lies. Output rows are handled in
blocks that fit the L2 cache, all offsets of a block before the next block.

The register tiles are LLVM vectors of 64 bytes written out with llvmlite (numba's own vectoriser cannot keep an
accumulator array in registers); LLVM lowers them to whatever the processor has. Results do not depend on the number of
threads: a block of output rows (an offset and a few input channels, for the weight gradient) is always summed by one
thread, in one order.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.binding
import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..threads import parallel_for
from .kernel_map import KernelMap, Pairs, build_conv_map, build_subm_map, build_transposed_map

__all__ = ["build_conv_map", "build_subm_map", "build_transposed_map", "convolve", "sparse_conv", "weight_gradient"]

# 32 registers of 64 bytes: room for 16 accumulators
_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
_VECTOR_BYTES = 64
_I64 = types.int64


def _element(one: types.Float) -> tuple[ir.Type, int]:
    """(LLVM type, bytes) of a numba float type."""
    return (ir.FloatType(), 4) if one.bitwidth == 32 else (ir.DoubleType(), 8)


class _Memory:
    """Loads and stores at ``address + element * size`` for one element type, as LLVM instructions."""

    def __init__(self, builder: ir.IRBuilder, one: types.Float):
        self.builder = builder
        self.element, self.size = _element(one)
        self.lanes = _VECTOR_BYTES // self.size
        self.vector = ir.VectorType(self.element, self.lanes)
        self.i64 = ir.IntType(64)

    def const(self, value: int) -> ir.Constant:
        return ir.Constant(self.i64, value)

    def at(self, base: ir.Value, element: ir.Value) -> ir.Value:
        return self.builder.add(base, self.builder.mul(element, self.const(self.size)))

    def index(self, base: ir.Value, position: ir.Value) -> ir.Value:
        """The int32 at ``base[position]``, widened."""
        address = self.builder.add(base, self.builder.mul(position, self.const(4)))
        return self.builder.sext(
            self.builder.load(self.builder.inttoptr(address, ir.IntType(32).as_pointer()), align=4), self.i64
        )

    def vector_pointer(self, address: ir.Value, v: int) -> ir.Value:
        return self.builder.inttoptr(self.builder.add(address, self.const(v * _VECTOR_BYTES)), self.vector.as_pointer())

    def load(self, address: ir.Value, v: int) -> ir.Value:
        return self.builder.load(self.vector_pointer(address, v), align=self.size)

    def store(self, value: ir.Value, address: ir.Value, v: int) -> None:
        self.builder.store(value, self.vector_pointer(address, v), align=self.size)

    def splat(self, address: ir.Value) -> ir.Value:
        scalar = self.builder.load(self.builder.inttoptr(address, self.element.as_pointer()), align=self.size)
        undefined, i32 = ir.Constant(self.vector, ir.Undefined), ir.IntType(32)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(i32, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(i32, self.lanes), None))

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        return self.builder.fadd(self.builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


class _Rows:
    """A tile of ``out[o_idx[p], :] += inp[i_idx[p], :] @ weight`` for the pairs p; its steps run over the depth."""

    def __init__(self, m: _Memory, out, inp, weight, o_idx, i_idx, pos, zero, depth, width, rows: int):
        self.m, self.weight, self.width = m, weight, width
        self.sums, self.inputs = [], []
        for r in range(rows):
            pair = m.builder.add(pos, m.const(r))
            self.sums.append(m.at(out, m.builder.mul(m.index(o_idx, pair), width)))
            self.inputs.append(m.at(inp, m.builder.mul(m.index(i_idx, pair), depth)))

    def step(self, d: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
        return self.m.at(self.weight, self.m.builder.mul(d, self.width)), [self.m.at(row, d) for row in self.inputs]


class _Channels:
    """A tile of ``grad_weight[c, :] += sum over the pairs of inp[i, c] * grad_out[o, :]``; its steps are the pairs."""

    def __init__(self, m: _Memory, grad_weight, inp, grad_out, o_idx, i_idx, channel, start, depth, width, rows: int):
        self.m, self.grad_out, self.o_idx, self.i_idx, self.depth, self.width = m, grad_out, o_idx, i_idx, depth, width
        self.rows, self.inp, self.start = rows, m.at(inp, channel), start
        self.sums = [m.at(grad_weight, m.builder.mul(m.builder.add(channel, m.const(r)), width)) for r in range(rows)]

    def step(self, n: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
        m, pair = self.m, self.m.builder.add(self.start, n)
        row = m.at(self.inp, m.builder.mul(m.index(self.i_idx, pair), self.depth))
        return (
            m.at(self.grad_out, m.builder.mul(m.index(self.o_idx, pair), self.width)),
            [m.at(row, m.const(r)) for r in range(self.rows)],
        )


def _tile(kind: type, rows: int, vectors: int) -> Callable:
    """Intrinsic: in each step, a vector row times each of ``rows`` scalars is added to that scalar's sums.

    The arguments of the intrinsic are one number of the element type, the addresses of the sums, scalars and vectors
    and of ``o_idx`` and ``i_idx``, the first row of the tile, the first step, the number of steps, depth and width.
    """

    @intrinsic
    def tile(typingctx, one, sums, scalars, vectors_at, o_idx, i_idx, first, start, steps, depth, width):
        def codegen(context, builder, signature, args):
            m = _Memory(builder, signature.args[0])
            _, *places, start_, steps_, depth_, width_ = args
            rule = kind(m, *places, start_, depth_, width_, rows)
            sums = [[cgutils.alloca_once_value(builder, m.load(row, v)) for v in range(vectors)] for row in rule.sums]
            with cgutils.for_range(builder, steps_) as loop:
                vector_row, scalar_at = rule.step(loop.index)
                w = [m.load(vector_row, v) for v in range(vectors)]
                for row, address in zip(sums, scalar_at):
                    scalar = m.splat(address)
                    for v in range(vectors):
                        builder.store(m.multiply_add(scalar, w[v], builder.load(row[v])), row[v])
            for row, address in zip(sums, rule.sums):
                for v in range(vectors):
                    m.store(builder.load(row[v]), address, v)
            return context.get_dummy_value()

        return types.void(one, *[_I64] * 10), codegen

    return tile


def _strip(kind: type) -> Callable:
    """Function: the rows first .. last - 1 of a strip of columns, in the largest tiles that fit; returns its
    vectors.
    """
    tile_4x4, tile_1x4, tile_8x2, tile_1x2 = _tile(kind, 4, 4), _tile(kind, 1, 4), _tile(kind, 8, 2), _tile(kind, 1, 2)
    tile_8x1, tile_4x1, tile_1x1 = _tile(kind, 8, 1), _tile(kind, 4, 1), _tile(kind, 1, 1)

    @numba.njit
    def strip(one, vectors_left, sums, scalars, vectors, o_idx, i_idx, first, last, start, steps, depth, width):
        r = first
        if _WIDE and vectors_left >= 4:
            while r + 4 <= last:
                tile_4x4(one, sums, scalars, vectors, o_idx, i_idx, r, start, steps, depth, width)
                r += 4
            while r < last:
                tile_1x4(one, sums, scalars, vectors, o_idx, i_idx, r, start, steps, depth, width)
                r += 1
            return 4
        if _WIDE and vectors_left >= 2:
            while r + 8 <= last:
                tile_8x2(one, sums, scalars, vectors, o_idx, i_idx, r, start, steps, depth, width)
                r += 8
            while r < last:
                tile_1x2(one, sums, scalars, vectors, o_idx, i_idx, r, start, steps, depth, width)
                r += 1
            return 2
        while _WIDE and r + 8 <= last:
            tile_8x1(one, sums, scalars, vectors, o_idx, i_idx, r, start, steps, depth, width)
            r += 8
        while r + 4 <= last:
            tile_4x1(one, sums, scalars, vectors, o_idx, i_idx, r, start, steps, depth, width)
            r += 4
        while r < last:
            tile_1x1(one, sums, scalars, vectors, o_idx, i_idx, r, start, steps, depth, width)
            r += 1
        return 1

    return strip


_strip_of_rows, _strip_of_channels = _strip(_Rows), _strip(_Channels)


@numba.njit(cache=True, nogil=True)
def _accumulate(out, inp, weight, bias, o_idx, i_idx, segments, out_rows, block, first, last):
    """``out[o] = bias + sum over pairs of inp[i] @ weight[k]`` for the output blocks first .. last - 1 (``weight`` is
    (K, depth, width)).
    """
    one = weight.dtype.type(1)
    lanes = _VECTOR_BYTES // weight.itemsize
    offsets, depth, width = weight.shape
    out_at, inp_at, weight_at = np.int64(out.ctypes.data), np.int64(inp.ctypes.data), np.int64(weight.ctypes.data)
    o_at, i_at = np.int64(o_idx.ctypes.data), np.int64(i_idx.ctypes.data)
    for b in range(first, last):
        for rank in range(b * block, min((b + 1) * block, out.shape[0])):
            out[out_rows[rank]] = bias
        for k in range(offsets):
            start, stop = np.int64(segments[b, k]), np.int64(segments[b, k + 1])
            v = 0
            while v < width // lanes:
                o, w = out_at + v * _VECTOR_BYTES, weight_at + k * depth * width * weight.itemsize + v * _VECTOR_BYTES
                left = width // lanes - v
                v += _strip_of_rows(one, left, o, inp_at, w, o_at, i_at, start, stop, 0, depth, depth, width)


@numba.njit(cache=True, nogil=True)
def _accumulate_weight(grad_weight, inp, grad_out, i_idx, o_idx, segments, share, first, last):
    """``grad_weight[k, c] = sum over the pairs of k of inp[i, c] * grad_out[o]``; task t is offset t // shares and one
    share of the channels c.
    """
    one = grad_weight.dtype.type(1)
    _, depth, width = grad_weight.shape
    lanes = _VECTOR_BYTES // grad_weight.itemsize
    shares = (depth + share - 1) // share
    weight_at, inp_at = np.int64(grad_weight.ctypes.data), np.int64(inp.ctypes.data)
    grad_at, o_at, i_at = np.int64(grad_out.ctypes.data), np.int64(o_idx.ctypes.data), np.int64(i_idx.ctypes.data)
    for task in range(first, last):
        k, channel0 = task // shares, (task % shares) * share
        channel1 = min(channel0 + share, depth)
        grad_weight[k, channel0:channel1] = 0
        for b in range(segments.shape[0]):
            start, stop = np.int64(segments[b, k]), np.int64(segments[b, k + 1])
            v = 0 if stop > start else width
            while v < width // lanes:
                w = weight_at + k * depth * width * grad_weight.itemsize + v * _VECTOR_BYTES
                g, left, pairs = grad_at + v * _VECTOR_BYTES, width // lanes - v, stop - start
                v += _strip_of_channels(
                    one, left, w, inp_at, g, o_at, i_at, channel0, channel1, start, pairs, depth, width
                )


def _padded(array: torch.Tensor, lanes: int) -> np.ndarray:
    """The tensor as a contiguous numpy array whose last axis is a whole number of vectors (zeros behind it)."""
    missing = -array.shape[-1] % lanes
    if missing:
        array = torch.nn.functional.pad(array, (0, missing))
    return array.contiguous().numpy()


def convolve(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, pairs: Pairs) -> torch.Tensor:
    """out (n_out, width) = bias + sum over the pairs (i, o) of every offset k of features[i] @ weight[k]; weight is (K,
    depth, width).

    Tensors are float32 or float64 on the CPU, all of one dtype. No autograd: see ``SparseConvFunction``.
    """
    width = weight.shape[2]
    lanes = _VECTOR_BYTES // weight.element_size()
    wide_weight = _padded(weight, lanes)
    wide_bias = _padded(torch.zeros(width, dtype=weight.dtype) if bias is None else bias, lanes)
    out = torch.empty((pairs.n_out, wide_weight.shape[2]), dtype=weight.dtype)
    out_, features_ = out.numpy(), features.contiguous().numpy()
    parallel_for(
        lambda first, last: _accumulate(
            out_,
            features_,
            wide_weight,
            wide_bias,
            pairs.o_idx,
            pairs.i_idx,
            pairs.segments,
            pairs.out_rows,
            pairs.block,
            first,
            last,
        ),
        pairs.segments.shape[0],
    )
    return out if out.shape[1] == width else out[:, :width].contiguous()


def weight_gradient(features: torch.Tensor, grad_out: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """(K, depth, width): for every offset the sum over its pairs (i, o) of the outer product features[i] x
    grad_out[o].
    """
    depth, width = features.shape[1], grad_out.shape[1]
    lanes = _VECTOR_BYTES // grad_out.element_size()
    wide_grad = _padded(grad_out, lanes)
    offsets = pairs.segments.shape[1] - 1
    out = torch.empty((offsets, depth, wide_grad.shape[1]), dtype=grad_out.dtype)
    out_, features_, share = out.numpy(), features.contiguous().numpy(), 16
    parallel_for(
        lambda first, last: _accumulate_weight(
            out_, features_, wide_grad, pairs.i_idx, pairs.o_idx, pairs.segments, share, first, last
        ),
        offsets * -(-depth // share),
    )
    return out[:, :, :width]


class SparseConvFunction(torch.autograd.Function):
    """Sparse convolution with gradients to features (n_in, in), weight (out, *kernel, in) and bias (out)."""

    @staticmethod
    def forward(
        ctx, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, kernel_map: KernelMap
    ) -> torch.Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        by_offset = weight.detach().flatten(1, -2).permute(1, 2, 0)  # (K, in, out)
        return convolve(features.detach(), by_offset, None if bias is None else bias.detach(), kernel_map.forward_pairs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out: torch.Tensor):
        features, weight = ctx.saved_tensors
        grad_features = grad_weight = grad_bias = None
        grad_out = grad_out.contiguous()
        if ctx.needs_input_grad[0]:
            pairs, mirrored = ctx.kernel_map.backward_pairs()
            by_offset = weight.flatten(1, -2).permute(1, 0, 2)  # (K, out, in)
            grad_features = convolve(grad_out, by_offset.flip(0) if mirrored else by_offset, None, pairs)
        if ctx.needs_input_grad[1]:
            grad_weight = (
                weight_gradient(features, grad_out, ctx.kernel_map.forward_pairs).permute(2, 0, 1).reshape(weight.shape)
            )
        if ctx.needs_input_grad[2]:
            grad_bias = grad_out.sum(0)
        return grad_features, grad_weight, grad_bias, None


def sparse_conv(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, kernel_map: KernelMap
) -> torch.Tensor:
    """(n_out, out) features; ``weight`` is (out, *kernel, in). Half precision tensors are computed in float32 and
    returned in their own type.
    """
    if features.dtype in (torch.float16, torch.bfloat16):
        return sparse_conv(features.float(), weight.float(), None if bias is None else bias.float(), kernel_map).to(
            features.dtype
        )
    return SparseConvFunction.apply(features, weight, bias, kernel_map)
