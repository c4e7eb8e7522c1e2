"""The implementation that an operation of ``pcdet_focal.ops`` uses for a call.

The environment variable ``PCDET_FOCAL_BACKEND`` forces one:

- not set: numba for data in host memory; for CUDA tensors the operation's Triton kernels, or the reference where it has
  none
- ``reference``: plain torch everywhere
- ``cpu``: numba; CUDA tensors are copied to the host, results back to the device
- ``cuda``: Triton for CUDA tensors, with a warning and the reference where an operation has no kernels; for host memory
  numba, or Triton where TRITON_INTERPRET=1

A fast backend that cannot be imported is replaced by the reference, with one warning for each reason in a process.
The variable is read at every call, so a test can change it.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence
from functools import cache

import torch

from ..errors import InputError

VARIABLE = "PCDET_FOCAL_BACKEND"
BACKENDS = ("reference", "cpu", "cuda")
_PACKAGE = {"cpu": "numba", "cuda": "triton"}


def forced_backend() -> str | None:
    """The value of ``PCDET_FOCAL_BACKEND``, None where it is not set or empty. Raises InputError for a value that does
    not exist.
    """
    value = os.environ.get(VARIABLE, "").strip().lower()
    if not value:
        return None
    if value not in BACKENDS:
        raise InputError(
            f"The environment variable {VARIABLE} is {value!r}: it must be one of {', '.join(BACKENDS)}, or not set."
        )
    return value


def choose_backend(device: torch.device | str, operation: str, has_cuda: bool = False) -> str:
    """``"reference"``, ``"cpu"`` or ``"cuda"``: the backend of ``operation`` for data on ``device``.

    Args:
        device: where the inputs of the call are (``"cpu"`` for numpy arrays).
        operation: name for the warning, e.g. ``"nms"``.
        has_cuda: whether the operation has Triton kernels.
    """
    forced = forced_backend()
    kind = device if device in ("cpu", "cuda") else torch.device(device).type
    on_host = kind == "cpu"
    if forced == "reference":
        return "reference"
    if forced == "cuda" and (not on_host or os.environ.get("TRITON_INTERPRET") == "1"):
        backend = "cuda"
    elif on_host or forced == "cpu":
        backend = "cpu"
    else:
        backend = "cuda" if has_cuda and kind == "cuda" else "reference"
    if backend == "cuda" and not has_cuda:
        _warn_once(
            f"pcdet_focal.ops.{operation} has no cuda backend, so {VARIABLE}=cuda has no effect there: its slower "
            "reference is used."
        )
        return "reference"
    if backend != "reference" and not _can_import(_PACKAGE[backend]):
        return "reference"
    return backend


def small_table(values: Sequence[float], device: torch.device) -> torch.Tensor:
    """Integers (as int64) or floats (as float64) from the host on ``device``, (len(values),), without waiting for
    it.
    """
    table = torch.tensor(
        values, dtype=torch.int64 if all(isinstance(value, int) for value in values) else torch.float64
    )
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


@cache
def _can_import(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError as error:
        _warn_once(
            f"{package} cannot be imported ({error}): pcdet_focal.ops uses its slower reference implementations "
            "instead."
        )
        return False
    return True


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def records_graph() -> bool:
    """Whether torch records a graph: a trace, an export or a compilation. Numbers that depend on data are constants
    there, and an operation without a graph has to be one operator.
    """
    return torch.jit.is_tracing() or torch.compiler.is_compiling()
