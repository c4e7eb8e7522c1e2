"""What a head divides its losses by, and the anchor weights and one-hot targets that follow from the labels.

A normaliser is one object with a name. It answers two questions: by what each sample's weights are divided (``divisor``), and how the weighted
elementwise loss becomes one number (``reduce``). Everything stays on the device; nothing waits for it.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..errors import InputError


@dataclass(frozen=True)
class PerSampleNormalizer:
    """OpenPCDet's: every sample counts alike, whatever the number of its objects::

        loss = 1/B sum_b  (sum of the loss of sample b) / max(number of positive anchors of sample b, 1)

    >>> normalizer = PerSampleNormalizer()
    >>> normalizer.divisor(torch.tensor([4, 0]))
    tensor([4., 1.])
    >>> normalizer.reduce(torch.ones(2, 6, 3))
    tensor(18.)
    """

    name: ClassVar[str] = "per_sample"

    def divisor(self, num_positives: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """(B,) positive counts -> (B,) numbers that the weights of each sample are divided by."""
        return num_positives.clamp(min=1).to(dtype)

    def reduce(self, weighted_loss: torch.Tensor) -> torch.Tensor:
        """(B, ...) elementwise loss, its weights already divided -> scalar."""
        return weighted_loss.sum() / weighted_loss.shape[0]


def anchor_weights_from_labels(
    labels: torch.Tensor,
    pos_cls_weight: float = 1.0,
    neg_cls_weight: float = 1.0,
    *,
    normalizer: PerSampleNormalizer = PerSampleNormalizer(),
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights of each anchor in the classification and the box loss, divided by the normaliser (OpenPCDet's AnchorHeadTemplate)::

        cls_weights = (pos_cls_weight if label > 0, neg_cls_weight if label = 0, 0 if label < 0) / divisor
        reg_weights = (1 if label > 0, else 0) / divisor,      divisor = max(number of positives of the sample, 1)

    Args:
        labels: (B, A) integers: -1 ignored, 0 background, 1..C the class. Not changed.
        pos_cls_weight, neg_cls_weight: as in LOSS_CONFIG.LOSS_WEIGHTS of the multi-head YAML files.
        normalizer: who divides.
        dtype: of the weights.
    Returns:
        cls_weights (B, A), reg_weights (B, A), num_positives (B,) int64.
    Raises:
        InputError: labels that are not (B, A).

    >>> cls_weights, reg_weights, num_positives = anchor_weights_from_labels(torch.tensor([[0, 1, 3, -1]]))
    >>> cls_weights, reg_weights, num_positives
    (tensor([[0.5000, 0.5000, 0.5000, 0.0000]]), tensor([[0.0000, 0.5000, 0.5000, 0.0000]]), tensor([2]))
    """
    if labels.dim() != 2:
        raise InputError(f"anchor_weights_from_labels: labels of shape {tuple(labels.shape)} are not (B, A), one per anchor.")
    positives = labels > 0
    num_positives = positives.sum(dim=1)
    divisor = normalizer.divisor(num_positives, dtype).unsqueeze(1)  # (B, 1)
    reg_weights = positives.to(dtype)
    cls_weights = reg_weights * pos_cls_weight + (labels == 0).to(dtype) * neg_cls_weight
    return cls_weights / divisor, reg_weights / divisor, num_positives


def one_hot_from_labels(labels: torch.Tensor, num_class: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """One-hot class targets; rows of background (0) and ignored (-1) anchors are all zero.

    With ``num_class == 1`` the head is class agnostic: every positive label, whatever its number, is class 1 (as in OpenPCDet, which writes that
    into the caller's labels; here they are not changed).

    Args:
        labels: (...) integers, -1, 0, or 1..num_class.
        num_class: C. dtype: of the result.
    Returns:
        (..., C).
    Raises:
        InputError: a label above num_class (checked on the CPU; an accelerator's scatter reports it later as its own error).

    >>> one_hot_from_labels(torch.tensor([0, 2, -1]), num_class=3)
    tensor([[0., 0., 0.],
            [0., 1., 0.],
            [0., 0., 0.]])
    """
    index = labels.clamp(min=0).long()
    if num_class == 1:
        index = index.clamp(max=1)
    elif index.device.type == "cpu" and index.numel() > 0 and not torch.compiler.is_compiling() and int(index.max()) > num_class:
        raise InputError(f"one_hot_from_labels: label {int(index.max())} is above num_class={num_class}: labels are -1, 0, or 1 to {num_class}.")
    one_hot = torch.zeros(*labels.shape, num_class + 1, dtype=dtype, device=labels.device)
    return one_hot.scatter_(-1, index.unsqueeze(-1), 1.0)[..., 1:]
