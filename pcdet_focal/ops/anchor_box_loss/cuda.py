"""Box and direction loss as Triton kernels: every label is read, the rest at positive anchors only, and the host is not
asked how many there are.

The backward pass clears the gradients and writes them at the positive anchors. Arithmetic is float32, sums are float64
in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK, _TILE = 256, 1024  # anchors that are worked on at a time, and of one program
_TURN = tl.constexpr(6.283185307179586)


@triton.jit
def _tiles(
    box_preds,
    dir_logits,
    box_targets,
    labels,
    anchor_headings,
    code_weights,
    grad_box,
    grad_dir,
    sums,
    counts,
    box_grad,
    dir_grad,
    num_anchors,
    batch_size,
    beta,
    dir_offset,
    D: tl.constexpr,
    K: tl.constexpr,
    L1: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """With sums (2, B, tiles) and counts (B, tiles): the losses of each tile and its positives. Else the gradients at
    the positives.

    grad_box, grad_dir: (B,) gradients of the samples' sums. K = 0: no direction.
    """
    tile, sample, tiles = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    first_anchor = sample.to(tl.int64) * num_anchors
    box_total, dir_total = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    count = tl.zeros([BLOCK], tl.int32)
    for first in range(0, TILE, BLOCK):
        anchor = tile * TILE + first + tl.arange(0, BLOCK)
        positive = tl.load(labels + first_anchor + anchor, mask=anchor < num_anchors, other=0) > 0
        if tl.max(positive.to(tl.int32)) > 0:
            count += positive.to(tl.int32)
            row = first_anchor + anchor
            for d in tl.static_range(D):
                pred = tl.load(box_preds + row * D + d, mask=positive, other=0.0).to(tl.float32)
                target = tl.load(box_targets + row * D + d, mask=positive, other=0.0).to(tl.float32)
                weight = 1.0 if code_weights is None else tl.load(code_weights + d).to(tl.float32)
                if d == 6:
                    diff = (tl.sin(pred) * tl.cos(target) - tl.cos(pred) * tl.sin(target)) * weight
                    inner = (tl.cos(pred) * tl.cos(target) + tl.sin(pred) * tl.sin(target)) * weight
                else:
                    diff = (pred - target) * weight
                    inner = weight
                known = positive & (target == target)
                distance = tl.abs(diff)
                sign = tl.where(diff > 0.0, 1.0, tl.where(diff < 0.0, -1.0, diff))  # NaN stays
                if L1:
                    loss, slope = distance, sign
                else:
                    near = distance < beta
                    loss = tl.where(near, 0.5 * distance * distance / beta, distance - 0.5 * beta)
                    slope = tl.where(near, diff / beta, sign)
                if sums is not None:
                    box_total += tl.where(known, loss, 0.0).to(tl.float64)
                else:
                    slope = slope * inner * tl.load(grad_box + sample).to(tl.float32)
                    tl.store(
                        box_grad + row * D + d, tl.where(known, slope, 0.0).to(box_grad.dtype.element_ty), mask=positive
                    )
            if K > 0:
                heading = tl.load(anchor_headings + anchor, mask=positive, other=0.0).to(tl.float32)
                turned = (
                    heading + tl.load(box_targets + row * D + 6, mask=positive, other=0.0).to(tl.float32) - dir_offset
                )
                sector = tl.div_rn(turned - tl.floor(tl.div_rn(turned, _TURN)) * _TURN, _TURN / K)
                target_bin = tl.where(sector >= 1.0, tl.minimum(sector, K - 1.0), 0.0).to(tl.int32)  # of NaN 0
                top = tl.load(dir_logits + row * K, mask=positive, other=0.0).to(tl.float32)
                target_logit = top
                for k in tl.static_range(1, K):
                    logit = tl.load(dir_logits + row * K + k, mask=positive, other=0.0).to(tl.float32)
                    top = tl.where((logit > top) | (logit != logit), logit, top)
                    target_logit = tl.where(target_bin == k, logit, target_logit)
                total = tl.zeros([BLOCK], tl.float32)
                for k in tl.static_range(K):
                    total += tl.exp(tl.load(dir_logits + row * K + k, mask=positive, other=0.0).to(tl.float32) - top)
                if sums is not None:
                    dir_total += tl.where(positive, tl.log(total) + (top - target_logit), 0.0).to(tl.float64)
                else:
                    factor = tl.load(grad_dir + sample).to(tl.float32)
                    for k in tl.static_range(K):
                        logit = tl.load(dir_logits + row * K + k, mask=positive, other=0.0).to(tl.float32)
                        slope = (tl.exp(logit - top) / total - tl.where(target_bin == k, 1.0, 0.0)) * factor
                        tl.store(dir_grad + row * K + k, slope.to(dir_grad.dtype.element_ty), mask=positive)
    if sums is not None:
        slot = sample * tiles + tile
        tl.store(sums + slot, tl.sum(box_total))
        tl.store(sums + batch_size * tiles + slot, tl.sum(dir_total))
        tl.store(counts + slot, tl.sum(count))


def _launch(
    box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights, beta, dir_offset, incoming, results
):
    batch_size, num_anchors, num_codes = box_preds.shape
    tensors = [
        t if t is None else t.detach().contiguous()
        for t in (box_preds, dir_logits, box_targets, labels, anchor_headings, code_weights)
    ]
    with torch.cuda.device_of(box_preds):
        _tiles[(triton.cdiv(num_anchors, _TILE), batch_size)](
            *tensors,
            *incoming,
            *results,
            num_anchors,
            batch_size,
            float(beta),
            float(dir_offset),
            D=num_codes,
            K=0 if dir_logits is None else dir_logits.shape[-1],
            L1=beta < 1e-5,
            TILE=_TILE,
            BLOCK=_BLOCK,
            num_warps=4,
        )


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
    """Box sums (B,) and direction sums (B,), float32, and positives (B,) int64."""
    batch_size, num_anchors = labels.shape
    tiles = triton.cdiv(num_anchors, _TILE)
    parts = box_preds.new_empty((2, batch_size, tiles), dtype=torch.float64)
    counts = labels.new_empty((batch_size, tiles), dtype=torch.int32)
    _launch(
        box_preds,
        dir_logits,
        box_targets,
        labels,
        anchor_headings,
        code_weights,
        beta,
        dir_offset,
        (None, None),
        (parts, counts, None, None),
    )
    return parts[0].sum(dim=1).float(), parts[1].sum(dim=1).float(), counts.sum(dim=1)


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
    box_grad = box_preds.new_zeros(box_preds.shape)
    dir_grad = None if dir_logits is None else dir_logits.new_zeros(dir_logits.shape)
    incoming = grad_box.contiguous(), grad_dir.contiguous()
    _launch(
        box_preds,
        dir_logits,
        box_targets,
        labels,
        anchor_headings,
        code_weights,
        beta,
        dir_offset,
        incoming,
        (None, None, box_grad, dir_grad),
    )
    return box_grad, dir_grad
