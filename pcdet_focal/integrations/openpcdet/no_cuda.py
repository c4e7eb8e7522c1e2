"""Where no CUDA device is there, "cuda" means the CPU.

Scripts, notebooks and ROS nodes for OpenPCDet say ``.cuda()``, ``device="cuda:0"``, ``torch.cuda.synchronize()`` and so
on without a condition. While :func:`cuda_means_cpu` holds, all of that runs on the CPU. ``torch.cuda.is_available()``
stays False, because a script that asks gets the truth.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._device import DeviceContext

_MADE_ON_A_DEVICE = (
    "arange as_tensor asarray empty empty_like empty_strided eye full full_like hann_window linspace logspace normal "
    "ones ones_like rand rand_like randint randint_like randn randn_like randperm scalar_tensor sparse_coo_tensor "
    "tensor tril_indices triu_indices zeros zeros_like"
).split()
_METHODS = ("to", "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros")
_TYPES = "Bool Byte Char Double Float Half Int Long Short".split()
_replaced: list[tuple[Any, str, Any, bool]] = []  # owner, name, what was there, whether it was the owner's own


def cuda_means_cpu() -> bool:
    """Make "cuda" mean the CPU in this process where there is no CUDA device; says so once, on stderr.

    Returns:
        whether it holds now; False with a CUDA device, where nothing is changed.
    """
    if torch.cuda.is_available():
        return False
    if not _replaced:
        print("no CUDA device: cuda means the CPU in this process", file=sys.stderr)
        _replace_all()
    return True


def undo() -> None:
    """Give torch back what :func:`cuda_means_cpu` replaced."""
    while _replaced:
        owner, name, old, was_own = _replaced.pop()
        if was_own:
            setattr(owner, name, old)
        else:
            delattr(owner, name)


def _replace(owner: Any, name: str, value: Any) -> None:
    _replaced.append((owner, name, getattr(owner, name), name in vars(owner)))
    setattr(owner, name, value)


def _replace_all() -> None:
    for kind in (torch.Tensor, torch.nn.Module, torch.UntypedStorage, torch.storage.TypedStorage):
        _replace(kind, "cuda", _unchanged)
    _replace(torch.Tensor, "pin_memory", _unchanged)
    for owner, names in ((torch, _MADE_ON_A_DEVICE), (torch.Tensor, _METHODS), (torch.nn.Module, ("to",))):
        for name in names:
            old = getattr(owner, name)
            new = _on_cpu(old)
            operator = torch.jit._builtins._find_builtin(old)
            if operator is not None:  # else torch.jit.script could not call it any more
                torch.jit._builtins._register_builtin(new, operator)
            _replace(owner, name, new)
    _replace(torch, "load", _load(torch.load))
    _replace(
        DeviceContext, "__init__", _on_cpu(DeviceContext.__init__)
    )  # `with torch.device("cuda")`, set_default_device
    for name in _TYPES:
        _replace(torch.cuda, f"{name}Tensor", getattr(torch, f"{name}Tensor"))
    for name, value in _CUDA.items():
        _replace(torch.cuda, name, value)
    _replace(torch.distributed, "init_process_group", _gloo(torch.distributed.init_process_group))


def _is_cuda(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.partition(":")[0] == "cuda"


def _on_cpu(function: Callable) -> Callable:
    """``function`` with "cpu" in the place of every CUDA device among its arguments."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        args = tuple("cpu" if _is_cuda(value) else value for value in args)
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)

    return call


def _load(function: Callable) -> Callable:
    """``torch.load`` with every tensor on the CPU, whatever ``map_location`` says."""

    @functools.wraps(function)
    def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not callable(map_location):  # a function of the storage calls .cuda(), which changes nothing here
            map_location = "cpu"
        return function(f, map_location, *args, **kwargs)

    return load


def _gloo(function: Callable) -> Callable:
    """``init_process_group`` with gloo in the place of nccl."""

    @functools.wraps(function)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return function("gloo" if backend == "nccl" else backend, *args, **kwargs)

    return init_process_group


def _unchanged(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self


def _no_operation() -> Callable[..., None]:
    """A function of its own each time, because torch.compile looks functions of torch up by identity."""

    def no_operation(*args: Any, **kwargs: Any) -> None:
        return None

    return no_operation


class Event:
    """``torch.cuda.Event`` on the clock of the CPU, for scripts that time a model."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.time = 0.0

    def record(self, stream: Any = None) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to ``end``."""
        return 1000 * (end.time - self.time)

    def query(self) -> bool:
        return True

    synchronize = wait = _no_operation()


class Stream:
    """``torch.cuda.Stream`` where every operation ends before it returns, and the context of ``torch.cuda.stream``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *args: Any) -> None:
        pass

    def query(self) -> bool:
        return True

    def record_event(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record()
        return event

    synchronize = wait_event = wait_stream = _no_operation()


_CUDA: dict[str, Any] = {
    **{
        name: _no_operation()
        for name in (
            "synchronize set_device empty_cache ipc_collect init manual_seed manual_seed_all seed seed_all "
            "set_rng_state set_rng_state_all"
        ).split()
    },
    "current_device": lambda: 0,
    "device_count": lambda: 1,  # for `rank % torch.cuda.device_count()` and guards
    "get_device_name": lambda device=None: "CPU",
    "get_device_capability": lambda device=None: (0, 0),
    "get_device_properties": lambda device=None: SimpleNamespace(name="CPU", total_memory=0, major=0, minor=0),
    "get_rng_state": lambda device="cuda": torch.get_rng_state(),
    "get_rng_state_all": lambda: [torch.get_rng_state()],
    "device": Stream,  # `with torch.cuda.device(0)`
    "stream": Stream,
    "Stream": Stream,
    "Event": Event,
    "current_stream": lambda device=None: Stream(),
    "default_stream": lambda device=None: Stream(),
}
