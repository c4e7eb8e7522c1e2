"""The losses of an anchor head as its configuration names them: LOSS_CONFIG.CLS_LOSS, REG_LOSS and DIR_LOSS.

An entry is a name, or a mapping with NAME (or mmdetection's ``type``), the loss's own arguments, and what the head does
with the loss:

    NORMALIZER       the divisor: per_sample (default), batch, global, ema or none; see ``normalizers``
    LOSS_WEIGHT      factor of the result, in place of LOSS_WEIGHTS.cls_weight, loc_weight or dir_weight
    GAMMA_SCHEDULE   CLS_LOSS with a focusing exponent: see ``schedules``
    QUALITY_SPACE    CLS_LOSS with quality targets: IoU of the decoded box and its ground truth, 3d (default) or bev

The head reduces; a loss's own ``reduction`` has no place in an entry. Absent entries do not come here: they are
OpenPCDet's losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import InputError
from ..registry import LOSSES
from .head_classification import HeadClassificationLoss
from .head_entries import (
    BOXES,
    CODES,
    DENSE,
    FOCAL,
    HARMONISED,
    QUALITY,
    SOFTMAX,
    dry_run,
    normalizer_of,
    split_entry,
    weight_of,
)
from .head_regression import HeadBoxLoss, HeadDirectionLoss
from .registry import build_loss
from .schedules import accepts_gamma, build_gamma_schedule

_CLASSIFICATION = {
    "SigmoidFocalClassificationLoss": FOCAL,
    "FocalLoss": FOCAL,
    "QualityFocalLoss": QUALITY,
    "VarifocalLoss": QUALITY,
    "GHMC": HARMONISED,
    "BinaryCrossEntropyLoss": DENSE,
    "BCEBlurWithLogitsLoss": DENSE,
    "AsymmetricLoss": DENSE,
    "EqualizedFocalLoss": DENSE,
    "SoftmaxFocalLoss": SOFTMAX,
    "LabelSmoothingLoss": SOFTMAX,
    "CrossEntropyLoss": SOFTMAX,
}
_BOX = {
    "WeightedSmoothL1Loss": CODES,
    "WeightedL1Loss": CODES,
    "SmoothL1Loss": CODES,
    "L1Loss": CODES,
    "MSELoss": CODES,
    "BalancedL1Loss": CODES,
    "GHMR": HARMONISED,
    "CornerLoss": BOXES,
    "RotatedIoULoss": BOXES,
}
_DIRECTION = {
    "WeightedCrossEntropyLoss": DENSE,
    "CrossEntropyLoss": SOFTMAX,
    "SoftmaxFocalLoss": SOFTMAX,
    "LabelSmoothingLoss": SOFTMAX,
}


def _kind(name: str, table: Mapping[str, str], default: str) -> str | None:
    """The kind of the loss ``name`` at the place of ``table``, None where it cannot stand there.

    A registered loss that is in no table has the kind of its ``head_kind``, else of its nearest listed base class, else
    the default.
    """
    loss_class = LOSSES.get(name)
    if loss_class is None or any(name in other for other in (_CLASSIFICATION, _BOX, _DIRECTION)):
        return table.get(name)
    if hasattr(loss_class, "head_kind"):
        return loss_class.head_kind if loss_class.head_kind in table.values() else None
    bases = [b.__name__ for b in loss_class.__mro__[1:] if LOSSES.get(b.__name__) is b]
    if bases or loss_class.__module__.startswith(f"{__package__}."):
        return table.get(bases[0]) if bases else None
    return default


def build_head_classification_loss(
    cfg: str | Mapping[str, Any], key_path: str, loss_weight: float, num_class: int, normalizer: Any = "per_sample"
) -> HeadClassificationLoss:
    """CLS_LOSS as the head uses it.

    Args:
        cfg: the entry. key_path: where it stands. loss_weight: LOSS_WEIGHTS.cls_weight, where the entry has no
            LOSS_WEIGHT.
        num_class: C, for losses that count by class.
        normalizer: where the entry has no NORMALIZER.
    Raises:
        InputError: an unknown name, argument or value, or a list that does not fit the head, with the full key path,
            what is allowed and the nearest match.

    >>> entry = {"type": "FocalLoss", "gamma": 1.5, "loss_weight": 2.0}
    >>> build_head_classification_loss(entry, "CLS_LOSS", 1.0, num_class=3).loss_weight
    2.0
    """
    name, loss_entry, settings = split_entry(
        cfg,
        key_path,
        lambda n: _kind(n, _CLASSIFICATION, DENSE),
        ("NORMALIZER", "LOSS_WEIGHT", "GAMMA_SCHEDULE", "QUALITY_SPACE"),
    )
    if name == "EqualizedFocalLoss" and not any(key.lower() == "num_classes" for key in loss_entry):
        loss_entry["NUM_CLASSES"] = num_class
    loss = build_loss(loss_entry, key_path)
    kind = _kind(name, _CLASSIFICATION, DENSE)
    if name == "CrossEntropyLoss" and loss.use_sigmoid:
        kind = DENSE
    schedule = None
    if "GAMMA_SCHEDULE" in settings:
        exponent = accepts_gamma(loss)
        if exponent is None:
            raise InputError(
                f"{key_path}.GAMMA_SCHEDULE: {name} has no focusing exponent; a focal loss has, such as "
                "SigmoidFocalClassificationLoss."
            )
        if any(key.lower() == exponent for key in loss_entry):
            raise InputError(
                f"{key_path}: {exponent.upper()} and GAMMA_SCHEDULE both set the focusing exponent: leave one of them "
                "out."
            )
        schedule = build_gamma_schedule(settings["GAMMA_SCHEDULE"], f"{key_path}.GAMMA_SCHEDULE")
    space = settings.get("QUALITY_SPACE", "3d")
    if "QUALITY_SPACE" in settings and kind != QUALITY:
        raise InputError(
            f"{key_path}.QUALITY_SPACE: {name} has no quality targets; QualityFocalLoss and VarifocalLoss have."
        )
    if space not in ("3d", "bev"):
        raise InputError(f"{key_path}.QUALITY_SPACE: {space!r} is not allowed: 3d or bev.")
    chosen = normalizer_of(settings, key_path, normalizer, kind, name)
    head_loss = HeadClassificationLoss(loss, kind, chosen, weight_of(settings, key_path, loss_weight), schedule, space)
    if name in _CLASSIFICATION:
        dry_run(
            head_loss, key_path, torch.zeros(1, 2, num_class), torch.tensor([[0, 1]]), lambda space: torch.ones(1, 2)
        )
    return head_loss


def build_head_box_loss(
    cfg: str | Mapping[str, Any],
    key_path: str,
    loss_weight: float,
    code_weights: Sequence[float] | None,
    normalizer: Any = "per_sample",
    code_size: int | None = None,
) -> HeadBoxLoss:
    """REG_LOSS as the head uses it; arguments and errors as of :func:`build_head_classification_loss`.

    ``code_weights`` (LOSS_WEIGHTS.code_weights) multiply the differences of a loss of box codes that has no
    CODE_WEIGHTS of its own. With ``code_size``, the numbers of a box code, their count is checked.

    >>> build_head_box_loss({"NAME": "RotatedIoULoss", "KIND": "diou"}, "REG_LOSS", 2.0, None).on_boxes
    True
    """
    name, loss_entry, settings = split_entry(
        cfg, key_path, lambda n: _kind(n, _BOX, CODES), ("NORMALIZER", "LOSS_WEIGHT")
    )
    kind = _kind(name, _BOX, CODES)
    if name in ("WeightedSmoothL1Loss", "WeightedL1Loss") and not any(
        key.lower() == "code_weights" for key in loss_entry
    ):
        loss_entry["CODE_WEIGHTS"] = code_weights
    chosen = normalizer_of(settings, key_path, normalizer, kind, name)
    head_loss = HeadBoxLoss(
        build_loss(loss_entry, key_path),
        kind,
        chosen,
        weight_of(settings, key_path, loss_weight),
        None if kind == BOXES else code_weights,
    )
    if name in _BOX and kind != BOXES and code_size is not None:
        dry_run(head_loss, key_path, torch.zeros(1, 1, code_size), torch.zeros(1, 1, code_size), torch.ones(1, 1))
    return head_loss


def build_head_direction_loss(
    cfg: str | Mapping[str, Any], key_path: str, loss_weight: float, normalizer: Any = "per_sample", num_bins: int = 2
) -> HeadDirectionLoss:
    """DIR_LOSS as the head uses it, for ``num_bins`` sectors; arguments and errors as of
    :func:`build_head_classification_loss`.

    >>> build_head_direction_loss("SoftmaxFocalLoss", "DIR_LOSS", 0.2).loss.gamma
    2.0
    """
    name, loss_entry, settings = split_entry(
        cfg, key_path, lambda n: _kind(n, _DIRECTION, DENSE), ("NORMALIZER", "LOSS_WEIGHT")
    )
    loss = build_loss(loss_entry, key_path)
    if getattr(loss, "use_sigmoid", False):
        raise InputError(f"{key_path}: the sectors of a direction exclude each other: USE_SIGMOID has no place here.")
    kind = _kind(name, _DIRECTION, DENSE)
    head_loss = HeadDirectionLoss(
        loss,
        kind,
        normalizer_of(settings, key_path, normalizer, kind, name),
        weight_of(settings, key_path, loss_weight),
    )
    if name in _DIRECTION:
        dry_run(head_loss, key_path, torch.zeros(1, 1, num_bins), torch.eye(num_bins)[None, :1], torch.ones(1, 1))
    return head_loss
