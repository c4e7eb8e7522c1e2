"""Memory of a process that computes on the CPU."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names and numbers of glibc's mallopt(3)


def disable_malloc_trim() -> bool:
    """Let glibc keep the memory that tensors give back, for the next ones, instead of returning it to the system each
    time.

    A training step on the CPU allocates and frees the same hundreds of megabytes over and over. By default each large
    block is mapped anew and the system clears its pages as they are touched: a quarter to a third of a step. The
    process keeps its peak size instead.

    Returns:
        whether the C library took the settings (glibc on Linux); elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    largest = 2**31 - 1
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_M_TRIM_THRESHOLD, largest))
