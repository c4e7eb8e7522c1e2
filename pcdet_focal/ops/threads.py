"""A few threads for kernels that release the interpreter lock."""
from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Optional

import torch

_pool: Optional[ThreadPoolExecutor] = None


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)  # the threads of a pool do not survive a fork


def share_out(kernel: Callable[[int, int], None], tasks: int) -> None:
    """Run ``kernel(first, last)`` over 0 .. tasks - 1 on torch.get_num_threads() threads; this thread works too.

    A pool of Python threads around kernels that release the interpreter lock, rather than numba's parallel loops: those spin
    beside torch's own threads, and one of their threading layers ends the process when two threads enter it.
    """
    global _pool
    threads = min(torch.get_num_threads(), tasks)
    if threads <= 1:
        if tasks:
            kernel(0, tasks)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=max(os.cpu_count() or 1, 2) - 1, thread_name_prefix="pcdet_focal_sparse_conv")
    chunk = max(1, tasks // (4 * threads))
    counter = itertools.count()

    def work() -> None:
        while True:
            first = next(counter) * chunk
            if first >= tasks:
                return
            kernel(first, min(first + chunk, tasks))

    others = [_pool.submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        other.result()
