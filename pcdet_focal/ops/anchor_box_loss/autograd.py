"""The sums with their gradients by hand, for eager mode; a compiler is given ``operators`` instead."""
from __future__ import annotations

import importlib

import torch

from pcdet_focal.errors import InputError

NO_SECOND_DERIVATIVE = ("The fused box and direction loss has no second derivative. Compute the loss in float64, or set "
                        "PCDET_FOCAL_BACKEND=reference: plain torch can be differentiated twice.")


def kernels(backend: str):
    """The module ``cpu`` or ``cuda`` of this room."""
    return importlib.import_module(f"pcdet_focal.ops.anchor_box_loss.{backend}")


class BoxAndDirection(torch.autograd.Function):
    """Forward sums at the positives, backward writes their gradients into zeros; only the inputs are kept."""

    @staticmethod
    def forward(ctx, box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights, beta, dir_offset, backend):
        tensors = box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights
        ctx.save_for_backward(*tensors)
        ctx.numbers, ctx.backend = (beta, dir_offset), backend
        box, direction, num_positives = kernels(backend).sums(*tensors, beta, dir_offset)
        ctx.mark_non_differentiable(num_positives)
        return box, direction, num_positives

    @staticmethod
    def backward(ctx, grad_box, grad_dir, _):
        gradients = kernels(ctx.backend).gradients(grad_box.detach(), grad_dir.detach(), *ctx.saved_tensors, *ctx.numbers)
        if torch.is_grad_enabled():
            predictions = [t for t in ctx.saved_tensors[:2] if t is not None]
            gradients = [g if g is None else _NoSecondDerivative.apply(g, grad_box, grad_dir, *predictions) for g in gradients]
        return *gradients, None, None, None, None, None, None, None


class _NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient, *inputs):
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, grad_output):
        raise InputError(NO_SECOND_DERIVATIVE)
