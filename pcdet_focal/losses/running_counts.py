"""Statistics that a loss carries from step to step: buffers, saved with the model, the same on every rank."""

from __future__ import annotations

import torch
from torch import distributed, nn


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all ranks; the tensor itself where torch.distributed is not initialised."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total


def mean_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all ranks; the tensor itself where torch.distributed is not initialised."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    return sum_over_ranks(tensor) / distributed.get_world_size()


def store(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Give a buffer of ``module`` a new value, which must not need a gradient.

    In place, since a captured CUDA graph reads the same memory again. A compiler gets a new tensor instead: torch 2.13
    differentiates with the changed values where a graph reads a buffer and then changes it, and drops changes of
    float64 scalars.

    >>> module = torch.nn.BatchNorm1d(2)
    >>> store(module, "running_mean", torch.ones(2))
    >>> module.running_mean
    tensor([1., 1.])
    """
    value = value.detach().to(module.get_buffer(name).dtype)
    if torch.compiler.is_compiling():
        setattr(module, name, value)
    else:
        module.get_buffer(name).copy_(value)


class Float32Buffers(nn.Module):
    """A module whose floating point buffers, running counts and class weights, follow it to a device and to float64,
    never to half precision.

    ``model.half()`` would round a count of 70,000 to infinity; ``_apply``, which every such move goes through, keeps
    float32 then.

    >>> module = Float32Buffers()
    >>> module.register_buffer("counts", torch.tensor([70000.0]))
    >>> module.half().counts, module.double().counts
    (tensor([70000.]), tensor([70000.], dtype=torch.float64))
    """

    def _apply(self, fn, recurse: bool = True):
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            if buffer is not None and buffer.is_floating_point() and torch.finfo(buffer.dtype).bits < 32:
                self._buffers[name] = before[name].to(buffer.device)
        return self
