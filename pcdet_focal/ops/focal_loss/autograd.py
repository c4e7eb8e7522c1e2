"""Focal losses with hand-written gradients, for eager mode: one step from tensor to kernel. A compiler is
given ``operators`` instead.
"""

from __future__ import annotations

import torch

from ..second_derivative import forbid_double_backward, message
from . import backends

NO_SECOND_DERIVATIVE = message("sigmoid focal loss")


class FromLabels(torch.autograd.Function):
    """Loss and gradient in one pass. The first backward hands the gradient on as it is, a second one (retain_graph)
    computes it anew.

    Half precision on a device computes the gradient in the backward pass, when the loss scale is known: rounded before,
    it could vanish.
    """

    @staticmethod
    def forward(ctx, logits, labels, quality, backend, kind, per_sample, loss_weight, needs_grad):
        at_once = needs_grad and (backend == "cpu" or logits.dtype == torch.float32)
        arguments = kind, per_sample, loss_weight
        loss, gradient = backends.loss_and_gradient(backend, logits, labels, quality, *arguments, at_once)
        if needs_grad:
            ctx.save_for_backward(logits, labels, quality)
            ctx.backend, ctx.arguments, ctx.gradient = backend, arguments, gradient
        return loss

    @staticmethod
    def backward(ctx, grad_output):
        # torch's own message where the graph was freed or an input was changed in place
        logits, labels, quality = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None  # nobody else holds it
        if gradient is None:
            gradient = backends.gradient_again(
                ctx.backend, grad_output.detach(), logits, labels, quality, *ctx.arguments
            )
        else:
            gradient = backends.scale_gradient_(ctx.backend, grad_output.detach(), gradient, logits.dtype)
        return (
            forbid_double_backward(gradient, NO_SECOND_DERIVATIVE, logits, grad_output),
            None,
            None,
            None,
            None,
            None,
            None,
            None,
        )


class Elementwise(torch.autograd.Function):
    """One kernel forward, one backward; only the inputs are kept."""

    @staticmethod
    def forward(ctx, logits, targets, weights, backend, alpha_pos, alpha_neg, gamma):
        ctx.save_for_backward(logits, targets, weights)
        ctx.backend, ctx.numbers = backend, (alpha_pos, alpha_neg, gamma)
        return backends.elementwise(backend, logits, targets, weights, *ctx.numbers)

    @staticmethod
    def backward(ctx, grad_output):
        logits, targets, weights = ctx.saved_tensors
        gradient = backends.elementwise(ctx.backend, logits, targets, weights, *ctx.numbers, grad_output.detach())
        return (
            forbid_double_backward(gradient, NO_SECOND_DERIVATIVE, logits, grad_output),
            None,
            None,
            None,
            None,
            None,
            None,
        )
