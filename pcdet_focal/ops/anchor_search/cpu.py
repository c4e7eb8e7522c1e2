"""The search on the CPU (numba, one thread, releases the GIL); ``reference.py`` is the definition.

On a regular grid the anchors nearest to a box are found in rings of cells around the box's own, until the next ring is
farther than what was found. The kernel for the overlap stands in ``rotated_iou.cpu``: see the note there.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..rotated_iou.cpu import most_overlapping


class _Lattice(NamedTuple):
    """Centres (nx,) and (ny,) float64; the anchors of a location (kinds, 7) with x and y 0, kinds in the order height,
    size, rotation; and how many kinds have one height."""

    xs: np.ndarray
    ys: np.ndarray
    kinds: np.ndarray
    per_height: int


_lattices: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tensor of anchors -> (its version, its lattice or None)


def search(
    anchors: Tensor, boxes: Tensor, selected: Tensor, topk: int, match_height: bool
) -> tuple[Tensor, Tensor] | None:
    """See :func:`pcdet_focal.ops.anchor_search.search_anchors`; boxes (M, 7) float64. None where the anchors are no
    grid or a box is not finite.
    """
    lattice = _lattice_of(anchors)
    box_array, rows = boxes.cpu().numpy(), np.flatnonzero(selected.cpu().numpy())
    if lattice is None or not np.isfinite(box_array[rows]).all():
        return None
    nearest = np.zeros((len(box_array), min(topk, anchors[..., 0].numel())), np.int64)
    _find_nearest(
        lattice.xs, lattice.ys, lattice.kinds, lattice.per_height, box_array, rows, nearest, np.empty(nearest.shape[1])
    )
    best = most_overlapping(
        lattice.xs,
        lattice.ys,
        lattice.kinds,
        lattice.per_height,
        box_array,
        rows,
        nearest[:, 0].copy(),
        2 if match_height else 1,
    )
    return torch.from_numpy(nearest).to(boxes.device), torch.from_numpy(best).to(boxes.device)


def _lattice_of(anchors: Tensor) -> _Lattice | None:
    """Found once for a tensor, and again when it was changed in place. None where the anchors are not at all places the
    same, or not ascending.
    """
    version = -1 if anchors.is_inference() else anchors._version
    known = _lattices.get(anchors)
    if known is None or known[0] != version:
        known = _lattices[anchors] = (version, _find_lattice(anchors.detach()[..., :7].cpu()))
    return known[1]


def _find_lattice(anchors: Tensor) -> _Lattice | None:
    xs, ys, kinds = anchors[0, 0, :, 0, 0, 0], anchors[0, :, 0, 0, 0, 1], anchors[:, 0, 0].clone()
    regular = (
        bool(anchors.isfinite().all())
        and bool((anchors[..., 0] == xs.view(1, 1, -1, 1, 1)).all())
        and bool((anchors[..., 1] == ys.view(1, -1, 1, 1, 1)).all())
        and bool((anchors[..., 2:] == kinds[:, None, None, ..., 2:]).all())
        and bool((xs.diff() > 0).all())
        and bool((ys.diff() > 0).all())
    )
    if not regular:
        return None
    kinds[..., :2] = 0
    return _Lattice(
        xs.double().numpy().copy(),
        ys.double().numpy().copy(),
        kinds.double().reshape(-1, 7).numpy(),
        kinds.shape[1] * kinds.shape[2],
    )


@numba.njit(cache=True, nogil=True)
def _nearest_index(values, value):
    index = min(max(np.searchsorted(values, value), 0), len(values) - 1)
    if index > 0 and abs(values[index - 1] - value) < abs(values[index] - value):
        return index - 1
    return index


@numba.njit(cache=True, nogil=True)
def _square_beyond(values, index, ring, value):
    """Squared distance of ``wanted`` from the nearest of the ascending ``values`` that is more than ``ring`` places
    from ``place``.
    """
    square = np.inf
    if index - ring - 1 >= 0:
        square = (values[index - ring - 1] - value) ** 2
    if index + ring + 1 < len(values):
        square = min(square, (values[index + ring + 1] - value) ** 2)
    return square


@numba.njit(cache=True, nogil=True)
def _find_nearest(xs, ys, kinds, per_height, boxes, rows, nearest, distances):
    """Indices of the nearest anchors of the boxes ``rows`` into ``nearest``; ``distances`` is scratch, (topk,)."""
    nx, ny, topk = len(xs), len(ys), len(distances)
    for m in rows:
        x, y, z = boxes[m, 0], boxes[m, 1], boxes[m, 2]
        column, row = _nearest_index(xs, x), _nearest_index(ys, y)
        closest_x, closest_y = (xs[column] - x) ** 2, (ys[row] - y) ** 2
        count = 0
        ring = 0
        while ring < max(nx, ny):
            for r in range(max(row - ring, 0), min(row + ring + 1, ny)):
                at_end = r == row - ring or r == row + ring
                for c in range(max(column - ring, 0), min(column + ring + 1, nx)):
                    if not at_end and c != column - ring and c != column + ring:
                        continue
                    in_plane = (xs[c] - x) * (xs[c] - x) + (ys[r] - y) * (ys[r] - y)
                    if count == topk and in_plane > distances[topk - 1]:
                        continue
                    for k in range(kinds.shape[0]):
                        distance = in_plane + (kinds[k, 2] - z) * (kinds[k, 2] - z)
                        index = ((k // per_height * ny + r) * nx + c) * per_height + k % per_height
                        last = topk - 1
                        if count == topk and (
                            distance > distances[last] or (distance == distances[last] and index > nearest[m, last])
                        ):
                            continue
                        slot = count if count < topk else last
                        while slot > 0 and (
                            distance < distances[slot - 1]
                            or (distance == distances[slot - 1] and index < nearest[m, slot - 1])
                        ):
                            distances[slot], nearest[m, slot] = distances[slot - 1], nearest[m, slot - 1]
                            slot -= 1
                        distances[slot], nearest[m, slot] = distance, index
                        count = min(count + 1, topk)
            beyond = min(_square_beyond(xs, column, ring, x) + closest_y, closest_x + _square_beyond(ys, row, ring, y))
            if count == topk and beyond > distances[topk - 1]:
                break
            ring += 1
