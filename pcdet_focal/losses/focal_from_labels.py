"""Sigmoid focal loss of a whole head straight from its labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import InputError
from ..ops.focal_loss import focal_loss_from_labels

_NAME = "sigmoid_focal_loss_from_labels"
_NORMALIZERS = ("per_sample", "none")


def sigmoid_focal_loss_from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    alpha: float | Sequence[float] | None = 0.25,
    gamma: float | Sequence[float] = 2.0,
    normalizer: str = "per_sample",
    loss_weight: float = 1.0,
) -> torch.Tensor:
    r"""The focal loss of ``sigmoid_focal_loss``, summed over all anchors that are not ignored and normalised, without
    one-hot targets or weights::

        p_t   = sigmoid(x) where the label names the class, 1 - sigmoid(x) elsewhere
        L_b   = sum_{a, c} alpha_t (1 - p_t)^gamma (-log p_t)          anchors of sample b with a label >= 0
        loss  = loss_weight / B  sum_b  L_b / max(positives of b, 1)   'per_sample' (OpenPCDet)
                loss_weight  sum_b  L_b                                'none'

    One pass over the logits gives loss and gradient, on the CPU and on a CUDA device, which nothing waits for; the
    gradient is the only memory of the size of the logits. Sums are float64, positives are counted exactly, and the same
    input gives the same bits. In a compiled graph the pass is one operator. Float64 logits and torch.func transforms
    take plain torch, with the same result.

    Args:
        logits: (B, A, C), any floating dtype. Half precision is computed, and the loss returned, in float32.
            +-inf counts as +-1.8e19 (float32), with gradient 0, and NaN gives NaN, as in ``sigmoid_focal_loss``.
        labels: (B, A) integers: -1 (or any below 0) ignored, whatever the logits there, 0 background, 1..C the class.
            With C = 1 every positive label is the one class. Not changed.
        alpha: weight of positives in [0, 1], one or one per class; background has 1 - alpha. None or -1 for no
            weighting.
        gamma: focusing exponent >= 0, one or one per class.
        normalizer: 'per_sample' or 'none'.
        loss_weight: factor of the result.
    Returns:
        Scalar, with a gradient for ``logits``. Unless in float64 it can be differentiated once only.
    Raises:
        InputError: shapes that do not fit, labels that are not integers, an argument out of range; on the CPU also a
            label above C.

    >>> logits, labels = torch.zeros(1, 4, 3), torch.tensor([[0, 2, 0, -1]])
    >>> # (8 * 0.75 + 1 * 0.25) * 0.5^2 * log 2, one positive
    >>> sigmoid_focal_loss_from_labels(logits, labels)
    tensor(1.0830)
    """
    check_logits_and_labels(_NAME, logits, labels, normalizer)
    num_class = logits.shape[2]
    if alpha is None or isinstance(alpha, (int, float)) and alpha == -1:
        alpha_pos = alpha_neg = [1.0] * num_class
    else:
        alpha_pos = _one_per_class("alpha", alpha, num_class)
        alpha_neg = [1 - a for a in alpha_pos]
        if not all(0 <= a <= 1 for a in alpha_pos):
            raise InputError(
                f"{_NAME}: alpha={alpha} is not allowed: from 0 to 1, or None or -1 for no class weighting."
            )
    exponents = _one_per_class("gamma", gamma, num_class)
    if not all(g >= 0 for g in exponents):
        raise InputError(f"{_NAME}: gamma={gamma} is not allowed: at least 0.")
    return focal_loss_from_labels(
        logits, labels, alpha_pos, alpha_neg, exponents, normalizer == "per_sample", loss_weight
    )


def check_logits_and_labels(loss_name: str, logits: torch.Tensor, labels: torch.Tensor, normalizer: str) -> None:
    """Raise InputError unless logits (B, A, C), integer labels (B, A) and the normaliser fit a loss from labels."""
    if logits.dim() != 3 or tuple(labels.shape) != tuple(logits.shape[:2]) or logits.shape[2] == 0:
        raise InputError(
            f"{loss_name}: logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit: (B, A, C) and "
            "(B, A) are needed."
        )
    if not logits.is_floating_point():
        raise InputError(f"{loss_name}: logits of {logits.dtype} are not floating point numbers.")
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"{loss_name}: labels of {labels.dtype} are not integers. For soft targets use sigmoid_focal_loss."
        )
    if labels.device != logits.device:
        raise InputError(f"{loss_name}: logits are on {logits.device} but labels on {labels.device}.")
    if normalizer not in _NORMALIZERS:
        raise InputError(
            f"{loss_name}: normalizer={normalizer!r} is unknown: {' or '.join(map(repr, _NORMALIZERS))} is allowed."
        )


def _one_per_class(name: str, value: float | Sequence[float], num_class: int) -> list[float]:
    # in this order: a compiler knows the first of a number that changes
    one = isinstance(value, (int, float)) or not hasattr(value, "__len__")
    values = [float(value)] if one else [float(v) for v in value]
    if len(values) not in (1, num_class):
        raise InputError(
            f"{_NAME}: {len(values)} values of {name} do not fit {num_class} classes: one number, or one per class."
        )
    return values * num_class if len(values) == 1 else values
