"""The sums with their gradients by hand, for eager mode; a compiler is given ``operators`` instead."""

from __future__ import annotations

import importlib

import torch

from ..second_derivative import forbid_double_backward, message

NO_SECOND_DERIVATIVE = message("box and direction loss")


def kernels(backend: str):
    """The module ``cpu`` or ``cuda`` of this operation."""
    return importlib.import_module(f"pcdet_focal.ops.anchor_box_loss.{backend}")


class BoxAndDirection(torch.autograd.Function):
    """Forward sums at the positives, backward writes their gradients into zeros; only the inputs are kept."""

    @staticmethod
    def forward(
        ctx, box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights, beta, dir_offset, backend
    ):
        tensors = box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights
        ctx.save_for_backward(*tensors)
        ctx.numbers, ctx.backend = (beta, dir_offset), backend
        box, direction, num_positives = kernels(backend).sums(*tensors, beta, dir_offset)
        ctx.mark_non_differentiable(num_positives)
        return box, direction, num_positives

    @staticmethod
    def backward(ctx, grad_box, grad_dir, _):
        gradients = kernels(ctx.backend).gradients(
            grad_box.detach(), grad_dir.detach(), *ctx.saved_tensors, *ctx.numbers
        )
        predictions = [t for t in ctx.saved_tensors[:2] if t is not None]
        gradients = [
            g if g is None else forbid_double_backward(g, NO_SECOND_DERIVATIVE, grad_box, grad_dir, *predictions)
            for g in gradients
        ]
        return *gradients, None, None, None, None, None, None, None
