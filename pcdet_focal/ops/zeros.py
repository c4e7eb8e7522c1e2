"""Large arrays of zeros, of which little will be read: written by all threads, past the caches."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import torch

from . import pages
from .team_kernel import TeamKernel, arguments_type, clear, next_task

_CHUNK = 2**18  # bytes of a task
_Arguments = arguments_type("_Arguments", "begin size")


def _member(pointer):
    args = numba.carray(pointer, 1)[0]
    while True:
        first = next_task(pointer) * _CHUNK
        if first >= args.size:
            break
        clear(args.begin + first, args.begin + min(first + _CHUNK, args.size))


_clear = TeamKernel(_member, _Arguments)


def zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """``torch.zeros`` on the CPU, of a dtype of 4 or 8 bytes."""
    out = pages.empty(shape, dtype)
    size = out.numel() * out.element_size()
    _clear(_Arguments(begin=out.data_ptr(), size=size), -(-size // _CHUNK))
    return out
