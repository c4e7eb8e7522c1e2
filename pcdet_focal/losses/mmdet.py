"""mmdetection's FocalLoss and GaussianFocalLoss; its other classes are imported here as well.

They have mmdetection's constructor arguments and call; see ``ReducedLoss``. The mean of no elements, NaN in
mmdetection, is 0 here. Build them by name: ``build_loss(dict(type="FocalLoss"))``.
"""

from __future__ import annotations

import torch

from ..errors import InputError
from ..ops.focal_loss import reference
from . import sigmoid_focal
from .arguments import one_hot, require_number, require_tensors, require_values_between
from .focal_from_labels import sigmoid_focal_loss_from_labels
from .gaussian_focal import gaussian_focal_loss
from .kernel_agreement import kernel_agreement, probe_logits_and_labels
from .mmdet_cross_entropy import CrossEntropyLoss
from .mmdet_l1 import L1Loss, MSELoss, SmoothL1Loss
from .numerics import at_least_float32, power
from .reduction import ReducedLoss, choose_reduction, row_or_element_weight
from .registry import register_loss
from .sigmoid_focal import (
    PerClass,
    focal_setting,
    focus,
    for_classes,
    sigmoid_focal_loss,
    weigh_classes,
)
from .weights import require_same_shape

__all__ = [
    "CrossEntropyLoss",
    "FocalLoss",
    "GaussianFocalLoss",
    "L1Loss",
    "MSELoss",
    "SmoothL1Loss",
    "focal_loss_from_probabilities",
]


@register_loss("FocalLoss")
class FocalLoss(ReducedLoss):
    """Sigmoid focal loss (``sigmoid_focal_loss``; Lin et al. 2017, arXiv:1708.02002) of class logits, with labels or
    with one-hot / soft targets.

    >>> # 3 classes; label 3 is background
    >>> logits, labels = torch.zeros(2, 3), torch.tensor([1, 3])
    >>> # (0.25 + 5 * 0.75) * 0.5^2 * log 2
    >>> FocalLoss()(logits, labels, avg_factor=1.0)
    tensor(0.6931)
    """

    shown = ("gamma", "alpha", "activated")

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: PerClass = 2.0,
        alpha: PerClass | None = 0.25,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        activated: bool = False,
    ) -> None:
        """
        Args:
            use_sigmoid: must be True; the focal loss of a softmax is another class.
            gamma: focusing exponent >= 0, one or one per class.
            alpha: weight of positives in [0, 1], one or one per class; negatives get 1 - alpha. None or -1 for no
                weighting.
            reduction, loss_weight: see ReducedLoss.
            activated: predictions are probabilities, not logits.
        """
        super().__init__(reduction, loss_weight)
        if use_sigmoid is not True:
            raise InputError(
                "FocalLoss: use_sigmoid=False is not allowed: this is the sigmoid focal loss, the one of a softmax is "
                "SoftmaxFocalLoss."
            )
        self.use_sigmoid, self.activated = use_sigmoid, activated
        self.gamma = focal_setting("gamma", gamma, "FocalLoss")
        self.alpha = focal_setting("alpha", alpha, "FocalLoss")

    fused: bool = True  # False keeps to plain torch (LOSS_CONFIG.FUSED: False)

    def has_kernel(self) -> bool:
        """Whether the kernels of the focal loss from labels compute this object's ``forward``."""
        changed = type(self).forward is not FocalLoss.forward or type(self).elementwise is not FocalLoss.elementwise
        return self.fused and not self.activated and not changed and _kernels_have_the_formula()

    def from_labels(
        self, logits: torch.Tensor, labels: torch.Tensor, *, normalizer: str = "per_sample", loss_weight: float = 1.0
    ) -> torch.Tensor:
        """The loss of a whole head by the kernels, for ``has_kernel()``; see ``sigmoid_focal_loss_from_labels``."""
        return sigmoid_focal_loss_from_labels(
            logits, labels, alpha=self.alpha, gamma=self.gamma, normalizer=normalizer, loss_weight=loss_weight
        )

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Focal loss of each logit.

        Args:
            pred: (..., C) logits (probabilities if ``activated``).
            target: (...) integer labels, 0..C-1 a class, C background; or (..., C) one-hot or soft values in [0, 1].
        Returns:
            (..., C).
        Raises:
            InputError: shapes that do not fit; on the CPU also labels outside 0..C (elsewhere they count as background)
                and probabilities outside [0, 1].
        """
        target = _one_hot_or_soft(pred, target, "FocalLoss")
        loss = focal_loss_from_probabilities if self.activated else sigmoid_focal_loss
        return loss(pred, target, self.alpha, self.gamma)

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One per row (N,) or (N, 1), or one per element (N, C) or flat (N * C,)."""
        return row_or_element_weight(weight, loss.shape, "FocalLoss")


@kernel_agreement(lambda: (FocalLoss.forward, FocalLoss.elementwise, sigmoid_focal_loss, sigmoid_focal.focal_formula))
def _kernels_have_the_formula():
    """Whether the kernels compute FocalLoss as it stands in this file."""
    logits, labels = probe_logits_and_labels()
    targets = torch.where(labels > 0, labels - 1, 2).flatten()  # here 2 is background
    loss = FocalLoss(gamma=1.3, alpha=0.4, reduction="sum", loss_weight=0.5)
    alpha_pos, alpha_neg, gamma = (logits.new_full((2,), value) for value in (0.4, 0.6, 1.3))
    scale = logits.new_full((1,), 0.5)

    def plain(logits: torch.Tensor) -> torch.Tensor:
        return loss(logits.flatten(0, 1), targets)

    def kernel(logits: torch.Tensor) -> torch.Tensor:
        return reference.from_labels(logits, labels, alpha_pos, alpha_neg, gamma, scale)

    return plain, kernel, logits


@register_loss("GaussianFocalLoss")
class GaussianFocalLoss(ReducedLoss):
    """``gaussian_focal_loss`` (CornerNet's, Law and Deng 2018, arXiv:1808.01244) of a heat map of probabilities.

    >>> GaussianFocalLoss(reduction="sum")(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))         # 2 * 0.25 log 2
    tensor(0.3466)
    """

    shown = ("alpha", "gamma", "pos_weight", "neg_weight")

    def __init__(
        self,
        alpha: float = 2.0,
        gamma: float = 4.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        pos_weight: float = 1.0,
        neg_weight: float = 1.0,
    ) -> None:
        """
        Args:
            alpha: exponent of the prediction; gamma: exponent of one minus the target, for negatives; both >= 0.
            reduction, loss_weight: see ReducedLoss.
            pos_weight, neg_weight: weights of the elements whose target is exactly 1, and of all others.
        """
        super().__init__(reduction, loss_weight)
        for argument, value in (
            ("alpha", alpha),
            ("gamma", gamma),
            ("pos_weight", pos_weight),
            ("neg_weight", neg_weight),
        ):
            require_number("GaussianFocalLoss", argument, value)
        self.alpha, self.gamma, self.pos_weight, self.neg_weight = alpha, gamma, pos_weight, neg_weight

    def forward(
        self,
        pred: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
        *,
        pos_inds: torch.Tensor | None = None,
        pos_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            pred: probabilities, any shape. target: Gaussian heat map in [0, 1], same shape; exactly 1 at object
                centres.
            weight: broadcasts to that shape.
            avg_factor, reduction_override: see ReducedLoss.
            pos_inds, pos_labels: (M,) rows and classes of the positives, for (N, C) maps whose targets hold no exact 1:
                every element is a negative then, and the positives are added. 'mean' without avg_factor averages both
                parts separately. Two integer tensors in the place of weight and avg_factor are these, as in mmdetection
                3, where they stand before weight.
        Returns:
            Scalar, or the shape of ``pred`` for 'none'.
        Raises:
            InputError: shapes that do not fit; pos_inds with 'none' (the two parts have different shapes), with
                weights, or without pos_labels.
        """
        reduction = choose_reduction(self.reduction, reduction_override, "GaussianFocalLoss")
        if _are_integers(weight) and _are_integers(avg_factor):
            pos_inds, pos_labels, weight, avg_factor = weight, avg_factor, None, None
        require_tensors(
            "GaussianFocalLoss", pred=pred, target=target, weight=weight, pos_inds=pos_inds, pos_labels=pos_labels
        )
        if pos_inds is not None or pos_labels is not None:
            return self._with_positives(pred, target, weight, avg_factor, reduction, pos_inds, pos_labels)
        loss = gaussian_focal_loss(pred, target, self.alpha, self.gamma)
        if self.pos_weight != 1 or self.neg_weight != 1:
            loss = loss * torch.where(target == 1, self.pos_weight, self.neg_weight)
        return self.reduced(loss, weight, avg_factor, reduction)

    def _with_positives(self, pred, target, weight, avg_factor, reduction, pos_inds, pos_labels) -> torch.Tensor:
        if (
            pos_inds is None
            or pos_labels is None
            or pred.dim() != 2
            or pos_inds.dim() != 1
            or pos_inds.shape != pos_labels.shape
        ):
            raise InputError(
                "GaussianFocalLoss: pos_inds and pos_labels go together, a row and a class for each positive, (M,), "
                "with pred (N, C)."
            )
        if weight is not None or reduction == "none":
            raise InputError(
                "GaussianFocalLoss: pos_inds cannot be used with weight or reduction 'none': positives and negatives "
                "are two lists."
            )
        require_same_shape("GaussianFocalLoss", pred=pred, target=target)
        pred, target = at_least_float32(pred, target)
        centres = pred[pos_inds, pos_labels]  # (M,)
        positive = gaussian_focal_loss(centres, torch.ones_like(centres), self.alpha, self.gamma)
        negative = -(1 - pred + 1e-12).log() * power(pred, self.alpha) * (1 - target).pow(self.gamma)
        positive, negative = (self.reduced(part, None, avg_factor, reduction) for part in (positive, negative))
        return self.pos_weight * positive + self.neg_weight * negative


def _are_integers(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 1 and value.dtype in (torch.int32, torch.int64)


def focal_loss_from_probabilities(
    probabilities: torch.Tensor, targets: torch.Tensor, alpha: PerClass | None = 0.25, gamma: PerClass = 2.0
) -> torch.Tensor:
    """``sigmoid_focal_loss`` of probabilities instead of logits, elementwise. Half precision is computed, and returned,
    in float32.

    The logarithm of exactly 0 counts as -100 with gradient 0, so that values and gradients stay finite. Logits are the
    better input: a probability of float32 knows nothing of logits beyond 17.

    Raises:
        InputError: different shapes; on the CPU also probabilities outside [0, 1].

    >>> focal_loss_from_probabilities(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
    tensor([0.0433, 0.1300])
    """
    require_same_shape("FocalLoss", pred=probabilities, target=targets)
    require_values_between("FocalLoss", "pred", probabilities, 0, 1, " (probabilities, as activated=True says)")
    p, t = at_least_float32(probabilities, targets)
    alpha, gamma = for_classes("alpha", alpha, p), for_classes("gamma", gamma, p)
    loss = -(t * _log_or_minus_100(p) + (1 - t) * _log_or_minus_100(1 - p)) * focus(t * (1 - p) + (1 - t) * p, gamma)
    return weigh_classes(loss, t, alpha)


def _log_or_minus_100(p: torch.Tensor) -> torch.Tensor:
    return torch.where(p > 0, p.clamp(min=torch.finfo(p.dtype).tiny).log(), -100.0)


def _one_hot_or_soft(pred: torch.Tensor, target: torch.Tensor, loss_name: str) -> torch.Tensor:
    """(N, C) targets from those, or from (N,) labels with C for background."""
    if target.dim() == pred.dim():
        require_same_shape(loss_name, pred=pred, target=target)
        return target
    if pred.dim() < 2 or target.shape != pred.shape[:-1] or target.is_floating_point():
        raise InputError(
            f"{loss_name}: target of shape {tuple(target.shape)} and dtype {target.dtype} does not fit pred of shape "
            f"{tuple(pred.shape)}: integer labels {tuple(pred.shape[:-1])} or targets {tuple(pred.shape)} are needed."
        )
    num_classes = pred.shape[-1]
    require_values_between(
        loss_name, "target", target, 0, num_classes, f" ({num_classes} is background; a row to ignore gets weight 0)"
    )
    return one_hot(target, num_classes, pred.dtype)
