"""Focal loss on the CPU: numba kernels that the compiler turns into vector instructions; ``reference.py`` is the
definition.

With p = sigmoid(x), q = 1 - p, softplus(x) = log(1 + exp(x)), a background entry has::

    loss      = alpha_neg p^gamma softplus(x)
    d loss/dx = alpha_neg p^gamma (gamma q softplus(x) + p)              because softplus' = p and p' = p q

and a positive one the same with -x for x, alpha_pos for alpha_neg, and the sign of the derivative turned. Everything
comes from e = exp(-|x|): s = 1 / (1 + e) is the larger of p and q, e s the smaller, and softplus(x) = max(x, 0) +
log1p(e), each to full relative precision. p^gamma is exp(-gamma softplus(-x)).

Nearly all entries are background. So the loop over the logits treats all as background, without a branch; a second look
at the labels then overwrites the few that are not, while they are still in the first cache. exp and log1p are
polynomials (within 2.1e-7 of the function, relatively): numba has vector versions of neither. Sums are float64, of
fours in float32, in a fixed order, so that the same input gives the same
bits on any number of threads.

A logit beyond +-sqrt(largest float32) = +-1.8e19 counts as that number, with gradient 0; NaN stays NaN.

``fastmath`` is only ``contract`` (fused multiply-add) where numbers are computed: anything more would undo exp's range
reduction and the NaNs. The kernels run on torch's threads (``team_kernel.py``); numba's own parallel loops would stop a
process that enters them from two threads.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numba
import numpy as np
import torch
from numba import int64

from .. import pages
from ..team_kernel import (
    TeamKernel,
    arguments_type,
    array_at,
    count_up,
    fence,
    lowest_bit,
    mask_64,
    next_task,
    prefetch,
    shuffle,
)
from .kinds import Focal

BLOCK = 2048  # entries that are worked on at a time: logits, gradient and loss of a block stay in the first cache
# entries between two looks ahead, where the computation of a block has to hide the way of the next one from memory
CHUNK = 192
BLOCKS_PER_TASK = 8  # one partial sum for each task

# high * 2^7 is a whole number
_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693145752), np.float32(1.42860677e-6)
# 1.5 * 2^23: adding it rounds to a whole number, which then stands in the lowest bits
_SHIFTER = np.float32(12582912.0)
# exp(-87) = 1.6e-38 is a normal number; what is smaller never matters beside a factor of that size
_EXP_LIMIT = np.float32(87.0)
_BOUND = np.float32(np.sqrt(np.finfo(np.float32).max))
_SUSPICIOUS = 1e6  # sum of a block in which a logit may lie beyond the bound: it is computed again with a look at that
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)
# exp(r) = 1 + E1 r + E2 r^2 + .. on |r| <= ln(2) / 2: minimax, 9e-8
_E1, _E2, _E3, _E4, _E5 = (
    np.float32(c)
    for c in (0.9999997063133564, 0.49999147841130415, 0.16667638127242876, 0.04189815961838508, 0.00829027211223593)
)
# L / (2 sinh L) = K0 + K1 t + .., t = 2 cosh L - 2 in [0, 1/2]: minimax, 1.7e-8
_K0, _K1, _K2, _K3, _K4 = (
    np.float32(c)
    for c in (
        0.4999999917701106,
        -0.0833325038964327,
        0.01665318684129171,
        -0.003493715927206173,
        0.0006048949910950533,
    )
)

# the numpy model: a division by zero check would end vectorisation
_compute = numba.njit(fastmath={"contract"}, error_model="numpy")


@_compute
def _exp_of_minus(a):
    """exp(-a) for a >= 0, at least exp(-87). Of a NaN it is any number."""
    a = _EXP_LIMIT if a > _EXP_LIMIT else a  # in this order a NaN stays
    shifted = _SHIFTER - a * _LOG2E
    n = shifted - _SHIFTER
    r = (-a - n * _LN2_HIGH) - n * _LN2_LOW
    poly = _E5 * r + _E4
    poly = poly * r + _E3
    poly = poly * r + _E2
    poly = poly * r + _E1
    poly = poly * r + _ONE
    # times 2^n: n is added to the exponent
    bits = np.float32(poly).view(np.int32) + (np.float32(shifted).view(np.int32) << np.int32(23))
    return np.int32(bits).view(np.float32)


@_compute
def _log1p(e, w):
    """L = log(1 + e) for e in [0, 1], given w = e / (1 + e): e + w is 2 sinh L and e - w is 2 cosh L - 2, in which L /
    sinh L is a short polynomial.
    """
    # also e w, but the units that multiply are the busy ones; t only corrects, so that what it loses is not seen
    t = e - w
    poly = _K4 * t + _K3
    poly = poly * t + _K2
    poly = poly * t + _K1
    poly = poly * t + _K0
    return (e + w) * poly


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
    log_term = _log1p(e, smaller)
    negative = x < _ZERO  # not of a NaN, which so reaches softplus: exp may lose one
    p = smaller if negative else larger
    q = larger if negative else smaller
    return p, q, (_ZERO if negative else x) + log_term, (-x if negative else _ZERO) + log_term


@_compute
def _background_gamma_2(logits, factor, loss, grad):
    """All entries as background with gamma = 2 and alpha = 1, of bounded logits. grad is multiplied by factor, loss is
    not.
    """
    for i in range(logits.size):
        p, q, softplus, _ = _terms(logits[i])
        square = p * p
        loss[i] = square * softplus
        grad[i] = square * (_TWO * q * softplus + p) * factor


@_compute
def _background(logits, alpha, gamma, scale, loss, grad):
    """All entries as background with an alpha and a gamma for each entry of the block. grad is scaled, loss is not."""
    for i in range(logits.size):
        x = _bounded(logits[i])
        p, q, softplus, softplus_minus = _terms(x)
        weight = _exp_of_minus(gamma[i] * softplus_minus) * alpha[i]
        slope = weight * (gamma[i] * q * softplus + p) * scale
        loss[i] = weight * softplus
        grad[i] = _ZERO if abs(logits[i]) > _BOUND else slope


_not_background = mask_64("!=")


@_compute
def _correct_anchor(anchor, label, logits, num_class, alpha_pos, gamma, scale, loss, grad):
    """Take the entries of an anchor that are not background out of loss, overwrite their gradients, and return the loss
    of the positive one.
    """
    if label < 0:
        for k in range(anchor * num_class, (anchor + 1) * num_class):
            loss[k] = _ZERO
            grad[k] = _ZERO
        return _ZERO
    c = 0 if num_class == 1 else label - 1
    k = anchor * num_class + c
    q, p, softplus_minus, softplus = _terms(-_bounded(logits[k]))
    weight = _exp_of_minus(gamma[c] * softplus) * alpha_pos[c]
    slope = -weight * (gamma[c] * p * softplus_minus + q) * scale
    loss[k] = _ZERO
    grad[k] = _ZERO if abs(logits[k]) > _BOUND else slope
    return weight * softplus_minus


@_compute
def _correct(logits, labels, num_class, alpha_pos, gamma, scale, loss, grad):
    """The same for all anchors of a block, 64 labels at a time."""
    positive_loss = 0.0
    done = labels.size // 64 * 64
    for first in range(0, done, 64):
        mask = _not_background(labels, first)
        while mask != 0:
            anchor = first + lowest_bit(mask)
            mask &= mask - 1
            positive_loss += _correct_anchor(
                anchor, labels[anchor], logits, num_class, alpha_pos, gamma, scale, loss, grad
            )
    for anchor in range(done, labels.size):
        if labels[anchor] != 0:
            positive_loss += _correct_anchor(
                anchor, labels[anchor], logits, num_class, alpha_pos, gamma, scale, loss, grad
            )
    return positive_loss


@numba.njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def _sum(values):
    """In float64, of sums of four in float32: to convert is what takes the time."""
    total = 0.0
    quarter = values.size // 4
    first, second, third, fourth = (
        values[:quarter],
        values[quarter : 2 * quarter],
        values[2 * quarter : 3 * quarter],
        values[3 * quarter : 4 * quarter],
    )
    for i in range(quarter):
        total += np.float64((first[i] + second[i]) + (third[i] + fourth[i]))
    for i in range(4 * quarter, values.size):
        total += np.float64(values[i])
    return total


_HEADER = 2  # counters at the beginning of the scratch memory
_FromLabels = arguments_type(
    "_FromLabels",
    "logits labels label_bytes grad alpha_pos alpha_neg gamma is_plain per_sample batch_size num_anchors num_class "
    "anchors_per_block "
    "anchors_per_task tasks_per_sample scratch highest",
    "loss_weight loss",
)


@numba.njit(error_model="numpy")
def _anchors_of(args, task):
    """Sample, first anchor and last + 1 of a task; anchors are numbered through the batch."""
    sample, part = task // args.tasks_per_sample, task % args.tasks_per_sample
    first = sample * args.num_anchors + part * args.anchors_per_task
    return sample, first, min(first + args.anchors_per_task, (sample + 1) * args.num_anchors)


@numba.njit(error_model="numpy")
def _count_labels(labels):
    """Positives and the highest label."""
    count = np.int32(0)
    top = labels[0]
    for i in range(labels.size):
        count += np.int32(labels[i] > 0)
        top = max(top, labels[i])
    return int64(count), int64(top)


@numba.njit(error_model="numpy")
def _count(args, task, counts, highest):
    """Fill the task's place in counts, 1 + its positives, and in highest, its highest label."""
    _, first, last = _anchors_of(args, task)
    if args.label_bytes == 4:
        count, top = _count_labels(array_at(args.labels + 4 * first, np.int32, last - first))
    else:
        count, top = _count_labels(array_at(args.labels + 8 * first, np.int64, last - first))
    highest[task] = top
    fence()  # who sees the count sees the label too
    counts[task] = count + 1


@numba.njit(error_model="numpy")
def _count_all(args, counts, highest):
    """Fill ``counts``, where 0 is not yet known, and ``highest`` of all tasks, together with the other threads; return
    the highest of all.

    In the end a thread counts again what another is still at work on: both write the same numbers, and nobody waits.
    """
    while True:
        task = count_up(args.scratch)
        if task >= counts.size:
            break
        _count(args, task, counts, highest)
    for task in range(counts.size):
        if counts[task] == 0:
            _count(args, task, counts, highest)
    fence()
    top = highest[0]
    for task in range(1, counts.size):
        top = max(top, highest[task])
    return top


@numba.njit(error_model="numpy")
def _scale(args, sample, counts):
    """The factor of a sample's sum."""
    if not args.per_sample:
        return args.loss_weight
    positives = 0
    for task in range(sample * args.tasks_per_sample, (sample + 1) * args.tasks_per_sample):
        positives += counts[task] - 1
    return args.loss_weight / (max(positives, 1) * args.batch_size)


@numba.njit(error_model="numpy")
def _correct_block(args, first, last, logits, alpha_pos, gamma, scale, loss, grad):
    if args.label_bytes == 4:
        labels = array_at(args.labels + 4 * first, np.int32, last - first)
        return _correct(logits, labels, args.num_class, alpha_pos, gamma, scale, loss, grad)
    wide_labels = array_at(args.labels + 8 * first, np.int64, last - first)
    return _correct(logits, wide_labels, args.num_class, alpha_pos, gamma, scale, loss, grad)


@numba.njit(error_model="numpy")
def _block(args, first, last, scale, alpha_pos, alpha_neg, gamma, loss, grad):
    """Loss and scaled gradient of the anchors first .. last - 1."""
    logits = array_at(args.logits + 4 * first * args.num_class, np.float32, (last - first) * args.num_class)
    if args.is_plain:
        _background_gamma_2(logits, alpha_neg[0] * scale, loss, grad)
        total = _correct_block(args, first, last, logits, alpha_pos, gamma, scale, loss, grad) + alpha_neg[0] * _sum(
            loss[: logits.size]
        )
        if total < _SUSPICIOUS:  # not NaN
            return total
    _background(logits, alpha_neg, gamma, scale, loss, grad)
    return _correct_block(args, first, last, logits, alpha_pos, gamma, scale, loss, grad) + _sum(loss[: logits.size])


def _from_labels_member(pointer):
    """Loss sums and scaled gradients of the tasks that this thread gets; who ends the last task adds up."""
    args = numba.carray(pointer, 1)[0]
    num_class, tasks, block = (
        args.num_class,
        args.batch_size * args.tasks_per_sample,
        args.anchors_per_block * args.num_class,
    )
    alpha_pos, alpha_neg, gamma = (
        array_at(args.alpha_pos, np.float32, num_class),
        array_at(args.alpha_neg, np.float32, block),
        array_at(args.gamma, np.float32, block),
    )
    counts = array_at(args.scratch + 8 * _HEADER, np.int64, tasks)
    highest = array_at(args.scratch + 8 * (_HEADER + tasks), np.int64, tasks)
    sums = array_at(args.scratch + 8 * (_HEADER + 2 * tasks), np.float64, tasks)
    args.highest = _count_all(args, counts, highest)
    if args.highest > num_class > 1:
        return
    loss, grad = np.empty(block, np.float32), np.empty(block, np.float32)
    while True:
        task = next_task(pointer)
        if task >= tasks:
            break
        sample, begin, end = _anchors_of(args, task)
        scale = np.float32(_scale(args, sample, counts))
        total = 0.0
        for first in range(begin, end, args.anchors_per_block):
            last = min(first + args.anchors_per_block, end)
            if args.grad != 0:
                grad = array_at(args.grad + 4 * first * num_class, np.float32, (last - first) * num_class)
            total += _block(args, first, last, scale, alpha_pos, alpha_neg, gamma, loss, grad)
        sums[task] = total
        if count_up(args.scratch + 8) == tasks - 1:
            total = 0.0
            for other in range(tasks):
                total += _scale(args, other // args.tasks_per_sample, counts) * sums[other]
            args.loss = total


_run_from_labels = TeamKernel(_from_labels_member, _FromLabels)


@_compute
def _soft_terms(x, t):
    """Of a logit and a target: t on the side of the logit (1 - t for x >= 0, else t) and 1 less that; sigmoid(|x|),
    sigmoid(-|x|); cross entropy.
    """
    a = abs(x)
    a = _BOUND if a > _BOUND else a
    e = _exp_of_minus(a)
    larger = _ONE / (_ONE + e)
    smaller = e * larger
    against, towards = (_ONE - t, t) if x >= _ZERO else (t, _ONE - t)
    return against, towards, larger, smaller, against * a + _log1p(e, smaller)


@_compute
def _soft_loss(logits, targets, weights, alpha_neg, alpha_difference, out):
    """Elementwise loss for targets in [0, 1], gamma = 2; alpha_difference is that of a positive less that of
    background.
    """
    for i in range(logits.size):
        t = targets[i]
        against, towards, larger, smaller, bce = _soft_terms(logits[i], t)
        one_minus_pt = against * larger + towards * smaller
        out[i] = (t * alpha_difference + alpha_neg) * one_minus_pt * one_minus_pt * bce * weights[i]


@_compute
def _soft_gradient(logits, targets, weights, alpha_neg, alpha_difference, out):
    """Its derivative; that of the cross entropy in OpenPCDet's form, which is 1 - t, not 0.5 - t, at a logit of exactly
    0.
    """
    for i in range(logits.size):
        x, t = logits[i], targets[i]
        against, towards, larger, smaller, bce = _soft_terms(x, t)
        one_minus_pt = against * larger + towards * smaller
        factor = one_minus_pt * (t * alpha_difference + alpha_neg) * weights[i]
        factor = factor if x >= _ZERO else -factor  # what it is multiplied by is a derivative with respect to |x|
        slope = factor * (
            (against - towards) * (larger * smaller) * (bce + bce)
            + one_minus_pt * (against - (_ZERO if x == _ZERO else smaller))
        )
        out[i] = _ZERO if abs(x) > _BOUND else slope


_REPEAT_16 = shuffle(16, [row for row in range(16) for _ in range(3)])
_PACK_16 = shuffle(64, [4 * row + c for row in range(16) for c in range(3)])


@_compute
def _repeat(values, num_class, out):
    """Each value num_class times in a row."""
    done = 0
    if num_class == 3:
        done = values.size // 16 * 16
        for row in range(0, done, 16):
            _REPEAT_16(values.ctypes.data + 4 * row, out.ctypes.data + 12 * row)
    for row in range(done, values.size):
        for c in range(num_class):
            out[row * num_class + c] = values[row]


@_compute
def _pack(values, stride, num_class, rows, out):
    """The first num_class of every stride > num_class values."""
    done = 0
    if num_class == 3 and stride == 4:  # a slice of one-hot targets
        done = min(rows, values.size // 4) // 16 * 16  # behind the last row there may be nothing to read
        for row in range(0, done, 16):
            _PACK_16(values.ctypes.data + 16 * row, out.ctypes.data + 12 * row)
    for row in range(done, rows):
        for c in range(num_class):
            out[row * num_class + c] = values[row * stride + c]


_Elementwise = arguments_type(
    "_Elementwise",
    "logits targets target_stride weights weights_per_row num_class num_rows rows_per_block grad_output grad_outputs "
    "out",
    "alpha_pos alpha_neg",
)


@_compute
def _factor(args, first, last, out):
    """What each entry of the rows first .. last - 1 is multiplied by: its weight and, where each entry has its own, the
    gradient of its loss.
    """
    num_class, rows, per_row = args.num_class, last - first, args.weights_per_row
    weights = array_at(args.weights + 4 * first * per_row, np.float32, rows * per_row)
    if per_row == num_class and args.grad_outputs <= 1:
        return weights
    out = out[: rows * num_class]
    if per_row == 1:
        _repeat(weights, num_class, out)
    else:
        for i in range(out.size):
            out[i] = weights[i] if per_row else _ONE
    if args.grad_outputs > 1:
        grad_output = array_at(args.grad_output + 4 * first * num_class, np.float32, out.size)
        for i in range(out.size):
            out[i] *= grad_output[i]
    return out


@_compute
def _elementwise_block(args, first, last, alpha_neg, alpha_difference, factor, packed):
    """The loss, or the gradient, of the rows first .. last - 1.

    Targets and weights that first have to be packed and repeated are all needed at the beginning: they are fetched
    during the block before.
    """
    num_class, rows, per_row, stride = args.num_class, last - first, args.weights_per_row, args.target_stride
    begin, entries = first * num_class, rows * num_class
    targets = array_at(args.targets + 4 * first * stride, np.float32, (args.num_rows - 1 - first) * stride + num_class)
    if stride != num_class:
        _pack(targets, stride, num_class, rows, packed)
        targets = packed
    factor = _factor(args, first, last, factor)
    next_targets, targets_bytes = (
        args.targets + 4 * last * stride,
        4 * CHUNK * stride // num_class if stride != num_class else 0,
    )
    next_weights, weights_bytes = (
        args.weights + 4 * last * per_row,
        4 * CHUNK * per_row // num_class if per_row != num_class else 0,
    )
    for k in range(0, entries, CHUNK):
        size = min(CHUNK, entries - k)
        logits, out = (
            array_at(args.logits + 4 * (begin + k), np.float32, size),
            array_at(args.out + 4 * (begin + k), np.float32, size),
        )
        target, weight = (
            array_at(targets.ctypes.data + 4 * k, np.float32, size),
            array_at(factor.ctypes.data + 4 * k, np.float32, size),
        )
        prefetch(next_targets, next_targets + targets_bytes)
        prefetch(next_weights, next_weights + weights_bytes)
        next_targets, next_weights = next_targets + targets_bytes, next_weights + weights_bytes
        if args.grad_outputs:
            _soft_gradient(logits, target, weight, alpha_neg, alpha_difference, out)
        else:
            _soft_loss(logits, target, weight, alpha_neg, alpha_difference, out)


def _elementwise_member(pointer):
    args = numba.carray(pointer, 1)[0]
    rows_per_block, rows_per_task = args.rows_per_block, args.rows_per_block * BLOCKS_PER_TASK
    alpha_neg, alpha_difference = np.float32(args.alpha_neg), np.float32(args.alpha_pos - args.alpha_neg)
    if args.grad_outputs == 1:
        grad_output = array_at(args.grad_output, np.float32, 1)[0]
        alpha_neg, alpha_difference = alpha_neg * grad_output, alpha_difference * grad_output
    factor, packed = (
        np.empty(rows_per_block * args.num_class, np.float32),
        np.empty(rows_per_block * args.num_class, np.float32),
    )
    while True:
        begin = next_task(pointer) * rows_per_task
        if begin >= args.num_rows:
            break
        end = min(begin + rows_per_task, args.num_rows)
        for first in range(begin, end, rows_per_block):
            _elementwise_block(
                args, first, min(first + rows_per_block, end), alpha_neg, alpha_difference, factor, packed
            )


_run_elementwise = TeamKernel(_elementwise_member, _Elementwise)


def _rows_per_block(num_class: int) -> int:
    """A multiple of 64 or 16 where there are so many: then no block but the last has labels or entries left over that
    do not fill a vector register, and all begin where a cache line does."""
    rows = BLOCK // num_class
    for size in (64, 16):
        if rows >= size:
            return rows // size * size
    return max(rows, 1)


def _rows(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A (..., C) tensor whose rows come at one step in memory, and the step: a slice such as one_hot[..., 1:] is not
    copied.
    """
    num_class = tensor.shape[-1]
    stride = tensor.stride(-2) if tensor.dim() > 1 else num_class
    regular = tensor.stride(-1) == 1 and stride > num_class
    for i in range(tensor.dim() - 2):
        regular = regular and tensor.stride(i) == tensor.stride(i + 1) * tensor.shape[i + 1]
    return (tensor, stride) if regular else (tensor.contiguous(), num_class)


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
        logits: (..., C) float32, contiguous. targets: the same shape, of any strides. weights: (..., 1) or (..., C),
            contiguous, or None.
        grad_output: like logits, of any strides; one number spread over all is not written out.
    """
    num_class = logits.shape[-1]
    rows = _rows_per_block(num_class)
    out = pages.empty_like(logits)
    targets, stride = _rows(targets)
    args = _Elementwise(
        logits=logits.data_ptr(),
        targets=targets.data_ptr(),
        target_stride=stride,
        num_class=num_class,
        num_rows=logits.numel() // num_class,
        rows_per_block=rows,
        out=out.data_ptr(),
        alpha_pos=alpha_pos,
        alpha_neg=alpha_neg,
    )
    if weights is not None:
        args.weights, args.weights_per_row = weights.data_ptr(), weights.shape[-1]
    if grad_output is not None:
        one_number = not any(stride for stride, size in zip(grad_output.stride(), grad_output.shape) if size > 1)
        grad_output = grad_output if one_number else grad_output.contiguous()
        args.grad_output, args.grad_outputs = grad_output.data_ptr(), 1 if one_number else grad_output.numel()
    _run_elementwise(args, -(-args.num_rows // (rows * BLOCKS_PER_TASK)))
    return out


@lru_cache(maxsize=32)
def _constants(kind: Focal, per_block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
    """alpha_pos (C,), alpha_neg and gamma for each entry of a block, and whether gamma is 2 and alpha_neg one number
    for all classes.
    """
    pos, neg, exponent = (torch.tensor(v, dtype=torch.float32) for v in kind)
    return (
        pos,
        neg.repeat(per_block),
        exponent.repeat(per_block),
        set(kind.gamma) == {2} and len(set(kind.alpha_neg)) == 1,
    )


def from_labels(
    logits: torch.Tensor, labels: torch.Tensor, kind: Focal, per_sample: bool, loss_weight: float, with_grad: bool
) -> tuple[float, torch.Tensor | None, int, ctypes.Array]:
    """Focal loss of a batch, its gradient, and the highest label: where that is above C > 1, neither of them was
    computed.

    Args:
        logits: (B, A, C) float32. labels: (B, A) int32 or int64. Both contiguous, A, B and C at least 1.
        per_sample: divide a sample's sum by max(its positives, 1) * B.
    Returns:
        Loss, gradient (B, A, C) or None, highest label, and what ``positives`` reads.
    """
    batch_size, num_anchors, num_class = logits.shape
    per_block = _rows_per_block(num_class)
    per_task = per_block * BLOCKS_PER_TASK
    tasks_per_sample = -(-num_anchors // per_task)
    tasks = batch_size * tasks_per_sample
    alpha_pos, alpha_neg, gamma, is_plain = _constants(kind, per_block)
    grad = pages.empty_like(logits) if with_grad else None
    scratch = (ctypes.c_int64 * (_HEADER + 3 * tasks))()
    args = _FromLabels(
        logits=logits.data_ptr(),
        labels=labels.data_ptr(),
        label_bytes=labels.element_size(),
        grad=grad.data_ptr() if with_grad else 0,
        alpha_pos=alpha_pos.data_ptr(),
        alpha_neg=alpha_neg.data_ptr(),
        gamma=gamma.data_ptr(),
        is_plain=is_plain,
        per_sample=per_sample,
        batch_size=batch_size,
        num_anchors=num_anchors,
        num_class=num_class,
        anchors_per_block=per_block,
        anchors_per_task=per_task,
        tasks_per_sample=tasks_per_sample,
        scratch=ctypes.addressof(scratch),
        loss_weight=loss_weight,
    )
    _run_from_labels(args, tasks)
    return args.loss, grad, args.highest, scratch


def positives(scratch: ctypes.Array, batch_size: int) -> np.ndarray:
    """Positive anchors of each sample, (B,) int64, that ``from_labels`` counted."""
    counts = np.frombuffer(scratch, np.int64)[_HEADER : _HEADER + (len(scratch) - _HEADER) // 3]
    return (counts - 1).reshape(batch_size, -1).sum(axis=1)
