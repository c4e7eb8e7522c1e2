"""The losses that the kernels compute from labels, with their parameters."""

from __future__ import annotations

from typing import NamedTuple

from ...errors import InputError


class Focal(NamedTuple):
    """``alpha_t (1 - p_t)^gamma (-log p_t)``; C numbers each, for positives, for background, and the exponent."""

    loss_name = "sigmoid_focal_loss_from_labels"
    alpha_pos: tuple[float, ...]
    alpha_neg: tuple[float, ...]
    gamma: tuple[float, ...]


class QualityFocal(NamedTuple):
    """``|t - p|^beta bce(x, t)``, t the quality in the column of a positive's class and 0 elsewhere."""

    loss_name = "quality_focal_loss_from_labels"
    beta: float


class Varifocal(NamedTuple):
    """``f bce(x, t)`` where t > 0, f = t or, not ``iou_weighted``, 1; ``alpha p^gamma bce(x, 0)`` where t = 0."""

    loss_name = "varifocal_loss_from_labels"
    alpha: float
    gamma: float
    iou_weighted: bool


Kind = Focal | QualityFocal | Varifocal


def check_highest(kind: Kind, highest: int, num_class: int) -> None:
    """Raise InputError for a label above the classes of the logits."""
    if highest > num_class > 1:
        raise InputError(
            f"{kind.loss_name}: label {highest} is above the {num_class} classes of the logits: labels are -1 "
            "(ignored), "
            f"0 (background), or 1 to {num_class}."
        )
