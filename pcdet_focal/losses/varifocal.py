"""Varifocal loss: focal on negatives only, positives weighted by their quality."""

from __future__ import annotations

import torch

from ..ops.focal_loss import reference
from .arguments import one_hot, require_number, require_sigmoid, require_tensors
from .cross_entropy import binary_cross_entropy_with_logits
from .kernel_agreement import kernel_agreement, probe_logits_and_labels
from .numerics import at_least_float32, power
from .quality_from_labels import varifocal_loss_from_labels
from .reduction import ReducedLoss
from .registry import register_loss
from .weights import expand_anchor_weights, require_same_shape


def varifocal_loss(
    pred: torch.Tensor, target: torch.Tensor, alpha: float = 0.75, gamma: float = 2.0, iou_weighted: bool = True
) -> torch.Tensor:
    """Varifocal loss (Zhang et al. 2021, "VarifocalNet", arXiv:2008.13367), elementwise. With p = sigmoid(x) and
    quality q::

        q (-q log p - (1 - q) log(1 - p))         where q > 0     (with ``iou_weighted=False`` the leading q is 1)
        -alpha p^gamma log(1 - p)                 where q = 0

    Args:
        pred: logits, any shape. Half precision is computed, and returned, in float32.
        target: same shape, quality (IoU of the decoded box) in the column of the object's class, 0 elsewhere; any
            dtype.
        alpha: weight of negatives >= 0; gamma: their focusing exponent >= 0.
        iou_weighted: weight positives by their quality.
    Returns:
        Loss of the same shape.
    Raises:
        InputError: different shapes or devices, negative alpha or gamma.

    >>> # 0.5 log 2 and 0.75 * 0.25 log 2
    >>> varifocal_loss(torch.zeros(2), torch.tensor([0.5, 0.0]))
    tensor([0.3466, 0.1300])
    """
    require_tensors("varifocal_loss", pred=pred, target=target)
    require_same_shape("varifocal_loss", pred=pred, target=target)
    require_number("varifocal_loss", "alpha", alpha)
    require_number("varifocal_loss", "gamma", gamma)
    pred, target = at_least_float32(pred, target)
    factor_of_negatives = alpha * power(torch.sigmoid(pred), gamma)
    factor_of_positives = target if iou_weighted else torch.ones_like(target)
    factor = torch.where(target > 0, factor_of_positives, factor_of_negatives)
    return factor * binary_cross_entropy_with_logits(pred, target)


@register_loss("VarifocalLoss")
class VarifocalLoss(ReducedLoss):
    """``varifocal_loss`` with mmdetection's arguments and call; see ReducedLoss.

    mmdetection broadcasts (N,) weights over the class axis where N equals C and fails elsewhere; here they always are
    one weight per row.

    >>> pred, target = torch.zeros(3, 4), torch.zeros(3, 4)            # (N, C)
    >>> target[0, 1] = 0.8
    >>> round(VarifocalLoss()(pred, target, avg_factor=1).item(), 4)   # 0.8 log 2 + 11 * 0.75 * 0.25 log 2
    1.9841
    """

    shown = ("alpha", "gamma", "iou_weighted")

    def __init__(
        self,
        use_sigmoid: bool = True,
        alpha: float = 0.75,
        gamma: float = 2.0,
        iou_weighted: bool = True,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            use_sigmoid: True; there is no softmax form.
            alpha: weight of negatives; gamma: focusing exponent of negatives.
            iou_weighted: weight positives by their quality.
            reduction, loss_weight: see ReducedLoss.
        """
        super().__init__(reduction, loss_weight)
        require_sigmoid("VarifocalLoss", use_sigmoid)
        require_number("VarifocalLoss", "alpha", alpha)
        require_number("VarifocalLoss", "gamma", gamma)
        self.use_sigmoid = use_sigmoid
        self.alpha = alpha
        self.gamma = gamma
        self.iou_weighted = iou_weighted

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(..., C) logits and quality, in the column of the object's class, 0 elsewhere -> (..., C)."""
        return varifocal_loss(pred, target, self.alpha, self.gamma, self.iou_weighted)

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per row (N,) or (N, 1), or one per element (N, C)."""
        return expand_anchor_weights(weight, loss.shape, type(self).__name__)

    fused: bool = True  # False keeps to plain torch (LOSS_CONFIG.FUSED: False)

    def has_kernel(self) -> bool:
        """Whether ``from_labels`` computes this object's ``forward``."""
        changed = any(
            getattr(type(self), name) is not getattr(VarifocalLoss, name) for name in ("forward", "elementwise")
        )
        return self.fused and not changed and _kernels_have_the_formula()

    def from_labels(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        quality: torch.Tensor,
        *,
        normalizer: str = "per_sample",
        loss_weight: float = 1.0,
    ) -> torch.Tensor:
        """The loss of a whole head by the kernels, for ``has_kernel()``; see ``varifocal_loss_from_labels``."""
        return varifocal_loss_from_labels(
            logits,
            labels,
            quality,
            alpha=self.alpha,
            gamma=self.gamma,
            iou_weighted=self.iou_weighted,
            normalizer=normalizer,
            loss_weight=loss_weight,
        )


@kernel_agreement(lambda: (VarifocalLoss.forward, VarifocalLoss.elementwise, varifocal_loss))
def _kernels_have_the_formula():
    """Whether the kernels compute VarifocalLoss as it stands in this file."""
    logits, labels = probe_logits_and_labels()
    quality, scale = torch.linspace(0.1, 0.9, 12, dtype=torch.float64, device="cpu").view(1, 12), logits.new_ones(1)
    target = one_hot(labels - 1, 2, torch.float64) * quality.unsqueeze(-1)
    loss = VarifocalLoss(alpha=0.4, gamma=1.3, reduction="sum")

    def plain(logits: torch.Tensor) -> torch.Tensor:
        return loss(logits, target)

    def kernel(logits: torch.Tensor) -> torch.Tensor:
        return reference.varifocal_from_labels(logits, labels, quality, 0.4, 1.3, True, scale)

    return plain, kernel, logits
