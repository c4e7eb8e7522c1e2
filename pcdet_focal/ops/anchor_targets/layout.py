"""Where anchors stand: their grid in the plane, and their places in the flat order of the predictions."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ...geometry.boxes import boxes3d_lidar_to_aligned_bev_boxes

LARGEST = 1e15  # metres: anchors beyond it (or not finite) make no grid, because areas may overflow


class Grid(NamedTuple):
    """Borders of the anchors' rectangles: (kinds, nx) and (kinds, ny), kinds in the order height, size, rotation, on
    the anchors' device.
    """

    low_x: Tensor
    high_x: Tensor
    low_y: Tensor
    high_y: Tensor


_grids: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tensor of anchors -> (its version, its grid or None)


def grid_of(anchors: Tensor) -> Grid | None:
    """The grid of anchors (nz, ny, nx, n_sizes, n_rotations, 7+), turned to the nearest axis; None where they are none.

    On a grid the x borders of a kind depend on the column alone, its y borders on the row alone, and neither decreases.
    It is looked for once for a tensor (a GPU makes the host wait for that), and again when the tensor was changed in
    place.
    """
    version = -1 if anchors.is_inference() else anchors._version
    known = _grids.get(anchors)
    if known is None or known[0] != version:
        known = _grids[anchors] = (version, _find_grid(anchors.detach()))
    return known[1]


def _find_grid(anchors: Tensor) -> Grid | None:
    rectangles = boxes3d_lidar_to_aligned_bev_boxes(anchors[..., :7].reshape(-1, 7)).cpu().view(*anchors.shape[:5], 4)
    rectangles = rectangles.permute(5, 0, 3, 4, 1, 2).flatten(1, 3)  # (4, kinds, ny, nx)
    rows, columns = rectangles[0::2], rectangles[1::2]  # x borders, y borders
    low_high_x, low_high_y = rows[:, :, 0], columns[:, :, :, 0]  # (2, kinds, nx), (2, kinds, ny)
    is_grid = (
        bool((rectangles.abs() <= LARGEST).all())
        and bool((rows == low_high_x[:, :, None]).all())
        and bool((columns == low_high_y[..., None]).all())
        and bool((low_high_x.diff(dim=-1) >= 0).all())
        and bool((low_high_y.diff(dim=-1) >= 0).all())
    )
    if not is_grid:
        return None
    return Grid(*(border.contiguous().to(anchors.device) for pair in (low_high_x, low_high_y) for border in pair))


class Places(NamedTuple):
    """Where anchors stand in a flat list: (kinds,) of the first of each kind, and the steps to the next row and the
    next column of the grid.
    """

    first: np.ndarray
    row: int
    column: int


@lru_cache(maxsize=64)
def places(shapes: tuple[tuple[int, ...], ...], class_major: bool) -> list[tuple[Places, Places]]:
    """For each class, of shape (nz, ny, nx, n_sizes, n_rotations): its anchors' places in the result and in its own
    tensor.
    """
    layouts, start = [], 0
    per_location = sum(sizes * rotations for *_, sizes, rotations in shapes)
    for shape in shapes:
        nz, ny, nx, sizes, rotations = shape
        if class_major:
            # (nz, sizes * rotations)
            first = start + (np.arange(sizes * rotations)[None, :] * nz + np.arange(nz)[:, None]) * (ny * nx)
            in_result = Places(first.reshape(-1), nx, 1)
        else:
            in_result = _by_location(shape, start, per_location)
        layouts.append((in_result, _by_location(shape, 0, sizes * rotations)))
        start += nz * ny * nx * sizes * rotations if class_major else sizes * rotations
    return layouts


def _by_location(shape: tuple[int, ...], start: int, per_location: int) -> Places:
    """Places where ``per_location`` anchors stand at each location and those of this class from ``start``."""
    nz, ny, nx, sizes, rotations = shape
    first = start + np.arange(nz)[:, None] * (ny * nx * per_location) + np.arange(sizes * rotations)[None, :]
    return Places(first.reshape(-1), nx * per_location, per_location)


def class_view(values: Tensor, all_anchors: list[Tensor], i: int, class_major: bool) -> Tensor:
    """(B, locations, kinds) or (B, 1, anchors): what of ``values`` (B, N) is of class i, in the order of
    ``reference.assign_single``.
    """
    counts = [
        anchors[..., 0].numel() if class_major else anchors.shape[3] * anchors.shape[4] for anchors in all_anchors
    ]
    start = sum(counts[:i])
    return values.view(len(values), -1, sum(counts))[:, :, start : start + counts[i]]


def merged(parts: list[Tensor], class_major: bool, batched: bool = False) -> Tensor:
    """One tensor a class, (nz, ny, nx, n_sizes, n_rotations, columns) -> (N, columns) in the order of the result.

    With ``batched`` one number an anchor of each sample: (B, nz, ny, nx, n_sizes, n_rotations) -> (B, N).
    """
    if batched:
        return merged([part.permute(1, 2, 3, 4, 5, 0) for part in parts], class_major).T.contiguous()
    if class_major:
        return torch.cat([part.permute(3, 4, 0, 1, 2, 5).reshape(-1, part.shape[-1]) for part in parts])
    return torch.cat([part.flatten(3, 4) for part in parts], dim=3).flatten(0, 3)
