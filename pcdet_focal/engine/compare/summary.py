"""The table of a comparison, and the curves of its losses."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ... import losses
from ...config import Config
from .runs import Run, read_result, with_recipe


def collect(runs: Sequence[Run], cfg: Config) -> dict[str, list[dict[str, Any]]]:
    """{recipe: the results of its seeds}, the recipe with the highest mean AP first; recipes without a result are left
    out.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        result = read_result(run, cfg)
        if result is not None:
            results.setdefault(run.recipe.stem, []).append(result)
    return dict(sorted(results.items(), key=lambda item: -statistics.fmean(mean_ap(result) for result in item[1])))


def mean_ap(result: Mapping[str, Any]) -> float:
    """Mean of a result's AP over the classes."""
    return statistics.fmean(result["ap"].values())


def table(results: Mapping[str, Sequence[Mapping[str, Any]]], command: str, failed: Mapping[Run, str]) -> str:
    """The comparison as Markdown: mean and, in brackets, lowest to highest over the seeds."""
    first = next(iter(results.values()))[0]
    names = list(first["ap"])
    seeds = sorted({result["seed"] for group in results.values() for result in group})
    over = f"mean over seeds {', '.join(map(str, seeds))} (lowest to highest)" if len(seeds) > 1 else f"seed {seeds[0]}"
    seconds = statistics.fmean(result["seconds"] for group in results.values() for result in group)
    lines = [
        "# Classification losses compared",
        "",
        f"3-D AP_R40, moderate: {over}. Highest mean over the classes first.",
        "",
        f"| recipe | {' | '.join(names)} | mean of the classes | runs |",
        f"|---|{'---:|' * (len(names) + 2)}",
    ]
    for recipe, group in results.items():
        columns = [[result["ap"][name] for result in group] for name in names] + [[mean_ap(result) for result in group]]
        lines.append(f"| {recipe} | {' | '.join(map(_mean_and_spread, columns))} | {len(group)} |")
    lines += [
        "",
        f"{first['epochs']} epochs of {first['training_frames']} frames ({first['iterations']} iterations), evaluated "
        "on "
        f"{first['test_frames']} frames; {seconds:.0f} s a run on one core.",
        "",
        f"Made by `{command}`",
        "",
    ]
    if failed:
        lines += ["Failed:", "", *(f"- {run.name}: {line}" for run, line in failed.items()), ""]
    return "\n".join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f}" + (f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else "")


def response_curves(cfg: Config, recipe: Path, logits: Sequence[float]) -> dict[str, dict[str, list[float]]] | None:
    """The recipe's loss of one anchor and one class, and its gradient, over the logit.

    A positive has a perfect box (IoU 1), a softmax the background's logit 0 beside it, a gamma schedule is at its end.

    Returns:
        {'positive' or 'negative': {'loss': [...], 'gradient': [...]}}, or None for a loss that depends on the whole
        batch (GHMC).
    """
    cfg = with_recipe(cfg, recipe)
    entry = cfg.MODEL.DENSE_HEAD.LOSS_CONFIG.get("CLS_LOSS") or "SigmoidFocalClassificationLoss"
    loss = losses.build_head_classification_loss(entry, f"{recipe}: CLS_LOSS", 1.0, num_class=1).eval()
    if isinstance(loss.loss, losses.GHMC):
        return None
    loss.train(loss.gamma_schedule is not None)  # only then the schedule rules
    losses.set_training_progress(loss, epoch=10**9, iteration=10**9)

    def quality(space: str) -> torch.Tensor:
        return torch.ones(label.shape)

    curves: dict[str, dict[str, list[float]]] = {}
    for kind, value in (("positive", 1), ("negative", 0)):
        label = torch.tensor([[value]])
        curve = curves[kind] = {"loss": [], "gradient": []}
        for logit in logits:
            x = torch.tensor([[[float(logit)]]], requires_grad=True)
            total = loss(x, label, quality)[0]
            (gradient,) = torch.autograd.grad(total, x)
            curve["loss"].append(float(total.detach()))
            curve["gradient"].append(float(gradient))
    return curves
