"""Modules made of a few names; a name that this package has nothing for is a class that skips its test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


class Absent:
    def __init__(self, *args, **kwargs):
        pytest.skip("this package has no such thing")


class _Module(ModuleType):
    find: Callable[[str], Any] = staticmethod(lambda name: None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = self.find(name)
        return Absent if found is None else found


def module(name: str, find: Callable[[str], Any] | None = None, **entries: Any) -> ModuleType:
    """A module in ``sys.modules`` with these entries, and what ``find`` has for any other name, or Absent."""
    made = _Module(name)
    made.__path__ = []  # type: ignore[attr-defined]
    vars(made).update(entries, **({"find": find} if find else {}))
    sys.modules[name] = made
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, made)
    return made
