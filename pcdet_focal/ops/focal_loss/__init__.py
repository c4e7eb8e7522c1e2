"""Sigmoid focal losses with the gradient by hand: the whole path from labels to a number, and the weighted elementwise
form.

Half precision is computed in float32. CPU tensors run on numba kernels, CUDA tensors on Triton kernels; float64,
torch.func transforms and everything else take plain torch with the same results. Eager mode calls the kernels directly
(``autograd``), a compiler gets them as operators (``operators``). The kernels' gradient cannot be differentiated again:
that is refused with a message, not answered with zeros. On a CUDA device nothing waits for a result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..backend import choose_backend
from . import operators, reference
from .autograd import Elementwise, FromLabels
from .backends import backend_of
from .kinds import Focal, Kind, QualityFocal, Varifocal, check_highest

__all__ = [
    "backend_of",
    "elementwise_backend",
    "focal_loss_from_labels",
    "load_kernels",
    "quality_focal_loss_from_labels",
    "varifocal_loss_from_labels",
    "weighted_focal_loss",
]


def load_kernels() -> None:
    """Compile the CPU kernels, or read them from numba's cache, now instead of in the first step."""
    if choose_backend("cpu", "focal_loss", has_cuda=True) == "cpu":
        from . import cpu  # noqa: F401 - their signatures are fixed, so importing compiles them


def focal_loss_from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    alpha_pos: Sequence[float],
    alpha_neg: Sequence[float],
    gamma: Sequence[float],
    per_sample: bool,
    loss_weight: float,
) -> torch.Tensor:
    """Focal loss of a whole head from its labels, reduced to one number.

    Args:
        logits: (B, A, C) floating. labels: (B, A) integers, below 0 ignored, 0 background, 1..C; with C = 1 every
            positive label is class 1.
        alpha_pos, alpha_neg, gamma: C numbers each.
        per_sample: divide each sample's sum by max(its positives, 1) * B.
        loss_weight: factor of the result.
    Returns:
        Scalar, float32 or, for float64 logits, float64.
    Raises:
        InputError: a label above C > 1 on the CPU (an accelerator is not waited for: there the anchor counts as
            background of all classes).
    """
    return _from_labels(
        logits, labels, None, Focal(tuple(alpha_pos), tuple(alpha_neg), tuple(gamma)), per_sample, loss_weight
    )


def quality_focal_loss_from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor,
    beta: float,
    per_sample: bool,
    loss_weight: float,
) -> torch.Tensor:
    """Quality focal loss of a whole head; ``quality`` (B, A) in [0, 1] is read at positive anchors and gets no
    gradient. See above.
    """
    return _from_labels(logits, labels, quality, QualityFocal(beta), per_sample, loss_weight)


def varifocal_loss_from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor,
    alpha: float,
    gamma: float,
    iou_weighted: bool,
    per_sample: bool,
    loss_weight: float,
) -> torch.Tensor:
    """Varifocal loss of a whole head; ``quality`` (B, A) in [0, 1] is read at positive anchors and gets no gradient.
    See above.
    """
    return _from_labels(logits, labels, quality, Varifocal(alpha, gamma, iou_weighted), per_sample, loss_weight)


_REFERENCES = {QualityFocal: reference.quality_focal_from_labels, Varifocal: reference.varifocal_from_labels}


def _from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor | None,
    kind: Kind,
    per_sample: bool,
    loss_weight: float,
) -> torch.Tensor:
    if labels.dtype not in (torch.int32, torch.int64):
        labels = labels.int()
    quality = None if quality is None else quality.detach()
    backend = backend_of(logits, labels, *([] if quality is None else [quality]))
    needs_grad = torch.is_grad_enabled() and logits.requires_grad
    if backend == "reference":
        return _by_reference(logits, labels, quality, kind, per_sample, loss_weight)
    if torch.compiler.is_compiling():
        tensors = [logits, labels] if quality is None else [logits, labels, quality]
        return operators.FROM_LABELS[type(kind)](
            *tensors, *kind, per_sample, float(loss_weight), needs_grad and backend == "cpu"
        )[0]
    return FromLabels.apply(logits, labels, quality, backend, kind, per_sample, float(loss_weight), needs_grad)


def _by_reference(
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor | None,
    kind: Kind,
    per_sample: bool,
    loss_weight: float,
) -> torch.Tensor:
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if (
        labels.device.type == "cpu"
        and labels.numel()
        and not torch.compiler.is_compiling()
        and type(labels) is torch.Tensor
    ):
        check_highest(kind, int(labels.max()), logits.shape[-1])
    scale = torch.full((logits.shape[0],), float(loss_weight), dtype=torch.float64, device=logits.device)
    if per_sample:
        scale = scale / ((labels > 0).sum(dim=1).clamp(min=1) * max(logits.shape[0], 1))
    if isinstance(kind, Focal):
        # the host does not wait for the device
        constants = [torch.tensor(v, dtype=logits.dtype).to(logits.device, non_blocking=True) for v in kind]
        return reference.from_labels(logits, labels, *constants, scale)
    return _REFERENCES[type(kind)](logits, labels, quality, *kind, scale)


def weighted_focal_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    alpha_pos: float,
    alpha_neg: float,
    gamma: float,
    backend: str,
) -> torch.Tensor:
    """Elementwise focal loss for targets in [0, 1], times weights, by the kernels of ``elementwise_backend``.

    The derivative of its cross entropy is OpenPCDet's at a logit of exactly 0. Targets and weights get no gradient.

    Args:
        logits, targets: (..., C), same shape. weights: (..., 1) or (..., C), broadcast already, or None.
    Returns:
        Loss (..., C), float32.
    """
    numbers = float(alpha_pos), float(alpha_neg), float(gamma)
    if torch.compiler.is_compiling():
        return operators.weighted_focal_loss(logits, targets, weights, *numbers)
    return Elementwise.apply(logits, targets, weights, backend, *numbers)


def elementwise_backend(gamma: float, *tensors: torch.Tensor) -> str | None:
    """``"cpu"``, whose kernel knows gamma = 2 only, ``"cuda"``, or None where no kernel takes these tensors."""
    backend = backend_of(*tensors)
    return backend if backend == "cuda" or backend == "cpu" and gamma == 2 else None
