"""Cross entropy: of independent sigmoids, and of one softmax with one-hot targets (OpenPCDet's direction loss)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..ops.anchor_box_loss import reference
from .kernel_agreement import kernel_agreement
from .numerics import at_least_float32, bounded
from .weights import check_elementwise_weights, require_same_shape


def binary_cross_entropy_with_logits(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Elementwise ``-t log sigmoid(x) - (1 - t) log(1 - sigmoid(x))``.

    Written with logsigmoid of x and of -x: full relative precision for easy negatives, where
    ``F.binary_cross_entropy_with_logits`` takes the
    difference of two numbers of the size of |x|.

    Args:
        inputs: logits, any shape. Half precision is computed, and returned, in float32; +-inf counts as +-1.8e19
            (float32).
        targets: same shape, values in [0, 1], any dtype.
    Returns:
        Loss of the same shape, >= 0.
    Raises:
        InputError: different shapes.

    >>> binary_cross_entropy_with_logits(torch.tensor([0.0, -100.0, 2.0]), torch.tensor([1.0, 1.0, 1.0]))
    tensor([  0.6931, 100.0000,   0.1269])
    """
    require_same_shape("binary_cross_entropy_with_logits", inputs=inputs, targets=targets)
    logits, targets = at_least_float32(inputs, targets)
    logits = bounded(logits)
    return -(targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits))


def one_hot_cross_entropy(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Softmax cross entropy ``-log softmax(x)[k]`` with k = argmax of the one-hot target; a target row of zeros means
    class 0, as in OpenPCDet.

    Args:
        inputs: (..., C) logits. Half precision is computed, and returned, in float32.
        targets: (..., C) one-hot.
    Returns:
        Loss (...), without the class axis.
    Raises:
        InputError: different shapes.

    >>> one_hot_cross_entropy(torch.zeros(1, 2, 4), torch.eye(4)[None, :2])                    # log 4
    tensor([[1.3863, 1.3863]])
    """
    require_same_shape("one_hot_cross_entropy", inputs=inputs, targets=targets)
    (logits,) = at_least_float32(inputs)
    classes = targets.argmax(dim=-1)
    return F.cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="none").view(classes.shape)


class WeightedCrossEntropyLoss(nn.Module):
    """``one_hot_cross_entropy`` times anchor weights, not reduced; OpenPCDet's loss of the direction classifier.

    >>> dir_logits, dir_targets = torch.zeros(2, 6, 2), torch.eye(2)[torch.zeros(2, 6, dtype=torch.long)]
    >>> WeightedCrossEntropyLoss()(dir_logits, dir_targets, weights=torch.ones(2, 6)).shape
    torch.Size([2, 6])
    """

    fused: bool = True  # False keeps to plain torch (LOSS_CONFIG.FUSED: False)

    def is_per_anchor(self) -> bool:
        """Whether the loss of an anchor depends on that anchor alone, so that the positives suffice; an overridden
        ``forward`` may look at the others.
        """
        return type(self).forward is WeightedCrossEntropyLoss.forward

    def has_kernel(self) -> bool:
        """Whether the head's kernel for box and direction losses computes this object's ``forward``."""
        return self.fused and self.is_per_anchor() and _cross_entropy_has_kernel()

    def forward(self, input: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input: (B, A, C) or (N, C) logits.
            target: same shape, one-hot.
            weights: (B, A) or (N,), one per anchor; None for 1.
        Returns:
            (B, A) or (N,) loss.
        Raises:
            InputError: shapes that do not fit.
        """
        loss = one_hot_cross_entropy(input, target)
        return loss if weights is None else loss * check_elementwise_weights(weights, loss.shape, type(self).__name__)


@kernel_agreement(lambda: (WeightedCrossEntropyLoss.forward, one_hot_cross_entropy))
def _cross_entropy_has_kernel():
    """Whether the kernel computes WeightedCrossEntropyLoss as it stands in this file."""
    logits = torch.linspace(-2.0, 2.0, 8, dtype=torch.float64, device="cpu").view(1, 4, 2)
    codes, labels = logits.new_zeros(1, 4, 7), torch.ones(1, 4, dtype=torch.long, device="cpu")
    codes[..., 6] = logits.new_tensor([1.0, 4.0, 2.0, 5.0])  # headings: sectors 0, 1, 0, 1
    targets = torch.eye(2, dtype=torch.float64, device="cpu")[[0, 1, 0, 1]].unsqueeze(0)
    loss, weights, headings = WeightedCrossEntropyLoss(), logits.new_full((1, 4), 0.5), logits.new_zeros(4)

    def plain(logits: torch.Tensor) -> torch.Tensor:
        return loss(logits, targets, weights=weights).sum()

    def kernel(logits: torch.Tensor) -> torch.Tensor:
        return 0.5 * reference.direction_sums(logits, codes, labels, headings, 0.0).sum()

    return plain, kernel, logits
