"""Focal losses as torch operators, ``torch.ops.pcdet_focal.*``, for torch.compile and torch.export.

A compiler cannot look into numba or Triton kernels that are called from Python. As operators it takes them as they are,
one node of its graph each, and plans around them by their shapes. Eager mode does without: an operator written in
Python costs some ten microseconds a call.

Numbers such as gamma are compiled in: for each value of a schedule torch compiles anew, up to
torch._dynamo.config.recompile_limit times.
"""

from __future__ import annotations

import torch
from torch.library import custom_op

from ...errors import InputError
from . import backends
from .autograd import NO_SECOND_DERIVATIVE
from .kinds import Focal, QualityFocal, Varifocal

_TAIL = "bool per_sample, float loss_weight"


def _define(name: str, schema: str, implementation, fake):
    operator = custom_op(f"pcdet_focal::{name}", implementation, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    return operator


def _refuse(ctx, *grad_outputs):
    raise InputError(NO_SECOND_DERIVATIVE)


def _define_from_labels(name: str, kind_type: type, tensors: str, numbers: str):
    """``name``: loss, and float32 gradient or (with_grad=False) nothing; ``name_backward``: the gradient times
    grad_output, from the one or the other.

    Which of the two ways is the caller's choice: on the CPU arithmetic is the limit, and one pass gives both; on a GPU
    memory is, and to read the logits a second time is less than to write, read and write a gradient.
    """
    num_tensors, num_numbers = 3 if "quality" in tensors else 2, len(kind_type._fields)

    def parted(arguments):
        given = list(arguments)
        logits, labels, quality = (*given[:num_tensors], None)[:3]
        numbers, rest = given[num_tensors : num_tensors + num_numbers], given[num_tensors + num_numbers :]
        return logits, labels, quality, kind_type(*(tuple(n) if isinstance(n, list) else n for n in numbers)), *rest

    def forward(*arguments):
        *given, with_grad = parted(arguments)
        loss, gradient = backends.loss_and_gradient(backends.backend_of(given[0], given[1]), *given, with_grad)
        return loss, loss.new_empty(0) if gradient is None else gradient.float()

    def forward_fake(*arguments):
        logits, with_grad = arguments[0], arguments[-1]
        return logits.new_empty((), dtype=torch.float32), logits.new_empty(
            logits.shape if with_grad else (0,), dtype=torch.float32
        )

    def backward(grad_output, gradient, *arguments):
        given = parted(arguments)
        if gradient.numel():
            return (gradient * grad_output).to(given[0].dtype)
        return backends.gradient_again(backends.backend_of(given[0], given[1]), grad_output, *given)

    def backward_fake(grad_output, gradient, logits, *arguments):
        return logits.new_empty(logits.shape)

    operator = _define(
        name, f"({tensors}, {numbers}, {_TAIL}, bool with_grad) -> (Tensor, Tensor)", forward, forward_fake
    )
    operator_backward = _define(
        f"{name}_backward",
        f"(Tensor grad_output, Tensor gradient, {tensors}, {numbers}, {_TAIL}) -> Tensor",
        backward,
        backward_fake,
    )

    def keep(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:num_tensors], output[1])
        ctx.rest = inputs[num_tensors:-1]
        ctx.mark_non_differentiable(output[1])

    def differentiate(ctx, grad_output, _):
        *tensors, gradient = ctx.saved_tensors
        return operator_backward(grad_output, gradient, *tensors, *ctx.rest), *[None] * (num_tensors + len(ctx.rest))

    operator.register_autograd(differentiate, setup_context=keep)
    operator_backward.register_autograd(_refuse)
    return operator


_LABELS = "Tensor logits, Tensor labels"
focal_loss_from_labels = _define_from_labels(
    "focal_loss_from_labels", Focal, _LABELS, "float[] alpha_pos, float[] alpha_neg, float[] gamma"
)
quality_focal_loss_from_labels = _define_from_labels(
    "quality_focal_loss_from_labels", QualityFocal, f"{_LABELS}, Tensor quality", "float beta"
)
varifocal_loss_from_labels = _define_from_labels(
    "varifocal_loss_from_labels", Varifocal, f"{_LABELS}, Tensor quality", "float alpha, float gamma, bool iou_weighted"
)
FROM_LABELS = {
    Focal: focal_loss_from_labels,
    QualityFocal: quality_focal_loss_from_labels,
    Varifocal: varifocal_loss_from_labels,
}


def _elementwise(logits, targets, weights, alpha_pos, alpha_neg, gamma):
    return backends.elementwise(
        backends.backend_of(logits, targets), logits, targets, weights, alpha_pos, alpha_neg, gamma
    )


def _elementwise_backward(grad_output, logits, targets, weights, alpha_pos, alpha_neg, gamma):
    backend = backends.backend_of(logits, targets)
    return backends.elementwise(backend, logits, targets, weights, alpha_pos, alpha_neg, gamma, grad_output)


def _keep_elementwise(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])
    ctx.numbers = inputs[3:]


def _differentiate_elementwise(ctx, grad_output):
    return weighted_focal_loss_backward(grad_output, *ctx.saved_tensors, *ctx.numbers), None, None, None, None, None


_ELEMENTWISE = "Tensor logits, Tensor targets, Tensor? weights, float alpha_pos, float alpha_neg, float gamma"
weighted_focal_loss = _define(
    "weighted_focal_loss",
    f"({_ELEMENTWISE}) -> Tensor",
    _elementwise,
    lambda logits, *others: logits.new_empty(logits.shape, dtype=torch.float32),
)
weighted_focal_loss_backward = _define(
    "weighted_focal_loss_backward",
    f"(Tensor grad_output, {_ELEMENTWISE}) -> Tensor",
    _elementwise_backward,
    lambda grad_output, logits, *others: logits.new_empty(logits.shape),
)
weighted_focal_loss.register_autograd(_differentiate_elementwise, setup_context=_keep_elementwise)
weighted_focal_loss_backward.register_autograd(_refuse)
