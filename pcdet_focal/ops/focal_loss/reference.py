"""Focal loss from labels in plain torch: the definition that the kernels are tested against. Any device, any floating dtype, differentiable twice."""
from __future__ import annotations

import torch
from torch.nn import functional as F


def from_labels(logits: torch.Tensor, labels: torch.Tensor, alpha_pos: torch.Tensor, alpha_neg: torch.Tensor, gamma: torch.Tensor,
                scale: torch.Tensor) -> torch.Tensor:
    """``sum_b scale_b sum_{a, c} alpha (1 - p_t)^gamma (-log p_t)`` over the anchors with a label of at least 0.

    Args:
        logits: (B, A, C), float32 or float64. labels: (B, A) integers.
        alpha_pos, alpha_neg, gamma: (C,). scale: (B,) float64. All on the device of the logits.
    Returns:
        Scalar of the dtype of the logits, summed in float64.
    """
    num_class = logits.shape[-1]
    bound = torch.finfo(logits.dtype).max ** 0.5
    x = torch.where(labels.unsqueeze(-1) < 0, 0.0, logits)
    x = torch.where(x.abs() > bound, x.detach().clamp(-bound, bound), x)  # unlike clamp's, the gradient of NaN is NaN
    classes = torch.arange(1, num_class + 1, device=labels.device, dtype=labels.dtype)
    positive = (labels.clamp(max=1) if num_class == 1 else labels).unsqueeze(-1) == classes  # (B, A, C)
    wrong = torch.where(positive, -x, x)  # sigmoid of it is 1 - p_t
    alpha = torch.where(positive, alpha_pos.to(x), alpha_neg.to(x)) * (labels >= 0).unsqueeze(-1)
    loss = alpha * torch.exp(gamma.to(x) * F.logsigmoid(wrong)) * -F.logsigmoid(-wrong)
    return (loss.sum(dim=(1, 2), dtype=torch.float64) * scale).sum().to(logits.dtype)
