"""Quality focal and varifocal loss of a whole head straight from its labels and the quality of its positives."""

from __future__ import annotations

import torch

from ..errors import InputError
from ..ops import focal_loss as fused
from .arguments import require_number
from .focal_from_labels import check_logits_and_labels


def quality_focal_loss_from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor,
    *,
    beta: float = 2.0,
    normalizer: str = "per_sample",
    loss_weight: float = 1.0,
) -> torch.Tensor:
    r"""``quality_focal_loss`` of a whole head, summed and normalised, without a dense target::

        t      = quality of the anchor in the column of its label, 0 elsewhere
        L_b    = sum_{a, c} |t - p|^beta (-t log p - (1 - t) log(1 - p))   anchors of sample b with a label >= 0
        loss   = loss_weight / B  sum_b  L_b / max(positives of b, 1)      'per_sample'
                 loss_weight  sum_b  L_b                                   'none'

    How it is computed, what may be differentiated, and what logits and labels may be: as in
    ``sigmoid_focal_loss_from_labels``.

    Args:
        logits: (B, A, C). labels: (B, A) integers, below 0 ignored, 0 background, 1..C.
        quality: (B, A) in [0, 1], such as the IoU of each positive's decoded box with its object; not read at other
            anchors; no gradient.
        beta: focusing exponent >= 0. normalizer: 'per_sample' or 'none'. loss_weight: factor of the result.
    Returns:
        Scalar, float32 or, for float64 logits, float64.
    Raises:
        InputError: shapes that do not fit, labels that are not integers, an argument out of range; on the CPU also a
            label above C.

    >>> logits, labels = torch.zeros(1, 3, 2), torch.tensor([[2, 0, -1]])
    >>> # at p = 0.5: 0, and 3 * 0.5^2 log 2
    >>> quality_focal_loss_from_labels(logits, labels, torch.tensor([[0.5, 0.0, 0.0]]))
    tensor(0.5199)
    """
    name = "quality_focal_loss_from_labels"
    _check(name, logits, labels, quality, normalizer)
    require_number(name, "beta", beta)
    return fused.quality_focal_loss_from_labels(logits, labels, quality, beta, normalizer == "per_sample", loss_weight)


def varifocal_loss_from_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    quality: torch.Tensor,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
    iou_weighted: bool = True,
    normalizer: str = "per_sample",
    loss_weight: float = 1.0,
) -> torch.Tensor:
    r"""``varifocal_loss`` of a whole head, summed and normalised, without a dense target. With t the quality of the
    anchor in the column of its label, 0 elsewhere, an entry costs::

        t (-t log p - (1 - t) log(1 - p))         where t > 0     (with ``iou_weighted=False`` the leading t is 1)
        -alpha p^gamma log(1 - p)                 where t = 0

    Args:
        alpha: weight of negatives >= 0; gamma: their focusing exponent >= 0. iou_weighted: weight positives by their
            quality.
        Others, result and errors: as in ``quality_focal_loss_from_labels``.

    >>> logits, labels = torch.zeros(1, 3, 2), torch.tensor([[2, 0, -1]])
    >>> # 0.5 log 2, and 3 * 0.75 * 0.5^2 log 2
    >>> varifocal_loss_from_labels(logits, labels, torch.tensor([[0.5, 0.0, 0.0]]))
    tensor(0.7365)
    """
    name = "varifocal_loss_from_labels"
    _check(name, logits, labels, quality, normalizer)
    require_number(name, "alpha", alpha)
    require_number(name, "gamma", gamma)
    return fused.varifocal_loss_from_labels(
        logits, labels, quality, alpha, gamma, bool(iou_weighted), normalizer == "per_sample", loss_weight
    )


def _check(name: str, logits: torch.Tensor, labels: torch.Tensor, quality: torch.Tensor, normalizer: str) -> None:
    check_logits_and_labels(name, logits, labels, normalizer)
    if tuple(quality.shape) != tuple(labels.shape) or not quality.is_floating_point():
        raise InputError(
            f"{name}: quality of shape {tuple(quality.shape)} and {quality.dtype} does not fit labels of shape "
            f"{tuple(labels.shape)}: one "
            "floating point number per anchor is needed."
        )
    if quality.device != logits.device:
        raise InputError(f"{name}: logits are on {logits.device} but quality on {quality.device}.")
