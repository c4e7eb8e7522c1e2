"""Choosing the device that a model runs on."""

from __future__ import annotations

import torch

from ..errors import InputError


def pick_device(name: str | torch.device | None, said_as: str = "device") -> torch.device:
    """The device ``name``; for None this process's CUDA device, else the CPU. A CUDA device has its number.

    ``said_as`` is the option's name in messages. Raises InputError: no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise InputError(f"{said_as} {name}: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{said_as} {name}: this machine or this build of torch has no CUDA device")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device
