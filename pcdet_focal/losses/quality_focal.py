"""Quality focal loss: focal loss for soft targets, one score that is class and localisation quality at once."""

from __future__ import annotations

import torch

from ..errors import InputError
from ..ops.focal_loss import reference
from .arguments import one_hot, require_labels, require_number, require_sigmoid, require_tensors, require_values_between
from .cross_entropy import binary_cross_entropy_with_logits
from .kernel_agreement import kernel_agreement, probe_logits_and_labels
from .numerics import at_least_float32, finite_log, power
from .quality_from_labels import quality_focal_loss_from_labels
from .reduction import ReducedLoss
from .registry import register_loss
from .weights import check_elementwise_weights, require_same_shape


def quality_focal_loss(
    pred: torch.Tensor, target: torch.Tensor, beta: float = 2.0, activated: bool = False
) -> torch.Tensor:
    """Quality focal loss (Li et al. 2020, "Generalized Focal Loss", arXiv:2006.04388), elementwise. With p =
    sigmoid(x)::

        loss = |t - p|^beta * (-t log p - (1 - t) log(1 - p))

    t is the quality (IoU of the decoded box with its object) in the column of the object's class, and 0 elsewhere; its
    minimum is at p = t. The gradient flows through the factor |t - p|^beta too, as in mmdetection. With t in {0, 1} it
    is sigmoid focal loss without alpha.

    Args:
        pred: logits, any shape; probabilities where ``activated``. Half precision is computed, and returned, in
            float32.
        target: same shape, values in [0, 1].
        beta: focusing exponent >= 0; 0 is binary cross entropy.
        activated: ``pred`` went through the sigmoid already (less precise; at exactly 0 or 1 it has no gradient).
    Returns:
        Loss of the same shape.
    Raises:
        InputError: different shapes or devices, negative beta; on the CPU also probabilities outside [0, 1].

    >>> # 0.5^2 log 2, 0, 0.5^2 log 2
    >>> quality_focal_loss(torch.zeros(3), torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.1733, 0.0000, 0.1733])
    """
    require_tensors("quality_focal_loss", pred=pred, target=target)
    require_same_shape("quality_focal_loss", pred=pred, target=target)
    require_number("quality_focal_loss", "beta", beta)
    pred, target = at_least_float32(pred, target)
    if activated:
        require_values_between("quality_focal_loss", "pred", pred, 0, 1, " (probabilities, as activated=True says)")
        return power((target - pred).abs(), beta) * -(target * finite_log(pred) + (1 - target) * finite_log(1 - pred))
    # t - p, without the rounding of 1 - p
    difference = target * torch.sigmoid(-pred) - (1 - target) * torch.sigmoid(pred)
    return power(difference.abs(), beta) * binary_cross_entropy_with_logits(pred, target)


@register_loss("QualityFocalLoss")
class QualityFocalLoss(ReducedLoss):
    """``quality_focal_loss`` summed over classes, with mmdetection's arguments and call; see ReducedLoss.

    >>> pred = torch.zeros(3, 4)                                       # (N, C) logits
    >>> label = torch.tensor([1, 4, 0])                                # C = 4 is background
    >>> score = torch.tensor([0.9, 0.0, 0.5])                          # IoU of each positive's box
    >>> round(QualityFocalLoss()(pred, (label, score), avg_factor=2).item(), 4)
    0.9219
    """

    shown = ("beta", "activated")

    def __init__(
        self,
        use_sigmoid: bool = True,
        beta: float = 2.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        activated: bool = False,
    ) -> None:
        """
        Args:
            use_sigmoid: True; there is no softmax form.
            beta: focusing exponent >= 0.
            reduction, loss_weight: see ReducedLoss.
            activated: predictions are probabilities instead of logits.
        """
        super().__init__(reduction, loss_weight)
        require_sigmoid("QualityFocalLoss", use_sigmoid)
        require_number("QualityFocalLoss", "beta", beta)
        self.use_sigmoid = use_sigmoid
        self.beta = beta
        self.activated = activated

    def forward(
        self,
        pred: torch.Tensor,
        target: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
    ) -> torch.Tensor:
        """As ReducedLoss's; ``target`` may also be (label, score).

        Args:
            target: the dense target (..., C); or integer labels (...), where everything outside [0, C) is background
                (-1 is not ignored), and the quality (...) in [0, 1] of the positives (not read elsewhere).
        """
        return super().forward(pred, self._dense(pred, target), weight, avg_factor, reduction_override)

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(..., C) logits and dense target -> (...), summed over the classes."""
        return quality_focal_loss(pred, target, self.beta, self.activated).sum(-1)

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per row (N,)."""
        return check_elementwise_weights(weight, loss.shape, type(self).__name__)

    fused: bool = True  # False keeps to plain torch (LOSS_CONFIG.FUSED: False)

    def has_kernel(self) -> bool:
        """Whether ``from_labels`` computes this object's ``forward``."""
        changed = any(
            getattr(type(self), name) is not getattr(QualityFocalLoss, name) for name in ("forward", "elementwise")
        )
        return self.fused and not self.activated and not changed and _kernels_have_the_formula()

    def from_labels(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        quality: torch.Tensor,
        *,
        normalizer: str = "per_sample",
        loss_weight: float = 1.0,
    ) -> torch.Tensor:
        """The loss of a whole head by the kernels, for ``has_kernel()``; see ``quality_focal_loss_from_labels``."""
        return quality_focal_loss_from_labels(
            logits, labels, quality, beta=self.beta, normalizer=normalizer, loss_weight=loss_weight
        )

    def _dense(self, pred: torch.Tensor, target: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """(label, score) as the dense target: the score in the label's column."""
        if isinstance(target, torch.Tensor):
            return target
        if not isinstance(target, (tuple, list)) or len(target) != 2:
            raise InputError("QualityFocalLoss: target needs to be (label, score) or a tensor of the shape of pred.")
        label, score = target
        require_tensors("QualityFocalLoss", pred=pred, label=label, score=score)
        require_labels("QualityFocalLoss", label, pred.shape[:-1], "label")
        require_same_shape("QualityFocalLoss", label=label, score=score)
        (score,) = at_least_float32(score)
        positive = one_hot(label, pred.shape[-1], torch.bool)
        return torch.where(positive, score.unsqueeze(-1), score.new_zeros(()))


@kernel_agreement(lambda: (QualityFocalLoss.forward, QualityFocalLoss.elementwise, quality_focal_loss))
def _kernels_have_the_formula():
    """Whether the kernels compute QualityFocalLoss as it stands in this file."""
    logits, labels = probe_logits_and_labels()
    quality, scale = torch.linspace(0.1, 0.9, 12, dtype=torch.float64, device="cpu").view(1, 12), logits.new_ones(1)
    loss = QualityFocalLoss(beta=1.3, reduction="sum")

    def plain(logits: torch.Tensor) -> torch.Tensor:
        return loss(logits, (labels - 1, quality))

    def kernel(logits: torch.Tensor) -> torch.Tensor:
        return reference.quality_focal_from_labels(logits, labels, quality, 1.3, scale)

    return plain, kernel, logits
