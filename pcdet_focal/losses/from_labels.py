"""Base of the classification losses of a head: one number from logits and labels."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import InputError
from .normalizers import NoNormalizer, PerSampleNormalizer, anchor_weights_from_labels, one_hot_from_labels


class LossFromLabels(nn.Module):
    """Base of the classification losses in OpenPCDet's style: ``forward(input, target, weights)`` gives the weighted
    elementwise loss.

    ``from_labels`` is what heads call. Here it makes one-hot targets and weights and calls ``forward``, so that a
    subclass needs nothing else; a class whose ``forward`` a kernel computes overrides it.

    Attributes:
        fused: False keeps to plain torch (LOSS_CONFIG.FUSED: False).

    Example:
        >>> class Squared(LossFromLabels):
        ...     def forward(self, input, target, weights):
        ...         return (input - target) ** 2 * weights.unsqueeze(-1)
        >>> logits, labels = torch.zeros(1, 4, 1), torch.tensor([[1, 1, 0, -1]])
        >>> round(Squared().from_labels(logits, labels).item(), 6)  # (1 + 1 + 0) / 2 positives
        1.0
    """

    fused: bool = True

    def from_labels(
        self, logits: torch.Tensor, labels: torch.Tensor, *, normalizer: str = "per_sample", loss_weight: float = 1.0
    ) -> torch.Tensor:
        """The loss of a whole head.

        Args:
            logits: (B, A, C). labels: (B, A) integers, -1 ignored, 0 background, 1..C; with C = 1 every positive label
                is class 1.
            normalizer: 'per_sample', each sample's sum divided by its positives and averaged over the batch, or 'none'.
            loss_weight: factor of the result.
        Returns:
            Scalar.
        Raises:
            InputError: another normaliser.
        """
        if normalizer not in ("per_sample", "none"):
            raise InputError(
                f"{type(self).__name__}: normalizer={normalizer!r} is unknown: 'per_sample' or 'none' is allowed."
            )
        divided = normalizer == "per_sample"
        # (B, A)
        weights, _, _ = anchor_weights_from_labels(
            labels, normalizer=PerSampleNormalizer() if divided else NoNormalizer()
        )
        total = self(logits, one_hot_from_labels(labels, logits.shape[-1], logits.dtype), weights=weights).sum()
        return (total / logits.shape[0] if divided else total) * loss_weight
