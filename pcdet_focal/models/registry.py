"""Look a module up by the NAME in its configuration section."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from ..errors import InputError

T = TypeVar("T")


def find_by_name(registry: Mapping[str, T], name: str, key_path: str) -> T:
    """``registry[name]``; an unknown name is an InputError that gives the key path, the nearest name and what there
    is.
    """
    if name in registry:
        return registry[name]
    near = difflib.get_close_matches(str(name), registry, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"{key_path}: {name} is not supported here; {hint}(supported: {', '.join(sorted(registry))})")
