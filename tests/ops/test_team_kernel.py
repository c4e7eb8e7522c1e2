"""Kernels that share out their own work: each task once, on torch's team, on the pool that stands in for it, and in a
forked process.
"""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch

from pcdet_focal.ops.arrays import fresh_zeros
from pcdet_focal.ops.team_kernel import (
    LINE,
    TeamKernel,
    arguments_type,
    array_at,
    clear,
    count_up,
    lowest_bit,
    mask_64,
    next_task,
    prefetch,
    shuffle,
)
from pcdet_focal.ops.zeros import zeros

Rows = arguments_type("Rows", "values size done last", "factor")


def add_factor_to_each(pointer):
    args = numba.carray(pointer, 1)[0]
    values = array_at(args.values, np.float64, args.size)
    while True:
        task = next_task(pointer)
        if task >= args.size:
            break
        values[task] += args.factor
        if count_up(args.done) == args.size - 1:
            args.last = task


add_factor = TeamKernel(add_factor_to_each, Rows)


def run(size, factor=1.5):
    values, done = torch.zeros(size, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    args = Rows(values=values.data_ptr(), size=size, done=done.data_ptr(), last=-1, factor=factor)
    add_factor(args, size)
    return values, done.item(), args.last


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 10_000])
def test_every_task_once_and_one_is_the_last(two_threads, size, num_threads):
    torch.set_num_threads(num_threads)
    values, done, last = run(size)
    assert (values == 1.5).all() and done == size
    assert 0 <= last < size if size else last == -1


def test_callers_from_several_threads(two_threads):
    with ThreadPoolExecutor(4) as pool:
        for values, done, _ in pool.map(run, [2000] * 40):
            assert (values == 1.5).all() and done == 2000


def total_in_child(queue):
    queue.put(run(1000)[0].sum().item())


def test_a_forked_process_has_its_own_threads(two_threads):
    torch.ones(10**6).sin()
    run(1000)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=total_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == 1500
    child.join()


@numba.njit
def clear_part(values, begin, end):
    clear(values.ctypes.data + 4 * begin, values.ctypes.data + 4 * end)


@pytest.mark.parametrize("begin", range(0, LINE // 4 + 2, 3))
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 31, 32, 100])
def test_clear_writes_what_it_should_and_no_more(begin, count):
    values = np.ones(200, np.float32)
    clear_part(values, begin, begin + count)
    expected = np.ones(200, np.float32)
    expected[begin : begin + count] = 0
    assert (values == expected).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 5, 7), (3, 100_003)])
def test_zeros(two_threads, shape, dtype):
    full = [torch.ones(shape, dtype=dtype) for _ in range(4)]
    del full  # so that the memory is likely to hold something else
    made = zeros(shape, dtype)
    assert made.shape == shape and made.dtype == dtype and not made.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("backend", ["", "reference"])
def test_fresh_zeros_of_any_type(dtype, backend, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", backend)
    made = fresh_zeros((2, 3), torch.ones(1, dtype=dtype))
    assert made.shape == (2, 3) and made.dtype == dtype and not made.any()


@numba.njit
def prefetch_part(begin, end):
    prefetch(begin, end)


def test_prefetch_is_an_instruction_that_takes_any_address():
    for begin, end in [(0, 1000), (64, 64), (-100, -1), (2**62, 2**62 + 200)]:
        prefetch_part(begin, end)
    assert "llvm.prefetch" in prefetch_part.inspect_llvm(prefetch_part.signatures[0])


reverse_pairs = shuffle(8, [1, 0, 3, 2, 5, 4])


@numba.njit
def shuffled(values, out):
    reverse_pairs(values.ctypes.data, out.ctypes.data)


def test_shuffle():
    out = np.full(8, -1, np.float32)
    shuffled(np.arange(8, dtype=np.float32), out)
    assert out.tolist() == [1, 0, 3, 2, 5, 4, -1, -1]


above_0, not_0 = mask_64(">"), mask_64("!=")


@numba.njit
def places(integers, first, wanted_above):
    mask, found = above_0(integers, first) if wanted_above else not_0(integers, first), []
    while mask != 0:
        found.append(lowest_bit(mask))
        mask &= mask - 1
    return found


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("first", [0, 1, 5])
def test_bits_of_64_integers(dtype, first):
    integers = np.zeros(80, dtype)
    integers[[0, 5, 6, 20, 63, 64, 68, 79]] = [1, -1, 3, -(2**31), 2**31 - 1, 1, -1, 9]
    group = integers[first : first + 64]
    assert places(integers, first, True) == np.flatnonzero(group > 0).tolist()
    assert places(integers, first, False) == np.flatnonzero(group).tolist()
    assert places(np.ones(64, dtype), 0, True) == list(range(64)) and places(np.ones(64, dtype), 0, False) == list(
        range(64)
    )
