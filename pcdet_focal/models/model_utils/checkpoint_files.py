"""What a checkpoint file holds, read without executing code: OpenPCDet's ``.pth`` and this package's, and
``.safetensors``.
"""

from __future__ import annotations

import _codecs
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ...errors import InputError


def read_checkpoint(filename: str | Path) -> dict:
    """The contents of a checkpoint, tensors on the CPU: ``model_state`` and, where they are in the file,
    ``optimizer_state``, ``epoch``, ``it``...

    Files may come from elsewhere, so only tensors, plain containers and numbers are read, numpy's numbers too
    (OpenPCDet's learning rates are).

    Raises:
        InputError: no such file, not a checkpoint (no ``model_state``), a file that holds code, or a ``.safetensors``
            file where the package that reads them is not installed.
    """
    path = Path(filename)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_plain(path)
    if not isinstance(content, dict) or not isinstance(content.get("model_state"), dict):
        raise InputError(f"{path} is not a checkpoint: it has no entry model_state")
    return content


def read_plain(path: Path) -> Any:
    """Whatever ``torch.save`` put into a file, as long as it is tensors, plain containers and numbers. Raises
    InputError.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        with _numpy_numbers():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: refused: it holds more than tensors and plain values, or it is damaged") from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        LookupError,
        ValueError,
        AttributeError,
        TypeError,
    ) as error:  # whatever torch meets in such files
        raise InputError(f"{path} is not a readable checkpoint: cut short, damaged, or another kind of file") from error


def safetensors_torch() -> ModuleType:
    """The package ``safetensors.torch``, asked for where it is used. Raises InputError, which names the extra, where it
    is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise InputError(
            '.safetensors files need the package safetensors: pip install "pcdet_focal[safetensors]"'
        ) from error
    return safetensors.torch


def _read_safetensors(path: Path) -> dict:
    """Weights of any ``.safetensors`` file; epoch, it and version where its header has them
    (``engine.checkpoint.save_safetensors``).
    """
    package = safetensors_torch()
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        numbers = {key: int(header[key]) for key in ("epoch", "it") if key in header}
        return {
            "model_state": package.load_file(path),
            **numbers,
            **{key: header[key] for key in ("version",) if key in header},
        }
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(
            f"{path} is not a readable .safetensors file: cut short, damaged, or another kind of file"
        ) from error


class _Dtype:
    """What ``numpy.dtype`` stands for while a checkpoint is read: a kind of number and nothing more."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "fiub":
            raise pickle.UnpicklingError(f"a numpy value of type {code}")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def _scalar(dtype: _Dtype, data: bytes) -> float | int | bool:
    return np.frombuffer(data, dtype.dtype)[0].item()


def _named(value: Any, name: str) -> Any:
    """``value`` under the name that torch's reader is to find it by: it goes by what a class or function says its name
    is.
    """
    value.__module__, _, value.__qualname__ = name.rpartition(".")
    value.__name__ = value.__qualname__
    return value


_NUMPY_NUMBERS = [  # as numpy 1 and numpy 2 write them
    _named(_Dtype, "numpy.dtype"),
    _named(lambda dtype, data: _scalar(dtype, data), "numpy.core.multiarray.scalar"),
    _named(lambda dtype, data: _scalar(dtype, data), "numpy._core.multiarray.scalar"),
    _codecs.encode,  # their bytes
]


@contextmanager
def _numpy_numbers() -> Iterator[None]:
    """In here torch's reader takes numpy's numbers, and gives Python's."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_NUMPY_NUMBERS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
