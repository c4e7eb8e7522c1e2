"""Measuring: what ``tools/benchmark.py`` runs.

``losses``, ``training_step``, ``ops`` and ``pipeline`` make cases: one workload each, with the sides to compare. ``measure`` times the sides of a case
in turns, ``peak_memory`` counts what they allocate, ``goals`` holds what is to be reached, ``results`` is the JSON file of a run and ``page`` the page
that is made of these files. ``eager`` has the formulas to compare with, written as OpenPCDet computes them.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from . import losses, ops, training_step
from .measure import Case

Builder = Callable[[torch.device, bool], Iterator[Case]]

SUITES: dict[str, Mapping[str, Builder]] = {"losses": {**losses.ROWS, **training_step.ROWS}, "ops": ops.ROWS}

__all__ = ["SUITES", "Case"]
