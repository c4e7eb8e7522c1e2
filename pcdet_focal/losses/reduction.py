"""From an elementwise loss to one number, as mmdetection does it: elementwise loss -> weight -> reduction ->
loss_weight, always in this order.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from ..errors import InputError
from .arguments import require_number, require_tensors
from .numerics import at_least_float32

REDUCTIONS = ("none", "mean", "sum")
EPS = torch.finfo(torch.float32).eps  # what mmdetection adds to avg_factor, also for float64 losses


def choose_reduction(reduction: str, reduction_override: str | None = None, loss_name: str = "loss") -> str:
    """Reduction of one call: ``reduction_override`` where it is given, else the loss's own. InputError for anything
    but 'none', 'mean', 'sum'.
    """
    argument, chosen = (
        ("reduction", reduction) if reduction_override is None else ("reduction_override", reduction_override)
    )
    if chosen not in REDUCTIONS:
        raise InputError(f"{loss_name}: {argument}={chosen!r} is not allowed: 'none', 'mean' or 'sum'.")
    return chosen


def require_same_device(loss_name: str, **tensors: torch.Tensor | None) -> None:
    """Raise InputError unless all the tensors (None is skipped, and so are scalars, which torch moves itself) live on
    one device.
    """
    devices = {
        name: tensor.device for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor) and tensor.dim() > 0
    }
    if len(set(devices.values())) > 1:
        given = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise InputError(f"{loss_name}: all tensors need the same device, but they are {given}.")


def check_broadcast(weight: torch.Tensor, loss_shape: tuple[int, ...], loss_name: str) -> None:
    """Raise InputError unless ``weight`` broadcasts to ``loss_shape`` (aligned at the last axis, as torch does) without
    enlarging it.
    """
    loss_shape, shape = tuple(loss_shape), tuple(weight.shape)
    if len(shape) > len(loss_shape) or any(w not in (1, n) for w, n in zip(shape[::-1], loss_shape[::-1])):
        hint = (
            f"; one weight per row is {shape + (1,) * (len(loss_shape) - 1)}"
            if len(loss_shape) > 1 and shape == loss_shape[:1]
            else ""
        )
        raise InputError(
            f"{loss_name}: weight of shape {shape} does not fit a loss of shape {loss_shape}: {loss_shape}, any axis "
            "possibly 1, "
            f"or fewer axes aligned at the last one, is allowed{hint}."
        )


def weight_reduce_loss(
    loss: torch.Tensor,
    weight: torch.Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | torch.Tensor | None = None,
    loss_name: str = "weight_reduce_loss",
    num_averaged: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """mmdetection's weighting and reduction of an elementwise loss l with weights w::

        none                        w * l
        sum                         sum(w * l)
        mean, without avg_factor    sum(w * l) / num_averaged
        mean, with avg_factor       sum(w * l) / (avg_factor + 1.1920929e-07)

    The last constant is float32's eps, whatever the dtype; avg_factor is not clamped to 1.

    Args:
        loss: elementwise loss, any shape. Half precision is summed, and returned, in float32.
        weight: broadcasts to the shape of ``loss`` without enlarging it: (N, C), (N, 1), or (C,) for one per class. One
            weight per row of an (N, C) loss must be (N, 1): a flat (N,) is an error, except with N = C, where it is one
            weight per class as everywhere in torch.
        reduction: 'none', 'mean' or 'sum'.
        avg_factor: divisor of 'mean', ignored under 'none', an error under 'sum'; a number or a tensor of one
            element (no device sync).
        loss_name: for messages.
        num_averaged: divisor of 'mean' without avg_factor; None for the number of elements of l, at least 1, so that
            rows of weight 0 count and the mean of an empty loss is 0.
    Returns:
        The weighted map for 'none', else a scalar.
    Raises:
        InputError: 'sum' with an avg_factor, an unknown reduction, a weight that does not fit or lives on another
            device.

    >>> loss = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> weight_reduce_loss(loss, weight=torch.tensor([[1.0], [0.0]]))
    tensor(0.7500)
    >>> weight_reduce_loss(loss, weight=torch.tensor([[1.0], [0.0]]), avg_factor=1)
    tensor(3.0000)
    """
    choose_reduction(reduction, None, loss_name)
    (loss,) = at_least_float32(loss)
    if weight is not None:
        require_same_device(loss_name, loss=loss, weight=weight)
        check_broadcast(weight, loss.shape, loss_name)
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        require_no_avg_factor(avg_factor, loss_name)
        return loss.sum()
    if avg_factor is None:
        return loss.sum() / (max(loss.numel(), 1) if num_averaged is None else num_averaged)
    if isinstance(avg_factor, torch.Tensor) and avg_factor.dim() > 0:
        if avg_factor.numel() != 1:
            raise InputError(f"{loss_name}: avg_factor of shape {tuple(avg_factor.shape)} is not one number.")
        avg_factor = avg_factor.reshape(())
    return loss.sum() / (avg_factor + EPS)


def require_no_avg_factor(avg_factor: float | torch.Tensor | None, loss_name: str) -> None:
    """Raise InputError for a divisor beside reduction 'sum'."""
    if avg_factor is not None:
        raise InputError(
            f"{loss_name}: avg_factor cannot be used with reduction 'sum', which divides by nothing: use 'mean', "
            "or leave it out."
        )


def without_positive_weight(
    loss: torch.Tensor, pred: torch.Tensor, weight: torch.Tensor | None, reduction: str
) -> torch.Tensor:
    """mmdetection's shortcut of L1Loss, SmoothL1Loss, GIoULoss, DIoULoss, CIoULoss: with no weight above 0 the result
    is ``(pred * weight).sum()``.

    With weights of 0 that is a scalar 0 with gradient 0, for every reduction, 'none' too. (With only negative weights
    it is no loss at all, but that is how those classes are defined.) Scalars are chosen on the device; only for 'none',
    where the shape of the result depends on the weights, is their value read, and not while torch compiles: there the
    weighted map is returned.

    Args:
        loss: the finished result, loss weight included. pred: (N, D) predictions. weight: (N, D), (N, 1) or (N,), or
            None for no shortcut.
        reduction: the one that was used.

    >>> without_positive_weight(torch.ones(2, 7), torch.ones(2, 7), torch.zeros(2, 7), "none")
    tensor(0.)
    """
    if weight is None or weight.numel() == 0:
        return loss
    has_positive = (weight > 0).any()
    if reduction == "none":
        if torch.compiler.is_compiling() or bool(has_positive):
            return loss
        return _weighted_sum(loss, pred, weight)
    return torch.where(has_positive, loss, _weighted_sum(loss, pred, weight))


def _weighted_sum(loss: torch.Tensor, pred: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    weight = weight.unsqueeze(-1) if weight.dim() == pred.dim() - 1 else weight
    return (pred.to(loss.dtype) * weight).sum()


def row_or_element_weight(weight: torch.Tensor, loss_shape: torch.Size, loss_name: str) -> torch.Tensor:
    """A weight as (N, 1) or (N, C) from one per row, (N,) or (N, 1), or one per element, (N, C) or flat; anything else
    is an InputError.
    """
    if weight.shape == loss_shape or weight.shape == (*loss_shape[:-1], 1):
        return weight
    if weight.shape == loss_shape[:-1]:
        return weight.unsqueeze(-1)
    if weight.dim() == 1 and weight.numel() == loss_shape.numel():
        return weight.reshape(loss_shape)
    raise InputError(
        f"{loss_name}: weight of shape {tuple(weight.shape)} does not fit: {tuple(loss_shape[:-1])}, one per row, or "
        f"{tuple(loss_shape)}, one per element, is allowed."
    )


def box_weights(weight: torch.Tensor, boxes: torch.Tensor, loss_name: str) -> torch.Tensor:
    """One weight per box: (N,) as it is, (N, D) averaged over its last axis. InputError for any other shape or another
    device.

    >>> box_weights(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.zeros(1, 4), "IoULoss")
    tensor([0.5000])
    """
    require_same_device(loss_name, pred=boxes, weight=weight)
    if weight.shape == boxes.shape:
        return weight.mean(dim=-1) if weight.is_floating_point() else weight.float().mean(dim=-1)
    if weight.shape != boxes.shape[:-1]:
        raise InputError(
            f"{loss_name}: weight of shape {tuple(weight.shape)} does not fit boxes of shape {tuple(boxes.shape)}: "
            f"{tuple(boxes.shape[:-1])} (one per box) or {tuple(boxes.shape)} (its mean over the last axis counts) is "
            "allowed."
        )
    return weight


class ReducedLoss(nn.Module):
    """Base of all losses with mmdetection's arguments and call: elementwise loss -> weight -> reduction -> loss_weight.

    A subclass defines ``elementwise``. It may also define ``broadcast_weight`` (which weights it takes),
    ``num_averaged`` (what 'mean' divides by) and ``shown`` (what its repr shows).

    Attributes:
        shown: names of the attributes that the repr shows before the reduction.

    >>> class Squared(ReducedLoss):
    ...     def elementwise(self, pred, target):
    ...         return (pred - target).square()
    >>> Squared(loss_weight=2.0)(torch.tensor([1.0, 3.0]), torch.zeros(2), weight=torch.tensor([1.0, 0.0]))
    tensor(1.)
    >>> Squared(reduction="sum", loss_weight=2.0)
    Squared(reduction='sum', loss_weight=2.0)
    """

    shown: ClassVar[tuple[str, ...]] = ()

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        """
        Args:
            reduction: 'none', 'mean' or 'sum'; a call may override it.
            loss_weight: multiplies the result, also under 'none'; at least 0.
        """
        super().__init__()
        self.reduction = choose_reduction(reduction, None, type(self).__name__)
        require_number(type(self).__name__, "loss_weight", loss_weight)
        self.loss_weight = loss_weight

    def extra_repr(self) -> str:
        names = (*self.shown, "reduction", "loss_weight")
        return ", ".join(f"{name}={_printable(getattr(self, name))!r}" for name in names)

    def forward(
        self,
        pred: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
    ) -> torch.Tensor:
        """
        Args:
            pred, target: see ``elementwise`` of the class.
            weight: see ``broadcast_weight`` of the class; None for 1.
            avg_factor: divisor of 'mean' in place of ``num_averaged``.
            reduction_override: replaces ``reduction`` for this call.
        Returns:
            Scalar, or the elementwise loss for 'none', times ``loss_weight``.
        Raises:
            InputError: shapes, dtypes or devices that do not fit, an unknown reduction, avg_factor with 'sum'.
        """
        name = type(self).__name__
        reduction = choose_reduction(self.reduction, reduction_override, name)
        require_tensors(name, pred=pred, target=target, weight=weight)
        loss = self.elementwise(pred, target)
        if weight is not None:
            weight = self.broadcast_weight(weight, pred, loss)
        return self.reduced(loss, weight, avg_factor, reduction, self.num_averaged(pred, target))

    def elementwise(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss without weight and reduction."""
        raise NotImplementedError(f"{type(self).__name__} has neither forward nor elementwise")

    def broadcast_weight(self, weight: torch.Tensor, pred: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """A view of ``weight`` that broadcasts to ``loss``; here any shape that does so already, such as (N, 1)."""
        return weight

    def num_averaged(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
        """Divisor of 'mean' without avg_factor; None for the number of elements of the loss."""
        return None

    def reduced(
        self,
        loss: torch.Tensor,
        weight: torch.Tensor | None,
        avg_factor: float | torch.Tensor | None,
        reduction: str,
        num_averaged: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Elementwise loss -> weight -> reduction -> loss_weight; see ``weight_reduce_loss``."""
        return self.loss_weight * weight_reduce_loss(
            loss, weight, reduction, avg_factor, type(self).__name__, num_averaged
        )


def _printable(value: Any) -> Any:
    return [round(number, 6) for number in value.reshape(-1).tolist()] if isinstance(value, torch.Tensor) else value
