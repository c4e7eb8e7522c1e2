"""Box and direction loss of an anchor head: a loss object, its normaliser and weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .head_entries import BOXES, DENSE, HARMONISED
from .normalizers import Normalizer
from .registry import loss_style
from .smooth_l1 import code_weights_tensor
from .weights import expand_anchor_weights


class HeadBoxLoss(nn.Module):
    """A box loss over positive anchors. Built by :func:`build_head_box_loss`.

    ``on_boxes`` says what it compares: decoded boxes, or box codes, whose headings went through the sin-difference.

    >>> from pcdet_focal.losses import build_head_box_loss
    >>> head_loss = build_head_box_loss("MSELoss", "REG_LOSS", loss_weight=2.0, code_weights=[1.0, 3.0])
    >>> loss = head_loss(torch.ones(1, 2, 2), torch.zeros(1, 2, 2), weights=torch.tensor([[1.0, 0.0]]))
    >>> head_loss.average(loss, batch_size=1)                                                  # 2 (1 + 3^2)
    tensor(20.)
    """

    def __init__(
        self,
        loss: nn.Module,
        kind: str,
        normalizer: Normalizer,
        loss_weight: float,
        code_weights: Sequence[float] | None,
    ):
        super().__init__()
        self.loss, self.kind, self.normalizer, self.loss_weight = loss, kind, normalizer, loss_weight
        self.on_boxes = kind == BOXES
        self.register_buffer(
            "code_weights", code_weights_tensor(code_weights, "LOSS_WEIGHTS.code_weights"), persistent=False
        )

    def forward(self, pred: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """
        Args:
            pred, target: (..., D) box codes (NaN in ``target``: unknown), or (..., 7+) decoded boxes.
            weights: (...), 0 for all but the positives, the normaliser's division included.
        Returns:
            Weighted loss, not summed; of GHMR its one number.
        """
        if self.on_boxes:
            return self.loss(pred, target, reduction_override="none") * weights
        if loss_style(self.loss) == "openpcdet":
            return self.loss(pred, target, weights=weights)
        unknown = torch.isnan(target)
        pred, target = pred.masked_fill(unknown, 0.0), target.masked_fill(unknown, 0.0)
        if self.code_weights is not None:  # on the difference, as in OpenPCDet
            pred, target = pred * self.code_weights.to(pred.dtype), target * self.code_weights.to(target.dtype)
        if self.kind == HARMONISED:
            return self.loss(
                pred,
                target,
                label_weight=(expand_anchor_weights(weights, pred.shape, "GHMR") * ~unknown > 0).to(pred.dtype),
            )
        loss = self.loss(pred, target, reduction_override="none") if pred.numel() else (pred - target).abs()
        return loss * expand_anchor_weights(weights, loss.shape, "REG_LOSS")

    def is_per_anchor(self) -> bool:
        """Whether the positive anchors suffice."""
        return True

    def has_kernel(self) -> bool:
        """Whether the head's kernel computes this loss with ``code_weights`` and ``beta`` of ``kernel_loss``."""
        return type(self).forward is HeadBoxLoss.forward and getattr(self.loss, "has_kernel", bool)()

    @property
    def kernel_loss(self) -> nn.Module:
        """The loss whose ``code_weights`` and ``beta`` the kernel takes."""
        return self.loss

    def average(self, loss: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Weighted loss -> the result."""
        total = loss.sum()
        return (total if self.kind == HARMONISED else self.normalizer.average(total, batch_size)) * self.loss_weight


class HeadDirectionLoss(nn.Module):
    """A loss of the direction classifier over positive anchors. Built by :func:`build_head_direction_loss`.

    >>> from pcdet_focal.losses import build_head_direction_loss
    >>> head_loss = build_head_direction_loss("LabelSmoothingLoss", "DIR_LOSS", loss_weight=0.2)
    >>> head_loss(torch.zeros(1, 2, 2), torch.eye(2)[None], weights=torch.tensor([[1.0, 0.5]]))
    tensor([[0.6931, 0.3466]])
    """

    def __init__(self, loss: nn.Module, kind: str, normalizer: Normalizer, loss_weight: float):
        super().__init__()
        self.loss, self.kind, self.normalizer, self.loss_weight = loss, kind, normalizer, loss_weight

    def forward(self, logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(..., K) logits, (..., K) one-hot sectors, (...) weights -> (...) weighted loss."""
        if loss_style(self.loss) == "openpcdet":
            loss = self.loss(logits, target, weights=weights)
            return loss if loss.dim() == weights.dim() else loss.sum(-1)
        if self.kind == DENSE:
            return self.loss(logits, target, reduction_override="none").sum(-1) * weights
        rows = self.loss(logits.flatten(0, -2), target.argmax(dim=-1).flatten(), reduction_override="none")
        return rows.view(weights.shape) * weights

    def is_per_anchor(self) -> bool:
        """Whether the positive anchors suffice."""
        return True

    def has_kernel(self) -> bool:
        """Whether the head's kernel for box and direction losses computes this loss."""
        return type(self).forward is HeadDirectionLoss.forward and getattr(self.loss, "has_kernel", bool)()

    def average(self, loss: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Weighted loss -> the result."""
        return self.normalizer.average(loss.sum(), batch_size) * self.loss_weight
