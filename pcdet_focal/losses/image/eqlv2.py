"""2-D detection, for no head of this package: equalization loss v2 for long-tailed classes, with a background logit."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...errors import InputError
from ..arguments import (
    one_hot,
    require_labels,
    require_number,
    require_sigmoid,
    require_tensors,
    require_values_between,
)
from ..cross_entropy import binary_cross_entropy_with_logits
from ..equalization import GradientRatio
from ..numerics import at_least_float32
from ..reduction import choose_reduction
from ..registry import register_loss


def eql_v2_weights(
    target: torch.Tensor, gradient_ratio: torch.Tensor, alpha: float = 4.0, gamma: float = 12.0, mu: float = 0.8
) -> torch.Tensor:
    """Weights of equalization loss v2 (Tan et al. 2021, arXiv:2012.08548). With r_c = positive / negative gradients so
    far::

        f_c        = 1 / (1 + exp(-gamma (r_c - mu)))
        negatives  : f_c                                      class c has seen too few positives: spare it
        positives  : 1 + alpha (1 - f_c)

    Args:
        target: (..., C) one-hot.
        gradient_ratio: (C,).
    Returns:
        Weights (..., C).

    >>> eql_v2_weights(torch.tensor([[1.0, 0.0]]), torch.tensor([0.8, 0.8]))
    tensor([[3.0000, 0.5000]])
    """
    negative = torch.sigmoid(gamma * (gradient_ratio - mu))
    return target * (1 + alpha * (1 - negative)) + (1 - target) * negative


@register_loss("EQLV2Loss")
class EQLV2Loss(GradientRatio):
    """Equalization loss v2 with mmdetection's arguments, call and buffers: binary cross entropy with
    ``eql_v2_weights``, summed, divided by N.

    The logits are (N, C + 1), the last is background and always has the weights of a balanced class. ``pos_grad`` and
    ``neg_grad`` take the gradients of every step in training mode, over all ranks, after the loss. As in mmdetection
    ``weight``, ``avg_factor`` and the reduction change nothing; no rows give 0 (mmdetection: NaN).

    >>> loss = EQLV2Loss(num_classes=2)
    >>> cls_score, label = torch.zeros(2, 3), torch.tensor([0, 2])                             # 2 is background
    >>> # 3 log 2: nothing is known about the classes yet
    >>> loss(cls_score, label)
    tensor(2.0794)
    >>> # class 1 was a negative only
    >>> loss.pos_neg
    tensor([1., 0.])
    """

    shown = ("num_classes", "mu", "alpha", "gamma")

    def __init__(
        self,
        use_sigmoid: bool = True,
        reduction: str = "mean",
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        num_classes: int = 1203,
        use_distributed: bool = False,
        mu: float = 0.8,
        alpha: float = 4.0,
        gamma: float = 12.0,
        vis_grad: bool = False,
        test_with_obj: bool = True,
    ) -> None:
        """
        Args:
            use_sigmoid: True; there is no softmax form.
            reduction: of no effect: the result is the sum divided by N.
            class_weight: None; class weights have no place in this loss (mmdetection ignores them).
            loss_weight: factor of the result.
            num_classes: number of foreground classes, C.
            use_distributed: of no effect: gradients are summed over the ranks wherever torch.distributed is
                initialised.
            mu, gamma: centre and steepness of the map from the gradient ratio to the weight.
            alpha: how much more positives of a suppressed class weigh.
            vis_grad: False; there is nothing to draw (mmdetection ignores it).
            test_with_obj: ``get_activation`` multiplies class scores by 1 - background score.
        """
        super().__init__(num_classes, 100.0, reduction, loss_weight)
        require_sigmoid("EQLV2Loss", use_sigmoid)
        for argument, value in (("class_weight", class_weight), ("vis_grad", vis_grad)):
            if value:
                raise InputError(f"EQLV2Loss: {argument}={value!r} has no meaning in this loss; leave it out.")
        for argument, value in (("mu", mu), ("alpha", alpha), ("gamma", gamma)):
            require_number("EQLV2Loss", argument, value)
        self.use_sigmoid = use_sigmoid
        self.mu = mu
        self.alpha = alpha
        self.gamma = gamma
        self.test_with_obj = test_with_obj

    def get_channel_num(self, num_classes: int) -> int:
        """Number of logits that a head needs: the classes and background."""
        return num_classes + 1

    def get_activation(self, pred: torch.Tensor) -> torch.Tensor:
        """(..., C + 1) logits -> scores; those of the classes times 1 - background score (``test_with_obj``)."""
        (pred,) = at_least_float32(pred)
        scores = pred.sigmoid()
        if not self.test_with_obj:
            return scores
        return torch.cat([scores[..., :-1] * torch.sigmoid(-pred[..., -1:]), scores[..., -1:]], dim=-1)

    def forward(
        self,
        cls_score: torch.Tensor,
        label: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
    ) -> torch.Tensor:
        """
        Args:
            cls_score: (N, C + 1) logits, background last.
            label: (N,) integers in [0, C]; C is background.
            weight, avg_factor, reduction_override: taken for mmdetection's heads, of no effect.
        Returns:
            Scalar: sum / N.
        Raises:
            InputError: shapes, dtypes or devices that do not fit; on the CPU also for labels outside [0, C].
        """
        name = "EQLV2Loss"
        choose_reduction(self.reduction, reduction_override, name)
        require_tensors(name, cls_score=cls_score, label=label, pos_neg=self.pos_neg)
        if cls_score.dim() != 2 or cls_score.shape[-1] != self.num_classes + 1:
            raise InputError(
                f"{name}: cls_score needs the shape (N, {self.num_classes + 1}), num_classes and background, but it is "
                f"{tuple(cls_score.shape)}."
            )
        require_labels(name, label, cls_score.shape[:1], "label")
        require_values_between(name, "label", label, 0, self.num_classes, " (the last is background)")
        (cls_score,) = at_least_float32(cls_score)
        target = one_hot(label, self.num_classes + 1, cls_score.dtype)
        foreground = eql_v2_weights(target[:, :-1], self.pos_neg.to(cls_score.dtype), self.alpha, self.gamma, self.mu)
        weights = torch.cat([foreground, torch.ones_like(target[:, -1:])], dim=-1)
        loss = (binary_cross_entropy_with_logits(cls_score, target) * weights).sum() / max(cls_score.shape[0], 1)
        if self.training:
            gradient = (target - cls_score.detach().sigmoid()).abs() * weights
            self._collect(gradient[:, :-1], target[:, :-1])
        return self.loss_weight * loss
