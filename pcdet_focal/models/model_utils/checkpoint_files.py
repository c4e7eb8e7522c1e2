"""What a checkpoint file holds, read without executing code: OpenPCDet's ``.pth`` and this package's, and
``.safetensors``.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...safe_pickle import DataUnpickler

_WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "net")


def read_checkpoint(filename: str | Path) -> dict:
    """The contents of a checkpoint, tensors on the CPU: ``model_state`` and, where they are in the file,
    ``optimizer_state``, ``epoch``, ``it``...

    The weights may also be under ``state_dict``, ``model_state_dict``, ``model`` or ``net``, or be the whole file.

    Files may come from elsewhere, so only tensors, numpy arrays, plain containers and numbers are read. Of another
    object nothing runs: a warning names its entry and its class, and the entry is left out.

    Raises:
        InputError: no such file, not a checkpoint (no weights), or a ``.safetensors`` file where the package that reads
            them is not installed.
    """
    path = Path(filename)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_plain(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a checkpoint: it holds {type(content).__name__} and no mapping of weights")
    if isinstance(content.get("model_state"), dict):
        return {**content, "model_state": {k: v for k, v in content["model_state"].items() if torch.is_tensor(v)}}
    if _is_state(content):
        return {"model_state": content}
    for key in _WEIGHT_KEYS:
        if _is_state(content.get(key)):
            return {"model_state": content[key], **{k: v for k, v in content.items() if k not in (key, "model_state")}}
    entries = ", ".join(str(key) for key in list(content)[:8]) or "nothing"
    raise InputError(
        f"{path} is not a checkpoint: it holds {entries}; tensors by name are needed, as model.state_dict() has them, "
        "in an entry model_state or alone"
    )


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(torch.is_tensor(v) for v in value.values())


def read_plain(path: Path) -> Any:
    """Whatever ``torch.save`` put into a file: tensors, numpy arrays, plain containers and numbers; entries of the file
    with anything else are left out with a warning. Raises InputError.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; a checkpoint file is expected there")
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # it has objects that torch's own reader of plain data does not know
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_plain_pickle)
    except Exception as error:  # damaged files raise anything
        raise InputError(
            f"{path} is not a readable checkpoint: cut short, damaged, or another kind of file ({_first_line(error)})"
        ) from error
    return _without_objects(content, path)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


class NotRead:
    """In the place of an object of a class that is not read. Whatever a pickle does with it has no effect."""

    def __new__(cls, *args: Any, **kwargs: Any) -> NotRead:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def _nothing(self, *args: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = update = _nothing


class _PlainUnpickler(DataUnpickler):
    """The reader of the data sets' pickles, with torch's tensors, and with NotRead for what it refuses."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _TORCH.get(f"{module}.{name}")
        if allowed is not None:
            return allowed
        try:
            return super().find_class(module, name)
        except pickle.UnpicklingError:
            return type(name, (NotRead,), {"__module__": module})


def _torch_names() -> dict[str, Any]:
    names: dict[str, Any] = {
        f"torch._utils.{name}": getattr(torch._utils, name)
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    }
    names |= {f"torch.{name}": kind for name, kind in vars(torch).items() if isinstance(kind, torch.dtype)}
    names |= {f"torch.{name}": kind for name, kind in vars(torch).items() if name.endswith("Storage")}
    names |= {f"torch.storage.{name}": getattr(torch.storage, name) for name in ("UntypedStorage", "TypedStorage")}
    return names | {"torch.Size": torch.Size, "torch.device": torch.device}


_TORCH = _torch_names()
# what torch.load asks of the module pickle
_plain_pickle = SimpleNamespace(
    __name__="pickle", Unpickler=_PlainUnpickler, load=lambda file, **options: _PlainUnpickler(file, **options).load()
)


def _without_objects(content: Any, path: Path) -> Any:
    """``content`` without entries that hold a NotRead, numpy's numbers as Python's."""
    if isinstance(content, NotRead):
        raise InputError(
            f"{path} holds an object of {', '.join(_skipped(content))}, which is not read because that would run its "
            "code; save model.state_dict() instead"
        )
    if not isinstance(content, dict):
        return _plain(content)
    kept = {}
    for key, value in content.items():
        skipped = sorted({*_skipped(key), *_skipped(value)})
        if skipped:
            warnings.warn(
                f"{path}: the entry {key if isinstance(key, str) else '?'} is left out, because it holds "
                f"{', '.join(skipped)}, and only tensors, arrays and plain values are read",
                stacklevel=4,
            )
        else:
            kept[key] = _plain(value)
    return kept


def _skipped(value: Any) -> Iterator[str]:
    """The names of the classes that NotRead stands for in ``value``."""
    cls = value if isinstance(value, type) else type(value)
    if issubclass(cls, NotRead):
        yield f"{cls.__module__}.{cls.__qualname__}"
    elif isinstance(value, dict):
        yield from chain.from_iterable(map(_skipped, (*value.keys(), *value.values())))
    elif isinstance(value, (list, tuple, set, frozenset)) or isinstance(value, np.ndarray) and value.dtype == object:
        yield from chain.from_iterable(map(_skipped, value))


def _plain(value: Any) -> Any:
    """numpy's numbers (OpenPCDet's learning rates are) as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


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
    """Weights of any ``.safetensors`` file; epoch, it, version, config and scans where its header has them
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
            **{key: json.loads(header[key]) for key in ("config", "scans") if key in header},
        }
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(
            f"{path} is not a readable .safetensors file: cut short, damaged, or another kind of file"
        ) from error
