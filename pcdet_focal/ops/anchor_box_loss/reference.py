"""Box and direction loss of the positive anchors in plain torch: the definition. Any device, any floating dtype,
differentiable twice.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def box_sums(
    box_preds: torch.Tensor,
    box_targets: torch.Tensor,
    labels: torch.Tensor,
    code_weights: torch.Tensor | None,
    beta: float,
) -> torch.Tensor:
    """Summed smooth L1 loss of the box codes of each sample's positive anchors, (B,); arguments as in the package's
    ``box_and_direction_sums``.
    """
    positive = (labels > 0).unsqueeze(-1)
    known = positive & ~box_targets.isnan()
    preds, targets = (torch.where(known, codes, 0.0) for codes in (box_preds, box_targets.to(box_preds)))
    diff = preds - targets
    a, b = preds[..., 6:7], targets[..., 6:7]
    diff = torch.cat([diff[..., :6], a.sin() * b.cos() - a.cos() * b.sin(), diff[..., 7:]], dim=-1)
    if code_weights is not None:
        diff = diff * code_weights.to(diff)
    distance = diff.abs()
    loss = distance if beta < 1e-5 else torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)
    return loss.sum(dim=(1, 2), dtype=torch.float64).to(diff.dtype)


def direction_sums(
    dir_logits: torch.Tensor,
    box_targets: torch.Tensor,
    labels: torch.Tensor,
    anchor_headings: torch.Tensor,
    dir_offset: float,
) -> torch.Tensor:
    """Summed cross entropy of the direction classifier at each sample's positive anchors, (B,)."""
    num_bins = dir_logits.shape[-1]
    turned = anchor_headings + box_targets[..., 6] - dir_offset
    sector = (turned - torch.floor(turned / (2 * math.pi)) * (2 * math.pi)) / (2 * math.pi / num_bins)
    bins = torch.floor(torch.where(labels > 0, sector, 0.0)).long().clamp(0, num_bins - 1)  # (B, A)
    logits = torch.where((labels > 0).unsqueeze(-1), dir_logits, 0.0)
    loss = F.cross_entropy(logits.flatten(0, 1), bins.flatten(), reduction="none").view(labels.shape)
    return torch.where(labels > 0, loss, 0.0).sum(dim=1, dtype=torch.float64).to(loss.dtype)
