"""Gradients by hand that cannot be differentiated in turn: refused with a message, not answered with zeros."""

from __future__ import annotations

import torch

from ..errors import InputError


def message(what: str) -> str:
    """The error message where the second derivative of ``what``, a loss, is asked for."""
    return (
        f"The fused {what} has no second derivative. Compute the loss in float64, or set "
        "PCDET_FOCAL_BACKEND=reference: plain torch can be "
        "differentiated twice."
    )


def forbid_double_backward(gradient: torch.Tensor, refusal: str, *inputs: torch.Tensor) -> torch.Tensor:
    """The gradient, which raises ``refusal`` when it is differentiated (create_graph=True)."""
    return _ForbidDoubleBackward.apply(gradient, refusal, *inputs) if torch.is_grad_enabled() else gradient


class _ForbidDoubleBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient, refusal, *inputs):
        ctx.refusal = refusal
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, grad_output):
        raise InputError(ctx.refusal)
