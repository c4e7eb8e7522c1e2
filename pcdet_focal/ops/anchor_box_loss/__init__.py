"""What an anchor head's box and direction branch costs at its positive anchors: smooth L1 loss of box codes, cross
entropy of sectors of the heading.

A few hundred of a million anchors are positive. The kernels read the labels once and the rest there only; no list of
positives is made, so that on a CUDA device nobody waits for its length. numba and Triton compute in float64 and
float32, with the gradient by hand, which cannot be differentiated again; float64 and torch.func transforms take plain
torch.
"""

from __future__ import annotations

import torch

from ...errors import InputError
from ..dispatch import backend_of
from . import operators, reference
from .autograd import BoxAndDirection, kernels

__all__ = ["box_and_direction_sums", "has_kernels", "load_kernels"]


def load_kernels() -> None:
    """Compile the CPU kernels, or read them from numba's cache, now instead of in the first step."""
    if backend_of("anchor_box_loss", torch.zeros(1)) == "cpu":
        kernels("cpu")  # their signatures are fixed, so importing compiles them


def has_kernels(*tensors: torch.Tensor) -> bool:
    """Whether a kernel takes these tensors, so that ``box_and_direction_sums`` is more than plain torch over all
    anchors.
    """
    return backend_of("anchor_box_loss", *tensors) != "reference"


def box_and_direction_sums(
    box_preds: torch.Tensor,
    box_targets: torch.Tensor,
    labels: torch.Tensor,
    *,
    code_weights: torch.Tensor | None = None,
    beta: float = 1.0 / 9.0,
    dir_logits: torch.Tensor | None = None,
    anchor_headings: torch.Tensor | None = None,
    dir_offset: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Box and direction loss of each sample, summed over its positive anchors and not normalised::

        box        = sum huber(code_weight (prediction - target))
        huber(d)   = 0.5 d^2 / beta where |d| < beta, |d| - 0.5 beta elsewhere; |d| everywhere if beta < 1e-5
        direction  = sum -log softmax(logits)[k]

    Column 6 has sin(prediction - target), an unknown (NaN) target 0. k is the direction bin of anchor heading + target
    column 6, among K equal bins that begin at dir_offset.

    Args:
        box_preds, box_targets: (B, A, D) box codes, D at least 7. labels: (B, A) integers, positive above 0.
        code_weights: (D,) or None for 1. beta: transition point of Huber's function.
        dir_logits: (B, A, K), and anchor_headings: (A,) radians; None for no direction loss. dir_offset: radians.
    Returns:
        box (B,) and direction (B,), float32 or, for float64 predictions, float64, with gradients for box_preds and
        dir_logits; positives (B,) int64.
    Raises:
        InputError: shapes that do not fit.

    Source: OpenPCDet's ``AnchorHeadTemplate.get_box_reg_layer_loss``; Yan et al., SECOND, Sensors 2018, section 3.3.
    """
    if (
        box_preds.dim() != 3
        or box_preds.shape[2] < 7
        or box_targets.shape != box_preds.shape
        or labels.shape != box_preds.shape[:2]
    ):
        raise InputError(
            f"box_and_direction_sums: box_preds {tuple(box_preds.shape)}, box_targets {tuple(box_targets.shape)} and "
            "labels "
            f"{tuple(labels.shape)} do not fit: twice (B, A, 7 or more) and (B, A) are needed."
        )
    if code_weights is not None and code_weights.shape != box_preds.shape[2:]:
        raise InputError(
            f"box_and_direction_sums: {code_weights.numel()} code_weights do not fit {box_preds.shape[2]} box codes."
        )
    if dir_logits is not None and (
        dir_logits.dim() != 3
        or dir_logits.shape[:2] != labels.shape
        or dir_logits.shape[2] == 0
        or anchor_headings is None
        or anchor_headings.shape != labels.shape[1:]
    ):
        raise InputError(
            f"box_and_direction_sums: dir_logits {tuple(dir_logits.shape)} and anchor_headings "
            f"{None if anchor_headings is None else tuple(anchor_headings.shape)} do not fit labels "
            f"{tuple(labels.shape)}: "
            "(B, A, K) and (A,) are needed."
        )
    if labels.dtype not in (torch.int32, torch.int64):
        labels = labels.int()
    backend = backend_of("anchor_box_loss", *[t for t in (box_preds, box_targets, labels, dir_logits) if t is not None])
    if backend == "reference":
        box = reference.box_sums(box_preds, box_targets, labels, code_weights, beta)
        direction = (
            torch.zeros_like(box)
            if dir_logits is None
            else reference.direction_sums(dir_logits, box_targets, labels, anchor_headings, dir_offset)
        )
        return box, direction, (labels > 0).sum(dim=1)
    tensors = (
        box_preds,
        dir_logits,
        box_targets,
        labels,
        anchor_headings if dir_logits is not None else None,
        code_weights,
    )
    if torch.compiler.is_compiling():
        return operators.box_and_direction_sums(*tensors, float(beta), float(dir_offset))
    return BoxAndDirection.apply(*tensors, float(beta), float(dir_offset), backend)
