"""Threads for numba kernels that release the interpreter lock: ``parallel_for``.

The threads are those of torch's OpenMP pool, entered through ``GOMP_parallel``, which GNU's, LLVM's and Intel's runtime
have. Its workers spin for a while after each parallel loop of torch; a second pool, numba's or Python's, would share
the cores with them, which doubles a kernel's time on two cores. Numba's own parallel loops are no alternative, because
two threads that enter them at once end the process, and so does a fork after them.

Where torch has no such runtime, and in a forked process, whose parent's workers do not exist, a pool of Python threads
does the work.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

_TeamMember = ctypes.CFUNCTYPE(None, ctypes.py_object)


def _find_team() -> Callable | None:
    """``GOMP_parallel(member, argument, threads, flags)`` of torch's OpenMP runtime, None where there is none."""
    try:
        # a symbol is looked up in a library and in those it needs
        start = ctypes.CDLL(torch._C.__file__)["GOMP_parallel"]
    except (OSError, AttributeError):
        return None
    start.argtypes, start.restype = (_TeamMember, ctypes.py_object, ctypes.c_uint, ctypes.c_uint), None
    return start


@_TeamMember
def _work_in_team(work: Callable[[], None]) -> None:
    work()


_start_team = _find_team()
_pool: ThreadPoolExecutor | None = None


def _after_fork() -> None:
    global _pool, _start_team
    _pool = _start_team = None  # neither's threads survive a fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def parallel_for(kernel: Callable[[int, int], None], tasks: int) -> None:
    """Run ``kernel(first, last)`` over 0 .. tasks - 1 on torch.get_num_threads() threads; this thread works too.

    The tasks are handed out in portions that become smaller, so that there are few calls, and a thread that starts
    late, or that the system stops, holds up little. What a kernel raises is raised here.
    """
    threads = min(torch.get_num_threads(), tasks)
    if threads <= 1:
        if tasks:
            kernel(0, tasks)
        return
    portions = iter(_portions(tasks, threads))  # taking the next one is one step under the interpreter lock
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for first, last in portions:
                kernel(first, last)
                if errors:
                    return
        except BaseException as error:  # ctypes would print it and go on
            errors.append(error)

    if _start_team is not None:
        _start_team(_work_in_team, work, threads, 0)
    else:
        _run_in_pool(work, threads)
    if errors:
        raise errors[0]


@lru_cache(maxsize=128)
def _portions(tasks: int, threads: int) -> tuple[tuple[int, int], ...]:
    """(first, last) of each portion: half of a fair share of what is left.

    >>> _portions(8, 2)
    ((0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8))
    """
    portions, first = [], 0
    while first < tasks:
        last = first + max(1, (tasks - first) // (2 * threads))
        portions.append((first, last))
        first = last
    return tuple(portions)


def _run_in_pool(work: Callable[[], None], threads: int) -> None:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=max(os.cpu_count() or 1, 2) - 1, thread_name_prefix="pcdet_focal")
    others = [_pool.submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        other.result()
