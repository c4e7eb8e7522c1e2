"""A page of boxes with the points around them, each from above and from the side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import DETECTION, FAINT, GROUND_TRUTH, INK, new_figure, save_figure
from .inputs import as_points, footprints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3  # boxes side by side
# inches: of a box, of the square of its view from above, above all
_CELL_WIDTH, _CELL_HEIGHT, _SIDE, _HEAD = 3.0, 5.25, 2.6, 0.35
_AROUND = 2.0  # metres shown around a box
_LEGEND = (
    "solid: as labelled, the tick is at the front; dashed: as it should probably be. Each box from above, below that "
    "from the side"
)


def draw_box_page(entries: Sequence[tuple[str, Any, Any]], path: str | Path | None = None) -> Figure:
    """Draw boxes one by one: from above, and below that from the side, along the box; around the corrected box where
    there is one.

    The labelled box is green and solid, with a tick at its front; where a corrected one is given it is red and dashed.

    Args:
        entries: (title, points (N, 3 or more), example), the example with ``frame_id``, ``name``, ``box`` (7,) and
            ``corrected`` (7,) or None
        path: where to save it; None saves nothing

    Raises:
        InputError: points of a wrong shape, or a path that cannot be written
        ImportError: matplotlib is not installed
    """
    rows = -(-len(entries) // _COLUMNS)
    width, height = _COLUMNS * _CELL_WIDTH, rows * _CELL_HEIGHT + _HEAD
    figure = new_figure(width, height, 100)
    figure.text(0.5, 1 - 0.2 / height, _LEGEND, fontsize=8, color=INK, ha="center")
    for index, (title, points, example) in enumerate(entries):
        # placed by hand, in inches: matplotlib's layout engines take seconds
        left, top = index % _COLUMNS * _CELL_WIDTH + 0.35, height - _HEAD - index // _COLUMNS * _CELL_HEIGHT
        above = figure.add_axes((left / width, (top - 0.4 - _SIDE) / height, _SIDE / width, _SIDE / height))
        side = figure.add_axes((left / width, (top - 0.85 - 1.5 * _SIDE) / height, _SIDE / width, 0.5 * _SIDE / height))
        boxes = [np.asarray(box, dtype=np.float64)[:7] for box in (example.box, example.corrected) if box is not None]
        points = as_points(points)
        shown = boxes[-1]  # the labelled box may be far from anything
        near = points[
            np.hypot(points[:, 0] - shown[0], points[:, 1] - shown[1]) < np.hypot(*shown[3:5]) + 3 * _AROUND, :3
        ]
        _draw_above(above, near, boxes, shown)
        _draw_side(side, near, boxes, shown)
        above.set_title(f"{title}\n{example.name} in {example.frame_id}", fontsize=8, color=INK, loc="left")
    if path is not None:
        save_figure(figure, path)
    return figure


def _styles(boxes: Sequence[np.ndarray]) -> zip:
    return zip(boxes, (GROUND_TRUTH, DETECTION), ("-", "--"))


def _draw_above(axes: Axes, points: np.ndarray, boxes: Sequence[np.ndarray], shown: np.ndarray) -> None:
    _dots(axes, points[:, 0], points[:, 1], points[:, 2], shown)
    for box, colour, line in _styles(boxes):
        corners = footprints(box[None])[0]
        front = corners[:2].mean(axis=0)
        axes.plot(*np.concatenate([corners, corners[:1]]).T, color=colour, linestyle=line, linewidth=1.4)
        tip = front + 0.6 * np.array([np.cos(box[6]), np.sin(box[6])])
        axes.plot([box[0], tip[0]], [box[1], tip[1]], color=colour, linestyle=line, linewidth=1.4)
    reach = np.hypot(*shown[3:5]) / 2 + _AROUND
    _frame(axes, (shown[0] - reach, shown[0] + reach), (shown[1] - reach, shown[1] + reach), "x [m], y [m]")


def _draw_side(axes: Axes, points: np.ndarray, boxes: Sequence[np.ndarray], box: np.ndarray) -> None:
    """Along the axis of the shown ``box``, the front to the right; only points within its width and half a metre."""
    cos, sin = np.cos(box[6]), np.sin(box[6])

    def along(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x - box[0]) * cos + (y - box[1]) * sin

    across = (points[:, 1] - box[1]) * cos - (points[:, 0] - box[0]) * sin
    near = points[np.abs(across) < box[4] / 2 + 0.5]
    _dots(axes, along(near[:, 0], near[:, 1]), near[:, 2], near[:, 2], box)
    for other, colour, line in _styles(boxes):
        places = along(*footprints(other[None])[0].T)
        low, high = other[2] - other[5] / 2, other[2] + other[5] / 2
        left, right = places.min(), places.max()
        axes.plot(
            [left, right, right, left, left], [low, low, high, high, low], color=colour, linestyle=line, linewidth=1.4
        )
    reach = np.hypot(*box[3:5]) / 2 + _AROUND
    _frame(axes, (-reach, reach), (box[2] - 0.5 * reach, box[2] + 0.5 * reach), "along the box [m], z [m]")


def _dots(axes: Axes, x: np.ndarray, y: np.ndarray, z: np.ndarray, box: np.ndarray) -> None:
    axes.scatter(
        x, y, c=z, s=2.0, cmap="viridis", vmin=box[2] - box[5], vmax=box[2] + box[5], linewidths=0, rasterized=True
    )


def _frame(axes: Axes, x: tuple[float, float], y: tuple[float, float], label: str) -> None:
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    axes.set_aspect("equal")
    axes.grid(True, color=FAINT, linewidth=0.4)
    axes.tick_params(labelsize=6, colors=INK)
    axes.set_xlabel(label, fontsize=6, color=INK)
