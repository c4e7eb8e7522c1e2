"""Quality focal and varifocal loss from labels on the CPU; ``reference.py`` is the definition.

Where the target is 0, and that is nearly everywhere, both are focal loss's background: p^beta softplus(x), and alpha
p^gamma softplus(x). So ``cpu.from_labels`` does the pass over the logits, with no weight for positives, and the few
entries that a positive label names are added here, one by one, in float64.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from numba import boolean, float32, float64, int32, int64

from . import cpu
from .kinds import Focal, QualityFocal, Varifocal, check_highest

_BOUND = math.sqrt(np.finfo(np.float32).max)


@numba.njit(error_model="numpy")
def _background(x, p, q, alpha, gamma):
    softplus = max(x, 0.0) + math.log1p(math.exp(-abs(x)))
    weight = alpha * p**gamma
    return weight * softplus, weight * (gamma * q * softplus + p)


@numba.njit(error_model="numpy")
def _entry(x, t, is_varifocal, iou_weighted, alpha, gamma):
    """Loss and slope of the entry that a positive label names."""
    e = math.exp(-abs(x))
    larger, smaller = 1 / (1 + e), e / (1 + e)
    p, q = (larger, smaller) if x >= 0 else (smaller, larger)
    if is_varifocal and t <= 0:  # not NaN
        return _background(x, p, q, alpha, gamma)
    log_term = math.log1p(e)
    bce = t * (max(-x, 0.0) + log_term) + (1 - t) * (max(x, 0.0) + log_term)
    slope = (1 - t) * p - t * q  # p - t
    if is_varifocal:
        factor = t if iou_weighted else 1.0
        return factor * bce, factor * slope
    if slope == 0:
        return 0.0**gamma * bce, 0.0
    power = abs(slope) ** gamma
    return power * bce, power * (slope + gamma * p * q * bce / slope)


@numba.njit(
    [
        (float32[:, :, ::1], lab, qual, boolean, boolean, float64, float64, float64[::1], boolean, float32[:, :, ::1])
        for lab in (int32[:, ::1], int64[:, ::1])
        for qual in (float32[:, ::1],)
    ],
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _positives(logits, labels, quality, is_varifocal, iou_weighted, alpha, gamma, scale, with_grad, grad):
    """Scaled loss of the entries that labels name; their gradients are written over those in ``grad``."""
    batch_size, num_anchors, num_class = logits.shape
    total = 0.0
    for b in range(batch_size):
        for first in range(0, num_anchors, 64):
            last = min(first + 64, num_anchors)
            highest = labels[b, first]
            for a in range(first, last):
                highest = max(highest, labels[b, a])
            if highest <= 0:
                continue
            for a in range(first, last):
                if labels[b, a] > 0:
                    c = 0 if num_class == 1 else labels[b, a] - 1
                    given = float64(logits[b, a, c])
                    x = _BOUND if given > _BOUND else -_BOUND if given < -_BOUND else given  # in this order a NaN stays
                    loss, slope = _entry(x, float64(quality[b, a]), is_varifocal, iou_weighted, alpha, gamma)
                    total += scale[b] * loss
                    if with_grad:
                        grad[b, a, c] = 0.0 if abs(given) > _BOUND else scale[b] * slope
    return total


def from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor,
    kind: QualityFocal | Varifocal,
    per_sample: bool,
    loss_weight: float,
    with_grad: bool,
) -> tuple[float, torch.Tensor | None]:
    """Loss of a batch, and its gradient.

    Args:
        logits: (B, A, C) float32. labels: (B, A) int32 or int64. quality: (B, A) float32. All contiguous, A, B and C at
            least 1.
        per_sample: divide a sample's sum by max(its positives, 1) * B.
    Raises:
        InputError: a label above C > 1.
    """
    alpha, gamma = (kind.alpha, kind.gamma) if isinstance(kind, Varifocal) else (1.0, kind.beta)
    batch_size, _, count = logits.shape
    background = Focal((0.0,) * count, (alpha,) * count, (gamma,) * count)
    loss, grad, highest, scratch = cpu.from_labels(logits, labels, background, per_sample, loss_weight, with_grad)
    check_highest(kind, highest, count)
    scale = np.full(batch_size, float(loss_weight))
    if per_sample:
        scale /= np.maximum(cpu.positives(scratch, batch_size), 1) * batch_size
    out = grad.numpy() if with_grad else np.empty((0, 0, 0), np.float32)
    iou_weighted = isinstance(kind, Varifocal) and kind.iou_weighted
    arrays = [t.detach().numpy() for t in (logits, labels, quality)]
    loss += _positives(*arrays, isinstance(kind, Varifocal), iou_weighted, alpha, gamma, scale, with_grad, out)
    return loss, grad
