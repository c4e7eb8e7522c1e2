"""The classification loss of an anchor head: a loss object, its normaliser, weight and schedule."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .head_entries import HARMONISED, QUALITY, SOFTMAX
from .normalizers import Normalizer, PerSampleNormalizer, one_hot_from_labels
from .registry import loss_style
from .schedules import GammaSchedule, accepts_gamma


def logits_of_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Logits whose sigmoid is the softmax over the classes and a background of logit 0: ``x_c - log(1 + sum over the
    other classes of exp(x))``.

    A head that was trained with a softmax loss so goes through a post-processing made for sigmoids. One class stays as
    it is.

    >>> scores = logits_of_softmax(torch.tensor([[2.0, 1.0]])).sigmoid()
    >>> torch.allclose(scores, torch.tensor([[2.0, 1.0, 0.0]]).softmax(-1)[:, :2])
    True
    """
    with_background = torch.cat([logits, torch.zeros_like(logits[..., :1])], dim=-1)  # (..., C + 1)
    count = logits.shape[-1]
    others = [
        torch.cat([with_background[..., :c], with_background[..., c + 1 :]], dim=-1).logsumexp(-1) for c in range(count)
    ]
    return logits - torch.stack(others, dim=-1)


class HeadClassificationLoss(nn.Module):
    """A classification loss over all anchors that are not ignored, normalised and weighted: one number.

    Built by :func:`build_head_classification_loss`.

    >>> from pcdet_focal.losses import build_head_classification_loss
    >>> entry = {"NAME": "BinaryCrossEntropyLoss", "NORMALIZER": "batch"}
    >>> head_loss = build_head_classification_loss(entry, "CLS_LOSS", 1.0, num_class=3)
    >>> # 9 log 2 over 2 positives
    >>> loss, logged = head_loss(torch.zeros(1, 4, 3), torch.tensor([[0, 2, 1, -1]]))
    >>> loss, logged
    (tensor(3.1192), {'rpn_cls_normalizer': tensor(2.)})
    """

    def __init__(
        self,
        loss: nn.Module,
        kind: str,
        normalizer: Normalizer,
        loss_weight: float,
        gamma_schedule: GammaSchedule | None,
        quality_space: str,
    ):
        super().__init__()
        self.loss, self.kind, self.normalizer, self.loss_weight = loss, kind, normalizer, loss_weight
        self.gamma_schedule, self.quality_space = gamma_schedule, quality_space

    @property
    def needs_quality(self) -> bool:
        """Whether the loss wants the quality of the positives' boxes."""
        return self.kind == QUALITY

    @property
    def is_softmax(self) -> bool:
        """Whether the classes exclude each other: predictions then go through :func:`logits_of_softmax`."""
        return self.kind == SOFTMAX

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, quality: Callable[[str], torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        Args:
            logits: (B, A, C). labels: (B, A) integers, -1 ignored, 0 background, 1..C; with C = 1 every positive label
                is class 1.
            quality: called with 'bev' or '3d' where the loss needs it: (B, A), the IoU of each positive's box; what
                stands elsewhere is not read.
        Returns:
            The loss, and what to log beside it: ``focal_gamma`` where a schedule rules it, ``rpn_cls_normalizer`` where
                one number divides the batch.
        """
        logged: dict[str, torch.Tensor] = {}
        if self.gamma_schedule is not None and self.training:
            gamma = self.gamma_schedule.value
            setattr(self.loss, accepts_gamma(self.loss), gamma)
            logged["focal_gamma"] = torch.full((), gamma, device=logits.device)
        iou = quality(self.quality_space) if self.needs_quality else None  # (B, A)
        if getattr(self.loss, "has_kernel", bool)():  # one pass from the labels
            tensors = (logits, labels) if iou is None else (logits, labels, iou)
            if isinstance(self.normalizer, PerSampleNormalizer):
                loss = self.loss.from_labels(*tensors, loss_weight=self.loss_weight)
            else:  # one divisor for the batch
                total = self.loss.from_labels(*tensors, loss_weight=self.loss_weight, normalizer="none")
                loss = total / self._divisor(logits, labels, logged)[0]
        elif self.kind == HARMONISED:
            loss = self.loss_weight * self.loss(
                logits, self._one_hot(labels, logits), label_weight=(labels >= 0).to(logits.dtype)
            )
        else:
            weights = (labels >= 0) / self._divisor(logits, labels, logged).unsqueeze(1)  # (B, A)
            elementwise = self._elementwise(logits, labels, iou)  # (B, A) or (B, A, C)
            weights = weights.unsqueeze(-1) if elementwise.dim() == 3 else weights
            loss = self.loss_weight * self.normalizer.average((elementwise * weights).sum(), logits.shape[0])
        return loss, logged

    def _divisor(self, logits: torch.Tensor, labels: torch.Tensor, logged: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B,); asked once a step, since a running mean counts the times."""
        divisor = self.normalizer.divisor((labels > 0).sum(dim=1), torch.promote_types(logits.dtype, torch.float32))
        if not isinstance(self.normalizer, PerSampleNormalizer):
            logged["rpn_cls_normalizer"] = divisor[0]
        return divisor

    def _elementwise(self, logits: torch.Tensor, labels: torch.Tensor, iou: torch.Tensor | None) -> torch.Tensor:
        if self.kind == SOFTMAX:
            # (B * A, 1 + C), background first
            rows = torch.cat([torch.zeros_like(logits[..., :1]), logits], dim=-1).flatten(0, 1)
            classes = labels.long().clamp(min=0, max=1 if logits.shape[-1] == 1 else None).flatten()
            return self.loss(rows, classes, reduction_override="none").view(labels.shape)
        target = self._one_hot(labels, logits)  # (B, A, C)
        if iou is not None:
            target = torch.where(target > 0, iou.detach().to(target.dtype).unsqueeze(-1), 0.0)
            logits = logits.masked_fill((labels < 0).unsqueeze(-1), 0.0)
            return self.loss(logits, target, reduction_override="none")
        if loss_style(self.loss) == "openpcdet":
            return self.loss(logits, target, weights=torch.ones_like(target[..., 0]))
        # running counts of a loss must not see the ignored ones
        taking_part = (labels >= 0).to(target.dtype).unsqueeze(-1)
        return self.loss(logits, target, weight=taking_part, reduction_override="none")

    @staticmethod
    def _one_hot(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return one_hot_from_labels(labels, logits.shape[-1], torch.promote_types(logits.dtype, torch.float32))
