"""Focal losses on the kernels of one backend, without autograd: tensors in, tensors out. Nothing here waits
for a device.

``"cpu"`` computes half precision after a cast, and tensors of a device (PCDET_FOCAL_BACKEND=cpu) after a copy to the
host.
"""

from __future__ import annotations

import torch

from .. import dispatch
from .kinds import Kind, check_highest


def backend_of(*tensors: torch.Tensor) -> str:
    """``"cpu"``, ``"cuda"`` or ``"reference"`` for these tensors."""
    return dispatch.backend_of("focal_loss", *tensors)


def loss_and_gradient(
    backend: str,
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor | None,
    kind: Kind,
    per_sample: bool,
    loss_weight: float,
    with_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scalar float32 loss of (B, A, C) logits and (B, A) labels, and, where ``with_grad``, its gradient.

    The gradient is float32 on "cpu" and of the dtype of the logits on "cuda".
    """
    if backend == "cuda":
        from . import cuda

        return cuda.from_labels(*_contiguous(logits, labels, quality), kind, per_sample, loss_weight, with_grad)
    from . import cpu

    device = logits.device
    logits, labels = _in_host_memory(logits).contiguous(), labels.cpu().contiguous()
    quality = None if quality is None else _in_host_memory(quality).contiguous()
    loss, gradient, highest = cpu.from_labels(logits, labels, quality, kind, per_sample, loss_weight, with_grad)
    check_highest(kind, highest, logits.shape[-1])
    return torch.scalar_tensor(loss, dtype=torch.float32, device=device), gradient if gradient is None else gradient.to(
        device
    )


def scale_gradient_(
    backend: str, grad_output: torch.Tensor, gradient: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The gradient that ``loss_and_gradient`` gave, multiplied in place by ``grad_output``, one number, and cast."""
    if backend == "cuda":
        from . import cuda

        return cuda.scale_(gradient, grad_output)
    factor = float(grad_output)
    return (gradient if factor == 1 else gradient.mul_(factor)).to(dtype)


def gradient_again(
    backend: str,
    grad_output: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor | None,
    kind: Kind,
    per_sample: bool,
    loss_weight: float,
) -> torch.Tensor:
    """The gradient, computed anew, times ``grad_output``, one number, in the dtype of the logits."""
    if backend == "cuda":
        from . import cuda

        return cuda.from_labels_gradient(
            *_contiguous(logits, labels, quality), kind, per_sample, loss_weight, grad_output
        )
    gradient = loss_and_gradient(backend, logits, labels, quality, kind, per_sample, loss_weight, True)[1]
    return scale_gradient_(backend, grad_output, gradient, logits.dtype)


def elementwise(
    backend: str,
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    alpha_pos: float,
    alpha_neg: float,
    gamma: float,
    grad_output: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weighted focal loss (..., C) in float32, or with ``grad_output`` its gradient in the dtype of the logits. On
    "cpu" gamma is 2.
    """
    if backend == "cuda":
        from . import cuda

        weights = None if weights is None else weights.detach().contiguous()
        return cuda.elementwise(
            logits.detach().contiguous(), targets.detach(), weights, alpha_pos, alpha_neg, gamma, grad_output
        )
    from . import cpu

    x, targets = _in_host_memory(logits).contiguous(), _in_host_memory(targets)
    weights = None if weights is None else _in_host_memory(weights).contiguous()
    if grad_output is None:
        return cpu.elementwise(x, targets, weights, alpha_pos, alpha_neg).to(logits.device)
    return cpu.elementwise(x, targets, weights, alpha_pos, alpha_neg, _in_host_memory(grad_output)).to(logits)


def _in_host_memory(tensor: torch.Tensor) -> torch.Tensor:
    """In float32; a tensor that is that already as it is."""
    if tensor.dtype == torch.float32 and tensor.is_cpu:
        return tensor
    return tensor.detach().float().cpu()


def _contiguous(*tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    return [t if t is None else t.detach().contiguous() for t in tensors]
