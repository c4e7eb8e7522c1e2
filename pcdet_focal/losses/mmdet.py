"""mmdetection's loss classes: its constructor arguments and its call, ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)``.

Each is an elementwise loss of this room, then ``weight_reduce_loss``, then ``loss_weight``. ``avg_factor`` divides under reduction 'mean', is ignored under
'none' and is an error under 'sum'. Where mmdetection's mean of nothing is NaN, it is 0 here. Build them by name: ``build_loss(dict(type="FocalLoss"))``.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from .arguments import one_hot, require_number, require_tensors
from .gaussian_focal import gaussian_focal_loss
from .numerics import at_least_float32, bounded, power
from .reduction import choose_reduction, weight_reduce_loss, without_positive_weight
from .registry import register_loss
from .sigmoid_focal import sigmoid_focal_loss
from .smooth_l1 import smooth_l1
from .weights import require_same_shape


class ReducedLoss(nn.Module):
    """What the classes below share: how the result is reduced, and its weight; the arguments are checked here.

    >>> ReducedLoss(reduction="sum", loss_weight=2.0)
    ReducedLoss(reduction='sum', loss_weight=2.0)
    """

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
        return f"reduction={self.reduction!r}, loss_weight={self.loss_weight}"

    def reduced(self, loss: torch.Tensor, weight: torch.Tensor | None, avg_factor: float | torch.Tensor | None, reduction: str) -> torch.Tensor:
        """Elementwise loss -> weight -> reduction -> loss_weight."""
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor, type(self).__name__)


@register_loss("FocalLoss")
class FocalLoss(ReducedLoss):
    """Sigmoid focal loss (``sigmoid_focal_loss``; Lin et al. 2017, arXiv:1708.02002) of class logits, with labels or with one-hot / soft targets.

    >>> logits, labels = torch.zeros(2, 3), torch.tensor([1, 3])                        # 3 classes; label 3 is background
    >>> FocalLoss()(logits, labels, avg_factor=1.0)                                     # (0.25 + 5 * 0.75) * 0.5^2 * log 2
    tensor(0.6931)
    """

    def __init__(self, use_sigmoid: bool = True, gamma: float = 2.0, alpha: float | None = 0.25, reduction: str = "mean", loss_weight: float = 1.0,
                 activated: bool = False) -> None:
        """
        Args:
            use_sigmoid: must be True; the focal loss of a softmax is another class.
            gamma: focusing exponent >= 0.
            alpha: weight of positives in [0, 1], negatives get 1 - alpha; None or -1 for no weighting.
            reduction, loss_weight: see ReducedLoss.
            activated: predictions are probabilities, not logits.
        """
        super().__init__(reduction, loss_weight)
        if use_sigmoid is not True:
            raise InputError("FocalLoss: use_sigmoid=False is not allowed: this is the sigmoid focal loss, the one of a softmax has a name of its own.")
        require_number("FocalLoss", "gamma", gamma)
        if alpha is not None and alpha != -1:
            require_number("FocalLoss", "alpha", alpha, high=1.0)
        self.use_sigmoid, self.gamma, self.alpha, self.activated = use_sigmoid, gamma, alpha, activated

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, alpha={self.alpha}, activated={self.activated}, {super().extra_repr()}"

    def forward(self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, avg_factor: float | torch.Tensor | None = None,
                reduction_override: str | None = None) -> torch.Tensor:
        """
        Args:
            pred: (N, C) logits (probabilities if ``activated``).
            target: (N,) integer labels, 0..C-1 a class, C background; or (N, C) one-hot or soft values in [0, 1].
            weight: (N,) or (N, 1), one per row; or (N, C), flat (N * C,), one per element.
            avg_factor, reduction_override: as everywhere in this file.
        Returns:
            Scalar, or (N, C) for 'none'; the mean without avg_factor is over N * C elements.
        Raises:
            InputError: shapes that do not fit; labels outside 0..C (on the CPU; elsewhere they count as background), and probabilities outside [0, 1].
        """
        reduction = choose_reduction(self.reduction, reduction_override, "FocalLoss")
        require_tensors("FocalLoss", pred=pred, target=target, weight=weight)
        target = _one_hot_or_soft(pred, target, "FocalLoss")
        if self.activated:
            loss = focal_loss_from_probabilities(pred, target, self.alpha, self.gamma)
        else:
            loss = sigmoid_focal_loss(pred, target, self.alpha, self.gamma)
        return self.reduced(loss, None if weight is None else _row_or_element_weight(weight, loss.shape, "FocalLoss"), avg_factor, reduction)


@register_loss("CrossEntropyLoss")
class CrossEntropyLoss(ReducedLoss):
    """Cross entropy of class logits: of one softmax over the classes, or of independent sigmoids (``use_sigmoid``).

    >>> logits, labels = torch.zeros(2, 4), torch.tensor([1, 3])
    >>> CrossEntropyLoss()(logits, labels), CrossEntropyLoss(use_sigmoid=True)(logits, labels)         # log 4, log 2
    (tensor(1.3863), tensor(0.6931))
    """

    def __init__(self, use_sigmoid: bool = False, use_mask: bool = False, reduction: str = "mean", class_weight: Sequence[float] | None = None,
                 ignore_index: int | None = None, loss_weight: float = 1.0, avg_non_ignore: bool = False) -> None:
        """
        Args:
            use_sigmoid: independent sigmoids instead of one softmax.
            use_mask: must be False (mmdetection's loss of instance masks).
            reduction, loss_weight: see ReducedLoss.
            class_weight: one number per class. Softmax: weight of a row by its label; sigmoid: weight of the positive term of each class. It does not
                change what 'mean' divides by.
            ignore_index: rows with this label have loss 0; None for -100.
            avg_non_ignore: 'mean' without avg_factor divides by the number of rows (sigmoid: elements) that are not ignored.
        """
        super().__init__(reduction, loss_weight)
        if use_mask:
            raise InputError("CrossEntropyLoss: use_mask=True, the loss of instance masks, is not supported: leave it out.")
        try:
            weights = None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float64).clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"CrossEntropyLoss: class_weight={class_weight!r} is not a list of numbers, one per class.") from error
        if weights is not None and weights.dim() != 1:
            raise InputError(f"CrossEntropyLoss: class_weight={class_weight!r} is not a flat list of numbers, one per class.")
        self.use_sigmoid, self.use_mask, self.ignore_index, self.avg_non_ignore = use_sigmoid, use_mask, ignore_index, avg_non_ignore
        self.register_buffer("class_weight", weights, persistent=False)

    def extra_repr(self) -> str:
        return f"use_sigmoid={self.use_sigmoid}, ignore_index={self.ignore_index}, avg_non_ignore={self.avg_non_ignore}, {super().extra_repr()}"

    def forward(self, cls_score: torch.Tensor, label: torch.Tensor, weight: torch.Tensor | None = None, avg_factor: float | torch.Tensor | None = None,
                reduction_override: str | None = None, ignore_index: int | None = None) -> torch.Tensor:
        """
        Args:
            cls_score: logits (N, C); the softmax also takes (N, C, ...), the sigmoid any shape with a label of that shape.
            label: (N,) integers. Softmax: 0..C-1 or ignore_index, shape of cls_score without the class axis. Sigmoid: 0..C-1, C or above is background,
                below 0 or ignore_index is ignored; or one-hot / soft targets of the shape of cls_score.
            weight: (N,), one per row (softmax: the shape of ``label``); with one-hot or soft targets any shape that broadcasts to them.
            avg_factor, reduction_override: as everywhere in this file. ignore_index: replaces the constructor's for this call.
        Returns:
            Scalar; for 'none' (N,) (softmax) or (N, C) (sigmoid).
        Raises:
            InputError: shapes that do not fit; softmax labels outside 0..C-1 that are not ignore_index (checked on the CPU).
        """
        reduction = choose_reduction(self.reduction, reduction_override, "CrossEntropyLoss")
        require_tensors("CrossEntropyLoss", cls_score=cls_score, label=label, weight=weight)
        ignore_index = self.ignore_index if ignore_index is None else ignore_index
        ignore_index = -100 if ignore_index is None else ignore_index
        logits, = at_least_float32(cls_score)
        class_axis = -1 if self.use_sigmoid else 1
        if self.class_weight is not None and (logits.dim() < 2 or logits.shape[class_axis] != self.class_weight.numel()):
            raise InputError(f"CrossEntropyLoss: {self.class_weight.numel()} class weights do not fit cls_score of shape {tuple(logits.shape)}.")
        loss, valid, weight = (self._of_sigmoids if self.use_sigmoid else self._of_softmax)(logits, label, weight, ignore_index)
        if self.avg_non_ignore and avg_factor is None and reduction == "mean":
            avg_factor = valid.sum()
        return self.reduced(loss, weight, avg_factor, reduction)

    def _of_softmax(self, logits: torch.Tensor, label: torch.Tensor, weight: torch.Tensor | None, ignore_index: int):
        """Loss and validity of each row, and its weight."""
        if logits.dim() < 2 or label.shape != logits.shape[:1] + logits.shape[2:] or label.is_floating_point():
            raise InputError(f"CrossEntropyLoss: label of shape {tuple(label.shape)} and dtype {label.dtype} does not fit cls_score of shape "
                             f"{tuple(logits.shape)}: integers of its shape without axis 1, the classes, are needed (use_sigmoid=True takes one-hot targets).")
        valid = label != ignore_index
        outside = valid & ((label < 0) | (label >= logits.shape[1]))
        if _values_are_readable(label) and bool(outside.any()):
            raise InputError(f"CrossEntropyLoss: label {int(label[outside][0])} is not a class: 0 to {logits.shape[1] - 1}, or ignore_index={ignore_index}, "
                             "is allowed.")
        class_weight = None if self.class_weight is None else self.class_weight.to(logits)
        loss = F.cross_entropy(logits, label.long(), weight=class_weight, reduction="none", ignore_index=ignore_index)
        return loss, valid, weight

    def _of_sigmoids(self, logits: torch.Tensor, label: torch.Tensor, weight: torch.Tensor | None, ignore_index: int):
        """Loss and validity of each element, and its weight."""
        valid = (label >= 0) & (label != ignore_index)
        if logits.dim() == label.dim():
            require_same_shape("CrossEntropyLoss", cls_score=logits, label=label)
            target = label.to(logits.dtype)
        else:
            if label.shape != logits.shape[:-1] or label.is_floating_point():
                raise InputError(f"CrossEntropyLoss: label of shape {tuple(label.shape)} and dtype {label.dtype} does not fit cls_score of shape "
                                 f"{tuple(logits.shape)}: integers {tuple(logits.shape[:-1])} or targets {tuple(logits.shape)} are needed.")
            target = one_hot(label, logits.shape[-1], logits.dtype)
            valid = valid.unsqueeze(-1).expand(logits.shape)
            weight = None if weight is None else _row_or_element_weight(weight, logits.shape, "CrossEntropyLoss")
        logits = bounded(logits)
        positive = F.logsigmoid(logits) if self.class_weight is None else F.logsigmoid(logits) * self.class_weight.to(logits)
        loss = -(target * positive + (1 - target) * F.logsigmoid(-logits))
        return torch.where(valid, loss, 0.0), valid, weight


@register_loss("L1Loss")
class L1Loss(ReducedLoss):
    """``|pred - target|``, the mean over all elements by default; scalar 0 where there is nothing to compare, whatever the reduction.

    >>> L1Loss()(torch.tensor([[1.0, -3.0]]), torch.zeros(1, 2))
    tensor(2.)
    """

    def forward(self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, avg_factor: float | torch.Tensor | None = None,
                reduction_override: str | None = None) -> torch.Tensor:
        """
        Args:
            pred, target: same shape, e.g. (N, D) box codes.
            weight: that shape, any axis possibly 1. Where none is above 0 the result is the scalar ``(pred * weight).sum()``, as in mmdetection:
                0 for weights of 0, also under 'none'.
            avg_factor, reduction_override: as everywhere in this file.
        Returns:
            Scalar, or the shape of ``pred`` for 'none'.
        Raises:
            InputError: shapes that do not fit.
        """
        reduction = choose_reduction(self.reduction, reduction_override, type(self).__name__)
        require_tensors(type(self).__name__, pred=pred, target=target, weight=weight)
        require_same_shape(type(self).__name__, pred=pred, target=target)
        if target.numel() == 0:
            return at_least_float32(pred)[0].sum()
        pred, target = at_least_float32(pred, target)
        loss = self.reduced(self.elementwise(pred - target), weight, avg_factor, reduction)
        return without_positive_weight(loss, pred, weight, reduction)

    def elementwise(self, diff: torch.Tensor) -> torch.Tensor:
        """Loss of a difference."""
        return diff.abs()


@register_loss("SmoothL1Loss")
class SmoothL1Loss(L1Loss):
    """``smooth_l1`` of the difference (Girshick 2015, arXiv:1504.08083), the mean over all elements by default; otherwise like L1Loss.

    >>> SmoothL1Loss(beta=1.0, reduction="sum")(torch.tensor([[0.5, -3.0]]), torch.zeros(1, 2))        # 0.125 + 2.5
    tensor(2.6250)
    """

    def __init__(self, beta: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        """
        Args:
            beta: transition point from quadratic to linear, above 0.
            reduction, loss_weight: see ReducedLoss.
        """
        super().__init__(reduction, loss_weight)
        require_number("SmoothL1Loss", "beta", beta, low_allowed=False)
        self.beta = beta

    def extra_repr(self) -> str:
        return f"beta={self.beta}, {super().extra_repr()}"

    def elementwise(self, diff: torch.Tensor) -> torch.Tensor:
        return smooth_l1(diff, self.beta)


@register_loss("GaussianFocalLoss")
class GaussianFocalLoss(ReducedLoss):
    """``gaussian_focal_loss`` (CornerNet's, Law and Deng 2018, arXiv:1808.01244) of a heat map of probabilities.

    >>> GaussianFocalLoss(reduction="sum")(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))         # 2 * 0.25 log 2
    tensor(0.3466)
    """

    def __init__(self, alpha: float = 2.0, gamma: float = 4.0, reduction: str = "mean", loss_weight: float = 1.0, pos_weight: float = 1.0,
                 neg_weight: float = 1.0) -> None:
        """
        Args:
            alpha: exponent of the prediction; gamma: exponent of one minus the target, for negatives; both >= 0.
            reduction, loss_weight: see ReducedLoss.
            pos_weight, neg_weight: weights of the elements whose target is exactly 1, and of all others.
        """
        super().__init__(reduction, loss_weight)
        for argument, value in (("alpha", alpha), ("gamma", gamma), ("pos_weight", pos_weight), ("neg_weight", neg_weight)):
            require_number("GaussianFocalLoss", argument, value)
        self.alpha, self.gamma, self.pos_weight, self.neg_weight = alpha, gamma, pos_weight, neg_weight

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, gamma={self.gamma}, pos_weight={self.pos_weight}, neg_weight={self.neg_weight}, {super().extra_repr()}"

    def forward(self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, avg_factor: float | torch.Tensor | None = None,
                reduction_override: str | None = None, *, pos_inds: torch.Tensor | None = None, pos_labels: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            pred: probabilities, any shape. target: Gaussian heat map in [0, 1], same shape; exactly 1 at object centres.
            weight: broadcasts to that shape.
            avg_factor, reduction_override: as everywhere in this file.
            pos_inds, pos_labels: (M,) rows and classes of the positives, for (N, C) maps whose targets hold no exact 1: every element is a negative then, and
                the positives are added. 'mean' without avg_factor averages both parts separately. By keyword only.
        Returns:
            Scalar, or the shape of ``pred`` for 'none'.
        Raises:
            InputError: shapes that do not fit; pos_inds with 'none' (the two parts have different shapes), with weights, or without pos_labels.
        """
        reduction = choose_reduction(self.reduction, reduction_override, "GaussianFocalLoss")
        require_tensors("GaussianFocalLoss", pred=pred, target=target, weight=weight, pos_inds=pos_inds, pos_labels=pos_labels)
        if pos_inds is not None or pos_labels is not None:
            return self._with_positives(pred, target, weight, avg_factor, reduction, pos_inds, pos_labels)
        loss = gaussian_focal_loss(pred, target, self.alpha, self.gamma)
        if self.pos_weight != 1 or self.neg_weight != 1:
            loss = loss * torch.where(target == 1, self.pos_weight, self.neg_weight)
        return self.reduced(loss, weight, avg_factor, reduction)

    def _with_positives(self, pred, target, weight, avg_factor, reduction, pos_inds, pos_labels) -> torch.Tensor:
        if pos_inds is None or pos_labels is None or pred.dim() != 2 or pos_inds.dim() != 1 or pos_inds.shape != pos_labels.shape:
            raise InputError("GaussianFocalLoss: pos_inds and pos_labels go together, one row and one class per positive, (M,) each, with pred (N, C).")
        if weight is not None or reduction == "none":
            raise InputError("GaussianFocalLoss: pos_inds cannot be used with weight or with reduction 'none': positives and negatives are two lists.")
        require_same_shape("GaussianFocalLoss", pred=pred, target=target)
        pred, target = at_least_float32(pred, target)
        centres = pred[pos_inds, pos_labels]  # (M,)
        positive = gaussian_focal_loss(centres, torch.ones_like(centres), self.alpha, self.gamma)
        negative = -(1 - pred + 1e-12).log() * power(pred, self.alpha) * (1 - target).pow(self.gamma)
        return self.pos_weight * self.reduced(positive, None, avg_factor, reduction) + self.neg_weight * self.reduced(negative, None, avg_factor, reduction)


@register_loss("MSELoss")
class MSELoss(L1Loss):
    """``(pred - target)^2``, the mean over all elements by default; called like L1Loss, and of nothing it is 0 like that.

    >>> MSELoss()(torch.tensor([[1.0, -3.0]]), torch.zeros(1, 2))
    tensor(5.)
    """

    def elementwise(self, diff: torch.Tensor) -> torch.Tensor:
        return diff.square()


def focal_loss_from_probabilities(probabilities: torch.Tensor, targets: torch.Tensor, alpha: float | None = 0.25, gamma: float = 2.0) -> torch.Tensor:
    """``sigmoid_focal_loss`` of probabilities instead of logits, elementwise. Half precision is computed, and returned, in float32.

    The logarithm of exactly 0 counts as -100 with gradient 0, so that values and gradients stay finite. Logits are the better input: a probability
    of float32 knows nothing of logits beyond 17.

    Raises:
        InputError: different shapes; on the CPU also probabilities outside [0, 1].

    >>> focal_loss_from_probabilities(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
    tensor([0.0433, 0.1300])
    """
    require_same_shape("FocalLoss", pred=probabilities, target=targets)
    if _values_are_readable(probabilities) and bool(((probabilities < 0) | (probabilities > 1)).any()):
        raise InputError("FocalLoss: activated=True needs probabilities in [0, 1], but pred has values outside: are they logits?")
    p, t = at_least_float32(probabilities, targets)
    loss = -(t * _log_or_minus_100(p) + (1 - t) * _log_or_minus_100(1 - p)) * power(t * (1 - p) + (1 - t) * p, gamma)
    return loss if alpha is None or alpha == -1 else loss * (t * alpha + (1 - t) * (1 - alpha))


def _log_or_minus_100(p: torch.Tensor) -> torch.Tensor:
    return torch.where(p > 0, p.clamp(min=torch.finfo(p.dtype).tiny).log(), -100.0)


def _values_are_readable(tensor: torch.Tensor) -> bool:
    """Whether looking at values neither waits for a device nor breaks a compiled graph, and there are any."""
    return tensor.device.type == "cpu" and tensor.numel() > 0 and not torch.compiler.is_compiling()


def _one_hot_or_soft(pred: torch.Tensor, target: torch.Tensor, loss_name: str) -> torch.Tensor:
    """(N, C) targets from those, or from (N,) labels with C for background."""
    if target.dim() == pred.dim():
        require_same_shape(loss_name, pred=pred, target=target)
        return target
    if pred.dim() < 2 or target.shape != pred.shape[:-1] or target.is_floating_point():
        raise InputError(f"{loss_name}: target of shape {tuple(target.shape)} and dtype {target.dtype} does not fit pred of shape {tuple(pred.shape)}: "
                         f"integer labels {tuple(pred.shape[:-1])} or targets {tuple(pred.shape)} are needed.")
    num_classes = pred.shape[-1]
    if _values_are_readable(target):
        lowest, highest = int(target.min()), int(target.max())
        if lowest < 0 or highest > num_classes:
            raise InputError(f"{loss_name}: label {lowest if lowest < 0 else highest} is not allowed: 0 to {num_classes - 1} are the classes, "
                             f"{num_classes} is background; to ignore a row give it weight 0.")
    return one_hot(target, num_classes, pred.dtype)


def _row_or_element_weight(weight: torch.Tensor, loss_shape: torch.Size, loss_name: str) -> torch.Tensor:
    """A weight as (N, 1) or (N, C) from one per row, (N,) or (N, 1), or one per element, (N, C) or flat; anything else is an InputError."""
    if weight.shape == loss_shape or weight.shape == (*loss_shape[:-1], 1):
        return weight
    if weight.shape == loss_shape[:-1]:
        return weight.unsqueeze(-1)
    if weight.dim() == 1 and weight.numel() == loss_shape.numel():
        return weight.view(loss_shape)
    raise InputError(f"{loss_name}: weight of shape {tuple(weight.shape)} does not fit: {tuple(loss_shape[:-1])}, one per row, or {tuple(loss_shape)}, one per "
                     "element, is allowed.")
