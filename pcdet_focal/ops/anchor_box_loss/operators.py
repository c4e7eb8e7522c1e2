"""The sums as torch operators, ``torch.ops.pcdet_focal.*``: one node each in the graph of torch.compile or
torch.export.
"""

from __future__ import annotations

import torch
from torch.library import custom_op

from ...errors import InputError
from ..dispatch import backend_of
from .autograd import NO_SECOND_DERIVATIVE, kernels

_ARGUMENTS = (
    "Tensor box_preds, Tensor? dir_logits, Tensor box_targets, Tensor labels, Tensor? anchor_headings, Tensor? "
    "code_weights, float beta, "
    "float dir_offset"
)


def _forward(box_preds, *others):
    return kernels(backend_of("anchor_box_loss", box_preds)).sums(box_preds, *others)


def _forward_fake(box_preds, *others):
    size = box_preds.shape[:1]
    return (
        box_preds.new_empty(size, dtype=torch.float32),
        box_preds.new_empty(size, dtype=torch.float32),
        box_preds.new_empty(size, dtype=torch.int64),
    )


def _backward(grad_box, grad_dir, box_preds, dir_logits, *others):
    box, direction = kernels(backend_of("anchor_box_loss", box_preds)).gradients(
        grad_box, grad_dir, box_preds, dir_logits, *others
    )
    return box, box_preds.new_empty(0) if direction is None else direction


def _backward_fake(grad_box, grad_dir, box_preds, dir_logits, *others):
    return box_preds.new_empty(box_preds.shape), box_preds.new_empty(0) if dir_logits is None else dir_logits.new_empty(
        dir_logits.shape
    )


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:6])
    ctx.numbers = inputs[6:]
    ctx.mark_non_differentiable(output[2])


def _differentiate(ctx, grad_box, grad_dir, _):
    box, direction = box_and_direction_sums_backward(grad_box, grad_dir, *ctx.saved_tensors, *ctx.numbers)
    return box, None if ctx.saved_tensors[1] is None else direction, None, None, None, None, None, None


def _refuse(ctx, *grad_outputs):
    raise InputError(NO_SECOND_DERIVATIVE)


box_and_direction_sums = custom_op(
    "pcdet_focal::box_and_direction_sums",
    _forward,
    mutates_args=(),
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
)
box_and_direction_sums_backward = custom_op(
    "pcdet_focal::box_and_direction_sums_backward",
    _backward,
    mutates_args=(),
    schema=f"(Tensor grad_box, Tensor grad_dir, {_ARGUMENTS}) -> (Tensor, Tensor)",
)
box_and_direction_sums.register_fake(_forward_fake)
box_and_direction_sums_backward.register_fake(_backward_fake)
box_and_direction_sums.register_autograd(_differentiate, setup_context=_keep)
box_and_direction_sums_backward.register_autograd(_refuse)
