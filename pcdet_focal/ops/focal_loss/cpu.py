"""Focal, quality focal and varifocal loss on the CPU in numba; ``reference.py`` is the definition.

With p = sigmoid(x), q = 1 - p and softplus(x) = log(1 + exp(x)), a background entry has::

    loss      = alpha p^gamma softplus(x)
    d loss/dx = alpha p^gamma (gamma q softplus(x) + p)              because softplus' = p and p' = p q

Nearly all entries are background in each of the three losses. Therefore a loop without branches, which the compiler
vectorises, treats a block of entries as background, and a second loop over the labels of the block overwrites the few
entries of positive and ignored anchors. Everything comes from e = exp(-|x|): 1 / (1 + e) is the larger of p and q, and
softplus(x) = max(x, 0) + log1p(e). exp and log1p are polynomials (relative error below 2.1e-7), because numba
vectorises neither.

A logit beyond +-sqrt(largest float32) = +-1.8e19 counts as that number, with gradient 0; NaN stays NaN. ``fastmath`` is
only ``contract`` (fused multiply-add): more would undo the range reduction of exp and lose NaNs. The division into
tasks depends on the sizes alone, so that every number of threads gives the same bits.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numba
import numpy as np
import torch
from numba import boolean, float32, float64, int32, int64

from ..threads import parallel_for
from .kinds import Focal, Kind, QualityFocal

BLOCK = 2048  # entries: their logits, loss and gradient stay in the first-level cache
BLOCKS_PER_TASK = 8

# LN2_HIGH * 2^7 is a whole number, so that n * LN2_HIGH is exact
_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693145752), np.float32(1.42860677e-6)
_SHIFTER = np.float32(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number, left in the lowest bits
_EXP_LIMIT = np.float32(87.0)  # exp(-87) is a normal number
_BOUND = np.float32(np.sqrt(np.finfo(np.float32).max))
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)
# exp(r) = 1 + E1 r + E2 r^2 + .. on |r| <= ln(2) / 2: minimax, 9e-8
_E1, _E2, _E3 = np.float32(0.9999997063133564), np.float32(0.49999147841130415), np.float32(0.16667638127242876)
_E4, _E5 = np.float32(0.04189815961838508), np.float32(0.00829027211223593)
# L / (2 sinh L) = K0 + K1 t + .., t = 2 cosh L - 2 in [0, 1/2]: minimax, 1.7e-8
_K0, _K1, _K2 = np.float32(0.4999999917701106), np.float32(-0.0833325038964327), np.float32(0.01665318684129171)
_K3, _K4 = np.float32(-0.003493715927206173), np.float32(0.0006048949910950533)

_FOCAL, _QUALITY_FOCAL, _VARIFOCAL, _VARIFOCAL_IOU_WEIGHTED = range(4)

# the numpy error model, because a check for division by zero ends vectorisation
_compute = numba.njit(fastmath={"contract"}, error_model="numpy")


@_compute
def _exp_of_minus(a):
    """exp(-a) for a >= 0, at least exp(-87). Of a NaN it is any number."""
    a = _EXP_LIMIT if a > _EXP_LIMIT else a
    shifted = _SHIFTER - a * _LOG2E
    n = shifted - _SHIFTER
    r = (-a - n * _LN2_HIGH) - n * _LN2_LOW
    poly = ((((_E5 * r + _E4) * r + _E3) * r + _E2) * r + _E1) * r + _ONE
    # times 2^n: n is added to the exponent
    bits = np.float32(poly).view(np.int32) + (np.float32(shifted).view(np.int32) << np.int32(23))
    return np.int32(bits).view(np.float32)


@_compute
def _log1p(e, w):
    """L = log(1 + e) for e in [0, 1], given w = e / (1 + e): e + w is 2 sinh L, and e - w is 2 cosh L - 2."""
    t = e - w
    return (e + w) * ((((_K4 * t + _K3) * t + _K2) * t + _K1) * t + _K0)


@_compute
def _bounded(x):
    x = _BOUND if x > _BOUND else x  # in this order a NaN stays
    return -_BOUND if x < -_BOUND else x


@_compute
def _terms(x):
    """p, 1 - p, softplus(x), softplus(-x) of a bounded logit."""
    e = _exp_of_minus(abs(x))
    larger = _ONE / (_ONE + e)
    smaller = e * larger
    log_term = _log1p(e, smaller)
    negative = x < _ZERO  # not of a NaN, which therefore reaches softplus
    p = smaller if negative else larger
    q = larger if negative else smaller
    return p, q, (_ZERO if negative else x) + log_term, (-x if negative else _ZERO) + log_term


@_compute
def _background(logits, alpha, gamma, scale, loss, grad):
    """A block of entries as background; ``alpha`` and ``gamma`` of each entry. The gradient is scaled, the loss not."""
    for i in range(logits.size):
        p, q, softplus, softplus_minus = _terms(_bounded(logits[i]))
        weight = _exp_of_minus(gamma[i] * softplus_minus) * alpha[i]
        loss[i] = weight * softplus
        grad[i] = _ZERO if abs(logits[i]) > _BOUND else weight * (gamma[i] * q * softplus + p) * scale


@_compute
def _background_gamma_2(logits, alpha, scale, loss, grad):
    """The same where every gamma is 2: a square instead of a second exponential."""
    for i in range(logits.size):
        x = _BOUND if logits[i] > _BOUND else logits[i]  # below -BOUND both results are 0 anyway
        p, q, softplus, _ = _terms(x)
        weight = p * p * alpha[i]
        loss[i] = weight * softplus
        grad[i] = _ZERO if abs(logits[i]) > _BOUND else weight * (_TWO * q * softplus + p) * scale


@numba.njit(error_model="numpy")
def _positive(x, t, kind, alpha, gamma):
    """Loss and slope of the entry that a positive label names, in float64; ``t`` is the quality."""
    e = math.exp(-abs(x))
    larger, smaller, log_term = 1 / (1 + e), e / (1 + e), math.log1p(e)
    p, q = (larger, smaller) if x >= 0 else (smaller, larger)
    softplus, softplus_minus = max(x, 0.0) + log_term, max(-x, 0.0) + log_term
    if x != x:
        softplus = softplus_minus = x
    if kind == _FOCAL:
        weight = alpha * q**gamma
        return weight * softplus_minus, -weight * (gamma * p * softplus_minus + q)
    if kind != _QUALITY_FOCAL and t <= 0:  # varifocal; not NaN
        weight = alpha * p**gamma
        return weight * softplus, weight * (gamma * q * softplus + p)
    bce = t * softplus_minus + (1 - t) * softplus
    slope = (1 - t) * p - t * q  # p - t
    if kind != _QUALITY_FOCAL:
        factor = t if kind == _VARIFOCAL_IOU_WEIGHTED else 1.0
        return factor * bce, factor * slope
    if slope == 0:
        return 0.0**gamma * bce, 0.0
    power = abs(slope) ** gamma
    return power * bce, power * (slope + gamma * p * q * bce / slope)


@numba.njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def _sum(values):
    """In float64, of sums of four in float32, because the conversion takes most of the time."""
    total, n = 0.0, values.size // 4
    for i in range(n):
        total += np.float64((values[i] + values[n + i]) + (values[2 * n + i] + values[3 * n + i]))
    for i in range(4 * n, values.size):
        total += np.float64(values[i])
    return total


@numba.njit(error_model="numpy")
def _any(labels):
    bits = np.int32(0)
    for a in range(labels.size):  # vectorised, unlike "for label in labels"
        bits |= labels[a]
    return bits != 0


@numba.njit((int32[:, ::1], int64, int64[:, ::1], int64[:, ::1], int64, int64), cache=True, nogil=True)
def _count(labels, anchors_per_task, counts, highest, first_task, last_task):
    """Fill in the positives and the highest label of the tasks; ``counts`` and ``highest`` are (B, tasks a sample)."""
    for task in range(first_task, last_task):
        b, part = task // counts.shape[1], task % counts.shape[1]
        row = labels[b, part * anchors_per_task : (part + 1) * anchors_per_task]
        count, top = np.int32(0), row[0]
        for a in range(row.size):
            count += np.int32(row[a] > 0)
            top = max(top, row[a])
        counts[b, part], highest[b, part] = count, top


@numba.njit(
    (float32[:, :, ::1], int32[:, ::1], float32[:, ::1], int64)
    + (float64[::1], float32[::1], float32[::1], boolean, int64, float32[::1])
    + (float32[:, :, ::1], float64[:, ::1], int64, int64),
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _loss_and_gradient(
    logits, labels, quality, kind, alpha_pos, alpha, gamma, gamma_is_2, per_block, scale, grad, sums, first, last
):
    """Unscaled loss sums (B, tasks a sample) and scaled gradients of the tasks; a ``grad`` without entries is not
    written. ``alpha`` and ``gamma`` hold each entry of a block.
    """
    _, num_anchors, num_class = logits.shape
    loss, scratch = np.empty(alpha.size, np.float32), np.empty(alpha.size, np.float32)
    per_task = per_block * BLOCKS_PER_TASK
    for task in range(first, last):
        b, part = task // sums.shape[1], task % sums.shape[1]
        total = 0.0
        for begin in range(part * per_task, min((part + 1) * per_task, num_anchors), per_block):
            end = min(begin + per_block, num_anchors)
            x = logits[b, begin:end].reshape(-1)
            slopes = grad[b, begin:end].reshape(-1) if grad.size else scratch[: x.size]
            if gamma_is_2:
                _background_gamma_2(x, alpha, scale[b], loss, slopes)
            else:
                _background(x, alpha, gamma, scale[b], loss, slopes)
            for start in range(begin, end, 32):
                stop = min(start + 32, end)
                if not _any(labels[b, start:stop]):
                    continue
                for a in range(start, stop):
                    k = (a - begin) * num_class
                    if labels[b, a] < 0:
                        loss[k : k + num_class] = _ZERO
                        slopes[k : k + num_class] = _ZERO
                    elif labels[b, a] > 0:
                        c = 0 if num_class == 1 else labels[b, a] - 1
                        t = float64(quality[b, a]) if kind != _FOCAL else 1.0
                        added, slope = _positive(float64(_bounded(x[k + c])), t, kind, alpha_pos[c], float64(gamma[c]))
                        total += added
                        loss[k + c] = _ZERO
                        slopes[k + c] = _ZERO if abs(x[k + c]) > _BOUND else np.float32(slope * scale[b])
            total += _sum(loss[: x.size])
        sums[b, part] = total


@lru_cache(maxsize=32)
def _constants(kind: Kind, num_class: int, per_block: int) -> tuple:
    """Number of the kind, alpha of positives (C,), alpha and gamma of each entry of a block, whether gamma is 2."""
    if isinstance(kind, Focal):
        number, pos, neg, gamma = _FOCAL, kind.alpha_pos, kind.alpha_neg, kind.gamma
    elif isinstance(kind, QualityFocal):
        number, pos, neg, gamma = _QUALITY_FOCAL, (1.0,) * num_class, (1.0,) * num_class, (kind.beta,) * num_class
    else:
        number = _VARIFOCAL_IOU_WEIGHTED if kind.iou_weighted else _VARIFOCAL
        pos = neg = (kind.alpha,) * num_class
        gamma = (kind.gamma,) * num_class
    per_entry = [np.tile(np.array(v, np.float32), per_block) for v in (neg, gamma)]
    return number, np.array(pos, np.float64), *per_entry, set(gamma) == {2}


def from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor | None,
    kind: Kind,
    per_sample: bool,
    loss_weight: float,
    with_grad: bool,
) -> tuple[float, torch.Tensor | None, int]:
    """Loss of a batch, its gradient, and the highest label: where that is above C > 1, neither was computed.

    Args:
        logits: (B, A, C) float32. labels: (B, A) int32 or int64. quality: (B, A) float32, None for ``Focal``. All
            contiguous; A, B and C at least 1.
        per_sample: divide a sample's sum by max(its positives, 1) * B.
    """
    batch_size, num_anchors, num_class = logits.shape
    per_block = max(BLOCK // num_class // 16 * 16, 1)
    parts = -(-num_anchors // (per_block * BLOCKS_PER_TASK))
    x, counts = logits.detach().numpy(), np.empty((batch_size, parts), np.int64)
    y = (labels if labels.dtype == torch.int32 else labels.clamp(-1, 2**31 - 1).int()).numpy()
    highest, sums = np.empty_like(counts), np.empty((batch_size, parts))
    parallel_for(lambda i, j: _count(y, per_block * BLOCKS_PER_TASK, counts, highest, i, j), counts.size)
    if (top := int(highest.max())) > num_class > 1:
        return 0.0, None, top
    scale = np.full(batch_size, float(loss_weight))
    if per_sample:
        scale /= np.maximum(counts.sum(axis=1), 1) * batch_size
    grad = torch.empty_like(logits) if with_grad else torch.empty(0, 0, 0)
    t = np.empty((0, 0), np.float32) if quality is None else quality.detach().numpy()
    number, alpha_pos, alpha, gamma, gamma_is_2 = _constants(kind, num_class, per_block)
    constants = number, alpha_pos, alpha, gamma, gamma_is_2, per_block, scale.astype(np.float32)
    out = grad.numpy()
    parallel_for(lambda i, j: _loss_and_gradient(x, y, t, *constants, out, sums, i, j), sums.size)
    return float(scale @ sums.sum(axis=1)), grad if with_grad else None, top


@_compute
def _soft(x, t, weight, alpha_neg, alpha_difference):
    """Loss and slope for a target in [0, 1] and gamma = 2. The slope of the cross entropy has OpenPCDet's form, which
    is 1 - t, not 0.5 - t, at a logit of exactly 0.
    """
    a = min(abs(x), _BOUND) if x == x else x
    e = _exp_of_minus(a)
    larger = _ONE / (_ONE + e)
    smaller = e * larger
    against, towards = (_ONE - t, t) if x >= _ZERO else (t, _ONE - t)
    bce = against * a + _log1p(e, smaller)
    one_minus_pt = against * larger + towards * smaller
    factor = one_minus_pt * (t * alpha_difference + alpha_neg) * weight
    slope = (against - towards) * (larger * smaller) * (bce + bce)
    slope += one_minus_pt * (against - (_ZERO if x == _ZERO else smaller))
    slope = _ZERO if abs(x) > _BOUND else factor * slope
    return factor * one_minus_pt * bce, slope if x >= _ZERO else -slope  # slope so far is with respect to |x|


@_compute
def _soft_loss(logits, targets, weights, alpha_neg, alpha_difference, out):
    for i in range(logits.size):
        out[i] = _soft(logits[i], targets[i], weights[i], alpha_neg, alpha_difference)[0]


@_compute
def _soft_gradient(logits, targets, weights, alpha_neg, alpha_difference, out):
    for i in range(logits.size):
        out[i] = _soft(logits[i], targets[i], weights[i], alpha_neg, alpha_difference)[1]


@_compute
def _gather(targets, weights, grad_output, num_class, t, w):
    """Targets, and weights times incoming gradients, of any strides, row by row."""
    for row in range(targets.shape[0]):
        for c in range(num_class):
            t[row * num_class + c] = targets[row, c]
            w[row * num_class + c] = weights[row, c] * grad_output[row, c]


_any_strides = numba.types.Array(float32, 2, "A", readonly=True)


@numba.njit(
    (float32[:, ::1], _any_strides, _any_strides, _any_strides)
    + (boolean, float32, float32, float32[:, ::1], int64, int64, int64),
    cache=True,
    nogil=True,
    fastmath={"contract"},
    error_model="numpy",
)
def _elementwise(logits, targets, weights, grad_output, with_grad, alpha_neg, alpha_difference, out, rows, first, last):
    num_class = logits.shape[1]
    t, w = np.empty(rows * num_class, np.float32), np.empty(rows * num_class, np.float32)
    for task in range(first * BLOCKS_PER_TASK, last * BLOCKS_PER_TASK):
        begin, end = task * rows, min((task + 1) * rows, logits.shape[0])
        if begin >= end:
            break
        if num_class == 3:  # a constant, with which the compiler unrolls the loop: half the time
            _gather(targets[begin:end], weights[begin:end], grad_output[begin:end], 3, t, w)
        else:
            _gather(targets[begin:end], weights[begin:end], grad_output[begin:end], num_class, t, w)
        x, y = logits[begin:end].reshape(-1), out[begin:end].reshape(-1)
        if with_grad:
            _soft_gradient(x, t, w, alpha_neg, alpha_difference, y)
        else:
            _soft_loss(x, t, w, alpha_neg, alpha_difference, y)


def elementwise(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    alpha_pos: float,
    alpha_neg: float,
    grad_output: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weighted elementwise loss with gamma = 2, or with ``grad_output`` its gradient with respect to the logits.

    Args:
        logits: (..., C) float32, contiguous. targets, grad_output: the same shape, of any strides.
        weights: (..., 1) or (..., C), or None.
    """
    num_class = logits.shape[-1]
    one = torch.ones(1)

    def rows_of(tensor: torch.Tensor | None) -> np.ndarray:
        tensor = one if tensor is None else tensor.detach()
        return tensor.expand(logits.shape).reshape(-1, num_class).numpy()

    out, rows = torch.empty_like(logits), max(BLOCK // num_class, 1)
    arrays = [rows_of(tensor) for tensor in (logits, targets, weights, grad_output)]
    constants = grad_output is not None, alpha_neg, alpha_pos - alpha_neg, out.view(-1, num_class).numpy(), rows
    tasks = -(-arrays[0].shape[0] // (rows * BLOCKS_PER_TASK))
    parallel_for(lambda i, j: _elementwise(*arrays, *constants, i, j), tasks)
    return out
