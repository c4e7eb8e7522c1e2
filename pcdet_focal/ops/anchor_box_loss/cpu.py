"""Box and direction loss on the CPU: the labels are read once, the rest at positive anchors only, in float64."""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from numba import float64

from .. import pages
from ..team_kernel import TeamKernel, arguments_type, array_at, clear, lowest_bit, mask_64, next_task

_TURN = np.float32(2 * math.pi)
_ANCHORS_PER_PART, _GROUP = 8192, 256


@numba.njit(error_model="numpy")
def _direction_bin(heading, target, offset, num_bins):
    """In float32, as the reference: a heading near a border must not come out in another sector."""
    turned = heading + target - offset
    sector = (turned - np.floor(turned / _TURN) * _TURN) / np.float32(2 * math.pi / num_bins)
    return min(max(int(np.floor(sector)), 0), num_bins - 1) if sector == sector else 0


_positive = mask_64(">")


@numba.njit(error_model="numpy")
def _positives_in(labels, positives):
    """Write the places of the labels above 0; return their number."""
    count = 0
    done = labels.size // 64 * 64
    for first in range(0, done, 64):
        mask = _positive(labels, first)
        while mask != 0:
            positives[count] = first + lowest_bit(mask)
            mask &= mask - 1
            count += 1
    for i in range(done, labels.size):
        if labels[i] > 0:
            positives[count] = i
            count += 1
    return count


_Arguments = arguments_type(
    "_Arguments",
    "box_preds dir_logits box_targets labels label_bytes anchor_headings code_weights batch_size num_anchors "
    "num_codes num_bins "
    "parts sums counts grad_box grad_dir box_grad dir_grad",
    "beta dir_offset",
)


@numba.njit(error_model="numpy")
def _box_loss(pred, target, weights, beta, slopes):
    """Loss of one box's codes; ``slopes`` gets its derivatives."""
    total = 0.0
    for d in range(pred.size):
        x, t = float64(pred[d]), float64(target[d])
        diff, inner = x - t, 1.0
        if d == 6:
            diff = math.sin(x) * math.cos(t) - math.cos(x) * math.sin(t)
            inner = math.cos(x) * math.cos(t) + math.sin(x) * math.sin(t)
        diff *= weights[d]
        distance = abs(diff)
        slopes[d] = inner * weights[d]
        if t != t:
            slopes[d] = 0.0
        elif beta >= 1e-5 and distance < beta:
            total += 0.5 * distance * distance / beta
            slopes[d] *= diff / beta
        else:
            total += distance - (0.5 * beta if beta >= 1e-5 else 0.0)
            slopes[d] *= np.sign(diff)
    return total


@numba.njit(error_model="numpy")
def _direction_loss(logits, wanted, slopes):
    """Cross entropy of one box's sectors; ``slopes`` gets its derivatives."""
    top = float64(logits[0])
    for k in range(1, logits.size):
        top = max(top, float64(logits[k]))
    total = 0.0
    for k in range(logits.size):
        slopes[k] = math.exp(logits[k] - top)
        total += slopes[k]
    for k in range(logits.size):
        slopes[k] /= total
    slopes[wanted] -= 1.0
    return math.log(total) + top - logits[wanted]


def _member(pointer):
    """Box and direction sums (2, B, parts) and counts (B, parts) of the parts of the samples that this thread gets; or,
    where there is ``box_grad``, the gradients times grad_box and grad_dir (B,): zeros, and then what the positives
    give."""
    args = numba.carray(pointer, 1)[0]
    batch_size, num_anchors, num_codes, num_bins, parts = (
        args.batch_size,
        args.num_anchors,
        args.num_codes,
        args.num_bins,
        args.parts,
    )
    with_grad, dir_offset = args.box_grad != 0, np.float32(args.dir_offset)
    box_preds = array_at(args.box_preds, np.float32, (batch_size, num_anchors, num_codes))
    box_targets = array_at(args.box_targets, np.float32, (batch_size, num_anchors, num_codes))
    dir_logits = array_at(args.dir_logits, np.float32, (batch_size, num_anchors, num_bins))
    box_grad = array_at(args.box_grad, np.float32, (batch_size, num_anchors, num_codes))
    dir_grad = array_at(args.dir_grad, np.float32, (batch_size, num_anchors, num_bins))
    grad_box, grad_dir = (
        array_at(args.grad_box, np.float32, batch_size),
        array_at(args.grad_dir, np.float32, batch_size),
    )
    headings, weights = (
        array_at(args.anchor_headings, np.float32, num_anchors),
        array_at(args.code_weights, np.float32, num_codes),
    )
    sums, counts = (
        array_at(args.sums, np.float64, (2, batch_size, parts)),
        array_at(args.counts, np.int64, (batch_size, parts)),
    )
    box_slopes, dir_slopes, positives = np.empty(num_codes), np.empty(num_bins), np.empty(_GROUP, np.int64)
    while True:
        task = next_task(pointer)
        if task >= batch_size * parts:
            break
        b, part = task // parts, task % parts
        begin, end = part * _ANCHORS_PER_PART, min((part + 1) * _ANCHORS_PER_PART, num_anchors)
        if with_grad:
            for gradient, columns in ((args.box_grad, num_codes), (args.dir_grad, num_bins)):
                clear(
                    gradient + 4 * columns * (b * num_anchors + begin), gradient + 4 * columns * (b * num_anchors + end)
                )
        box_sum = dir_sum = 0.0
        count = 0
        for first in range(begin, end, _GROUP):
            size, place = min(_GROUP, end - first), b * num_anchors + first
            if args.label_bytes == 4:
                found = _positives_in(array_at(args.labels + 4 * place, np.int32, size), positives)
            else:
                found = _positives_in(array_at(args.labels + 8 * place, np.int64, size), positives)
            count += found
            for k in range(found):
                a = first + positives[k]
                box_sum += _box_loss(box_preds[b, a], box_targets[b, a], weights, args.beta, box_slopes)
                if num_bins:
                    wanted = _direction_bin(headings[a], box_targets[b, a, 6], dir_offset, num_bins)
                    dir_sum += _direction_loss(dir_logits[b, a], wanted, dir_slopes)
                if with_grad:
                    for d in range(num_codes):
                        box_grad[b, a, d] = box_slopes[d] * grad_box[b]
                    for d in range(num_bins):
                        dir_grad[b, a, d] = dir_slopes[d] * grad_dir[b]
        if not with_grad:
            sums[0, b, part], sums[1, b, part], counts[b, part] = box_sum, dir_sum, count


_run = TeamKernel(_member, _Arguments)


def _prepare(
    box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights, beta, dir_offset
) -> tuple[_Arguments, list[torch.Tensor]]:
    """Arguments for the kernel, and the tensors in host memory, float32 and contiguous, that they point to."""

    def host(tensor):
        return tensor.detach().float().cpu().contiguous()

    batch_size, num_anchors, num_codes = box_preds.shape
    kept = [
        host(box_preds),
        host(box_targets),
        labels.cpu().contiguous(),
        torch.ones(num_codes) if code_weights is None else host(code_weights),
    ]
    args = _Arguments(
        box_preds=kept[0].data_ptr(),
        box_targets=kept[1].data_ptr(),
        labels=kept[2].data_ptr(),
        code_weights=kept[3].data_ptr(),
        label_bytes=labels.element_size(),
        batch_size=batch_size,
        num_anchors=num_anchors,
        num_codes=num_codes,
        parts=-(-num_anchors // _ANCHORS_PER_PART),
        beta=beta,
        dir_offset=dir_offset,
    )
    if dir_logits is not None:
        kept += [host(dir_logits), host(anchor_headings)]
        args.num_bins, args.dir_logits, args.anchor_headings = (
            dir_logits.shape[2],
            kept[4].data_ptr(),
            kept[5].data_ptr(),
        )
    return args, kept


def sums(
    box_preds: torch.Tensor,
    dir_logits: torch.Tensor | None,
    box_targets: torch.Tensor,
    labels: torch.Tensor,
    anchor_headings: torch.Tensor | None,
    code_weights: torch.Tensor | None,
    beta: float,
    dir_offset: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Box sums (B,) and direction sums (B,), float32, and positives (B,) int64, on the device of the predictions."""
    args, kept = _prepare(box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights, beta, dir_offset)
    found = torch.empty(2, args.batch_size, args.parts, dtype=torch.float64)
    counts = torch.empty(args.batch_size, args.parts, dtype=torch.int64)
    args.sums, args.counts = found.data_ptr(), counts.data_ptr()
    _run(args, args.batch_size * args.parts)
    box, direction = (f.sum(dim=1).float() for f in found)
    return box.to(box_preds.device), direction.to(box_preds.device), counts.sum(dim=1).to(box_preds.device)


def gradients(
    grad_box: torch.Tensor,
    grad_dir: torch.Tensor,
    box_preds: torch.Tensor,
    dir_logits: torch.Tensor | None,
    box_targets: torch.Tensor,
    labels: torch.Tensor,
    anchor_headings: torch.Tensor | None,
    code_weights: torch.Tensor | None,
    beta: float,
    dir_offset: float,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients of both predictions, in their dtypes, where the sums have the gradients ``grad_box`` and ``grad_dir``
    (B,).
    """
    args, kept = _prepare(box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights, beta, dir_offset)
    box_grad, dir_grad = pages.empty_like(kept[0]), None if dir_logits is None else pages.empty_like(kept[4])
    incoming = [grad.detach().float().cpu().contiguous() for grad in (grad_box, grad_dir)]
    args.box_grad, args.dir_grad = box_grad.data_ptr(), 0 if dir_grad is None else dir_grad.data_ptr()
    args.grad_box, args.grad_dir = (grad.data_ptr() for grad in incoming)
    _run(args, args.batch_size * args.parts)
    return box_grad.to(box_preds), None if dir_grad is None else dir_grad.to(dir_logits)
