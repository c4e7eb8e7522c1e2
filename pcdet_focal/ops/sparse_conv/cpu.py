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
from .kernel_map import KernelMap, Pairs, build_conv_map, build_subm_map

__all__ = ["build_conv_map", "build_subm_map", "convolve", "sparse_conv", "weight_gradient"]

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


def _row_tile(rows: int, vectors: int) -> Callable:
    """Intrinsic: ``out[o_idx[pos + r], :] += inp[i_idx[pos + r], :] @ weight`` for r < rows, over vectors * 64 bytes of
    output channels.
    """

    @intrinsic
    def tile(typingctx, one, out, inp, weight, o_idx, i_idx, pos, depth, out_stride, inp_stride, weight_stride):
        def codegen(context, builder, signature, args):
            m = _Memory(builder, signature.args[0])
            _, out_, inp_, weight_, o_idx_, i_idx_, pos_, depth_, out_stride_, inp_stride_, weight_stride_ = args
            out_rows, inp_rows, sums = [], [], []
            for r in range(rows):
                place = builder.add(pos_, m.const(r))
                out_rows.append(m.at(out_, builder.mul(m.index(o_idx_, place), out_stride_)))
                inp_rows.append(m.at(inp_, builder.mul(m.index(i_idx_, place), inp_stride_)))
                sums.append([cgutils.alloca_once_value(builder, m.load(out_rows[r], v)) for v in range(vectors)])
            with cgutils.for_range(builder, depth_) as loop:
                weight_row = m.at(weight_, builder.mul(loop.index, weight_stride_))
                w = [m.load(weight_row, v) for v in range(vectors)]
                for r in range(rows):
                    a = m.splat(m.at(inp_rows[r], loop.index))
                    for v in range(vectors):
                        builder.store(m.multiply_add(a, w[v], builder.load(sums[r][v])), sums[r][v])
            for r in range(rows):
                for v in range(vectors):
                    m.store(builder.load(sums[r][v]), out_rows[r], v)
            return context.get_dummy_value()

        return types.void(one, *[_I64] * 10), codegen

    return tile


def _weight_tile(rows: int, vectors: int) -> Callable:
    """Intrinsic: ``grad_weight[r, :] += sum over pairs of inp[i, r] * grad_out[o, :]`` for r < rows, over vectors * 64
    bytes of channels.
    """

    @intrinsic
    def tile(
        typingctx, one, grad_weight, inp, grad_out, i_idx, o_idx, start, stop, weight_stride, inp_stride, out_stride
    ):
        def codegen(context, builder, signature, args):
            m = _Memory(builder, signature.args[0])
            (
                _,
                grad_weight_,
                inp_,
                grad_out_,
                i_idx_,
                o_idx_,
                start_,
                stop_,
                weight_stride_,
                inp_stride_,
                out_stride_,
            ) = args
            weight_rows = [m.at(grad_weight_, builder.mul(m.const(r), weight_stride_)) for r in range(rows)]
            sums = [
                [cgutils.alloca_once_value(builder, m.load(weight_rows[r], v)) for v in range(vectors)]
                for r in range(rows)
            ]
            with cgutils.for_range(builder, builder.sub(stop_, start_)) as loop:
                place = builder.add(start_, loop.index)
                out_row = m.at(grad_out_, builder.mul(m.index(o_idx_, place), out_stride_))
                inp_row = m.at(inp_, builder.mul(m.index(i_idx_, place), inp_stride_))
                g = [m.load(out_row, v) for v in range(vectors)]
                for r in range(rows):
                    a = m.splat(m.at(inp_row, m.const(r)))
                    for v in range(vectors):
                        builder.store(m.multiply_add(a, g[v], builder.load(sums[r][v])), sums[r][v])
            for r in range(rows):
                for v in range(vectors):
                    m.store(builder.load(sums[r][v]), weight_rows[r], v)
            return context.get_dummy_value()

        return types.void(one, *[_I64] * 10), codegen

    return tile


_row_4x4, _row_8x2, _row_8x1, _row_4x1 = _row_tile(4, 4), _row_tile(8, 2), _row_tile(8, 1), _row_tile(4, 1)
_row_1x4, _row_1x2, _row_1x1 = _row_tile(1, 4), _row_tile(1, 2), _row_tile(1, 1)
_weight_4x4, _weight_8x2, _weight_8x1, _weight_4x1 = (
    _weight_tile(4, 4),
    _weight_tile(8, 2),
    _weight_tile(8, 1),
    _weight_tile(4, 1),
)
_weight_1x4, _weight_1x2, _weight_1x1 = _weight_tile(1, 4), _weight_tile(1, 2), _weight_tile(1, 1)


@numba.njit(cache=True, nogil=True)
def _accumulate(out, inp, weight, bias, o_idx, i_idx, segments, out_rows, block, first, last):
    """``out[o] = bias + sum over pairs of inp[i] @ weight[k]`` for the output blocks first .. last - 1 (``weight`` is
    (K, depth, width)).
    """
    one = weight.dtype.type(1)
    size = weight.itemsize
    lanes = _VECTOR_BYTES // size
    offsets, depth, width = weight.shape
    out_at, inp_at, weight_at = np.int64(out.ctypes.data), np.int64(inp.ctypes.data), np.int64(weight.ctypes.data)
    o_at, i_at = np.int64(o_idx.ctypes.data), np.int64(i_idx.ctypes.data)
    for b in range(first, last):
        for rank in range(b * block, min((b + 1) * block, out.shape[0])):
            out[out_rows[rank]] = bias
        for k in range(offsets):
            start, stop = np.int64(segments[b, k]), np.int64(segments[b, k + 1])
            column = 0
            while column < width:
                p = start
                o, w = out_at + column * size, weight_at + (k * depth * width + column) * size
                left = width - column
                if _WIDE and left >= 4 * lanes:
                    while p + 4 <= stop:
                        _row_4x4(one, o, inp_at, w, o_at, i_at, p, depth, width, depth, width)
                        p += 4
                    while p < stop:
                        _row_1x4(one, o, inp_at, w, o_at, i_at, p, depth, width, depth, width)
                        p += 1
                    column += 4 * lanes
                elif _WIDE and left >= 2 * lanes:
                    while p + 8 <= stop:
                        _row_8x2(one, o, inp_at, w, o_at, i_at, p, depth, width, depth, width)
                        p += 8
                    while p < stop:
                        _row_1x2(one, o, inp_at, w, o_at, i_at, p, depth, width, depth, width)
                        p += 1
                    column += 2 * lanes
                else:
                    while _WIDE and p + 8 <= stop:
                        _row_8x1(one, o, inp_at, w, o_at, i_at, p, depth, width, depth, width)
                        p += 8
                    while p + 4 <= stop:
                        _row_4x1(one, o, inp_at, w, o_at, i_at, p, depth, width, depth, width)
                        p += 4
                    while p < stop:
                        _row_1x1(one, o, inp_at, w, o_at, i_at, p, depth, width, depth, width)
                        p += 1
                    column += lanes


@numba.njit(cache=True, nogil=True)
def _accumulate_weight(grad_weight, inp, grad_out, i_idx, o_idx, segments, share, first, last):
    """``grad_weight[k, c] = sum over the pairs of k of inp[i, c] * grad_out[o]``; task t is offset t // shares and one
    share of the channels c.
    """
    one = grad_weight.dtype.type(1)
    size = grad_weight.itemsize
    lanes = _VECTOR_BYTES // size
    _, depth, width = grad_weight.shape
    shares = (depth + share - 1) // share
    weight_at, inp_at, grad_at = (
        np.int64(grad_weight.ctypes.data),
        np.int64(inp.ctypes.data),
        np.int64(grad_out.ctypes.data),
    )
    o_at, i_at = np.int64(o_idx.ctypes.data), np.int64(i_idx.ctypes.data)
    for task in range(first, last):
        k, channel0 = task // shares, (task % shares) * share
        channel1 = min(channel0 + share, depth)
        grad_weight[k, channel0:channel1] = 0
        for b in range(segments.shape[0]):
            start, stop = np.int64(segments[b, k]), np.int64(segments[b, k + 1])
            if start == stop:
                continue
            column = 0
            while column < width:
                left = width - column
                g, w = grad_at + column * size, weight_at + (k * depth * width + column) * size
                c = channel0
                if _WIDE and left >= 4 * lanes:
                    while c + 4 <= channel1:
                        _weight_4x4(
                            one,
                            w + c * width * size,
                            inp_at + c * size,
                            g,
                            i_at,
                            o_at,
                            start,
                            stop,
                            width,
                            depth,
                            width,
                        )
                        c += 4
                    while c < channel1:
                        _weight_1x4(
                            one,
                            w + c * width * size,
                            inp_at + c * size,
                            g,
                            i_at,
                            o_at,
                            start,
                            stop,
                            width,
                            depth,
                            width,
                        )
                        c += 1
                    column += 4 * lanes
                elif _WIDE and left >= 2 * lanes:
                    while c + 8 <= channel1:
                        _weight_8x2(
                            one,
                            w + c * width * size,
                            inp_at + c * size,
                            g,
                            i_at,
                            o_at,
                            start,
                            stop,
                            width,
                            depth,
                            width,
                        )
                        c += 8
                    while c < channel1:
                        _weight_1x2(
                            one,
                            w + c * width * size,
                            inp_at + c * size,
                            g,
                            i_at,
                            o_at,
                            start,
                            stop,
                            width,
                            depth,
                            width,
                        )
                        c += 1
                    column += 2 * lanes
                else:
                    while _WIDE and c + 8 <= channel1:
                        _weight_8x1(
                            one,
                            w + c * width * size,
                            inp_at + c * size,
                            g,
                            i_at,
                            o_at,
                            start,
                            stop,
                            width,
                            depth,
                            width,
                        )
                        c += 8
                    while c + 4 <= channel1:
                        _weight_4x1(
                            one,
                            w + c * width * size,
                            inp_at + c * size,
                            g,
                            i_at,
                            o_at,
                            start,
                            stop,
                            width,
                            depth,
                            width,
                        )
                        c += 4
                    while c < channel1:
                        _weight_1x1(
                            one,
                            w + c * width * size,
                            inp_at + c * size,
                            g,
                            i_at,
                            o_at,
                            start,
                            stop,
                            width,
                            depth,
                            width,
                        )
                        c += 1
                    column += lanes


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
