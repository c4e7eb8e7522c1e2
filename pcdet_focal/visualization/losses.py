"""Pictures of classification losses: their shape over the logit, and how trainings with them went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .canvas import FAINT, INK, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOGITS = tuple(np.linspace(-6.0, 6.0, 121).tolist())
_COLOURS = (
    "#1f6feb",
    "#d6336c",
    "#1a9850",
    "#e08a00",
    "#7b4bb3",
    "#0aa2a2",
    "#8c564b",
    "#5c6670",
    "#c2a500",
    "#111111",
)


def _colours(names: Sequence[str]) -> dict[str, str]:
    """A colour a name, the same in every picture of the same names."""
    return {name: _COLOURS[k % len(_COLOURS)] for k, name in enumerate(sorted(names))}


def _widths(lines: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Line widths that let lines which lie on each other be seen: the later lies, thinner, on the earlier."""
    values = np.asarray(list(lines.values()), dtype=np.float64)
    close = 0.01 * np.ptp(values) if values.size else 0.0
    hidden_by = [
        sum(bool(np.abs(values[k] - later).max() <= close) for later in values[k + 1 :]) for k in range(len(values))
    ]
    return {name: 1.6 + 2.2 * count for name, count in zip(lines, hidden_by)}


def _tidy(axes: Axes) -> None:
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_ap(results: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path | None = None) -> Figure:
    """Average precision by recipe, a panel a class and one for their mean: a bar for the mean over the seeds, a dot a
    seed.

    Args:
        results: {recipe: [{class: AP in percent}, one a seed]}, drawn from top to bottom
        path: where to save it; None saves nothing

    Raises:
        InputError: nothing to draw, or a path that cannot be written
        ImportError: matplotlib is not installed
    """
    if not results:
        raise InputError(
            "results is empty: there is no average precision to draw; it must be {recipe: [{class: AP}, ...]}."
        )
    recipes = list(results)
    classes = list(next(iter(results.values()))[0])
    panels = {name: [[ap[name] for ap in results[recipe]] for recipe in recipes] for name in classes}
    panels["mean of the classes"] = [
        [float(np.mean(list(ap.values()))) for ap in results[recipe]] for recipe in recipes
    ]
    figure = new_figure(2.6 * len(panels) + 1.6, 0.34 * len(recipes) + 1.3, 130)
    figure.set_layout_engine("constrained")
    colours = _colours(recipes)
    rows = np.arange(len(recipes))
    for axes, (name, groups) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items()):
        means = [float(np.mean(values)) for values in groups]
        axes.barh(rows, means, height=0.62, color=[colours[recipe] for recipe in recipes], alpha=0.35)
        right = max(max(map(max, groups)), 1.0)
        for row, (values, mean, recipe) in enumerate(zip(groups, means, recipes)):
            axes.plot(values, [row] * len(values), "o", color=colours[recipe], markersize=4, clip_on=False)
            axes.annotate(
                f"{mean:.1f}",
                (max(values), row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK,
            )
        axes.set_xlim(0, 1.16 * right)
        axes.set_title(name, fontsize=10, color=INK, loc="left")
        _tidy(axes)
        axes.grid(False, axis="y")
    axes.set_yticks(rows, recipes)
    axes.invert_yaxis()
    figure.supxlabel(
        "3-D AP_R40, moderate, in percent: bar and number are the mean over the seeds, a dot is a seed",
        fontsize=8,
        color=INK,
    )
    if path is not None:
        save_figure(figure, path)
    return figure


def draw_loss_curves(
    curves: Mapping[str, Mapping | None], path: str | Path | None = None, logits: Sequence[float] = LOGITS
) -> Figure:
    """The loss of one element and its gradient over the logit, for a positive and for a negative; one line a recipe.

    Args:
        curves: {recipe: {'positive': {'loss': [...], 'gradient': [...]}, 'negative': ...}, or None for a loss that has
            no such curve}
        path: where to save it; None saves nothing

    Raises:
        InputError: nothing to draw, or a path that cannot be written
        ImportError: matplotlib is not installed
    """
    drawn = {name: curve for name, curve in curves.items() if curve is not None}
    figure = new_figure(10.5, 7.0, 120)
    from matplotlib.lines import Line2D

    figure.set_layout_engine("constrained")
    colours = _colours(list(curves))
    panels = figure.subplots(2, 2, sharex=True)
    for row, what in zip(panels, ("loss", "gradient")):
        for axes, kind in zip(row, ("positive", "negative")):
            lines = {name: curve[kind][what] for name, curve in sorted(drawn.items())}
            for (name, values), width in zip(lines.items(), _widths(lines).values()):
                axes.plot(logits, values, linewidth=width, zorder=2 + 1 / width, label=name, color=colours[name])
            axes.set_title(f"{what} of a {kind}", fontsize=10, color=INK, loc="left")
            if what == "gradient":
                axes.set_xlabel("logit", fontsize=9, color=INK)
            _tidy(axes)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    handles = [Line2D([], [], linewidth=2.5, color=handle.get_color()) for handle in handles]
    missing = [name for name in sorted(curves) if name not in drawn]
    title = f"not drawn, since it depends on the whole batch: {', '.join(missing)}" if missing else None
    if handles or title:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=5,
            fontsize=8,
            frameon=False,
            title=title,
            title_fontsize=8,
        )
    if path is not None:
        save_figure(figure, path)
    return figure


def draw_easy_negatives(
    shares: Mapping[str, Sequence[Sequence[tuple[int, float]]]], path: str | Path | None = None, threshold: float = 0.1
) -> Figure:
    """Share of the classification loss that easy negatives have over training: a line for the mean over the seeds, a
    band from lowest to highest.

    Args:
        shares: {recipe: [[(iteration, share from 0 to 1), ...], one list a seed]}
        path: where to save it; None saves nothing
        threshold: the probability below which a negative was counted as easy; only named

    Raises:
        InputError: nothing to draw, or a path that cannot be written
        ImportError: matplotlib is not installed
    """
    if not any(points for group in shares.values() for points in group):
        raise InputError(
            "shares is empty: there is no curve to draw; it must be {recipe: [[(iteration, share), ...], ...]}."
        )
    figure = new_figure(9.0, 4.8, 120)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    colours = _colours(list(shares))
    for name, group in sorted(shares.items()):
        by_iteration: dict[int, list[float]] = {}
        for points in group:
            for iteration, share in points:
                if np.isfinite(share):
                    by_iteration.setdefault(iteration, []).append(100 * share)
        steps = sorted(by_iteration)
        values = [by_iteration[step] for step in steps]
        axes.plot(
            steps,
            [float(np.mean(v)) for v in values],
            linewidth=1.7,
            marker=None if len(steps) > 3 else "o",
            label=name,
            color=colours[name],
        )
        if len(group) > 1:
            axes.fill_between(
                steps, [min(v) for v in values], [max(v) for v in values], color=colours[name], alpha=0.12, linewidth=0
            )
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.set_xlabel("iteration", fontsize=9, color=INK)
    axes.set_ylabel("share of the classification loss, %", fontsize=9, color=INK)
    axes.set_title(f"background anchors with all probabilities below {threshold:g}", fontsize=10, color=INK, loc="left")
    _tidy(axes)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    if path is not None:
        save_figure(figure, path)
    return figure
