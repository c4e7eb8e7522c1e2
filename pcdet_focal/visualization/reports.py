"""Curves of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .canvas import FAINT, INK, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#1f6feb", "#d6336c", "#1a9850", "#e08a00", "#7b4bb3", "#0aa2a2", "#8c564b", "#5c6670")
_RATES = ("lr", "learning_rate", "learning rate")


def smooth(values: np.ndarray, span: float) -> np.ndarray:
    """Exponential moving average with the start corrected for (as Adam does it): each value weighs 1 - 1 / span of the
    next newer one.

    Args:
        values: (n,) float64; what is not finite is passed over and gives the average so far (NaN before the first
            finite value)
    """
    keep = 1.0 - 1.0 / max(span, 1.0)
    total, weight = 0.0, 0.0
    result = np.full(len(values), np.nan)
    for k, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + (1.0 - keep) * value, keep * weight + (1.0 - keep)
        if weight > 0.0:
            result[k] = total / weight
    return result


def _series(name: str, pairs: Sequence) -> tuple[np.ndarray, np.ndarray]:
    array = np.asarray([(float(step), float(value)) for step, value in pairs], dtype=np.float64).reshape(-1, 2)
    if not len(array):
        raise InputError(f"history['{name}'] is empty; it must be a list of (step, value).")
    array = array[np.argsort(array[:, 0], kind="stable")]
    return array[:, 0], array[:, 1]


def draw_training_curves(
    history: Mapping[str, Sequence], path: str | Path | None = None, title: str = "training"
) -> Figure:
    """Draws losses and the learning rate over the steps.

    Names are those of the log (``loss``, ``rpn_loss_cls``, ...; a leading ``train/`` or ``meta_data/`` is dropped).
    Each loss is drawn pale as it came and strong as a moving average; the axis is logarithmic when all values are above
    zero. ``lr`` or ``learning_rate`` gets a panel of its own below.

    Args:
        history: {name: [(step, value), ...]}
        path: where to save it (.png, .pdf, .svg ...); None saves nothing

    Raises:
        InputError: nothing to draw, or a path that cannot be written
        ImportError: matplotlib is not installed
    """
    series = {name.rsplit("/", 1)[-1]: _series(name, pairs) for name, pairs in history.items()}
    if not series:
        raise InputError("history is empty: there is no curve to draw; it must be {name: [(step, value), ...]}.")
    rates = {name: curve for name, curve in series.items() if name.lower() in _RATES}
    losses = {name: curve for name, curve in series.items() if name not in rates}
    figure = new_figure(9.0, 3.6 + (1.6 if rates and losses else 0.6), 120)
    figure.set_layout_engine("constrained")
    panels = [panel for panel in (losses, rates) if panel]
    rows = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False, height_ratios=[2.6, 1.0][: len(panels)] if len(panels) > 1 else None
    )[:, 0]
    for axes, curves in zip(rows, panels):
        finite = np.concatenate([values[np.isfinite(values)] for _, values in curves.values()])
        if curves is losses and len(finite) and finite.min() > 0:
            axes.set_yscale("log")
        for k, (name, (steps, values)) in enumerate(curves.items()):
            colour = _COLOURS[k % len(_COLOURS)] if curves is losses else INK
            if curves is rates:
                axes.plot(steps, values, color=colour, linewidth=1.6, label=name)
                continue
            many = len(values) >= 20
            if many:
                axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.25)
            shown = smooth(values, len(values) / 40.0) if many else values
            last = shown[np.isfinite(shown)]
            axes.plot(
                steps,
                shown,
                color=colour,
                linewidth=1.8,
                marker=None if many else "o",
                markersize=3.5,
                label=f"{name} (last {last[-1]:.4g})" if len(last) else f"{name} (not finite)",
            )
        axes.grid(True, which="major", color=FAINT, linewidth=0.6)
        axes.grid(True, which="minor", color=FAINT, linewidth=0.3)
        axes.tick_params(labelsize=8, colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if curves is losses:
            axes.legend(fontsize=8, framealpha=0.9, loc="upper right")
        axes.set_ylabel("loss" if curves is losses else "learning rate", fontsize=9, color=INK)
    rows[0].set_title(title, fontsize=11, color=INK, loc="left")
    rows[-1].set_xlabel("step", fontsize=9, color=INK)
    if path is not None:
        save_figure(figure, path)
    return figure
