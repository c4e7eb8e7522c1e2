"""Rows of annotations, chosen by the name of their object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def keep_arrays_by_name(gt_names: Sequence[str], used_classes: Sequence[str]) -> np.ndarray:
    """int64 (K,): the places in ``gt_names`` whose name is one of ``used_classes``."""
    return np.array([index for index, name in enumerate(gt_names) if name in used_classes], dtype=np.int64)


def drop_info_with_name(info: dict[str, Any], name: str) -> dict[str, Any]:
    """``info`` (arrays of one row an object, ``info["name"]`` among them) without the objects called ``name``; new
    arrays.
    """
    kept = np.array([index for index, other in enumerate(info["name"]) if other != name], dtype=np.int64)
    return {key: rows[kept] for key, rows in info.items()}
