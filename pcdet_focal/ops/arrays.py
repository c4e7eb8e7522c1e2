"""Numpy in, numpy out; torch in, torch out: the argument handling of ``pcdet_focal.ops``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import InputError

Array = np.ndarray | torch.Tensor


def as_tensors(**named: Array) -> tuple[list[torch.Tensor], bool]:
    """The arguments as detached tensors (memory shared with numpy input), and whether they were numpy arrays.

    Raises InputError when an argument is neither, when both kinds are mixed, or when the tensors are on different
    devices.
    """
    kinds = {name: isinstance(value, np.ndarray) for name, value in named.items()}
    for name, value in named.items():
        if not isinstance(value, (np.ndarray, torch.Tensor)):
            raise InputError(f"{name} must be a numpy array or a torch tensor, not {type(value).__name__}.")
    if len(set(kinds.values())) > 1:
        raise InputError(f"{', '.join(named)} must be all numpy arrays or all torch tensors, not a mixture.")
    is_numpy = all(kinds.values())
    if is_numpy:
        # a copy where torch cannot share the memory as it is: negative strides, read-only arrays
        return [
            torch.from_numpy(np.require(np.ascontiguousarray(value), requirements="W")) for value in named.values()
        ], True
    devices = {str(value.device) for value in named.values()}
    if len(devices) > 1:
        raise InputError(f"{', '.join(named)} must be on one device, but they are on {', '.join(sorted(devices))}.")
    return [value.detach() for value in named.values()], False


def like_input(tensor: torch.Tensor, was_numpy: bool) -> Array:
    """``tensor`` as the kind of array that the caller gave."""
    return tensor.numpy() if was_numpy else tensor


def check_columns(name: str, tensor: torch.Tensor, columns: int, dims: int = 2) -> None:
    """Raises InputError unless ``tensor`` is floating point, has ``dims`` dimensions and at least ``columns`` entries
    in the last.
    """
    if tensor.dim() != dims or tensor.shape[-1] < columns:
        wanted = ", ".join(["B", "N"][2 - (dims - 1) :] + [f"{columns} or more"])
        raise InputError(f"{name} must have shape ({wanted}), not {tuple(tensor.shape)}.")
    if not tensor.is_floating_point():
        raise InputError(f"{name} must be floating point, not {tensor.dtype}.")


def small_table(values: Sequence[float], device: torch.device) -> torch.Tensor:
    """Integers (as int64) or floats (as float64) from the host on ``device``, (len(values),), without waiting for
    it.
    """
    table = torch.tensor(
        values, dtype=torch.int64 if all(isinstance(value, int) for value in values) else torch.float64
    )
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table
