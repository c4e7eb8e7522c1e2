"""Whether a fused kernel computes the formula that a loss's code states: asked by running both on a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps

import torch

Loss = Callable[[torch.Tensor], torch.Tensor]
Probe = Callable[[], tuple[Loss, Loss, torch.Tensor]]


def kernel_agreement(definitions: Callable[[], tuple[Callable, ...]]) -> Callable[[Probe], Callable[[], bool]]:
    """Decorator that turns a probe into the question whether a kernel may replace a loss's plain code.

    Values and gradients of both sides are compared in float64. An edited formula, even one that only detaches a factor,
    therefore trains as it stands, without the kernel. The answer is cached; a compiler takes it as a constant.

    Args:
        definitions: gives the functions that state the formula; the probe runs again after one of them was replaced.
    Returns:
        A decorator. The probe gives the plain loss (predictions -> scalar), the kernel's definition in plain torch
        (predictions -> scalar) and float64 predictions; the decorated function takes nothing and gives a bool.

    >>> @kernel_agreement(lambda: (torch.square,))
    ... def square_has_kernel():
    ...     return (lambda x: torch.square(x).sum()), (lambda x: (x * x).sum()), torch.ones(3, dtype=torch.float64)
    >>> square_has_kernel()
    True
    """

    def decorate(probe: Probe) -> Callable[[], bool]:
        @lru_cache(maxsize=8)
        def agrees(_: tuple[Callable, ...]) -> bool:
            with torch.inference_mode(False):
                plain, kernel, predictions = probe()
                plain_result, kernel_result = (_gradient_and_value(loss, predictions) for loss in (plain, kernel))
            return all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(plain_result, kernel_result))

        @wraps(probe)
        def ask() -> bool:
            return not torch.jit.is_tracing() and agrees(definitions())  # a trace has no kernels

        ask._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a mark of torch's compiler
        return ask

    return decorate


def _gradient_and_value(loss: Loss, predictions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if torch._C._are_functorch_transforms_active():  # they allow no requires_grad_; the import takes a second
        from torch.func import grad_and_value

        return grad_and_value(loss)(predictions)
    with torch.enable_grad():
        leaf = predictions.clone().requires_grad_()
        value = loss(leaf)
    return torch.autograd.grad(value, leaf)[0], value.detach()


def probe_logits_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (1, 12, 2) without a 0, float64, and labels (1, 12) of 0 (background), 1 and 2."""
    logits = torch.linspace(-6.0, 6.0, 24, dtype=torch.float64, device="cpu").view(1, 12, 2)
    return logits, torch.arange(12, device="cpu").view(1, 12) % 3
