"""Sharing out tasks: each once, errors seen, on torch's own threads or on the pool that stands in for them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pcdet_focal.ops.threads import parallel_for

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("tasks", [0, 1, 2, 7, 8, 1000])
def test_every_task_once(tasks, num_threads):
    torch.set_num_threads(num_threads)
    counts = np.zeros(tasks, np.int64)

    def kernel(first, last):
        assert first < last
        counts[first:last] += 1

    parallel_for(kernel, tasks)
    assert (counts == 1).all()


def test_two_threads_work_at_once():
    both_are_here = threading.Barrier(2, timeout=20)
    parallel_for(lambda first, last: both_are_here.wait() if first == 0 or last == 2 else None, 2)


def test_a_team_has_the_same_threads_each_time(two_threads):
    """Those of torch's loops, and not new ones: the operating system's numbers of all that ever took part."""
    seen = set()
    for _ in range(5):
        torch.ones(10**6).sin()
        both_are_here = threading.Barrier(2, timeout=20)

        def kernel(first, last):
            both_are_here.wait()
            seen.add(threading.get_native_id())

        parallel_for(kernel, 2)
    assert len(seen) == 2


def test_an_error_is_raised_and_ends_the_work():
    calls = []

    def kernel(first, last):
        calls.append(first)
        raise ValueError("no such box")

    with pytest.raises(ValueError, match="no such box"):
        parallel_for(kernel, 1000)
    assert len(calls) <= 2
    parallel_for(lambda first, last: calls.append(first), 2)  # and the threads are there for the next


def test_callers_from_several_threads():
    def total(count):
        parts = np.zeros(count)
        parallel_for(lambda first, last: parts.__setitem__(slice(first, last), np.arange(first, last)), count)
        return parts.sum()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(total, [500] * 40)) == [500 * 499 / 2] * 40
