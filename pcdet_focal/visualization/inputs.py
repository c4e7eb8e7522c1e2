"""What the drawing functions accept, brought to one form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError


def as_array(values: Any) -> np.ndarray:
    """A numpy array of an array, a sequence or a tensor on any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def as_points(points: Any) -> np.ndarray:
    """(N, >= 3) float64 with finite coordinates; rows with NaN or infinity are left out."""
    array = as_array(points).astype(np.float64)
    if array.ndim != 2 or array.shape[1] < 3:
        raise InputError(f"points must be an array (N, 3 or more) of x, y, z, ...; its shape is {array.shape}.")
    return array[np.isfinite(array[:, :3]).all(axis=1)]


def as_boxes(boxes: Any, what: str) -> np.ndarray:
    """(n, 7) float64 of (n, >= 7); None is no box, and rows of zeros (padding) are left in place."""
    if boxes is None:
        return np.zeros((0, 7))
    array = as_array(boxes).astype(np.float64)
    if array.size == 0:
        return np.zeros((0, 7))
    if array.ndim != 2 or array.shape[1] < 7:
        raise InputError(
            f"{what} must be an array (n, 7 or more) of x, y, z, dx, dy, dz, heading; its shape is {array.shape}."
        )
    return array[:, :7]


def as_captions(names: Any, scores: Any, count: int, what: str) -> list[str]:
    """One text a box: its name, its score with two digits, both, or nothing. Names may be texts or class numbers."""
    parts: list[Sequence[str]] = []
    for values, form in ((names, str), (scores, lambda score: f"{float(score):.2f}")):
        if values is None:
            continue
        values = [form(value) for value in as_array(values).tolist()]
        if len(values) != count:
            raise InputError(f"{what}: {len(values)} names or scores for {count} boxes; there must be one a box.")
        parts.append(values)
    return [" ".join(words) for words in zip(*parts)] if parts else [""] * count


def footprints(boxes: np.ndarray) -> np.ndarray:
    """(n, 4, 2) corners seen from above: front left, front right, rear right, rear left."""
    forward = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1)
    left = np.stack([-forward[:, 1], forward[:, 0]], axis=1)
    ends, sides = np.array([0.5, 0.5, -0.5, -0.5]), np.array([0.5, -0.5, -0.5, 0.5])
    return (
        boxes[:, None, :2]
        + forward[:, None] * (ends * boxes[:, 3:4])[..., None]
        + left[:, None] * (sides * boxes[:, 4:5])[..., None]
    )
