"""Numba kernels that several threads run at once and that hand out their tasks themselves: nothing between two tasks
needs the interpreter lock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .threads import run_in_team

LINE = 64  # bytes of a cache line
_WORD = ir.IntType(64)


def arguments_type(name: str, integers: str, floats: str = "") -> type[ctypes.Structure]:
    """A structure of 64-bit integers (addresses among them) and floats, whose first field counts the tasks that are
    taken.

    >>> _Sum = arguments_type("_Sum", "values size", "total")
    >>> _Sum(values=4096, size=3, total=0.5).next_task
    0
    """
    fields = [(field, ctypes.c_int64) for field in ("next_task", *integers.split())] + [
        (field, ctypes.c_double) for field in floats.split()
    ]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


class TeamKernel:
    """``kernel(arguments)``, compiled at once and cached, for every thread of torch's team.

    The kernel takes its tasks with ``next_task`` until there are none left. All threads write to what ``arguments``
    points to, so that each task must have its own place there. What the arguments point to must outlive the call;
    addresses are not checked.
    """

    def __init__(self, kernel: Callable, arguments: type[ctypes.Structure]):
        self._compiled = numba.cfunc(types.void(types.CPointer(numba.from_dtype(np.dtype(arguments)))), cache=True)(
            kernel
        )
        self._member = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._compiled.address)

    def __call__(self, arguments: ctypes.Structure, tasks: int) -> None:
        """Run on torch.get_num_threads() threads, not more than there are tasks."""
        run_in_team(
            self._member, self._compiled.address, ctypes.addressof(arguments), min(torch.get_num_threads(), tasks)
        )


@intrinsic
def next_task(typing_context, arguments):
    """Number of the next task that nobody has taken: the first field of the structure, which grows by one."""

    def code(context, builder, signature, args):
        return _add_one(builder, builder.bitcast(args[0], _WORD.as_pointer()))

    return types.int64(arguments), code


@intrinsic
def count_up(typing_context, address):
    """The int64 at this address, which grows by one. What a thread wrote before, another sees that counts after it."""

    def code(context, builder, signature, args):
        return _add_one(builder, builder.inttoptr(args[0], _WORD.as_pointer()))

    return types.int64(types.int64), code


def _add_one(builder, pointer):
    return builder.atomic_rmw("add", pointer, _WORD(1), "seq_cst")


@intrinsic
def fence(typing_context):
    """What a thread wrote before, another sees that sees what it writes after, and passes a fence of its own."""

    def code(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def _pointer_to(typing_context, address, dtype):
    pointer = types.CPointer(dtype.dtype)

    def code(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(types.int64, dtype), code


@numba.njit
def array_at(address, dtype, shape):
    """The array of this shape, C-contiguous, that begins at an address."""
    return numba.carray(_pointer_to(address, dtype), shape)


def shuffle(size: int, order: Sequence[int]):
    """``function(source, to)``, for compiled code: reads ``size`` floats at the address ``source`` and writes
    ``[source[k] for k in order]`` to ``to``.

    A few permutations of vector registers, where a loop over such indices would go number by number.
    """
    before, after = (ir.VectorType(ir.FloatType(), n) for n in (size, len(order)))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), [ir.IntType(32)(k) for k in order])

    @intrinsic
    def function(typing_context, source, to):
        def code(context, builder, signature, args):
            value = builder.load(builder.inttoptr(args[0], before.as_pointer()), align=4)
            value = builder.shuffle_vector(value, ir.Constant(before, ir.Undefined), mask)
            builder.store(value, builder.inttoptr(args[1], after.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), code

    return function


def mask_64(comparison: str):
    """``function(integers, first)``, for compiled code: one bit for each of 64 integers from ``first`` on, set where
    ``integer <comparison> 0``.
    """

    @intrinsic
    def function(typing_context, integers, first):
        group = ir.VectorType(ir.IntType(integers.dtype.bitwidth), 64)

        def code(context, builder, signature, args):
            begin = builder.gep(context.make_array(integers)(context, builder, args[0]).data, [args[1]])
            values = builder.load(builder.bitcast(begin, group.as_pointer()), align=integers.dtype.bitwidth // 8)
            return builder.bitcast(builder.icmp_signed(comparison, values, ir.Constant(group, [0] * 64)), _WORD)

        return types.int64(integers, types.int64), code

    return function


@intrinsic
def lowest_bit(typing_context, mask):
    """Place of the lowest bit that is set in an int64 that is not 0."""

    def code(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.int64), code


@intrinsic
def _prefetch_line(typing_context, address):
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)

    def code(context, builder, signature, args):
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        )
        # to read, data, to the first cache
        builder.call(function, [builder.inttoptr(args[0], byte), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.int64), code


@numba.njit
def prefetch(begin, end):
    """Have the memory between two addresses come into the first cache while other work goes on. Any addresses will do,
    but few lines at a time.
    """
    for address in range(begin, end, LINE):
        _prefetch_line(address)


@intrinsic
def _clear_line(typing_context, address):
    """64 zero bytes, past the caches."""
    line = ir.VectorType(ir.IntType(8), LINE)

    def code(context, builder, signature, args):
        store = builder.store(ir.Constant(line, [0] * LINE), builder.inttoptr(args[0], line.as_pointer()), align=LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(types.int64), code


@numba.njit
def clear(begin, end):
    """Write zeros from one address up to another, a multiple of 4 bytes on; not through the caches, where the reader
    does not expect so many.
    """
    first = min(-(-begin // LINE) * LINE, end)
    last = max(end // LINE * LINE, first)
    array_at(begin, np.int32, (first - begin) // 4)[:] = 0
    for address in range(first, last, LINE):
        _clear_line(address)
    array_at(last, np.int32, (end - last) // 4)[:] = 0
    fence()  # before anybody is told that they are there
