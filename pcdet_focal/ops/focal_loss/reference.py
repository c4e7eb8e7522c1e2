"""The losses from labels in plain torch: the definition that the kernels are tested against. Any device, any floating
dtype, differentiable twice.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    alpha_pos: torch.Tensor,
    alpha_neg: torch.Tensor,
    gamma: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """``sum_b scale_b sum_{a, c} alpha (1 - p_t)^gamma (-log p_t)`` over the anchors with a label of at least 0.

    Args:
        logits: (B, A, C), float32 or float64. labels: (B, A) integers.
        alpha_pos, alpha_neg, gamma: (C,). scale: (B,) float64. All on the device of the logits.
    Returns:
        Scalar of the dtype of the logits, summed in float64.
    """
    x, positive = _logits_and_positives(logits, labels)
    wrong = torch.where(positive, -x, x)  # sigmoid of it is 1 - p_t
    alpha = torch.where(positive, alpha_pos.to(x), alpha_neg.to(x)) * (labels >= 0).unsqueeze(-1)
    loss = alpha * torch.exp(gamma.to(x) * F.logsigmoid(wrong)) * -F.logsigmoid(-wrong)
    return _summed(loss, scale, logits.dtype)


def quality_focal_from_labels(
    logits: torch.Tensor, labels: torch.Tensor, quality: torch.Tensor, beta: float, scale: torch.Tensor
) -> torch.Tensor:
    """``sum_b scale_b sum_{a, c} |t - p|^beta bce(x, t)``, t the anchor's quality in the column of its label, 0
    elsewhere; others as ``from_labels``.

    Args:
        quality: (B, A) in [0, 1], read at positive anchors only. beta: at least 0.
    """
    x, positive = _logits_and_positives(logits, labels)
    t = torch.where(positive, quality.to(x).unsqueeze(-1), 0.0)
    distance = (t * torch.sigmoid(-x) - (1 - t) * torch.sigmoid(x)).abs()
    loss = _power(distance, beta) * _cross_entropy(x, t) * (labels >= 0).unsqueeze(-1)
    return _summed(loss, scale, logits.dtype)


def varifocal_from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor,
    alpha: float,
    gamma: float,
    iou_weighted: bool,
    scale: torch.Tensor,
) -> torch.Tensor:
    """``sum_b scale_b sum_{a, c} f bce(x, t)``, f = t, or 1 unless ``iou_weighted``, where t > 0, and alpha p^gamma
    where t = 0.

    t and the other arguments as in ``quality_focal_from_labels``.
    """
    x, positive = _logits_and_positives(logits, labels)
    t = torch.where(positive, quality.to(x).unsqueeze(-1), 0.0)
    factor = torch.where(t > 0, t if iou_weighted else torch.ones_like(t), alpha * _power(torch.sigmoid(x), gamma))
    return _summed(factor * _cross_entropy(x, t) * (labels >= 0).unsqueeze(-1), scale, logits.dtype)


def _logits_and_positives(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounded logits, 0 at ignored anchors, and which of the (B, A, C) entries a label names."""
    num_class = logits.shape[-1]
    bound = torch.finfo(logits.dtype).max ** 0.5
    x = torch.where(labels.unsqueeze(-1) < 0, 0.0, logits)
    x = torch.where(x.abs() > bound, x.detach().clamp(-bound, bound), x)  # unlike clamp's, the gradient of NaN is NaN
    classes = torch.arange(1, num_class + 1, device=labels.device, dtype=labels.dtype)
    return x, (labels.clamp(max=1) if num_class == 1 else labels).unsqueeze(-1) == classes


def _cross_entropy(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return -(t * F.logsigmoid(x) + (1 - t) * F.logsigmoid(-x))


def _power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    """With a finite gradient at 0 also for exponents between 0 and 1."""
    return (base.clamp(min=torch.finfo(base.dtype).tiny) if 0 < exponent < 1 else base).pow(exponent)


def _summed(loss: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (loss.sum(dim=(1, 2), dtype=torch.float64) * scale).sum().to(dtype)
