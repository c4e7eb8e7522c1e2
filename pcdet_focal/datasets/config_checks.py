"""Checks of configuration entries that name a step to run: every message carries the key path and the nearest valid
spelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InputError, did_you_mean, nearest_or_all


def require_keys(config: Mapping[str, Any], keys: Iterable[str], key_path: str) -> None:
    """Raise InputError naming ``key_path.KEY`` for the first of ``keys`` that ``config`` lacks."""
    for key in keys:
        if key not in config:
            hint = did_you_mean(key, [k for k in config if k not in keys])
            raise InputError(f"{key_path}.{key} is missing (step {config.get('NAME', '?')}){hint}")


def step_name(config: Mapping[str, Any], known: Iterable[str], key_path: str) -> str:
    """The ``NAME`` of one entry of a list of steps; InputError if it is missing or not one of ``known``."""
    if not isinstance(config, Mapping) or "NAME" not in config:
        raise InputError(
            f"{key_path}.NAME is missing: each entry of the list is a mapping whose NAME says which step it is."
        )
    known = list(known)
    if config["NAME"] not in known:
        raise InputError(
            f"{key_path}.NAME: there is no step {config['NAME']!r}; {nearest_or_all(config['NAME'], known)}"
        )
    return config["NAME"]


def number_range(config: Mapping[str, Any], key: str, key_path: str, symmetric: bool = False) -> list[float]:
    """``config[key]`` as ``[low, high]``; one number ``a`` stands for ``[-a, a]`` where ``symmetric``. InputError for
    anything else.
    """
    value = config[key]
    if symmetric and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [-value, value]
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise InputError(f"{key_path}.{key} must be a pair of numbers [low, high], not {value!r}.") from None
    if not low <= high:
        raise InputError(f"{key_path}.{key}: the first number of {value!r} must not be above the second.")
    return [low, high]


def choice_list(config: Mapping[str, Any], key: str, choices: Iterable[str], key_path: str) -> list[str]:
    """``config[key]`` as a list whose entries are all among ``choices``; InputError otherwise."""
    value, choices = config[key], list(choices)
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise InputError(f"{key_path}.{key} must be a list of {', '.join(choices)}, not {value!r}.")
    for i, entry in enumerate(value):
        if entry not in choices:
            raise InputError(f"{key_path}.{key}[{i}] is {entry!r}; {nearest_or_all(entry, choices)}")
    return list(value)
