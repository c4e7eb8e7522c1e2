"""How one function serves numpy and torch: it is written once in torch, and numpy arguments are lent to it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

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

    return either  # type: ignore[return-value]
