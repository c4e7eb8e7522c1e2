"""2-D detection, for no head of this package: assignment of objects to cells and anchors of a grid."""

from __future__ import annotations

from typing import NamedTuple

import torch

NEIGHBOUR_BIAS = 0.5  # g: an object also trains the next cell on the side where its centre is within half a cell


class GridCandidates(NamedTuple):
    """R rows, one for every way to assign an object to a cell and an anchor of one grid; ``used`` says which of them
    count.
    """

    used: torch.Tensor  # (R,) bool
    image: torch.Tensor  # (R,) int64
    anchor: torch.Tensor  # (R,) int64, index of the anchor
    row: torch.Tensor  # (R,) int64, cell along y, inside the grid
    column: torch.Tensor  # (R,) int64, cell along x, inside the grid
    # (R, 4) x and y relative to the cell's corner, w and h, all in cells; an ordinary box where not used
    box: torch.Tensor
    category: torch.Tensor  # (R,) int64, class


def grid_candidates(
    targets: torch.Tensor, anchors: torch.Tensor, height: int, width: int, anchor_t: float = 4.0
) -> GridCandidates:
    """All candidates of one grid. Their number depends only on that of targets and anchors: nothing waits for a device,
    and torch can compile it.

    An object of w by h cells fits an anchor of W by H cells if max(w/W, W/w, h/H, H/h) < anchor_t. It is assigned to
    the cell that holds its centre, and to the nearer one of the left and right and of the upper and lower neighbours
    (within g = 0.5 cells), where the grid has them.

    Args:
        targets: (T, 6) image, class, x, y, w, h; centre and size as fractions of the grid.
        anchors: (A, 2) width and height in cells.
        height, width: cells of the grid.
        anchor_t: largest ratio between an object's size and the anchor's.
    Returns:
        Rows ordered by neighbour (own cell, left, upper, right, lower), then by anchor, then by target: R = 5 * A * T.

    >>> # centre at (2.2, 2.7) of 4 x 4 cells, 1 x 1 cell large
    >>> targets = torch.tensor([[0.0, 2.0, 0.55, 0.675, 0.25, 0.25]])
    >>> rows = grid_candidates(targets, torch.tensor([[1.0, 1.0], [5.0, 5.0]]), 4, 4)
    >>> torch.stack([rows.anchor, rows.row, rows.column], dim=1)[rows.used].tolist()
    [[0, 2, 2], [0, 2, 1], [0, 3, 2]]
    """
    cells = targets.new_tensor([width, height])
    centre, size = targets[:, 2:4] * cells, targets[:, 4:6] * cells  # (T, 2)
    ratio = size / anchors[:, None]  # (A, T, 2)
    fits = (torch.maximum(ratio, 1 / ratio).amax(2) < anchor_t) & (size > 0).all(1)  # (A, T)
    before = (centre % 1 < NEIGHBOUR_BIAS) & (centre > 1)  # (T, 2) there is a nearer neighbour at the left, above
    after = ((cells - centre) % 1 < NEIGHBOUR_BIAS) & (cells - centre > 1)  # at the right, below
    near = torch.cat([torch.ones_like(before[:, :1]), before, after], dim=1).T  # (5, T)
    steps = targets.new_tensor([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]]) * NEIGHBOUR_BIAS
    cell = (centre - steps[:, None]).long()  # (5, T, 2)
    cell = torch.minimum(cell.clamp(min=0), (cells - 1).long())

    shape = (5, len(anchors), len(targets))
    used = (near[:, None] & fits).reshape(-1)
    box = torch.cat([centre - cell, size.expand(5, -1, -1)], dim=2)[:, None].expand(*shape, 4).reshape(-1, 4)
    column, row = (cell[:, None, :, axis].expand(shape).reshape(-1) for axis in (0, 1))
    image, category = (targets[:, i].long().expand(shape).reshape(-1) for i in (0, 1))
    anchor = torch.arange(len(anchors), device=targets.device)[:, None].expand(shape).reshape(-1)
    return GridCandidates(used, image, anchor, row, column, torch.where(used[:, None], box, 1.0), category)


def build_layer_targets(
    rows: GridCandidates, anchors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]:
    """The used candidates as YOLOv5 lists them: classes (n,), boxes (n, 4), (image, anchor, row, column) of (n,) each,
    anchor sizes (n, 2).
    """
    used = rows.used
    indices = tuple(index[used] for index in (rows.image, rows.anchor, rows.row, rows.column))
    return rows.category[used], rows.box[used], indices, anchors[rows.anchor[used]]
