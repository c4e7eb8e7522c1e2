"""Measuring: what ``tools/benchmark.py`` runs.

``losses`` and ``ops`` make cases, one workload each with the sides to compare, of ``workloads``; ``eager`` has the
formulas to compare with. ``run`` goes through the cases: ``measure`` times the sides of each in turns, ``peak_memory``
counts what they allocate, ``goals`` holds what is to be reached. ``pipeline`` measures the data pipeline, ``step``
whole training steps and evaluated frames, beside those of OpenPCDet's code, which ``openpcdet`` runs. ``results`` is
the JSON file of a run, ``page`` the page that is made of these files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from . import losses, ops
from .measure import Case

Builder = Callable[[torch.device, bool], Iterator[Case]]

SUITES: dict[str, Mapping[str, Builder]] = {"losses": losses.ROWS, "ops": ops.ROWS}

__all__ = ["SUITES", "Case"]
