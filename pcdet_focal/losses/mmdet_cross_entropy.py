"""mmdetection's CrossEntropyLoss: of one softmax, or of independent sigmoids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ..errors import InputError
from .arguments import one_hot, require_tensors, require_values_between
from .numerics import at_least_float32, bounded
from .reduction import ReducedLoss, choose_reduction, row_or_element_weight
from .registry import register_loss
from .weights import require_same_shape


@register_loss("CrossEntropyLoss")
class CrossEntropyLoss(ReducedLoss):
    """Cross entropy of class logits: of one softmax over the classes, or of independent sigmoids (``use_sigmoid``).

    >>> logits, labels = torch.zeros(2, 4), torch.tensor([1, 3])
    >>> CrossEntropyLoss()(logits, labels), CrossEntropyLoss(use_sigmoid=True)(logits, labels)         # log 4, log 2
    (tensor(1.3863), tensor(0.6931))
    """

    shown = ("use_sigmoid", "ignore_index", "avg_non_ignore")

    def __init__(
        self,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: str = "mean",
        class_weight: Sequence[float] | None = None,
        ignore_index: int | None = None,
        loss_weight: float = 1.0,
        avg_non_ignore: bool = False,
    ) -> None:
        """
        Args:
            use_sigmoid: independent sigmoids instead of one softmax.
            use_mask: must be False (mmdetection's loss of instance masks).
            reduction, loss_weight: see ReducedLoss.
            class_weight: one number per class. Softmax: weight of a row by its label; sigmoid: weight of the positive
                term of each class. It does not change what 'mean' divides by.
            ignore_index: rows with this label have loss 0; None for -100.
            avg_non_ignore: 'mean' without avg_factor divides by the number of rows (sigmoid: elements) that are not
                ignored.
        """
        super().__init__(reduction, loss_weight)
        if use_mask:
            raise InputError(
                "CrossEntropyLoss: use_mask=True, the loss of instance masks, is not supported: leave it out."
            )
        try:
            weights = None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float64).clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"CrossEntropyLoss: class_weight={class_weight!r} is not a list of numbers, one per class."
            ) from error
        if weights is not None and weights.dim() != 1:
            raise InputError(
                f"CrossEntropyLoss: class_weight={class_weight!r} is not a flat list of numbers, one per class."
            )
        self.use_sigmoid, self.use_mask, self.ignore_index, self.avg_non_ignore = (
            use_sigmoid,
            use_mask,
            ignore_index,
            avg_non_ignore,
        )
        self.register_buffer("class_weight", weights, persistent=False)

    def forward(
        self,
        cls_score: torch.Tensor,
        label: torch.Tensor,
        weight: torch.Tensor | None = None,
        avg_factor: float | torch.Tensor | None = None,
        reduction_override: str | None = None,
        ignore_index: int | None = None,
    ) -> torch.Tensor:
        """
        Args:
            cls_score: logits (N, C); the softmax also takes (N, C, ...), the sigmoid any shape with a label of that
                shape.
            label: (N,) integers. Softmax: 0..C-1 or ignore_index, shape of cls_score without the class axis. Sigmoid:
                0..C-1, C or above is background, below 0 or ignore_index is ignored; or one-hot / soft targets of the
                shape of cls_score.
            weight: (N,), one per row (softmax: the shape of ``label``); with one-hot or soft targets any shape that
                broadcasts to them.
            avg_factor, reduction_override: see ReducedLoss. ignore_index: replaces the constructor's for
                this call.
        Returns:
            Scalar; for 'none' (N,) (softmax) or (N, C) (sigmoid).
        Raises:
            InputError: shapes that do not fit; softmax labels outside 0..C-1 that are not ignore_index (checked on the
                CPU).
        """
        reduction = choose_reduction(self.reduction, reduction_override, "CrossEntropyLoss")
        require_tensors("CrossEntropyLoss", cls_score=cls_score, label=label, weight=weight)
        ignore_index = self.ignore_index if ignore_index is None else ignore_index
        ignore_index = -100 if ignore_index is None else ignore_index
        (logits,) = at_least_float32(cls_score)
        class_axis = -1 if self.use_sigmoid else 1
        if self.class_weight is not None and (
            logits.dim() < 2 or logits.shape[class_axis] != self.class_weight.numel()
        ):
            raise InputError(
                f"CrossEntropyLoss: {self.class_weight.numel()} class weights do not fit cls_score of shape "
                f"{tuple(logits.shape)}."
            )
        loss, valid, weight = (self._of_sigmoids if self.use_sigmoid else self._of_softmax)(
            logits, label, weight, ignore_index
        )
        if self.avg_non_ignore and avg_factor is None and reduction == "mean":
            avg_factor = valid.sum()
        return self.reduced(loss, weight, avg_factor, reduction)

    def _of_softmax(self, logits: torch.Tensor, label: torch.Tensor, weight: torch.Tensor | None, ignore_index: int):
        """Loss and validity of each row, and its weight."""
        if logits.dim() < 2 or label.shape != logits.shape[:1] + logits.shape[2:] or label.is_floating_point():
            raise InputError(
                f"CrossEntropyLoss: label of shape {tuple(label.shape)} and dtype {label.dtype} does not fit "
                "cls_score of shape "
                f"{tuple(logits.shape)}: integers of its shape without axis 1, the classes, are needed "
                "(use_sigmoid=True takes one-hot "
                "targets)."
            )
        valid = label != ignore_index
        require_values_between(
            "CrossEntropyLoss",
            "label",
            torch.where(valid, label, 0),
            0,
            logits.shape[1] - 1,
            f" or ignore_index={ignore_index}",
        )
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
                raise InputError(
                    f"CrossEntropyLoss: label of shape {tuple(label.shape)} and dtype {label.dtype} does not fit "
                    "cls_score of shape "
                    f"{tuple(logits.shape)}: integers {tuple(logits.shape[:-1])} or targets {tuple(logits.shape)} are "
                    "needed."
                )
            target = one_hot(label, logits.shape[-1], logits.dtype)
            valid = valid.unsqueeze(-1).expand(logits.shape)
            weight = None if weight is None else row_or_element_weight(weight, logits.shape, "CrossEntropyLoss")
        logits = bounded(logits)
        positive = (
            F.logsigmoid(logits) if self.class_weight is None else F.logsigmoid(logits) * self.class_weight.to(logits)
        )
        loss = -(target * positive + (1 - target) * F.logsigmoid(-logits))
        return torch.where(valid, loss, 0.0), valid, weight
