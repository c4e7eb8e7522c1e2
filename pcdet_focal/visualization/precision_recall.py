"""Precision over recall, as the KITTI evaluation finds it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..evaluation.kitti import DIFFICULTIES, KittiResult
from .canvas import FAINT, INK, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = dict(zip(DIFFICULTIES, ("#1a9850", "#1f6feb", "#d6336c")))
_STYLES = ("-", ":", "--", "-.")  # one for each overlap set


def draw_precision_recall(
    result: KittiResult, path: str | Path | None = None, metric: str = "3d", title: str = "precision over recall"
) -> Figure:
    """Draws the curves behind the average precision: a panel for each class, a line for each difficulty and overlap
    set.

    A line stands at the 41 recall positions and ends at the last one that the detector reaches; the legend has the
    average precision (R40).

    Args:
        result: what ``evaluate_kitti`` returned
        path: where to save it (.png, .pdf, .svg ...); None saves nothing
        metric: bbox, bev, 3d, or aos where the result has it

    Raises:
        InputError: a metric that the result has not, or a path that cannot be written
        ImportError: matplotlib is not installed
    """
    classes = tuple(dict.fromkeys(result.classes))
    known = tuple(result.precision[classes[0]])
    if metric not in known:
        raise InputError(f"metric {metric!r} is not in this result; there are {', '.join(known)}.")
    figure = new_figure(0.6 + 3.9 * len(classes), 4.4, 120)
    figure.set_layout_engine("constrained")
    for axes, name in zip(figure.subplots(1, len(classes), sharey=True, squeeze=False)[0], classes):
        for style, (key, overlaps) in zip(_STYLES, result.overlap_sets.items()):
            limit = overlaps[name][0 if metric == "aos" else known.index(metric)]
            for level, difficulty in enumerate(DIFFICULTIES):
                curve = result.precision[name][metric][key][level]
                reached = np.flatnonzero(curve)
                average = result.ap[name][metric][key]["R40"][level]
                axes.plot(
                    reached / (len(curve) - 1),
                    curve[reached],
                    style,
                    color=_COLOURS[difficulty],
                    linewidth=1.8,
                    label=f"{difficulty}, overlap > {limit:.2f}: {average:.1f}",
                )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.grid(True, color=FAINT, linewidth=0.6)
        axes.tick_params(labelsize=8, colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_title(name, fontsize=10, color=INK, loc="left")
        axes.set_xlabel("recall", fontsize=9, color=INK)
        axes.legend(fontsize=7, framealpha=0.9, loc="lower left", title=f"{metric} AP R40", title_fontsize=7)
    figure.axes[0].set_ylabel("orientation similarity" if metric == "aos" else "precision", fontsize=9, color=INK)
    figure.suptitle(title, fontsize=11, color=INK)
    if path is not None:
        save_figure(figure, path)
    return figure
