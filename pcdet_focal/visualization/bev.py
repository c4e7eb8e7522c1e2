"""Bird's-eye pictures of a scan with ground truth and detections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import DETECTION, FAINT, GROUND_TRUTH, INK, new_figure, save_figure
from .inputs import as_array, as_boxes, as_captions, as_points, footprints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
_LONG_SIDE = 12.0  # inches of the longer side of the map
_CLEARANCE = 0.5  # metres that a caption keeps from its box


def _draw_boxes(
    axes: Axes, boxes: np.ndarray, captions: list[str], colour: str, dashed: bool, font: float, label: str
) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    corners = footprints(boxes)
    outlines = [np.concatenate([quad, quad[:1]]) for quad in corners]
    front = corners[:, :2].mean(axis=1)
    forward = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1)
    # the heading tick sticks out of the front
    ticks = [np.stack([centre, tip]) for centre, tip in zip(boxes[:, :2], front + 0.8 * forward)]
    style = (0, (4, 1.5)) if dashed else "solid"
    axes.add_collection(
        LineCollection(
            outlines, colors=colour, linewidths=1.5, linestyles=[style], zorder=4 if dashed else 3, label=label
        )
    )
    axes.add_collection(LineCollection(ticks, colors=colour, linewidths=1.5, zorder=4 if dashed else 3))
    halo = [withStroke(linewidth=2.0, foreground="white")]
    for quad, caption in zip(corners, captions):
        if not caption:
            continue
        # truth above its box, detections below theirs
        y = quad[:, 1].min() - _CLEARANCE if dashed else quad[:, 1].max() + _CLEARANCE
        axes.text(
            quad[:, 0].mean(),
            y,
            caption,
            color=colour,
            fontsize=font,
            ha="center",
            va="top" if dashed else "bottom",
            path_effects=halo,
            clip_on=True,
            zorder=5,
        )


def _view(points: np.ndarray, boxes: np.ndarray, point_cloud_range: Any) -> tuple[float, float, float, float]:
    """x and y limits in metres: the range where one is given, else what holds the points and boxes."""
    if point_cloud_range is not None:
        limits = as_array(point_cloud_range).astype(np.float64)
        return float(limits[0]), float(limits[3]), float(limits[1]), float(limits[4])
    places = np.concatenate([points[:, :2], footprints(boxes).reshape(-1, 2)])
    if not len(places):
        return 0.0, 70.0, -40.0, 40.0
    low, high = places.min(axis=0) - 2.0, places.max(axis=0) + 2.0
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def draw_bev(
    points: Any,
    gt_boxes: Any = None,
    gt_names: Any = None,
    pred_boxes: Any = None,
    pred_scores: Any = None,
    pred_names: Any = None,
    point_cloud_range: Any = None,
    title: str = "",
    path: str | Path | None = None,
) -> Figure:
    """Draws a scan from above, ahead (x) to the right and left (y) up, in metres of the LiDAR frame.

    Points are coloured by height. Ground truth is drawn with solid lines, detections with dashed ones; a tick leaves
    each box at its front.

    Args:
        points: (N, 3 or more) x, y, z, ...; rows that are not finite are left out
        gt_boxes, pred_boxes: (n, 7 or more) x, y, z, dx, dy, dz, heading; rows of zero size (padding) are not drawn
        gt_names, pred_names: one a box, texts or class numbers; ``pred_scores`` one a box
        point_cloud_range: (6,) x, y, z lowest then highest: the part to show; None shows everything
        path: where to save it (.png, .pdf, .svg ...); None saves nothing

    Returns:
        the matplotlib figure; the picture is 120 dots an inch

    Raises:
        InputError: arrays of a wrong shape or length, a path that cannot be written
        ImportError: matplotlib is not installed
    """
    points = as_points(points)
    gt_all, pred_all = as_boxes(gt_boxes, "gt_boxes"), as_boxes(pred_boxes, "pred_boxes")
    gt_captions = as_captions(gt_names, None, len(gt_all), "gt_names")
    pred_captions = as_captions(pred_names, pred_scores, len(pred_all), "pred_names or pred_scores")
    left, right, bottom, top = _view(points, np.concatenate([gt_all, pred_all]), point_cloud_range)

    scale = _LONG_SIDE / max(right - left, top - bottom)
    width, height = max((right - left) * scale, 4.0), max((top - bottom) * scale, 3.0)
    figure = new_figure(width + 1.6, height + 1.1, DPI)
    axes = figure.add_axes(
        (0.65 / (width + 1.6), 0.55 / (height + 1.1), width / (width + 1.6), height / (height + 1.1))
    )
    bar = figure.add_axes(
        ((width + 0.80) / (width + 1.6), 0.55 / (height + 1.1), 0.16 / (width + 1.6), 0.5 * height / (height + 1.1))
    )

    inside = points[(points[:, 0] >= left) & (points[:, 0] <= right) & (points[:, 1] >= bottom) & (points[:, 1] <= top)]
    low, high = np.percentile(inside[:, 2], [1, 99]) if len(inside) else (-2.0, 1.0)
    order = np.argsort(inside[:, 2], kind="stable")  # what is high is seen from above
    from matplotlib.colors import LinearSegmentedColormap

    # pale ground, dark tops
    heights = LinearSegmentedColormap.from_list("height", ["#b4bac4", "#7fa8d3", "#3b78b5", "#20457c", "#1c1440"])
    dots = axes.scatter(
        inside[order, 0],
        inside[order, 1],
        c=inside[order, 2],
        s=2.2,
        cmap=heights,
        vmin=low,
        vmax=max(high, low + 0.1),
        linewidths=0,
        rasterized=True,
        zorder=2,
    )
    figure.colorbar(dots, cax=bar).set_label("height z [m]", fontsize=8, color=INK)
    bar.tick_params(labelsize=7)

    font = float(np.clip(36.0 * scale, 4.0, 7.5))  # smaller where much street is shown
    for boxes, captions, colour, dashed, what in (
        (gt_all, gt_captions, GROUND_TRUTH, False, "ground truth"),
        (pred_all, pred_captions, DETECTION, True, "detections"),
    ):
        real = (boxes[:, 3:6] > 0).all(axis=1)
        shown = real & (boxes[:, 0] >= left) & (boxes[:, 0] <= right) & (boxes[:, 1] >= bottom) & (boxes[:, 1] <= top)
        if (gt_boxes, pred_boxes)[dashed] is not None:
            _draw_boxes(
                axes,
                boxes[shown],
                [caption for caption, keep in zip(captions, shown) if keep],
                colour,
                dashed,
                font,
                f"{what} ({int(shown.sum())})",
            )
    if left <= 0.0 <= right and bottom <= 0.0 <= top:
        axes.plot([0.0], [0.0], marker=">", color=INK, markersize=7, linestyle="none", label="sensor", zorder=6)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.set_xlabel("x ahead [m]", fontsize=9, color=INK)
    axes.set_ylabel("y left [m]", fontsize=9, color=INK)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.grid(True, color=FAINT, linewidth=0.5, zorder=0)
    axes.tick_params(labelsize=8, colors=INK)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, loc="upper right", fontsize=8, framealpha=0.9)
    if path is not None:
        save_figure(figure, path)
    return figure
