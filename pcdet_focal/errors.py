"""The one exception for mistakes that a user can make and mend, and the hint that goes with a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError, AssertionError):
    """Something outside the program is wrong: a file, a config entry, a command line, a data set.

    The message is one complete sentence or two for the person at the keyboard: what is wrong, where (file, line, key
    path, frame id) and what would be right. The command lines in ``tools/`` print it without a traceback and exit with
    status 2. It is an AssertionError too, because OpenPCDet, mmdetection and kornia assert where this package raises.
    """


def nearest_names(word: Any, known: Iterable[Any], num: int = 1, cutoff: float = 0.6) -> list[str]:
    """At most ``num`` of ``known`` that are spelt like ``word``, nearest first; case does not matter.

    >>> nearest_names("focalloss", ["FocalLoss", "L1Loss"])
    ['FocalLoss']
    """
    by_lower_case = {str(name).lower(): str(name) for name in known}
    return [by_lower_case[m] for m in difflib.get_close_matches(str(word).lower(), by_lower_case, num, cutoff)]


def nearest_or_all(word: Any, known: Iterable[Any], num: int = 1, cutoff: float = 0.6) -> str:
    """A hint about an unknown name: at most ``num`` names of ``known`` that are spelt like it, else all of them.

    >>> nearest_or_all("focalloss", ["FocalLoss", "L1Loss"]), nearest_or_all("x", ["b", "a"]), nearest_or_all("x", [])
    ('did you mean FocalLoss?', 'there are a, b', 'there are none')
    """
    known = [str(name) for name in known]
    nearest = nearest_names(word, known, num, cutoff)
    return f"did you mean {' or '.join(nearest)}?" if nearest else f"there are {', '.join(sorted(known)) or 'none'}"


def did_you_mean(word: Any, known: Iterable[Any], cutoff: float = 0.5) -> str:
    """The end of a sentence about an unknown name: "; did you mean X?" with the nearest of ``known``, or ".".

    >>> did_you_mean("focalloss", ["FocalLoss", "L1Loss"]), did_you_mean("x", ["FocalLoss"])
    ('; did you mean FocalLoss?', '.')
    """
    nearest = nearest_names(word, known, cutoff=cutoff)
    return f"; did you mean {nearest[0]}?" if nearest else "."
