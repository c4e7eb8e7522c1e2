"""The losses from labels and the elementwise focal loss as Triton kernels; ``reference.py`` is the definition,
``cpu.py`` derives the formulas.

One step of a head with float32 logits is three launches and no word to the host: positives are counted, by tiles; one
pass over the logits sums the loss and writes the gradient, each program adding up its sample's counts itself; one
program adds the tiles' sums. The backward pass finds the gradient ready and multiplies it by what comes in, which
returns at once where that is 1. Half precision logits are read a second time in the backward pass instead: a gradient
that is rounded to 16 bits before a loss scale comes in may have vanished.

Arithmetic is float32 for any input. exp and log1p are the polynomials of ``cpu.py``: Triton's own exp loses digits away
from 0, and it has no log1p. Sums are float64 in a fixed order, counts are integers, nothing is added atomically: the
same input gives the same bits.

The kernels move few bytes a number and compute about sixty instructions, so what matters is that enough loads are under
way: block sizes and warps are tuned on the first call for a class of sizes (a factor of four), number of classes and
dtype. That call must not be the one that a CUDA graph captures.
"""

from __future__ import annotations

import os
from functools import cache

import torch
import triton
import triton.language as tl

from .kinds import Focal, Kind, QualityFocal, Varifocal

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_CONFIGS = [
    triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((1024, 4), (512, 4), (2048, 8), (1024, 8))
]
_TUNED = _CONFIGS[:1] if _INTERPRETED else _CONFIGS  # there is nothing to measure in the interpreter
_LABELS_PER_TILE = tl.constexpr(8192)

_BOUND = tl.constexpr(1.8446742974197924e19)  # sqrt(largest float32)
_EXP_LIMIT, _LOG2E, _LN2_HIGH, _LN2_LOW = (tl.constexpr(v) for v in (87.0, 1.44269504, 0.693145752, 1.42860677e-6))
_SHIFTER, _ONE_BITS = tl.constexpr(12582912.0), tl.constexpr(0x3F800000)
_E1, _E2, _E3, _E4, _E5 = (
    tl.constexpr(v)
    for v in (0.9999997063133564, 0.49999147841130415, 0.16667638127242876, 0.04189815961838508, 0.00829027211223593)
)
_L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (
    tl.constexpr(v)
    for v in (
        -0.4999964796411767,
        0.3332132263337101,
        -0.2485716379508982,
        0.1915365544777658,
        -0.13753803430807074,
        0.0792045484775871,
        -0.03006580024222767,
        0.0053648263176807294,
    )
)


@triton.jit
def _exp_of_minus(a):
    """exp(-a) for a >= 0, at least exp(-87)."""
    a = tl.where(a > _EXP_LIMIT, _EXP_LIMIT, a)  # in this order a NaN stays
    shifted = _SHIFTER - a * _LOG2E
    n = shifted - _SHIFTER
    r = (-a - n * _LN2_HIGH) - n * _LN2_LOW
    poly = _E5 * r + _E4
    poly = poly * r + _E3
    poly = poly * r + _E2
    poly = poly * r + _E1
    poly = poly * r + 1.0
    bits = (shifted.to(tl.int32, bitcast=True) << 23) + _ONE_BITS
    return poly * bits.to(tl.float32, bitcast=True)


@triton.jit
def _log1p(e):
    """log(1 + e) for e in [0, 1]."""
    poly = _L8 * e + _L7
    poly = poly * e + _L6
    poly = poly * e + _L5
    poly = poly * e + _L4
    poly = poly * e + _L3
    poly = poly * e + _L2
    poly = poly * e + _L1
    poly = poly * e + 1.0
    return poly * e


@triton.jit
def _bounded(x):
    x = tl.where(x > _BOUND, _BOUND, x)
    return tl.where(x < -_BOUND, -_BOUND, x)


@triton.jit
def _terms(x):
    """p, 1 - p, softplus(x), softplus(-x) of a bounded logit."""
    e = _exp_of_minus(tl.abs(x))
    larger = 1.0 / (1.0 + e)
    smaller = e * larger
    log_term = _log1p(e)
    positive = x >= 0.0
    p = tl.where(positive, larger, smaller)
    q = tl.where(positive, smaller, larger)
    return p, q, tl.where(positive, x, 0.0) + log_term, tl.where(positive, 0.0, -x) + log_term


@triton.jit
def _background(x, alpha, gamma, GAMMA_2: tl.constexpr):
    """Loss and slope of background entries with bounded logits."""
    p, q, softplus, softplus_minus = _terms(x)
    if GAMMA_2:
        weight = p * p * alpha
    else:
        weight = _exp_of_minus(gamma * softplus_minus) * alpha
    return weight * softplus, weight * (gamma * q * softplus + p)


@triton.jit
def _quality_focal(x, t, beta, BETA_2: tl.constexpr):
    """Loss and slope of entries with the target t and bounded logits."""
    p, q, softplus, softplus_minus = _terms(x)
    bce = t * softplus_minus + (1.0 - t) * softplus
    d = (1.0 - t) * p - t * q  # p - t
    if BETA_2:
        return d * d * bce, d * (d * d + 2.0 * p * q * bce)
    distance = tl.where(d == 0.0, 1e-37, tl.abs(d))
    power = _exp_of_minus(beta * tl.where(t == 0.0, softplus_minus, -tl.log(distance)))
    slope = power * (d + beta * (p * q / distance) * bce * tl.where(d < 0.0, -1.0, 1.0))
    return power * bce, tl.where(d == 0.0, 0.0, slope)


@triton.jit
def _varifocal(x, t, alpha, gamma, GAMMA_2: tl.constexpr, IOU_WEIGHTED: tl.constexpr):
    """Loss and slope of entries with the target t and bounded logits."""
    p, q, softplus, softplus_minus = _terms(x)
    if GAMMA_2:
        weight = p * p * alpha
    else:
        weight = _exp_of_minus(gamma * softplus_minus) * alpha
    factor = t if IOU_WEIGHTED else 1.0
    loss = factor * (t * softplus_minus + (1.0 - t) * softplus)
    slope = factor * ((1.0 - t) * p - t * q)
    return tl.where(t <= 0.0, weight * softplus, loss), tl.where(t <= 0.0, weight * (gamma * q * softplus + p), slope)


@triton.jit
def _count_positives(labels, counts, num_anchors, BLOCK: tl.constexpr):
    """Positive anchors of each tile of _LABELS_PER_TILE anchors: counts (B, tiles)."""
    tile, sample = tl.program_id(0), tl.program_id(1)
    labels += sample.to(tl.int64) * num_anchors
    total = tl.zeros([BLOCK], tl.int32)
    for first in range(0, _LABELS_PER_TILE, BLOCK):
        anchor = tile * _LABELS_PER_TILE + first + tl.arange(0, BLOCK)
        total += (tl.load(labels + anchor, mask=anchor < num_anchors, other=0) > 0).to(tl.int32)
    tl.store(counts + sample * tl.num_programs(0) + tile, tl.sum(total))


@triton.autotune(_TUNED, key=["SIZE_CLASS", "C"])
@triton.jit
def _from_labels(
    logits,
    labels,
    quality,
    per_class,
    counts,
    incoming,
    sums,
    grad,
    num_anchors,
    alpha_pos,
    alpha,
    gamma,
    scale,
    KIND: tl.constexpr,
    GAMMA_2: tl.constexpr,
    IOU_WEIGHTED: tl.constexpr,
    C: tl.constexpr,
    TILE: tl.constexpr,
    COUNT_TILES: tl.constexpr,
    SIZE_CLASS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Scaled loss of each tile of TILE entries, sums (B, tiles) float64, and the gradient; each only where its pointer
    is not None.

    per_class: alpha_pos, alpha and gamma (3, C) in place of the numbers. counts: what divides the samples, COUNT_TILES
    >= as many as a sample has.
    incoming: one number that multiplies the gradient. quality: (B, A), read at positives. alpha: of background.
    """
    tile, sample = tl.program_id(0), tl.program_id(1)
    if counts is not None:
        i, count_tiles = tl.arange(0, COUNT_TILES), tl.cdiv(num_anchors, _LABELS_PER_TILE)
        positives = tl.sum(tl.load(counts + sample * count_tiles + i, mask=i < count_tiles, other=0))
        scale = scale / tl.maximum(positives, 1).to(tl.float32)
    grad_scale = scale
    if incoming is not None:
        grad_scale = scale * tl.load(incoming).to(tl.float32)
    entries, first_anchor = num_anchors * C, sample.to(tl.int64) * num_anchors
    logits += first_anchor * C
    labels += first_anchor
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, TILE, BLOCK):
        entry = tile * TILE + first + tl.arange(0, BLOCK)
        valid = entry < entries
        anchor = entry // C
        column = entry - anchor * C
        label = tl.load(labels + anchor, mask=valid, other=-1)
        given = tl.where(label < 0, 0.0, tl.load(logits + entry, mask=valid, other=0.0).to(tl.float32))
        x = _bounded(given)
        positive = label > 0 if C == 1 else label == column + 1
        if KIND == "focal":
            wrong = tl.where(positive, -x, x)  # sigmoid of it is 1 - p_t
            if per_class is None:
                loss, slope = _background(wrong, tl.where(positive, alpha_pos, alpha), gamma, GAMMA_2)
            else:
                weight = tl.load(per_class + tl.where(positive, 0, C) + column)
                loss, slope = _background(wrong, weight, tl.load(per_class + 2 * C + column), GAMMA_2)
            slope = tl.where(positive, -slope, slope)
        else:
            t = tl.load(quality + first_anchor + anchor, mask=positive & valid, other=0.0).to(tl.float32)
            if KIND == "quality_focal":
                loss, slope = _quality_focal(x, t, gamma, GAMMA_2)
            else:
                loss, slope = _varifocal(x, t, alpha, gamma, GAMMA_2, IOU_WEIGHTED)
        if sums is not None:
            total += tl.where(label < 0, 0.0, loss).to(tl.float64)
        if grad is not None:
            slope = tl.where((label < 0) | (tl.abs(given) > _BOUND), 0.0, slope * grad_scale)
            tl.store(grad + first_anchor * C + entry, slope.to(grad.dtype.element_ty), mask=valid)
    if sums is not None:
        tl.store(sums + sample * tl.num_programs(0) + tile, tl.sum(total) * scale)


@triton.jit
def _total(sums, loss, count, PADDED: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of ``count`` <= PADDED float64 numbers, by one program."""
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, PADDED, BLOCK):
        i = first + tl.arange(0, BLOCK)
        total += tl.load(sums + i, mask=i < count, other=0.0)
    tl.store(loss, tl.sum(total).to(tl.float32))


@triton.jit
def _scale(values, factor, count, BLOCK: tl.constexpr):
    """values *= factor, in place; nothing is read where the factor is 1."""
    f = tl.load(factor).to(tl.float32)
    if f != 1.0:
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(values + i, tl.load(values + i, mask=i < count) * f, mask=i < count)


@triton.autotune(_TUNED, key=["SIZE_CLASS", "C"])
@triton.jit
def _elementwise(
    logits,
    targets,
    weights,
    incoming,
    out,
    entries,
    target_stride,
    alpha_pos,
    alpha_neg,
    gamma,
    GAMMA_2: tl.constexpr,
    ONE_INCOMING: tl.constexpr,
    WEIGHTS_PER_ROW: tl.constexpr,
    C: tl.constexpr,
    SIZE_CLASS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Weighted loss of targets in [0, 1], or with ``incoming`` (one number, or one an entry) the gradient; see
    ``elementwise``.
    """
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = entry < entries
    row = entry // C
    given = tl.load(logits + entry, mask=valid, other=0.0).to(tl.float32)
    t = tl.load(targets + row * target_stride + (entry - row * C), mask=valid, other=0.0).to(tl.float32)
    factor = t * alpha_pos + (1.0 - t) * alpha_neg
    if weights is not None:
        factor *= tl.load(weights + (row if WEIGHTS_PER_ROW == 1 else entry), mask=valid, other=0.0).to(tl.float32)
    x = _bounded(given)
    p, q, softplus, softplus_minus = _terms(x)
    one_minus_pt = t * q + (1.0 - t) * p
    if GAMMA_2:
        power = one_minus_pt * one_minus_pt
    else:
        hard = tl.where(t == 0.0, softplus_minus, softplus)
        minus_log = tl.where((t == 0.0) | (t == 1.0), hard, tl.maximum(-tl.log(one_minus_pt), 0.0))
        power = _exp_of_minus(gamma * minus_log)
    cross_entropy = t * softplus_minus + (1.0 - t) * softplus
    if incoming is None:
        tl.store(out + entry, power * factor * cross_entropy, mask=valid)
    else:
        coming = tl.load(incoming) if ONE_INCOMING else tl.load(incoming + entry, mask=valid, other=0.0)
        smaller = tl.where(x >= 0.0, q, p)  # OpenPCDet's derivative of the cross entropy, 1 - t at a logit of exactly 0
        slope = tl.where(x >= 0.0, (1.0 - t) - tl.where(x == 0.0, 0.0, smaller), smaller - t)
        slope = power * (gamma * (1.0 - 2.0 * t) * (p * q / one_minus_pt) * cross_entropy + slope)
        slope = tl.where(tl.abs(given) > _BOUND, 0.0, slope * factor * coming.to(tl.float32))
        tl.store(out + entry, slope.to(out.dtype.element_ty), mask=valid)


def from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor | None,
    kind: Kind,
    per_sample: bool,
    loss_weight: float,
    with_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Loss, and its gradient where ``with_grad``.

    Args:
        logits: (B, A, C) float32, float16 or bfloat16. labels: (B, A) int32 or int64. quality: (B, A), not for Focal.
            All contiguous, none empty, on one device, with fewer than 2^31 logits.
    Returns:
        Scalar float32; None or the gradient in the dtype of the logits.
    """
    sums, grad = _launch(logits, labels, quality, kind, per_sample, loss_weight, None, True, with_grad)
    loss = sums.new_empty((), dtype=torch.float32)
    with torch.cuda.device_of(logits):
        _total[(1,)](sums, loss, sums.numel(), PADDED=max(triton.next_power_of_2(sums.numel()), 1024), BLOCK=1024)
    return loss, grad


def from_labels_gradient(
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor | None,
    kind: Kind,
    per_sample: bool,
    loss_weight: float,
    grad_output: torch.Tensor,
) -> torch.Tensor:
    """The gradient of ``from_labels`` times ``grad_output``, one number on the device."""
    return _launch(logits, labels, quality, kind, per_sample, loss_weight, grad_output, False, True)[1]


def _launch(logits, labels, quality, kind, per_sample, loss_weight, incoming, with_loss, with_grad):
    """(sums (B, tiles) or None, gradient or None)."""
    batch_size, num_anchors, num_class = logits.shape
    size_class = _size_class(logits.numel())
    tile = 2048 if size_class < 11 else 4096  # 4 million numbers: enough programs to fill a device either way
    tiles, count_tiles = triton.cdiv(num_anchors * num_class, tile), triton.cdiv(num_anchors, _LABELS_PER_TILE.value)
    sums = logits.new_empty((batch_size, tiles), dtype=torch.float64) if with_loss else None
    grad = torch.empty_like(logits) if with_grad else None
    name, per_class, alpha_pos, alpha, gamma, iou_weighted = _numbers(kind, logits.device)
    with torch.cuda.device_of(logits):
        counts = None
        if per_sample:
            counts = labels.new_empty((batch_size, count_tiles), dtype=torch.int32)
            _count_positives[(count_tiles, batch_size)](labels, counts, num_anchors, BLOCK=1024, num_warps=4)
            loss_weight = loss_weight / batch_size
        _from_labels[(tiles, batch_size)](
            logits,
            labels,
            quality,
            per_class,
            counts,
            incoming,
            sums,
            grad,
            num_anchors,
            alpha_pos,
            alpha,
            gamma,
            float(loss_weight),
            KIND=name,
            GAMMA_2=gamma == 2,
            IOU_WEIGHTED=iou_weighted,
            C=num_class,
            TILE=tile,
            COUNT_TILES=triton.next_power_of_2(count_tiles),
            SIZE_CLASS=size_class,
        )
    return sums, grad


def _numbers(kind: Kind, device: torch.device):
    """Name, per-class numbers or None, alpha of positives and of background, exponent, iou_weighted."""
    if isinstance(kind, QualityFocal):
        return "quality_focal", None, 1.0, 1.0, float(kind.beta), False
    if isinstance(kind, Varifocal):
        return "varifocal", None, 1.0, float(kind.alpha), float(kind.gamma), kind.iou_weighted
    first = tuple(float(values[0]) for values in kind)
    if all(len(set(values)) == 1 for values in kind):
        return "focal", None, *first, False
    same_gamma = len(set(kind.gamma)) == 1
    return "focal", _per_class(kind, device), *first[:2], first[2] if same_gamma else -1.0, False


@cache  # kept for good: a captured CUDA graph reads it again
def _per_class(kind: Focal, device: torch.device) -> torch.Tensor:
    """(3, C). Made once: a copy from the host is a wait, and is not allowed while a CUDA graph is captured."""
    return torch.tensor(list(kind), dtype=torch.float32, device=device)


def _size_class(count: int) -> int:
    """The logarithm to the base 4, rounded down."""
    return (count.bit_length() - 1) // 2


def scale_(values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """float32 ``values``, contiguous, times one number on their device, in place. What is multiplied by 1 is not
    read.
    """
    with torch.cuda.device_of(values):
        _scale[(triton.cdiv(values.numel(), 2048),)](values, factor, values.numel(), BLOCK=2048, num_warps=4)
    return values


def elementwise(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    alpha_pos: float,
    alpha_neg: float,
    gamma: float,
    grad_output: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weighted elementwise loss, or with ``grad_output`` its gradient with respect to the logits.

    Args:
        logits: (..., C) float32, float16 or bfloat16, contiguous, not empty, fewer than 2^31. targets: the same shape,
            any dtype but float64, any strides; rows at equal distances, such as one_hot[..., 1:], are read where they
            are. weights: (..., 1) or (..., C), contiguous, or None.
        grad_output: float32 like logits, any strides; one number spread over all is not written out.
    Returns:
        (..., C): the loss in float32, the gradient in the dtype of the logits.
    """
    num_class, count = logits.shape[-1], logits.numel()
    targets, target_stride = _rows(targets)
    out = torch.empty_like(logits, dtype=logits.dtype if grad_output is not None else torch.float32)
    one_number = False
    if grad_output is not None:
        one_number = not any(stride for stride, size in zip(grad_output.stride(), grad_output.shape) if size > 1)
        grad_output = grad_output if one_number else grad_output.contiguous()
    with torch.cuda.device_of(logits):
        _elementwise[lambda meta: (triton.cdiv(count, meta["BLOCK"]),)](
            logits,
            targets,
            weights,
            grad_output,
            out,
            count,
            target_stride,
            float(alpha_pos),
            float(alpha_neg),
            float(gamma),
            GAMMA_2=gamma == 2,
            ONE_INCOMING=one_number,
            WEIGHTS_PER_ROW=1 if weights is not None and weights.shape[-1] == 1 else num_class,
            C=num_class,
            SIZE_CLASS=_size_class(count),
        )
    return out


def _rows(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A (..., C) tensor whose rows lie at equal distances, and that distance; copied where they do not."""
    num_class = tensor.shape[-1]
    stride = tensor.stride(-2) if tensor.dim() > 1 else num_class
    regular = (
        (tensor.stride(-1) == 1 or num_class == 1)
        and stride >= num_class
        and stride * (tensor.numel() // num_class) < 2**31
    )
    for i in range(tensor.dim() - 2):
        regular = regular and tensor.stride(i) == tensor.stride(i + 1) * tensor.shape[i + 1]
    return (tensor, stride) if regular else (tensor.contiguous(), num_class)
