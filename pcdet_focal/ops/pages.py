"""Memory for large results, without the cost of touching it for the first time."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence

import torch

_LARGE_PAGE = 2**21  # bytes; x86-64's and most of ARM's
_MADV_HUGEPAGE = 14  # Linux' madvise(2)


def _find_madvise() -> Callable | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    madvise.argtypes, madvise.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return madvise


_madvise = _find_madvise()


def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """``torch.empty`` on the CPU, whose memory may come in large pages where the system lends them on request (Linux).

    The system clears and maps new memory page by page as it is touched. At 4 kB a page that takes longer than computing
    a loss gradient of 10 MB does; at 2 MB a page it is a quarter. Memory that the process has touched before costs
    nothing either way.
    """
    return _in_large_pages(torch.empty(shape, dtype=dtype))


def empty_like(tensor: torch.Tensor) -> torch.Tensor:
    """``torch.empty_like`` of a CPU tensor, with memory as that of ``empty``."""
    return _in_large_pages(torch.empty_like(tensor))


def _in_large_pages(out: torch.Tensor) -> torch.Tensor:
    first = -(-out.data_ptr() // _LARGE_PAGE) * _LARGE_PAGE
    size = (out.data_ptr() + out.numel() * out.element_size()) // _LARGE_PAGE * _LARGE_PAGE - first
    if _madvise is not None and size > 0:
        _madvise(first, size, _MADV_HUGEPAGE)  # only advice: where the system does not take it, nothing changes
    return out
