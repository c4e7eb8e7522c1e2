"""Parsing of one loss entry of an anchor head: which keys are the loss's own and which are the head's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import InputError, did_you_mean
from ..registry import LOSSES
from .arguments import parameters_of, require_number
from .normalizers import Normalizer, PerSampleNormalizer, build_normalizer

# Kinds of losses: how a head calls them.
FOCAL, DENSE, QUALITY, HARMONISED, SOFTMAX = "focal", "dense", "quality", "harmonised", "softmax"
CODES, BOXES = "codes", "boxes"
_NOT_HERE = {
    "reduction": "the head reduces, see NORMALIZER",
    "activated": "the head gives logits, not probabilities",
    "use_mask": "the head has no masks",
    "ignore_index": "the target assigner says which anchors are ignored",
    "avg_non_ignore": "the head reduces, see NORMALIZER",
    "size_average": "the head reduces, see NORMALIZER",
}


def dry_run(head_loss: nn.Module, key_path: str, *inputs: Any) -> None:
    """Call the loss once at construction, so that for example a per-class list of the wrong length fails now, with its
    key path.
    """
    try:
        copy.deepcopy(head_loss).eval()(*inputs)  # a copy: running counts stay as they are
    except InputError as error:
        raise InputError(f"{key_path}: {error}") from error


def split_entry(
    cfg: Any, key_path: str, kind_of: Callable[[str], str | None], head_keys: Sequence[str]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name of the loss, its own entry, and the head's settings (keys in upper case).

    Args:
        kind_of: the kind of a loss by its name, None for one that cannot stand here.
    """
    if isinstance(cfg, str):
        cfg = {"NAME": cfg}
    if not isinstance(cfg, Mapping):
        raise InputError(f"{key_path}: {cfg!r} is not a loss: a name, or a mapping with NAME and arguments, is needed.")
    settings = {key.upper(): value for key, value in cfg.items() if str(key).upper() in head_keys}
    loss_entry = {
        str(key): value for key, value in cfg.items() if str(key).upper() not in head_keys and key != "_BASE_CONFIG_"
    }
    names = [value for key, value in loss_entry.items() if key.lower() in ("name", "type")]
    name = str(names[0]).removeprefix("mmdet.") if names else None
    if len(names) == 1 and kind_of(name) is None:
        allowed = sorted(n for n in LOSSES if kind_of(n) is not None)
        key = next(key for key in loss_entry if key.lower() in ("name", "type"))
        raise InputError(
            f"{key_path}.{key}: {names[0]!r} is no loss for this place{did_you_mean(name, allowed)} "
            f"Known are: {', '.join(allowed)}."
        )
    parameters = list(parameters_of(LOSSES[name])) if name in LOSSES else None
    allowed = [*(parameter.upper() for parameter in parameters or ()), *head_keys]
    for key in loss_entry:
        if key.lower() in _NOT_HERE:
            raise InputError(f"{key_path}.{key}: leave it out: {_NOT_HERE[key.lower()]}.")
        if parameters is not None and key.lower() not in {"name", "type", *map(str.lower, parameters)}:
            hint = did_you_mean(key, allowed)
            raise InputError(f"{key_path}.{key}: {name} has no such argument{hint} Allowed are: {', '.join(allowed)}.")
    return str(name), loss_entry, settings


def normalizer_of(settings: Mapping[str, Any], key_path: str, default: Any, kind: str, name: str) -> Normalizer:
    """The entry's NORMALIZER, else the head's default; InputError for one beside a harmonised loss."""
    if kind == HARMONISED:
        if "NORMALIZER" in settings:
            raise InputError(
                f"{key_path}.NORMALIZER: {name} divides by the density of the gradients and takes no other normaliser."
            )
        return PerSampleNormalizer()
    if "NORMALIZER" in settings:
        return build_normalizer(settings["NORMALIZER"], f"{key_path}.NORMALIZER")
    return build_normalizer(default, f"{key_path.rpartition('.')[0]}.NORMALIZER")


def weight_of(settings: Mapping[str, Any], key_path: str, default: float) -> float:
    """The entry's LOSS_WEIGHT, else the default; InputError unless it is a number of at least 0."""
    weight = settings.get("LOSS_WEIGHT", default)
    require_number(key_path, "LOSS_WEIGHT", weight)
    return weight
