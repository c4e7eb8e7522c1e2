"""Box and direction loss on the CPU: the labels are read once, the rest at positive anchors only, in float64, sample by sample."""
from __future__ import annotations

import math

import numba
import numpy as np
import torch
from numba import boolean, float32, float64, int32, int64

from ..threads import share_out

_TURN = np.float32(2 * math.pi)
_F1, _F2, _F3 = float32[::1], float32[:, ::1], float32[:, :, ::1]


@numba.njit(error_model="numpy")
def _direction_bin(heading, target, offset, num_bins):
    """In float32, as the reference: a heading near a border must not come out in another sector."""
    turned = heading + target - offset
    sector = (turned - np.floor(turned / _TURN) * _TURN) / np.float32(2 * math.pi / num_bins)
    return min(max(int(np.floor(sector)), 0), num_bins - 1) if sector == sector else 0


@numba.njit(error_model="numpy")
def _count_positives(labels):
    count = np.int32(0)
    for i in range(labels.size):
        count += np.int32(labels[i] > 0)
    return count


@numba.njit([(_F3, _F3, _F3, lab, _F1, _F1, float64, float32, boolean, _F2, _F3, _F3, int64, int64, float64[:, ::1], int64[::1])
             for lab in (int32[:, ::1], int64[:, ::1])], cache=True, nogil=True, error_model="numpy")
def _samples(box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights, beta, dir_offset, with_grad, incoming, box_grad, dir_grad,
             first_sample, last_sample, sums, num_positives):
    """Sums (2, B) and counts (B,) of some samples, or (with_grad) their gradients times incoming (2, B) where labels are above 0."""
    num_anchors, num_codes, num_bins = labels.shape[1], box_preds.shape[2], dir_logits.shape[2]
    slopes = np.empty(num_codes)
    for b in range(first_sample, last_sample):
        box_sum = dir_sum = 0.0
        count = 0
        for first in range(0, num_anchors, 256):
            last = min(first + 256, num_anchors)
            if not _count_positives(labels[b, first:last]):
                continue
            for a in range(first, last):
                if labels[b, a] <= 0:
                    continue
                count += 1
                for d in range(num_codes):
                    pred, target = float64(box_preds[b, a, d]), float64(box_targets[b, a, d])
                    diff, inner = pred - target, 1.0
                    if d == 6:
                        diff = math.sin(pred) * math.cos(target) - math.cos(pred) * math.sin(target)
                        inner = math.cos(pred) * math.cos(target) + math.sin(pred) * math.sin(target)
                    diff *= code_weights[d]
                    distance = abs(diff)
                    slopes[d] = inner * code_weights[d]
                    if target != target:
                        slopes[d] = 0.0
                    elif beta >= 1e-5 and distance < beta:
                        box_sum += 0.5 * distance * distance / beta
                        slopes[d] *= diff / beta
                    else:
                        box_sum += distance - (0.5 * beta if beta >= 1e-5 else 0.0)
                        slopes[d] *= np.sign(diff)
                if with_grad:
                    for d in range(num_codes):
                        box_grad[b, a, d] = slopes[d] * incoming[0, b]
                if num_bins:
                    wanted = _direction_bin(anchor_headings[a], box_targets[b, a, 6], dir_offset, num_bins)
                    top = float64(dir_logits[b, a, 0])
                    for k in range(1, num_bins):
                        top = max(top, float64(dir_logits[b, a, k]))
                    total = 0.0
                    for k in range(num_bins):
                        total += math.exp(dir_logits[b, a, k] - top)
                    dir_sum += math.log(total) + top - dir_logits[b, a, wanted]
                    if with_grad:
                        for k in range(num_bins):
                            share = math.exp(dir_logits[b, a, k] - top) / total
                            dir_grad[b, a, k] = (share - (1.0 if k == wanted else 0.0)) * incoming[1, b]
        sums[0, b], sums[1, b], num_positives[b] = box_sum, dir_sum, count


def _arrays(box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights):
    """float32 arrays of the tensors; (B, A, 0) logits where there is no direction, weights of 1 where there are none."""
    def array(tensor):
        return tensor.detach().float().cpu().contiguous().numpy()

    batch_size, num_anchors, num_codes = box_preds.shape
    logits = np.empty((batch_size, num_anchors, 0), np.float32) if dir_logits is None else array(dir_logits)
    headings = np.empty(0, np.float32) if dir_logits is None else array(anchor_headings)
    weights = np.ones(num_codes, np.float32) if code_weights is None else array(code_weights)
    return array(box_preds), logits, array(box_targets), labels.cpu().contiguous().numpy(), headings, weights


def _run(arrays, beta, dir_offset, with_grad, incoming, box_grad, dir_grad):
    batch_size = len(arrays[0])
    sums, num_positives = np.empty((2, batch_size)), np.empty(batch_size, np.int64)

    def work(i: int, j: int) -> None:
        _samples(*arrays, beta, np.float32(dir_offset), with_grad, incoming, box_grad, dir_grad, i, j, sums, num_positives)

    share_out(work, batch_size)
    return sums, num_positives


def sums(box_preds: torch.Tensor, dir_logits: torch.Tensor | None, box_targets: torch.Tensor, labels: torch.Tensor,
         anchor_headings: torch.Tensor | None, code_weights: torch.Tensor | None, beta: float,
         dir_offset: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Box sums (B,) and direction sums (B,), float32, and positives (B,) int64, on the device of the predictions."""
    nothing = np.empty((0, 0, 0), np.float32)
    arrays = _arrays(box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights)
    found, num_positives = _run(arrays, beta, dir_offset, False, np.empty((0, 0), np.float32), nothing, nothing)
    box, direction, count = (torch.from_numpy(a).to(box_preds.device) for a in (found[0].astype(np.float32), found[1].astype(np.float32), num_positives))
    return box, direction, count


def gradients(grad_box: torch.Tensor, grad_dir: torch.Tensor, box_preds: torch.Tensor, dir_logits: torch.Tensor | None, box_targets: torch.Tensor,
              labels: torch.Tensor, anchor_headings: torch.Tensor | None, code_weights: torch.Tensor | None, beta: float,
              dir_offset: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients of both predictions, in their dtypes, where the sums have the gradients ``grad_box`` and ``grad_dir`` (B,)."""
    arrays = _arrays(box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights)
    box_grad, dir_grad = (np.zeros(a.shape, np.float32) for a in arrays[:2])  # cleared by the system as they are touched; zeros_like would write them
    incoming = torch.stack([grad_box, grad_dir]).detach().float().cpu().numpy()
    _run(arrays, beta, dir_offset, True, incoming, box_grad, dir_grad)
    return torch.from_numpy(box_grad).to(box_preds), None if dir_logits is None else torch.from_numpy(dir_grad).to(dir_logits)
