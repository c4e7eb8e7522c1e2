"""The losses of an anchor head as its configuration names them: LOSS_CONFIG.CLS_LOSS, REG_LOSS and DIR_LOSS.

An entry is a name, or a mapping with NAME (or mmdetection's ``type``), the loss's own arguments, and what the head does
with the loss:

    NORMALIZER       who divides, and by what: per_sample (default), batch, global, ema, none; see ``normalizers``
    LOSS_WEIGHT      factor of the result; in place of LOSS_WEIGHTS.cls_weight, loc_weight or dir_weight, which hold
    where it is absent
    GAMMA_SCHEDULE   CLS_LOSS with a focusing exponent: see ``schedules``
    QUALITY_SPACE    CLS_LOSS with quality targets: 3d (default) or bev, the IoU of the decoded box with its ground
        truth

The head reduces; a loss's own ``reduction`` has no place in an entry. Absent entries do not come here: they are
OpenPCDet's losses.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import InputError, did_you_mean
from .arguments import require_number
from .normalizers import Normalizer, PerSampleNormalizer, build_normalizer, one_hot_from_labels
from .registry import build_loss, loss_style, parameters_of, registered_losses
from .schedules import GammaSchedule, accepts_gamma, build_gamma_schedule
from .smooth_l1 import code_weights_tensor
from .varifocal import VarifocalLoss
from .weights import expand_anchor_weights

_FOCAL, _DENSE, _QUALITY, _HARMONISED, _SOFTMAX = "focal", "dense", "quality", "harmonised", "softmax"
_CLASSIFICATION = {
    "SigmoidFocalClassificationLoss": _FOCAL,
    "FocalLoss": _FOCAL,
    "QualityFocalLoss": _QUALITY,
    "VarifocalLoss": _QUALITY,
    "GHMC": _HARMONISED,
    "BinaryCrossEntropyLoss": _DENSE,
    "BCEBlurWithLogitsLoss": _DENSE,
    "AsymmetricLoss": _DENSE,
    "EqualizedFocalLoss": _DENSE,
    "SoftmaxFocalLoss": _SOFTMAX,
    "LabelSmoothingLoss": _SOFTMAX,
    "CrossEntropyLoss": _SOFTMAX,
}
_CODES, _BOXES = "codes", "boxes"
_BOX = {
    "WeightedSmoothL1Loss": _CODES,
    "WeightedL1Loss": _CODES,
    "SmoothL1Loss": _CODES,
    "L1Loss": _CODES,
    "MSELoss": _CODES,
    "BalancedL1Loss": _CODES,
    "GHMR": _HARMONISED,
    "CornerLoss": _BOXES,
    "RotatedIoULoss": _BOXES,
}
_DIRECTION = {
    "WeightedCrossEntropyLoss": _DENSE,
    "CrossEntropyLoss": _SOFTMAX,
    "SoftmaxFocalLoss": _SOFTMAX,
    "LabelSmoothingLoss": _SOFTMAX,
}
_NOT_HERE = {
    "reduction": "the head reduces, see NORMALIZER",
    "activated": "the head gives logits, not probabilities",
    "use_mask": "the head has no masks",
    "ignore_index": "the target assigner says which anchors are ignored",
    "avg_non_ignore": "the head reduces, see NORMALIZER",
    "size_average": "the head reduces, see NORMALIZER",
}


def _kind(name: str, table: Mapping[str, str], default: str) -> str | None:
    """What the loss ``name`` is given in the place that ``table`` describes: the table's word; for a registered loss
    that is in no table its ``head_kind``, its nearest listed base class's, or else ``default``. None where the loss has
    no place there.
    """
    tables = (_CLASSIFICATION, _BOX, _DIRECTION)
    loss_class = LOSSES.get(name)
    if loss_class is None or name in table or any(name in other for other in tables):
        return table.get(name)
    if hasattr(loss_class, "head_kind"):
        return loss_class.head_kind if loss_class.head_kind in table.values() else None
    bases = [b.__name__ for b in loss_class.__mro__[1:] if LOSSES.get(b.__name__) is b]
    if bases or loss_class.__module__.startswith(f"{__package__}."):
        return table.get(bases[0]) if bases else None
    return default


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

    >>> head_loss = build_head_classification_loss({"NAME": "BinaryCrossEntropyLoss", "NORMALIZER": "batch"}, "CLS_LOSS", 1.0, num_class=3)
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
        return self.kind == _QUALITY

    @property
    def is_softmax(self) -> bool:
        """Whether the classes exclude each other: predictions then go through :func:`logits_of_softmax`."""
        return self.kind == _SOFTMAX

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
        elif self.kind == _HARMONISED:
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
        if self.kind == _SOFTMAX:
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
            return self.loss(logits, target)
        # running counts of a loss must not see the ignored ones
        taking_part = (labels >= 0).to(target.dtype).unsqueeze(-1)
        return self.loss(logits, target, weight=taking_part, reduction_override="none")

    @staticmethod
    def _one_hot(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return one_hot_from_labels(labels, logits.shape[-1], torch.promote_types(logits.dtype, torch.float32))


class HeadBoxLoss(nn.Module):
    """A box loss over positive anchors. Built by :func:`build_head_box_loss`.

    ``on_boxes`` says what it compares: decoded boxes, or box codes, whose headings went through the sin-difference.

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
        self.on_boxes = kind == _BOXES
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
        if self.kind == _HARMONISED:
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
        return (total if self.kind == _HARMONISED else self.normalizer.average(total, batch_size)) * self.loss_weight


class HeadDirectionLoss(nn.Module):
    """A loss of the direction classifier over positive anchors. Built by :func:`build_head_direction_loss`.

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
        if self.kind == _DENSE:
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

    >>> build_head_classification_loss({"type": "FocalLoss", "gamma": 1.5, "loss_weight": 2.0}, "CLS_LOSS", 1.0, num_class=3).loss_weight
    2.0
    """
    name, own, settings = _split(
        cfg, key_path, _CLASSIFICATION, ("NORMALIZER", "LOSS_WEIGHT", "GAMMA_SCHEDULE", "QUALITY_SPACE")
    )
    if name == "EqualizedFocalLoss" and not any(key.lower() == "num_classes" for key in own):
        own["NUM_CLASSES"] = num_class
    loss = build_loss(own, key_path)
    kind = _kind(name, _CLASSIFICATION, _DENSE)
    if name == "CrossEntropyLoss" and loss.use_sigmoid:
        kind = _DENSE
    schedule = None
    if "GAMMA_SCHEDULE" in settings:
        exponent = accepts_gamma(loss)
        if exponent is None:
            raise InputError(
                f"{key_path}.GAMMA_SCHEDULE: {name} has no focusing exponent; a focal loss has, such as "
                "SigmoidFocalClassificationLoss."
            )
        if any(key.lower() == exponent for key in own):
            raise InputError(
                f"{key_path}: {exponent.upper()} and GAMMA_SCHEDULE both set the focusing exponent: leave one of them "
                "out."
            )
        schedule = build_gamma_schedule(settings["GAMMA_SCHEDULE"], f"{key_path}.GAMMA_SCHEDULE")
    space = settings.get("QUALITY_SPACE", "3d")
    if "QUALITY_SPACE" in settings and kind != _QUALITY:
        raise InputError(
            f"{key_path}.QUALITY_SPACE: {name} has no quality targets; QualityFocalLoss and VarifocalLoss have."
        )
    if space not in ("3d", "bev"):
        raise InputError(f"{key_path}.QUALITY_SPACE: {space!r} is not allowed: 3d or bev.")
    chosen = _normalizer(settings, key_path, normalizer, kind, name)
    head_loss = HeadClassificationLoss(loss, kind, chosen, _weight(settings, key_path, loss_weight), schedule, space)
    if name in _CLASSIFICATION:
        _try(head_loss, key_path, torch.zeros(1, 2, num_class), torch.tensor([[0, 1]]), lambda space: torch.ones(1, 2))
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
    name, own, settings = _split(cfg, key_path, _BOX, ("NORMALIZER", "LOSS_WEIGHT"))
    kind = _kind(name, _BOX, _CODES)
    if name in ("WeightedSmoothL1Loss", "WeightedL1Loss") and not any(key.lower() == "code_weights" for key in own):
        own["CODE_WEIGHTS"] = code_weights
    chosen = _normalizer(settings, key_path, normalizer, kind, name)
    head_loss = HeadBoxLoss(
        build_loss(own, key_path),
        kind,
        chosen,
        _weight(settings, key_path, loss_weight),
        None if kind == _BOXES else code_weights,
    )
    if name in _BOX and kind != _BOXES and code_size is not None:
        _try(head_loss, key_path, torch.zeros(1, 1, code_size), torch.zeros(1, 1, code_size), torch.ones(1, 1))
    return head_loss


def build_head_direction_loss(
    cfg: str | Mapping[str, Any], key_path: str, loss_weight: float, normalizer: Any = "per_sample", num_bins: int = 2
) -> HeadDirectionLoss:
    """DIR_LOSS as the head uses it, for ``num_bins`` sectors; arguments and errors as of
    :func:`build_head_classification_loss`.

    >>> build_head_direction_loss("SoftmaxFocalLoss", "DIR_LOSS", 0.2).loss.gamma
    2.0
    """
    name, own, settings = _split(cfg, key_path, _DIRECTION, ("NORMALIZER", "LOSS_WEIGHT"))
    loss = build_loss(own, key_path)
    if getattr(loss, "use_sigmoid", False):
        raise InputError(f"{key_path}: the sectors of a direction exclude each other: USE_SIGMOID has no place here.")
    kind = _kind(name, _DIRECTION, _DENSE)
    head_loss = HeadDirectionLoss(
        loss, kind, _normalizer(settings, key_path, normalizer, kind, name), _weight(settings, key_path, loss_weight)
    )
    if name in _DIRECTION:
        _try(head_loss, key_path, torch.zeros(1, 1, num_bins), torch.eye(num_bins)[None, :1], torch.ones(1, 1))
    return head_loss


def _try(head_loss: nn.Module, key_path: str, *inputs: Any) -> None:
    """One call with inputs of the head's sizes: what does not fit them, such as a list with a number too few, is an
    error now and with its key path.
    """
    try:
        copy.deepcopy(head_loss).eval()(*inputs)  # a copy: running counts stay as they are
    except InputError as error:
        raise InputError(f"{key_path}: {error}") from error


def _split(
    cfg: Any, key_path: str, known: Mapping[str, str], head_keys: Sequence[str]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name of the loss, its own entry, and what is the head's (keys in upper case)."""
    if isinstance(cfg, str):
        cfg = {"NAME": cfg}
    if not isinstance(cfg, Mapping):
        raise InputError(f"{key_path}: {cfg!r} is not a loss: a name, or a mapping with NAME and arguments, is needed.")
    settings = {key.upper(): value for key, value in cfg.items() if str(key).upper() in head_keys}
    own = {
        str(key): value for key, value in cfg.items() if str(key).upper() not in head_keys and key != "_BASE_CONFIG_"
    }
    names = [value for key, value in own.items() if key.lower() in ("name", "type")]
    name = str(names[0]).removeprefix("mmdet.") if names else None
    if len(names) == 1 and _kind(name, known, "") is None:
        allowed = [n for n in LOSSES if _kind(n, known, "") is not None]
        key = next(key for key in own if key.lower() in ("name", "type"))
        raise InputError(
            f"{key_path}.{key}: {names[0]!r} is no loss for this place{did_you_mean(name, allowed)} "
            f"Known are: {', '.join(sorted(allowed))}."
        )
    taken = {parameter.lower() for parameter in parameters_of(LOSSES[name])} if name in LOSSES else set()
    for key in own:
        if key.lower() in _NOT_HERE:
            raise InputError(f"{key_path}.{key}: leave it out: {_NOT_HERE[key.lower()]}.")
        meant = difflib.get_close_matches(key.upper(), head_keys, n=1, cutoff=0.8)
        if meant and key.lower() not in taken:
            raise InputError(
                f"{key_path}.{key}: no such argument; did you mean {meant[0]}? "
                f"Beside the loss's own the head takes {', '.join(head_keys)}."
            )
    return str(name), own, settings


def _normalizer(settings: Mapping[str, Any], key_path: str, default: Any, kind: str, name: str) -> Normalizer:
    if kind == _HARMONISED:
        if "NORMALIZER" in settings:
            raise InputError(
                f"{key_path}.NORMALIZER: {name} divides by the density of the gradients and takes no other normaliser."
            )
        return PerSampleNormalizer()
    if "NORMALIZER" in settings:
        return build_normalizer(settings["NORMALIZER"], f"{key_path}.NORMALIZER")
    return build_normalizer(default, f"{key_path.rpartition('.')[0]}.NORMALIZER")


def _weight(settings: Mapping[str, Any], key_path: str, default: float) -> float:
    weight = settings.get("LOSS_WEIGHT", default)
    require_number(key_path, "LOSS_WEIGHT", weight)
    return weight
