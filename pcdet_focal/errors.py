"""The one exception for mistakes that a user can make and mend, and the hint that goes with a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Something outside the program is wrong: a file, a config entry, a command line, a data set.

    The message is one complete sentence or two for the person at the keyboard: what is wrong, where (file, line, key
    path, frame id) and what would be right. The command lines in ``tools/`` print it without a traceback and exit with
    status 2.
    """


def did_you_mean(word: Any, known: Iterable[Any]) -> str:
    """The end of a sentence about an unknown name: "; did you mean X?" with the nearest of ``known``, or "."; case does
    not matter.

    >>> did_you_mean("focalloss", ["FocalLoss", "L1Loss"]), did_you_mean("x", ["FocalLoss"])
    ('; did you mean FocalLoss?', '.')
    """
    by_lower_case = {str(name).lower(): name for name in known}
    match = difflib.get_close_matches(str(word).lower(), by_lower_case, n=1, cutoff=0.5)
    return f"; did you mean {by_lower_case[match[0]]}?" if match else "."
