"""Sigmoid focal loss with the gradient by hand: the whole path from labels to a number, and the weighted elementwise form.

Half precision is computed in float32. CPU tensors of float32 and below run on numba kernels, everything else (float64, CUDA, a graph being
compiled, torch.func transforms) on plain torch with the same results. The kernels' gradient cannot be differentiated again: that is refused
with a message, not answered with zeros.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.ops.backend import choose_backend

from . import reference

__all__ = ["focal_loss_from_labels", "load_kernels", "serves", "weighted_focal_loss"]


def serves(*tensors: torch.Tensor) -> bool:
    """Whether the numba kernels can work on these tensors as they are, or after a cast to float32."""
    transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)()
    if torch.compiler.is_compiling() or transformed or torch.jit.is_tracing():
        return False
    plain = all(type(t) in (torch.Tensor, torch.nn.Parameter) and t.dtype != torch.float64 and not t.is_complex() and t.numel() > 0 for t in tensors)
    return plain and all(t.layout == torch.strided and choose_backend(t.device, "focal_loss") == "cpu" for t in tensors)


def load_kernels() -> None:
    """Compile the CPU kernels, or read them from numba's cache, now instead of in the first step."""
    if choose_backend("cpu", "focal_loss") == "cpu":
        from . import cpu  # noqa: F401 - their signatures are fixed, so importing compiles them


def focal_loss_from_labels(logits: torch.Tensor, labels: torch.Tensor, alpha_pos: Sequence[float], alpha_neg: Sequence[float],
                           gamma: Sequence[float], per_sample: bool, loss_weight: float) -> torch.Tensor:
    """Focal loss of a whole head from its labels, reduced to one number.

    Args:
        logits: (B, A, C) floating. labels: (B, A) integers, below 0 ignored, 0 background, 1..C; with C = 1 every positive label is class 1.
        alpha_pos, alpha_neg, gamma: C numbers each.
        per_sample: divide each sample's sum by max(its positives, 1) * B.
        loss_weight: factor of the result.
    Returns:
        Scalar, float32 or, for float64 logits, float64.
    Raises:
        InputError: a label above C > 1 on the CPU (an accelerator is not waited for: there the anchor counts as background of all classes).
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if labels.dtype not in (torch.int32, torch.int64):
        labels = labels.int()
    if serves(logits, labels):
        return _fused_from_labels(logits, labels.detach(), alpha_pos, alpha_neg, gamma, per_sample, loss_weight).to(logits.device)
    if labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling() and type(labels) is torch.Tensor:
        _check_highest(int(labels.max()), logits.shape[-1])
    batch_size = max(logits.shape[0], 1)
    scale = torch.full((logits.shape[0],), float(loss_weight), dtype=torch.float64, device=logits.device)
    if per_sample:
        scale = scale / ((labels > 0).sum(dim=1).clamp(min=1) * batch_size)
    constants = [torch.tensor(v, dtype=logits.dtype, device=logits.device) for v in (alpha_pos, alpha_neg, gamma)]
    return reference.from_labels(logits, labels, *constants, scale)


def _check_highest(highest: int, num_class: int) -> None:
    if highest > num_class > 1:
        raise InputError(f"sigmoid_focal_loss_from_labels: label {highest} is above the {num_class} classes of the logits: labels are -1 (ignored), "
                         f"0 (background), or 1 to {num_class}.")


def _fused_from_labels(logits: torch.Tensor, labels: torch.Tensor, alpha_pos: Sequence[float], alpha_neg: Sequence[float], gamma: Sequence[float],
                       per_sample: bool, loss_weight: float) -> torch.Tensor:
    from . import cpu

    logits, labels = logits.cpu().contiguous(), labels.cpu().contiguous()
    num_positives, highest = cpu.count_positives(labels.numpy())
    _check_highest(highest, logits.shape[-1])
    scale = np.full(len(labels), float(loss_weight))
    if per_sample:
        scale /= np.maximum(num_positives, 1) * len(labels)
    return _FromLabels.apply(logits, labels, (alpha_pos, alpha_neg, gamma, scale), torch.is_grad_enabled() and logits.requires_grad)


class _FromLabels(torch.autograd.Function):
    """Loss and gradient in one pass. The first backward hands the gradient on as it is, a second one (retain_graph) computes it anew."""

    @staticmethod
    def forward(ctx, logits, labels, constants, with_grad):
        from . import cpu

        loss, gradient = cpu.from_labels(logits.detach(), labels.numpy(), *constants, with_grad)
        if with_grad:
            ctx.save_for_backward(logits, labels)
            ctx.constants, ctx.gradient = constants, gradient
        return torch.tensor(loss, dtype=logits.dtype)

    @staticmethod
    def backward(ctx, grad_output):
        logits, labels = ctx.saved_tensors  # after the graph was freed this raises torch's own message
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            from . import cpu

            _, gradient = cpu.from_labels(logits.detach(), labels.numpy(), *ctx.constants, True)
        factor = float(grad_output.detach())
        if factor != 1:
            gradient.mul_(factor)  # nobody else holds it
        return _once(gradient, logits, grad_output), None, None, None


def weighted_focal_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None, alpha_pos: float,
                        alpha_neg: float) -> torch.Tensor:
    """Elementwise focal loss with gamma = 2 for targets in [0, 1], times weights; only for tensors that ``serves`` accepts.

    The derivative of its cross entropy is OpenPCDet's at a logit of exactly 0. Targets and weights get no gradient.

    Args:
        logits, targets: (..., C), same shape. weights: (..., 1) or (..., C), broadcast already, or None.
    Returns:
        Loss (..., C), float32.
    """
    device = logits.device
    logits, targets = logits.float().cpu().contiguous(), targets.detach().float().cpu()
    weights = None if weights is None else weights.detach().float().cpu().contiguous()
    return _Elementwise.apply(logits, targets, weights, alpha_pos, alpha_neg).to(device)


class _Elementwise(torch.autograd.Function):
    """One kernel forward, one backward; only the inputs are kept."""

    @staticmethod
    def forward(ctx, logits, targets, weights, alpha_pos, alpha_neg):
        from . import cpu

        ctx.save_for_backward(logits, targets, weights)
        ctx.alphas = alpha_pos, alpha_neg
        return cpu.elementwise(logits.detach(), targets, weights, alpha_pos, alpha_neg)

    @staticmethod
    def backward(ctx, grad_output):
        from . import cpu

        logits, targets, weights = ctx.saved_tensors
        gradient = cpu.elementwise(logits.detach(), targets, weights, *ctx.alphas, grad_output.detach())
        return _once(gradient, logits, grad_output), None, None, None, None


def _once(gradient: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    """The gradient, which raises when it is differentiated in turn (create_graph=True)."""
    return _NoSecondDerivative.apply(gradient, *inputs) if torch.is_grad_enabled() else gradient


class _NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient, *inputs):
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, grad_output):
        raise InputError("The fused sigmoid focal loss has no second derivative. Compute the loss in float64, or set PCDET_FOCAL_BACKEND=reference: "
                         "plain torch can be differentiated twice.")
