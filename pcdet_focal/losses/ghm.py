"""Gradient harmonising: every range of gradient norms contributes equally, however many examples are in it (GHM-C and
GHM-R).
"""

from __future__ import annotations

import torch

from ..errors import InputError
from .arguments import dense_class_targets, require_count, require_number, require_sigmoid, require_tensors
from .cross_entropy import binary_cross_entropy_with_logits
from .numerics import at_least_float32
from .reduction import ReducedLoss, choose_reduction
from .registry import register_loss
from .running_counts import Float32Buffers, mean_over_ranks, store
from .weights import expand_anchor_weights, require_same_shape


def gradient_bins(
    gradient_norm: torch.Tensor, valid: torch.Tensor, edges: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort gradient norms into bins [edge, next edge); counting is in integers, so that it does not depend on the order
    of summation.

    Args:
        gradient_norm: any shape, values >= the first edge and < the last.
        valid: boolean, same shape: what is counted.
        edges: (bins + 1,), increasing.
    Returns:
        The bin of every element (same shape, int64) and the number of valid elements of every bin, (bins,) int64.

    >>> gradient_bins(torch.tensor([0.1, 0.6, 0.5]), torch.tensor([True, True, True]), torch.tensor([0.0, 0.5, 1.0]))
    (tensor([0, 1, 1]), tensor([1, 2]))
    """
    bins = edges.numel() - 1
    index = torch.bucketize(gradient_norm.contiguous(), edges, right=True).sub(1).clamp(0, bins - 1)
    counts = torch.zeros(bins, dtype=torch.int64, device=valid.device).index_add_(
        0, index.flatten(), valid.flatten().long()
    )
    return index, counts


def ghmc_loss(
    pred: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None, bins: int = 10
) -> torch.Tensor:
    """GHM-C (Li, Liu, Wang 2019, "Gradient Harmonized Single-stage Detector", arXiv:1811.05181), elementwise. With p =
    sigmoid(x)::

        g    = |p - t|                                        norm of the gradient, detached
        loss = 1 / (n * number of valid elements in g's bin) * (-t log p - (1 - t) log(1 - p))

    n is the number of bins that hold anything; the sum is the loss. ``GHMC`` keeps the numbers from step to step.

    Args:
        pred: logits, any shape. Half precision is computed, and returned, in float32.
        target: same shape, values in [0, 1].
        valid: boolean, same shape; None for all. Others give 0.
        bins: number of bins of width 1 / bins.
    Returns:
        Loss of the same shape.
    Raises:
        InputError: different shapes or devices, less than one bin.

    >>> # three easy ones together, the hard one: half of the bins each
    >>> ghmc_loss(torch.tensor([-5.0, -5.0, -5.0, 0.0]), torch.zeros(4))
    tensor([0.0011, 0.0011, 0.0011, 0.3466])
    """
    require_tensors("ghmc_loss", pred=pred, target=target, valid=valid)
    require_same_shape("ghmc_loss", pred=pred, target=target)
    valid = torch.ones_like(pred, dtype=torch.bool) if valid is None else valid
    require_same_shape("ghmc_loss", pred=pred, valid=valid)
    require_count("ghmc_loss", "bins", bins)
    norm = _classification_norm(pred, target)
    index, counts = gradient_bins(norm, valid, _edges(bins, 1 + 1e-6).to(norm))
    return _density_weights(index, counts.to(norm.dtype), counts, valid) * binary_cross_entropy_with_logits(
        pred, target
    )


def ghmr_loss(
    pred: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None, mu: float = 0.02, bins: int = 10
) -> torch.Tensor:
    """GHM-R (arXiv:1811.05181), elementwise: the authentic smooth L1 loss ASL with harmonised weights. With d = pred -
    target::

        g    = |d| / sqrt(d^2 + mu^2)                         norm of the gradient, detached
        ASL  = sqrt(d^2 + mu^2) - mu
        loss = ASL / (n * number of valid elements in g's bin)

    Args:
        pred: box codes, any shape. Half precision is computed, and returned, in float32.
        target: same shape.
        valid: boolean, same shape; None for all.
        mu: where ASL turns from quadratic to linear, > 0.
        bins: number of bins of width 1 / bins.
    Returns:
        Loss of the same shape.
    Raises:
        InputError: different shapes or devices, mu not above 0, less than one bin.

    >>> ghmr_loss(torch.tensor([0.0, 1.0]), torch.zeros(2), mu=0.75)           # 0 and (1.25 - 0.75) / 2
    tensor([0.0000, 0.2500])
    """
    require_tensors("ghmr_loss", pred=pred, target=target, valid=valid)
    require_same_shape("ghmr_loss", pred=pred, target=target)
    valid = torch.ones_like(pred, dtype=torch.bool) if valid is None else valid
    require_same_shape("ghmr_loss", pred=pred, valid=valid)
    require_number("ghmr_loss", "mu", mu, low_allowed=False)
    require_count("ghmr_loss", "bins", bins)
    norm = _regression_norm(pred, target, mu)
    index, counts = gradient_bins(norm, valid, _edges(bins, 1e3).to(norm))
    return _density_weights(index, counts.to(norm.dtype), counts, valid) * authentic_smooth_l1(pred, target, mu)


def authentic_smooth_l1(pred: torch.Tensor, target: torch.Tensor, mu: float = 0.02) -> torch.Tensor:
    """``sqrt(d^2 + mu^2) - mu`` with d = pred - target, elementwise; computed as ``d * d / (sqrt(d^2 + mu^2) + mu)``,
    precise for d near 0.

    >>> authentic_smooth_l1(torch.tensor([0.0, 1.0]), torch.zeros(2), mu=0.75)
    tensor([0.0000, 0.5000])
    """
    pred, target = at_least_float32(pred, target)
    difference = pred - target
    return difference * (difference / (torch.hypot(difference, difference.new_full((), mu)) + mu))


def _classification_norm(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    pred, target = at_least_float32(pred.detach(), target.detach())
    return (pred.sigmoid() - target).abs()


def _regression_norm(pred: torch.Tensor, target: torch.Tensor, mu: float) -> torch.Tensor:
    pred, target = at_least_float32(pred.detach(), target.detach())
    difference = (pred - target).abs()
    return difference / torch.hypot(difference, difference.new_full((), mu))


def _density_weights(
    index: torch.Tensor, density: torch.Tensor, counts: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """1 / (n * density of the element's bin), 0 where not valid; n is the number of bins with any count."""
    occupied = (counts > 0).sum().clamp(min=1)
    per_bin = 1 / (occupied * density.clamp(min=torch.finfo(density.dtype).tiny))
    return torch.where(valid, per_bin[index], per_bin.new_zeros(()))


def _edges(bins: int, last: float) -> torch.Tensor:
    edges = torch.arange(bins + 1).float() / bins
    edges[-1] = last
    return edges


class _GradientHarmonised(Float32Buffers, ReducedLoss):
    """Base of both GHM modules: edges, the running count of every bin, and the weights that follow from it."""

    edges: torch.Tensor
    acc_sum: torch.Tensor

    def __init__(self, bins: int, momentum: float, last_edge: float, reduction: str, loss_weight: float) -> None:
        super().__init__(reduction, loss_weight)
        name = type(self).__name__
        require_count(name, "bins", bins)
        require_number(name, "momentum", momentum, 0, 1)
        if momentum == 1:
            raise InputError(
                f"{name}: momentum=1 is not allowed: the counts would stay 0; a number from 0 to below 1 is."
            )
        self.bins = bins
        self.momentum = momentum
        self.register_buffer("edges", _edges(bins, last_edge))
        if momentum > 0:
            self.register_buffer("acc_sum", torch.zeros(bins))

    def _weights(self, gradient_norm: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """1 / (n * density), the density from the running counts where there is momentum; these are updated in training
        mode.
        """
        index, counts = gradient_bins(gradient_norm, valid, self.edges.to(gradient_norm.dtype))
        density = counts = mean_over_ranks(counts.to(gradient_norm.dtype))
        if self.momentum > 0:
            before = self.acc_sum.to(gradient_norm.dtype)
            density = torch.where(counts > 0, self.momentum * before + (1 - self.momentum) * counts, before)
            if self.training:
                store(self, "acc_sum", density)
        return _density_weights(index, density, counts, valid)


@register_loss("GHMC")
class GHMC(_GradientHarmonised):
    """GHM-C with mmdetection's arguments and call; see ``ghmc_loss`` for the formula.

    With momentum m the number of elements of a bin is ``acc_sum = m acc_sum + (1 - m) count``, from 0 and without
    correction, so that the first loss is 1 / (1 - m) times the one without momentum; bins without elements keep their
    number. In eval mode the numbers are used and not stored. On several ranks they are means over the ranks. As in
    mmdetection, a label weight only says whether an element takes part (above 0): its value has no effect, nor has
    avg_factor; labels outside [0, C) are background.

    >>> pred = torch.tensor([[-5.0], [-5.0], [-5.0], [0.0]])                                   # (N, C)
    >>> labels, label_weight = torch.ones(4, dtype=torch.long), torch.ones(4)                  # all background
    >>> round(GHMC(bins=10)(pred, labels, label_weight).item(), 4)
    0.3499
    """

    shown = ("bins", "momentum")

    def __init__(
        self,
        bins: int = 10,
        momentum: float = 0,
        use_sigmoid: bool = True,
        loss_weight: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        """
        Args:
            bins: number of bins of the gradient norm.
            momentum: of the running counts, from 0 (none) to below 1.
            use_sigmoid: True; there is no softmax form.
            loss_weight: factor of the result.
            reduction: 'none' or 'mean' ('sum' raises at the call, as in mmdetection: the loss is a mean by definition).
        """
        super().__init__(bins, momentum, 1 + 1e-6, reduction, loss_weight)
        require_sigmoid("GHMC", use_sigmoid)
        self.use_sigmoid = use_sigmoid

    def forward(
        self,
        pred: torch.Tensor,
        target: torch.Tensor,
        label_weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
    ) -> torch.Tensor:
        """
        Args:
            pred: (N, C) or (..., C) logits.
            target: (N,) integer labels with background outside [0, C), or (N, C) one-hot.
            label_weight: (N,) or (N, C); above 0 takes part. None for all.
            avg_factor: taken for mmdetection's heads, and not used.
            reduction_override: replaces ``reduction`` for this call.
        Returns:
            (N, C) weights times losses for 'none' (their sum over the number of valid elements is the loss), else the
            scalar loss.
        Raises:
            InputError: shapes, dtypes or devices that do not fit; reduction 'sum'.
        """
        reduction = choose_reduction(self.reduction, reduction_override, "GHMC")
        require_tensors("GHMC", pred=pred, target=target, label_weight=label_weight)
        target = dense_class_targets("GHMC", pred, target)
        require_same_shape("GHMC", pred=pred, target=target)
        valid = torch.ones_like(pred, dtype=torch.bool)
        if label_weight is not None:
            valid = (expand_anchor_weights(label_weight, pred.shape, "GHMC") > 0).expand(pred.shape)
        total = valid.sum().clamp(min=1)
        weights = self._weights(_classification_norm(pred, target), valid) * total
        return self.reduced(binary_cross_entropy_with_logits(pred, target), weights, total, reduction)


@register_loss("GHMR")
class GHMR(_GradientHarmonised):
    """GHM-R with mmdetection's arguments and call; see ``ghmr_loss`` for the formula and ``GHMC`` for the running
    counts.

    >>> loss = GHMR(mu=0.75)
    >>> loss(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2), torch.ones(1, 2))
    tensor(0.2500)
    """

    shown = ("mu", "bins", "momentum")

    def __init__(
        self, mu: float = 0.02, bins: int = 10, momentum: float = 0, loss_weight: float = 1.0, reduction: str = "mean"
    ) -> None:
        """
        Args:
            mu: where the loss turns from quadratic to linear, > 0.
            bins: number of bins of the gradient norm.
            momentum: of the running counts, from 0 (none) to below 1.
            loss_weight: factor of the result.
            reduction: 'none' or 'mean' ('sum' raises at the call, as in mmdetection).
        """
        super().__init__(bins, momentum, 1e3, reduction, loss_weight)
        require_number("GHMR", "mu", mu, low_allowed=False)
        self.mu = mu

    def forward(
        self,
        pred: torch.Tensor,
        target: torch.Tensor,
        label_weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
    ) -> torch.Tensor:
        """
        Args:
            pred: (N, D) box codes.
            target: same shape.
            label_weight: (N,) or (N, D); above 0 takes part. None for all.
            avg_factor: taken for mmdetection's heads, and not used.
            reduction_override: replaces ``reduction`` for this call.
        Returns:
            (N, D) weights times losses for 'none', else the scalar loss.
        Raises:
            InputError: shapes or devices that do not fit; reduction 'sum'.
        """
        reduction = choose_reduction(self.reduction, reduction_override, "GHMR")
        require_tensors("GHMR", pred=pred, target=target, label_weight=label_weight)
        require_same_shape("GHMR", pred=pred, target=target)
        if label_weight is None:
            label_weight = torch.ones_like(pred)
        label_weight = expand_anchor_weights(label_weight, pred.shape, "GHMR").expand(pred.shape)
        total = at_least_float32(label_weight.detach(), pred)[0].sum().clamp(min=1)
        weights = self._weights(_regression_norm(pred, target, self.mu), label_weight > 0) * total
        return self.reduced(authentic_smooth_l1(pred, target, self.mu), weights, total, reduction)
