"""How one function serves numpy and torch: it is written once in torch, and numpy arguments are lent to it.

Two rules, because the callers differ. ``geometry`` keeps OpenPCDet's: every numpy argument becomes a tensor, and the
first argument decides what comes back (``numpy_or_torch``). ``ops`` hands memory to kernels: a mixture of numpy and
torch, or of devices, is an error there (``as_tensors`` and ``like_input``).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from .errors import InputError

Array = np.ndarray | torch.Tensor
Function = TypeVar("Function", bound=Callable[..., Any])


def as_floating(array: np.ndarray) -> np.ndarray:
    """The array itself where it is float32 or float64, else a float32 copy (integers, booleans, half precision)."""
    array = np.asarray(array)
    return array if array.dtype.type in (np.float32, np.float64) else array.astype(np.float32)


def check_numpy_to_torch(x: Any) -> tuple[Any, bool]:
    """``(tensor, True)`` for a numpy array, ``(x, False)`` for everything else.

    float32 and float64 keep their type, every other one becomes float32. The tensor shares the array's memory where it
    can (read it, do not write it): arrays that torch cannot view (read-only, negative strides, foreign byte order) are
    copied.
    """
    if not isinstance(x, np.ndarray):
        return x, False
    x = as_floating(x)
    viewable = x.flags.writeable and x.dtype.isnative and all(stride >= 0 for stride in x.strides)
    return torch.from_numpy(x if viewable else np.array(x, dtype=x.dtype.newbyteorder("="), order="C")), True


def numpy_or_torch(function: Function) -> Function:
    """Let a function of tensors take numpy arrays as well.

    Every numpy argument reaches the function as a tensor; the result goes back to numpy where the first argument was
    numpy.
    """

    first_name = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def either(*given: Any, **named: Any) -> Any:
        is_numpy = isinstance(given[0] if given else named.get(first_name), np.ndarray)
        result = function(
            *(check_numpy_to_torch(value)[0] for value in given),
            **{name: check_numpy_to_torch(value)[0] for name, value in named.items()},
        )
        return result.numpy() if is_numpy else result

    return either


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
        shape = ", ".join(["B", "N"][2 - (dims - 1) :] + [f"{columns} or more"])
        raise InputError(f"{name} must have shape ({shape}), not {tuple(tensor.shape)}.")
    if not tensor.is_floating_point():
        raise InputError(f"{name} must be floating point, not {tensor.dtype}.")
