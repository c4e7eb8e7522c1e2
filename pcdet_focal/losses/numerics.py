"""The few numeric habits that all losses share: compute in float32 or better, powers with finite gradients."""

from __future__ import annotations

import torch


def at_least_float32(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors in one floating dtype: the widest among them, float32 at the least (half precision and integers
    become float32).
    """
    dtype = torch.float32
    for tensor in tensors:
        if tensor.is_floating_point():
            dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def bounded(logits: torch.Tensor) -> torch.Tensor:
    """Clamp logits to +-sqrt(largest number), 1.8e19 in float32, so that 0 * x is 0, not NaN.

    +-inf becomes the bound; the gradient beyond the bound is 0. NaN stays NaN: it must be seen.
    """
    bound = torch.finfo(logits.dtype).max ** 0.5
    return logits.clamp(min=-bound, max=bound)


def power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    """``base ** exponent`` for base >= 0 with a finite gradient everywhere.

    The derivative exponent * base^(exponent - 1) is infinite at base = 0 where 0 < exponent < 1, and inf * 0 further
    down the chain is NaN. There the base is held at the smallest normal number: the value moves by less than rounding
    and the gradient is 0.
    """
    if 0 < exponent < 1:
        base = base.clamp(min=torch.finfo(base.dtype).tiny)
    return base.pow(exponent)


def finite_log(probability: torch.Tensor) -> torch.Tensor:
    """``log(probability)``, finite at exactly 0 (-87.3 in float32, -708.4 in float64); untouched everywhere else."""
    return probability.clamp(min=torch.finfo(probability.dtype).tiny).log()
