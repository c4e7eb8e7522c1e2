"""Focal loss on the CPU: numba kernels that the compiler turns into vector instructions; ``reference.py`` is the definition.

With p = sigmoid(x), q = 1 - p, softplus(x) = log(1 + exp(x)), a background entry has::

    loss      = alpha_neg p^gamma softplus(x)
    d loss/dx = alpha_neg p^gamma (gamma q softplus(x) + p)              because softplus' = p and p' = p q

and a positive one the same with -x for x, alpha_pos for alpha_neg, and the sign of the derivative turned. Everything comes from e = exp(-|x|):
s = 1 / (1 + e) is the larger of p and q, e s the smaller, and softplus(x) = max(x, 0) + log1p(e), each to full relative precision.
p^gamma is exp(-gamma softplus(-x)).

Nearly all entries are background. So the loop over the logits treats all as background, without a branch; a second look at the labels then
overwrites the few that are not, while they are still in the first cache. exp and log1p are polynomials (each within 1.5e-7 of the function,
relatively): numba has vector versions of neither. Sums are float64 over float32 blocks of fixed size, added in a fixed order, so that the same
input gives the same bits on any number of threads.

A logit beyond +-sqrt(largest float32) = +-1.8e19 counts as that number, with gradient 0; NaN stays NaN.

``fastmath`` is only ``contract`` (fused multiply-add) where numbers are computed: anything more would undo exp's range reduction and the NaNs.
All kernels release the interpreter lock and are shared out to torch's threads (``threads.py``); numba's own parallel loops would stop a process
that enters them from two threads.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numba
import numpy as np
import torch
from numba import boolean, float32, float64, int32, int64

from .. import pages
from ..threads import share_out

BLOCK = 2048  # entries that are worked on at a time: logits, gradient and loss of a block stay in the first cache
BLOCKS_PER_TASK = 8  # one partial sum for each task

_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693145752), np.float32(1.42860677e-6)  # high * 2^7 is a whole number
_SHIFTER = np.float32(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number, which then stands in the lowest bits
_ONE_BITS = np.int32(0x3F800000)
_EXP_LIMIT = np.float32(87.0)  # exp(-87) = 1.6e-38 is a normal number; what is smaller never matters beside a factor of that size
_BOUND = np.float32(np.sqrt(np.finfo(np.float32).max))
_SUSPICIOUS = 1e6  # sum of a block in which a logit may lie beyond the bound: it is computed again with a look at that
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)
_E1, _E2, _E3, _E4, _E5 = (np.float32(c) for c in (  # exp(r) = 1 + E1 r + E2 r^2 + .. on |r| <= ln(2) / 2: minimax, 9e-8
    0.9999997063133564, 0.49999147841130415, 0.16667638127242876, 0.04189815961838508, 0.00829027211223593))
_L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (np.float32(c) for c in (  # log1p(e) / e = 1 + L1 e + .. on [0, 1]: minimax, 3e-8
    -0.4999964796411767, 0.3332132263337101, -0.2485716379508982, 0.1915365544777658, -0.13753803430807074, 0.0792045484775871,
    -0.03006580024222767, 0.0053648263176807294))

_compute = numba.njit(fastmath={"contract"}, error_model="numpy")  # the numpy model: a division by zero check would end vectorisation
_F, _I32, _I64 = float32[::1], int32[::1], int64[::1]


@_compute
def _exp_of_minus(a):
    """exp(-a) for a >= 0, at least exp(-87)."""
    a = _EXP_LIMIT if a > _EXP_LIMIT else a  # in this order a NaN stays
    shifted = _SHIFTER - a * _LOG2E
    n = shifted - _SHIFTER
    r = (-a - n * _LN2_HIGH) - n * _LN2_LOW
    poly = _E5 * r + _E4
    poly = poly * r + _E3
    poly = poly * r + _E2
    poly = poly * r + _E1
    poly = poly * r + _ONE
    bits = np.int32(np.int32(np.float32(shifted).view(np.int32) << np.int32(23)) + _ONE_BITS)
    return poly * np.int32(bits).view(np.float32)


@_compute
def _log1p(e):
    """log(1 + e) for e in [0, 1]."""
    poly = _L8 * e + _L7
    poly = poly * e + _L6
    poly = poly * e + _L5
    poly = poly * e + _L4
    poly = poly * e + _L3
    poly = poly * e + _L2
    poly = poly * e + _L1
    poly = poly * e + _ONE
    return poly * e


@_compute
def _bounded(x):
    x = _BOUND if x > _BOUND else x
    return -_BOUND if x < -_BOUND else x


@_compute
def _terms(x):
    """p, 1 - p, softplus(x), softplus(-x) of a bounded logit."""
    e = _exp_of_minus(abs(x))
    larger = _ONE / (_ONE + e)
    smaller = e * larger
    log_term = _log1p(e)
    positive = x >= _ZERO
    p = larger if positive else smaller
    q = smaller if positive else larger
    return p, q, (x if positive else _ZERO) + log_term, (_ZERO if positive else -x) + log_term


@_compute
def _background_gamma_2(logits, alpha, scale, loss, grad):
    """All entries as background with gamma = 2, of bounded logits. loss is not scaled, grad is."""
    factor = alpha * scale
    for i in range(logits.size):
        p, q, softplus, _ = _terms(logits[i])
        square = p * p
        loss[i] = square * softplus * alpha
        grad[i] = square * (_TWO * q * softplus + p) * factor


@_compute
def _background(logits, alpha, gamma, scale, loss, grad):
    """All entries as background with an alpha and a gamma for each entry of the block."""
    for i in range(logits.size):
        x = _bounded(logits[i])
        p, q, softplus, softplus_minus = _terms(x)
        weight = _exp_of_minus(gamma[i] * softplus_minus) * alpha[i]
        slope = weight * (gamma[i] * q * softplus + p) * scale
        loss[i] = weight * softplus
        grad[i] = _ZERO if abs(logits[i]) > _BOUND else slope


@_compute
def _correct(logits, labels, num_class, alpha_pos, gamma, scale, loss, grad):
    """Overwrite the entries of positive and of ignored anchors."""
    for first in range(0, labels.size, 64):
        group = labels[first:first + 64]
        seen = group[0]
        for i in range(group.size):
            seen |= group[i]
        if seen == 0:
            continue
        for i in range(first, first + group.size):
            label = labels[i]
            if label < 0:
                for k in range(i * num_class, (i + 1) * num_class):
                    loss[k] = _ZERO
                    grad[k] = _ZERO
            elif label > 0:
                c = 0 if num_class == 1 else label - 1
                k = i * num_class + c
                q, p, softplus_minus, softplus = _terms(-_bounded(logits[k]))
                weight = _exp_of_minus(gamma[c] * softplus) * alpha_pos[c]
                slope = -weight * (gamma[c] * p * softplus_minus + q) * scale
                loss[k] = weight * softplus_minus
                grad[k] = _ZERO if abs(logits[k]) > _BOUND else slope


@numba.njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def _sum(values):
    total = 0.0
    for i in range(values.size):
        total += np.float64(values[i])
    return total


@numba.njit([(lab, int64, int64, int64, int64, _I64, lab) for lab in (_I32, _I64)], cache=True, nogil=True, error_model="numpy")
def _count(labels, num_anchors, tasks_per_sample, anchors_per_task, first_task, num_positives, highest):
    """Positive anchors and highest label of the tasks first_task, first_task + 1, .."""
    for i in range(num_positives.size):
        task = first_task + i
        sample, part = task // tasks_per_sample, task % tasks_per_sample
        begin = sample * num_anchors + part * anchors_per_task
        end = min(begin + anchors_per_task, (sample + 1) * num_anchors)
        part_labels = labels[begin:end]
        count = np.int32(0)
        top = part_labels[0]
        for j in range(part_labels.size):
            count += np.int32(part_labels[j] > 0)
            top = max(top, part_labels[j])
        num_positives[i] = count
        highest[i] = top


@numba.njit([(_F, lab, int64, int64, int64, int64, int64, _F, _F, _F, boolean, _F, boolean, _F, float64[::1]) for lab in (_I32, _I64)],
            cache=True, nogil=True, error_model="numpy")
def _from_labels(logits, labels, num_class, num_anchors, tasks_per_sample, anchors_per_task, first_task, alpha_pos, alpha_neg, gamma, is_plain,
                 scale, with_grad, grad, sums):
    """Loss sums and scaled gradients of the tasks first_task, first_task + 1, ..; alpha_neg and gamma stand there once for each entry of a block."""
    anchors_per_block = alpha_neg.size // num_class
    loss, spare = np.empty(alpha_neg.size, np.float32), np.empty(alpha_neg.size, np.float32)
    for i in range(sums.size):
        task = first_task + i
        sample, part = task // tasks_per_sample, task % tasks_per_sample
        begin = sample * num_anchors + part * anchors_per_task
        end = min(begin + anchors_per_task, (sample + 1) * num_anchors)
        total = 0.0
        for first in range(begin, end, anchors_per_block):
            last = min(first + anchors_per_block, end)
            n = (last - first) * num_class
            x = logits[first * num_class: last * num_class]
            block_loss = loss[:n]
            block_grad = grad[first * num_class: last * num_class] if with_grad else spare[:n]
            block_sum = np.inf
            if is_plain:
                _background_gamma_2(x, alpha_neg[0], scale[sample], block_loss, block_grad)
                _correct(x, labels[first:last], num_class, alpha_pos, gamma, scale[sample], block_loss, block_grad)
                block_sum = _sum(block_loss)
            if not block_sum < _SUSPICIOUS:  # also where it is NaN
                _background(x, alpha_neg, gamma, scale[sample], block_loss, block_grad)
                _correct(x, labels[first:last], num_class, alpha_pos, gamma, scale[sample], block_loss, block_grad)
                block_sum = _sum(block_loss)
            total += block_sum
        sums[i] = total


@_compute
def _soft_loss(logits, targets, weights, alpha_pos, alpha_neg, out):
    """Elementwise loss for targets in [0, 1], gamma = 2."""
    for i in range(logits.size):
        x, t = _bounded(logits[i]), targets[i]
        p, q, softplus, _ = _terms(x)
        one_minus_pt = t * q + (_ONE - t) * p
        out[i] = (t * alpha_pos + (_ONE - t) * alpha_neg) * one_minus_pt * one_minus_pt * (softplus - x * t) * weights[i]


@_compute
def _soft_gradient(logits, targets, weights, alpha_pos, alpha_neg, out):
    """Its derivative; that of the cross entropy in OpenPCDet's form, which is 1 - t, not 0.5 - t, at a logit of exactly 0."""
    for i in range(logits.size):
        x, t = _bounded(logits[i]), targets[i]
        p, q, softplus, _ = _terms(x)
        one_minus_pt = t * q + (_ONE - t) * p
        smaller = q if x >= _ZERO else p
        slope = ((_ONE - t) - (_ZERO if x == _ZERO else smaller)) if x >= _ZERO else smaller - t
        slope = one_minus_pt * (_TWO * (_ONE - _TWO * t) * p * q * (softplus - x * t) + one_minus_pt * slope)
        slope = slope * (t * alpha_pos + (_ONE - t) * alpha_neg) * weights[i]
        out[i] = _ZERO if abs(logits[i]) > _BOUND else slope


@_compute
def _repeat(values, num_class, out):
    """Each value num_class times in a row."""
    if num_class == 3:
        for row in range(values.size):
            value = values[row]
            out[3 * row] = value
            out[3 * row + 1] = value
            out[3 * row + 2] = value
        return
    for row in range(values.size):
        for c in range(num_class):
            out[row * num_class + c] = values[row]


@_compute
def _pack(values, stride, num_class, rows, out):
    """The first num_class of every stride > num_class values."""
    done = 0
    if num_class == 3 and stride == 4:  # a slice of one-hot targets: four numbers at a time, whose fourth the next row overwrites
        done = rows - 1  # behind the last row there may be nothing to read
        for row in range(done):
            a = values[4 * row]
            b = values[4 * row + 1]
            c = values[4 * row + 2]
            d = values[4 * row + 3]
            out[3 * row] = a
            out[3 * row + 1] = b
            out[3 * row + 2] = c
            out[3 * row + 3] = d
    for row in range(done, rows):
        for k in range(num_class):
            out[row * num_class + k] = values[row * stride + k]


@numba.njit([(_F, _F, int64, _F, int64, int64, int64, float32, float32, boolean, _F, int64, int64, _F)],
            cache=True, nogil=True, error_model="numpy")
def _elementwise(logits, targets, target_stride, weights, weights_per_row, num_class, rows_per_block, alpha_pos, alpha_neg, with_grad, grad_output,
                 first_block, last_block, out):
    """Some blocks of the loss, or of the gradient. weights_per_row: 0 (no weights), 1 or num_class; grad_output: one number or all."""
    size = rows_per_block * num_class
    factors, packed = np.empty(size, np.float32), np.empty(size, np.float32)
    num_rows = logits.size // num_class
    for block in range(first_block, last_block):
        first = block * rows_per_block
        last = min(first + rows_per_block, num_rows)
        begin, end = first * num_class, last * num_class
        target, factor = targets[begin:end], factors[:end - begin]
        if target_stride != num_class:
            target = packed[:end - begin]
            _pack(targets[first * target_stride:], target_stride, num_class, last - first, target)
        if weights_per_row == 0:
            factor[:] = _ONE
        elif weights_per_row == 1:
            _repeat(weights[first:last], num_class, factor)
        else:
            factor[:] = weights[begin:end]
        if with_grad:
            if grad_output.size == 1:
                factor *= grad_output[0]
            else:
                factor *= grad_output[begin:end]
            _soft_gradient(logits[begin:end], target, factor, alpha_pos, alpha_neg, out[begin:end])
        else:
            _soft_loss(logits[begin:end], target, factor, alpha_pos, alpha_neg, out[begin:end])


def _rows(tensor: torch.Tensor) -> tuple[np.ndarray, int]:
    """The numbers of a (..., C) tensor as one flat array, and the step from row to row: a slice such as one_hot[..., 1:] is not copied."""
    num_class = tensor.shape[-1]
    stride = tensor.stride(-2) if tensor.dim() > 1 else num_class
    regular = tensor.stride(-1) == 1 and stride > num_class
    for i in range(tensor.dim() - 2):
        regular = regular and tensor.stride(i) == tensor.stride(i + 1) * tensor.shape[i + 1]
    if not regular:
        return tensor.contiguous().view(-1).numpy(), num_class
    num_rows = tensor.numel() // num_class
    return tensor.as_strided(((num_rows - 1) * stride + num_class,), (1,)).numpy(), stride


def elementwise(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None, alpha_pos: float, alpha_neg: float,
                grad_output: torch.Tensor | None = None) -> torch.Tensor:
    """Weighted elementwise loss with gamma = 2, or with ``grad_output`` its gradient with respect to the logits.

    Args:
        logits: (..., C) float32, contiguous. targets: the same shape, of any strides. weights: (..., 1) or (..., C), contiguous, or None.
        grad_output: like logits, of any strides; one number spread over all is not written out.
    """
    num_class = logits.shape[-1]
    rows = max(BLOCK // num_class, 1)
    out = pages.empty_like(logits)
    width = 0 if weights is None else weights.shape[-1]
    flat_weights = np.empty(0, np.float32) if weights is None else weights.view(-1).numpy()
    incoming = np.empty(0, np.float32)
    if grad_output is not None:
        one_number = not any(stride for stride, size in zip(grad_output.stride(), grad_output.shape) if size > 1)
        incoming = (grad_output[(0,) * grad_output.dim()].reshape(1) if one_number else grad_output.contiguous().view(-1)).numpy()
    arrays = logits.view(-1).numpy(), *_rows(targets), flat_weights
    flat_out, pos, neg = out.view(-1).numpy(), np.float32(alpha_pos), np.float32(alpha_neg)

    def work(i: int, j: int) -> None:
        _elementwise(*arrays, width, num_class, rows, pos, neg, grad_output is not None, incoming, i, j, flat_out)

    share_out(work, -(-logits.numel() // (rows * num_class)))
    return out


def count_positives(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Positives of each sample, (B,) int64, and the highest label. labels (B, A), A > 0, C-contiguous int32 or int64."""
    batch_size, num_anchors = labels.shape
    per_task = BLOCK * BLOCKS_PER_TASK
    tasks = -(-num_anchors // per_task)
    counts, highest = np.empty(batch_size * tasks, np.int64), np.empty(batch_size * tasks, labels.dtype)
    flat = labels.reshape(-1)
    share_out(lambda i, j: _count(flat, num_anchors, tasks, per_task, i, counts[i:j], highest[i:j]), batch_size * tasks)
    return counts.reshape(batch_size, tasks).sum(axis=1), int(highest.max())


@lru_cache(maxsize=32)
def _constants(alpha_pos: tuple[float, ...], alpha_neg: tuple[float, ...], gamma: tuple[float, ...], per_block: int):
    """alpha_pos (C,), alpha_neg and gamma for each entry of a block, and whether gamma is 2 and alpha_neg one number for all classes."""
    pos, neg, exponent = (np.array(v, np.float32) for v in (alpha_pos, alpha_neg, gamma))
    return pos, np.tile(neg, per_block), np.tile(exponent, per_block), set(gamma) == {2} and len(set(alpha_neg)) == 1


def from_labels(logits: torch.Tensor, labels: np.ndarray, alpha_pos: Sequence[float], alpha_neg: Sequence[float], gamma: Sequence[float],
                scale: np.ndarray, with_grad: bool) -> tuple[float, torch.Tensor | None]:
    """Sum over samples of scale times the sample's loss, and its gradient.

    Args:
        logits: (B, A, C) float32, contiguous. labels: (B, A) int32 or int64, contiguous. A, B and C at least 1.
        alpha_pos, alpha_neg, gamma: (C,). scale: (B,) float64.
    """
    batch_size, num_anchors, num_class = logits.shape
    per_block = max(BLOCK // num_class, 1)
    per_task = per_block * BLOCKS_PER_TASK
    tasks = -(-num_anchors // per_task)
    pos, neg, exponent, plain = _constants(tuple(alpha_pos), tuple(alpha_neg), tuple(gamma), per_block)
    grad = pages.empty_like(logits) if with_grad else None
    flat_grad = grad.view(-1).numpy() if with_grad else np.empty(0, np.float32)
    flat, flat_labels, sums = logits.view(-1).numpy(), labels.reshape(-1), np.empty(batch_size * tasks)
    scale32 = scale.astype(np.float32)

    def work(i: int, j: int) -> None:
        _from_labels(flat, flat_labels, num_class, num_anchors, tasks, per_task, i, pos, neg, exponent, plain, scale32, with_grad, flat_grad,
                     sums[i:j])

    share_out(work, batch_size * tasks)
    return float((sums.reshape(batch_size, tasks).sum(axis=1) * scale).sum()), grad
