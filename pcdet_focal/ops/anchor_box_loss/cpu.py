"""Box and direction loss on the CPU: the labels are read once, the rest at positive anchors only, in float64."""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from numba import boolean, float32, float64, int32, int64

from ..threads import parallel_for

_TURN = np.float32(2 * math.pi)
_ANCHORS_PER_TASK = 16384


@numba.njit(error_model="numpy")
def _direction_bin(heading, target, offset, num_bins):
    """In float32, as the reference: a heading near a border must not come out in another bin."""
    turned = heading + target - offset
    sector = (turned - np.floor(turned / _TURN) * _TURN) / np.float32(2 * math.pi / num_bins)
    return min(max(int(np.floor(sector)), 0), num_bins - 1) if sector == sector else 0


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
def _direction_loss(logits, target_bin, slopes):
    """Cross entropy of one box's direction bins; ``slopes`` gets its derivatives."""
    top = float64(logits.max())
    total = 0.0
    for k in range(logits.size):
        slopes[k] = math.exp(logits[k] - top)
        total += slopes[k]
    for k in range(logits.size):
        slopes[k] /= total
    slopes[target_bin] -= 1.0
    return math.log(total) + top - logits[target_bin]


@numba.njit(error_model="numpy")
def _highest(labels):
    top = labels[0]
    for a in range(labels.size):  # vectorised: positives are rare, and most groups are passed over
        top = max(top, labels[a])
    return top


_3d, _read_only = float32[:, :, ::1], numba.types.Array(float32, 1, "C", readonly=True)


@numba.njit(
    (_3d, _3d, _3d, int32[:, ::1], _read_only, _read_only, float64, float32, float64[:, :, ::1], int64[:, ::1])
    + (boolean, _read_only, _read_only, _3d, _3d, int64, int64),
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _run(
    box_preds, dir_logits, box_targets, labels, headings, weights, beta, dir_offset, sums, counts,
    with_grad, grad_box, grad_dir, box_grad, dir_grad, first, last,
):  # fmt: skip
    """Box and direction sums (2, B, parts) and counts (B, parts) of the tasks, or, ``with_grad``, the gradients of
    their positives, times grad_box and grad_dir (B,).
    """
    num_anchors, num_bins = box_preds.shape[1], dir_logits.shape[2]
    box_slopes, dir_slopes = np.empty(box_preds.shape[2]), np.empty(num_bins)
    for task in range(first, last):
        b, part = task // counts.shape[1], task % counts.shape[1]
        box_sum, dir_sum, count = 0.0, 0.0, 0
        end = min((part + 1) * _ANCHORS_PER_TASK, num_anchors)
        for start in range(part * _ANCHORS_PER_TASK, end, 64):
            stop = min(start + 64, end)
            if _highest(labels[b, start:stop]) <= 0:
                continue
            for a in range(start, stop):
                if labels[b, a] <= 0:
                    continue
                count += 1
                box_sum += _box_loss(box_preds[b, a], box_targets[b, a], weights, beta, box_slopes)
                if num_bins:
                    target_bin = _direction_bin(headings[a], box_targets[b, a, 6], dir_offset, num_bins)
                    dir_sum += _direction_loss(dir_logits[b, a], target_bin, dir_slopes)
                if with_grad:
                    box_grad[b, a] = box_slopes * grad_box[b]
                    dir_grad[b, a] = dir_slopes * grad_dir[b]
        sums[0, b, part], sums[1, b, part], counts[b, part] = box_sum, dir_sum, count


def _host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().float().cpu().contiguous()


def _call(arguments, with_grad, grad_box, grad_dir, box_grad, dir_grad) -> tuple[np.ndarray, np.ndarray]:
    box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights, beta, dir_offset = arguments
    batch_size, num_anchors, num_codes = box_preds.shape
    tensors = (
        box_preds,
        box_preds.new_empty(batch_size, num_anchors, 0) if dir_logits is None else dir_logits,
        box_targets,
    )
    labels = labels.cpu()
    labels = (labels if labels.dtype == torch.int32 else labels.clamp(-1, 1).int()).contiguous()
    vectors = (
        torch.empty(0) if dir_logits is None else anchor_headings,
        torch.ones(num_codes) if code_weights is None else code_weights,
    )
    parts = -(-num_anchors // _ANCHORS_PER_TASK)
    sums, counts = np.empty((2, batch_size, parts)), np.empty((batch_size, parts), np.int64)
    inputs = *(_host(t).numpy() for t in tensors), labels.numpy(), *(_host(t).numpy() for t in vectors)
    outputs = with_grad, _host(grad_box).numpy(), _host(grad_dir).numpy(), box_grad.numpy(), dir_grad.numpy()
    parallel_for(lambda i, j: _run(*inputs, beta, dir_offset, sums, counts, *outputs, i, j), counts.size)
    return sums.sum(axis=2), counts.sum(axis=1)


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
    arguments = box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights, beta, dir_offset
    none = torch.empty(0), torch.empty(0), torch.empty(0, 0, 0), torch.empty(0, 0, 0)
    both, counts = _call(arguments, False, *none)
    box, direction = (torch.from_numpy(s).float().to(box_preds.device) for s in both)
    return box, direction, torch.from_numpy(counts).to(box_preds.device)


def gradients(
    grad_box: torch.Tensor,
    grad_dir: torch.Tensor,
    box_preds: torch.Tensor,
    dir_logits: torch.Tensor | None,
    *others,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients of both predictions, in their dtypes, where the sums have the gradients ``grad_box`` and ``grad_dir``
    (B,); ``others`` as for ``sums``.
    """
    box_grad = torch.zeros(box_preds.shape)
    dir_grad = torch.zeros((*box_preds.shape[:2], 0) if dir_logits is None else dir_logits.shape)
    _call((box_preds, dir_logits, *others), True, grad_box, grad_dir, box_grad, dir_grad)
    return box_grad.to(box_preds), None if dir_logits is None else dir_grad.to(dir_logits)
