"""L1 and smooth L1 losses of box codes, with per-code and per-anchor weights; NaN targets are ignored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..errors import InputError
from ..ops.anchor_box_loss import reference
from .kernel_agreement import kernel_agreement
from .numerics import at_least_float32
from .weights import expand_anchor_weights, require_same_shape


def smooth_l1(diff: torch.Tensor, beta: float = 1.0 / 9.0) -> torch.Tensor:
    """Huber's function of a difference (Girshick 2015, "Fast R-CNN", arXiv:1504.08083, with the transition point
    beta)::

        0.5 d^2 / beta      where |d| < beta
        |d| - 0.5 beta      elsewhere;    |d| everywhere if beta < 1e-5

    Args:
        diff: any shape. Half precision is computed, and returned, in float32.
        beta: transition point >= 0.
    Returns:
        Loss of the shape of ``diff``.

    >>> smooth_l1(torch.tensor([0.0, 0.5, -3.0]), beta=1.0)
    tensor([0.0000, 0.1250, 2.5000])
    """
    (diff,) = at_least_float32(diff)
    distance = diff.abs()
    if beta < 1e-5:
        return distance
    return torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)


def code_difference(
    input: torch.Tensor, target: torch.Tensor, code_weights: torch.Tensor | None = None, loss_name: str = "loss"
) -> torch.Tensor:
    """``(input - target) * code_weights``, exactly 0 with gradient 0 where the target is NaN (unknown, such as a
    velocity without annotation).

    Args:
        input, target: (..., D), same shape.
        code_weights: (D,) or None for 1.
        loss_name: for the message.
    Returns:
        (..., D) in float32 or better.
    Raises:
        InputError: different shapes, or a number of code weights that is not D.

    >>> code_difference(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, float("nan")]]), torch.tensor([2.0, 1.0]))
    tensor([[1., 0.]])
    """
    require_same_shape(loss_name, input=input, target=target)
    if code_weights is not None and tuple(code_weights.shape) != tuple(input.shape[-1:]):
        raise InputError(
            f"{loss_name}: {tuple(code_weights.shape)[0]} code_weights do not fit an input of shape "
            f"{tuple(input.shape)}: "
            f"{input.shape[-1]} are needed, one per box code."
        )
    input, target = at_least_float32(input, target)
    diff = torch.where(torch.isnan(target), 0.0, input - target)
    return diff if code_weights is None else diff * code_weights.to(diff)


def code_weights_tensor(
    code_weights: Sequence[float] | np.ndarray | torch.Tensor | None, loss_name: str
) -> torch.Tensor | None:
    """One float32 weight per box code from a list as it stands in a YAML file; InputError unless it is one flat list of
    finite numbers.
    """
    if code_weights is None:
        return None
    try:
        weights = torch.as_tensor(np.asarray(code_weights, dtype=np.float32)).clone()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{loss_name}: code_weights={code_weights!r} is not a list of numbers, one per box code."
        ) from error
    if weights.dim() != 1 or not torch.isfinite(weights).all():
        raise InputError(
            f"{loss_name}: code_weights={code_weights!r} is not a flat list of finite numbers, one per box code."
        )
    return weights


class WeightedSmoothL1Loss(nn.Module):
    """``smooth_l1`` of box codes with per-code weights (on the difference, before Huber's function, as in OpenPCDet)
    and per-anchor weights (after).

    >>> loss_func = WeightedSmoothL1Loss(code_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    >>> box_preds, box_targets = torch.ones(2, 6, 7), torch.zeros(2, 6, 7)
    >>> loss = loss_func(box_preds, box_targets, weights=torch.ones(2, 6))                    # (B, A, 7)
    >>> loss[0, 0]
    tensor([0.9444, 0.9444, 0.9444, 0.9444, 0.9444, 0.9444, 1.9444])
    """

    fused: bool = True  # False keeps to plain torch (LOSS_CONFIG.FUSED: False)

    def __init__(self, beta: float = 1.0 / 9.0, code_weights: Sequence[float] | np.ndarray | None = None) -> None:
        """
        Args:
            beta: transition point from quadratic to linear; below 1e-5 the loss is L1.
            code_weights: one number per box code; None for 1. Not part of the state dict.
        """
        super().__init__()
        self.beta = beta
        self.register_buffer("code_weights", code_weights_tensor(code_weights, type(self).__name__), persistent=False)

    def is_per_anchor(self) -> bool:
        """Whether the loss of an anchor depends on that anchor alone, so that the positives suffice; an overridden
        ``forward`` may look at the others.
        """
        return type(self).forward is WeightedSmoothL1Loss.forward

    def has_kernel(self) -> bool:
        """Whether the head's kernel for box and direction losses computes this object's ``forward``."""
        return self.fused and self.is_per_anchor() and _smooth_l1_has_kernel()

    def extra_repr(self) -> str:
        return f"beta={self.beta:.6g}, code_weights={None if self.code_weights is None else self.code_weights.tolist()}"

    @staticmethod
    def smooth_l1_loss(diff: torch.Tensor, beta: float) -> torch.Tensor:
        """Elementwise Huber function of a difference; see ``smooth_l1``."""
        return smooth_l1(diff, beta)

    def forward(self, input: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input: (B, A, D) or (N, D) predicted codes.
            target: same shape; NaN entries are ignored.
            weights: one per anchor, (B, A) or (N,), or one per element; None for 1.
        Returns:
            Elementwise loss of the shape of ``input``.
        Raises:
            InputError: shapes that do not fit.
        """
        loss = smooth_l1(code_difference(input, target, self.code_weights, type(self).__name__), self.beta)
        return loss if weights is None else loss * expand_anchor_weights(weights, loss.shape, type(self).__name__)


class WeightedL1Loss(nn.Module):
    """``|input - target|`` with per-code and per-anchor weights, not reduced; otherwise like WeightedSmoothL1Loss.

    >>> loss_func = WeightedL1Loss(code_weights=[1.0, 0.5])
    >>> loss_func(torch.ones(1, 1, 2), torch.zeros(1, 1, 2), weights=torch.full((1, 1), 3.0))
    tensor([[[3.0000, 1.5000]]])
    """

    beta: float = 0.0  # L1 is smooth L1 without the quadratic part
    fused: bool = True  # False keeps to plain torch (LOSS_CONFIG.FUSED: False)

    def __init__(self, code_weights: Sequence[float] | np.ndarray | None = None) -> None:
        """
        Args:
            code_weights: one number per box code; None for 1. Not part of the state dict.
        """
        super().__init__()
        self.register_buffer("code_weights", code_weights_tensor(code_weights, type(self).__name__), persistent=False)

    def is_per_anchor(self) -> bool:
        """Whether the loss of an anchor depends on that anchor alone, so that the positives suffice; an overridden
        ``forward`` may look at the others.
        """
        return type(self).forward is WeightedL1Loss.forward

    def has_kernel(self) -> bool:
        """Whether the head's kernel for box and direction losses computes this object's ``forward``."""
        return self.fused and self.is_per_anchor() and _l1_has_kernel()

    def extra_repr(self) -> str:
        return f"code_weights={None if self.code_weights is None else self.code_weights.tolist()}"

    def forward(self, input: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input: (B, A, D) or (N, D) predicted codes.
            target: same shape; NaN entries are ignored.
            weights: one per anchor, (B, A) or (N,), or one per element; None for 1.
        Returns:
            Elementwise loss of the shape of ``input``.
        Raises:
            InputError: shapes that do not fit.
        """
        loss = code_difference(input, target, self.code_weights, type(self).__name__).abs()
        return loss if weights is None else loss * expand_anchor_weights(weights, loss.shape, type(self).__name__)


def _probe(loss: WeightedSmoothL1Loss | WeightedL1Loss):
    """The sides of ``kernel_agreement``: four positive anchors, a NaN target, headings against a target of 0."""
    predictions = torch.linspace(-2.0, 2.0, 28, dtype=torch.float64, device="cpu").view(1, 4, 7)
    targets, labels = torch.zeros_like(predictions), torch.ones(1, 4, dtype=torch.long, device="cpu")
    targets[0, 1, 2] = float("nan")
    weights = predictions.new_full((1, 4), 0.5)

    def plain(codes: torch.Tensor) -> torch.Tensor:
        codes = torch.cat([codes[..., :6], codes[..., 6:].sin()], dim=-1)
        return loss(codes, targets, weights=weights).sum()

    def kernel(codes: torch.Tensor) -> torch.Tensor:
        return 0.5 * reference.box_sums(codes, targets, labels, loss.code_weights, loss.beta).sum()

    return plain, kernel, predictions


@kernel_agreement(lambda: (WeightedSmoothL1Loss.forward, smooth_l1, code_difference))
def _smooth_l1_has_kernel():
    """Whether the kernel computes WeightedSmoothL1Loss as it stands in this file."""
    return _probe(WeightedSmoothL1Loss(beta=0.3, code_weights=[1.0, 0.5, 2.0, 1.0, 1.5, 1.0, 3.0]))


@kernel_agreement(lambda: (WeightedL1Loss.forward, code_difference))
def _l1_has_kernel():
    """Whether the kernel computes WeightedL1Loss as it stands in this file."""
    return _probe(WeightedL1Loss(code_weights=[1.0, 0.5, 2.0, 1.0, 1.5, 1.0, 3.0]))


class L1Loss(nn.Module):
    """``|pred - target|``, not reduced; a differentiable scalar 0 where there is nothing to compare (OpenPCDet's loss
    of TransFusion's boxes).

    >>> L1Loss()(torch.tensor([1.0, -2.0]), torch.zeros(2))
    tensor([1., 2.])
    """

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """
        Args:
            pred, target: same shape.
        Returns:
            Loss of that shape; a scalar 0 with a gradient path if ``target`` is empty.
        Raises:
            InputError: different shapes.
        """
        if target.numel() == 0:
            return at_least_float32(pred)[0].flatten()[:0].sum()
        require_same_shape(type(self).__name__, pred=pred, target=target)
        pred, target = at_least_float32(pred, target)
        return (pred - target).abs()
