"""Comparing classification losses: one small model trained and evaluated once per loss recipe and seed, and what came
out of it.

Each run is a process of one thread (``python -m pcdet_focal.engine.compare``), so that runs beside each other do not
compete for cores and a run that fails takes none of the others with it. A run ends by writing
``<out>/<recipe>/seed_<n>/result.json``; where that is there, it is not run again.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import losses
from ..config import Config, merge_new_config
from ..datasets import build_dataloader
from ..errors import InputError
from ..models import build_network, model_fn_decorator
from . import cli, evaluate
from .checkpoint import atomic_write
from .memory import disable_malloc_trim
from .optimization import build_optimizer, build_scheduler
from .run_log import create_logger, set_random_seed
from .train import Trainer

RECIPES = Path(__file__).resolve().parents[2] / "cfgs" / "loss_recipes"
SHARE, EASY = "easy_negative_share", 0.1  # the logged value; below which probability a negative is easy
_INTERVAL = 25  # iterations between two measurements of the share


@dataclass(frozen=True)
class Run:
    """One recipe with one seed."""

    recipe: Path
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"{self.recipe.stem} seed {self.seed}"

    @property
    def result(self) -> Path:
        """Written at the end of the run."""
        return self.folder / "result.json"

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.folder / "log.txt"


def find_recipes(names: Sequence[str]) -> list[Path]:
    """Recipe files from their names (``focal``), their paths (``own/recipe.yaml``), or ``all`` for every file of
    cfgs/loss_recipes.

    Raises InputError for a name that is neither, and for two recipes of one name.
    """
    known = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    found: dict[str, Path] = {}
    for name in names:
        if name != "all" and name not in known and not Path(name).is_file():
            raise InputError(
                f"--recipes {name}: neither a file nor a recipe of {RECIPES}; there are {', '.join(known)} and all"
            )
        for path in known.values() if name == "all" else [known.get(name) or Path(name).resolve()]:
            if found.setdefault(path.stem, path) != path:
                raise InputError(f"--recipes: {found[path.stem]} and {path} have one name; rename one of them")
    return list(found.values())


def plan(recipes: Sequence[Path], seeds: Sequence[int], out: str | Path) -> list[Run]:
    """The runs, seed after seed: after the first round each recipe has a result."""
    return [
        Run(recipe, seed, Path(out) / recipe.stem / f"seed_{seed}")
        for seed in dict.fromkeys(seeds)
        for recipe in recipes
    ]


def with_recipe(cfg: Config, recipe: Path) -> Config:
    """A copy of ``cfg`` with the recipe in LOSS_CONFIG in place of its own CLS_LOSS.

    A gamma schedule by epochs that is longer than the training is scaled so that short runs reach its final value.
    """
    cfg = copy.deepcopy(cfg)
    loss_config = cfg.MODEL.DENSE_HEAD.LOSS_CONFIG
    loss_config.pop("CLS_LOSS", None)
    merge_new_config(loss_config, {"_BASE_CONFIG_": str(recipe)})
    loss_config.pop("_BASE_CONFIG_", None)  # where the recipe lies does not make it another one
    entry = loss_config.get("CLS_LOSS")
    schedule = entry.get("GAMMA_SCHEDULE") if isinstance(entry, Mapping) else None
    last_epoch = cfg.OPTIMIZATION.NUM_EPOCHS - 1
    if (
        schedule
        and schedule.get("BY", "epoch") == "epoch"
        and schedule.get("TO", 0) > last_epoch > schedule.get("FROM", 0)
    ):
        schedule.TO = last_epoch
    return cfg


def fingerprint(cfg: Config) -> str:
    """Tells configurations apart; two runs of one fingerprint and seed are the same run."""
    kept = {key: value for key, value in cfg.items() if key not in ("ROOT_DIR", "TAG", "EXP_GROUP_PATH", "LOCAL_RANK")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_result(run: Run, cfg: Config) -> dict[str, Any] | None:
    """A run's result, None where it has none yet. Raises InputError for that of another configuration."""
    if not run.result.is_file():
        return None
    try:
        result = json.loads(run.result.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{run.result} is damaged ({error}); delete it, and the run is done again") from error
    if result["fingerprint"] != fingerprint(with_recipe(cfg, run.recipe)):
        raise InputError(
            f"{run.result} is of another configuration than this one with {run.recipe.name}: name another --out, or "
            "delete the folder"
        )
    return result


# ---- all runs
# ----------------------------------------------------------------------------------------------------------------------


def run_all(
    runs: Sequence[Run], cfg: Config, cfg_words: Sequence[str], jobs: int, report: Callable[[str], None] = print
) -> dict[Run, str]:
    """Do the runs that have no result yet, ``jobs`` at once. When this is interrupted, finished runs stay and the
    others end.

    Args:
        cfg: the configuration that ``cfg_words`` (``--cfg_file FILE [--set KEY VALUE ...]``) stand for.
        report: called with one line a run.

    Returns:
        the runs that failed, and the last line that each wrote.
    """
    waiting = [run for run in runs if read_result(run, cfg) is None]
    report(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done before")
    running: dict[Run, tuple[subprocess.Popen, float]] = {}
    failed: dict[Run, str] = {}
    count = len(runs) - len(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < max(jobs, 1):
                run = waiting.pop(0)
                running[run] = _start(run, cfg_words), time.monotonic()
            time.sleep(0.1)
            for run, (process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[run]
                count += 1
                line = f"{count}/{len(runs)}  {run.name}"
                if process.returncode == 0 and run.result.is_file():
                    ap = [
                        f"{name} {value:.1f}"
                        for name, value in json.loads(run.result.read_text(encoding="utf-8"))["ap"].items()
                    ]
                    report(f"{line}: {', '.join(ap)}  ({time.monotonic() - started:.0f} s)")
                else:
                    failed[run] = last_line(run.log) or f"exit status {process.returncode}"
                    report(f"{line} failed: {failed[run]}  (all of it in {run.log})")
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
    return failed


def _start(run: Run, cfg_words: Sequence[str]) -> subprocess.Popen:
    run.folder.mkdir(parents=True, exist_ok=True)
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = {
        name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    }
    words = ["--recipe", str(run.recipe), "--seed", str(run.seed), "--folder", str(run.folder), *cfg_words]
    with open(run.log, "w", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # the terminal's Ctrl-C comes to us, and we end them
            env={**os.environ, **threads, "PYTHONPATH": path},
            start_new_session=True,
        )


def last_line(log: Path) -> str:
    """The last line with anything on it, progress bars passed over."""
    lines = re.split(r"[\r\n]+", log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
    return next(
        (line.strip() for line in reversed(lines) if line.strip() and "it/s]" not in line and "s/it]" not in line), ""
    )


# ---- one run
# -----------------------------------------------------------------------------------------------------------------------


def easy_negative_share(head: nn.Module) -> torch.Tensor:
    """What share of the head's classification loss its easy negatives have: background anchors all of whose
    probabilities are below 0.1.

    Reads what the head's last forward left, changes nothing. The share is that part of the loss which is gone when
    these anchors are ignored; a normaliser that counts positives is not touched by that. Gradient harmonising weighs an
    element by all others, so its own elements are added up.

    Returns:
        0-d tensor, NaN where the loss is 0.
    """
    ret, own_loss = head.forward_ret_dict, head.cls_loss_func
    labels, logits = ret["box_cls_labels"], ret["cls_preds"]
    logits = logits.detach().view(*labels.shape, -1)
    scores = losses.logits_of_softmax(logits) if getattr(own_loss, "is_softmax", False) else logits
    easy = (labels == 0) & (scores.sigmoid().amax(dim=-1) < EASY)  # (B, A)
    inner = getattr(own_loss, "loss", None)
    with torch.no_grad():
        if isinstance(inner, losses.GHMC):
            one_hot = losses.one_hot_from_labels(labels, logits.shape[-1], logits.dtype)
            each = copy.deepcopy(inner)(
                logits, one_hot, label_weight=(labels >= 0).to(logits.dtype), reduction_override="none"
            )
            return each[easy].sum() / each.sum()
        totals = []
        try:
            for kept in (labels, labels.masked_fill(easy, -1)):
                head.cls_loss_func = copy.deepcopy(own_loss)  # its running counts must not see this
                head.forward_ret_dict = {**ret, "box_cls_labels": kept}
                totals.append(type(head).get_cls_layer_loss(head)[0])
        finally:
            head.cls_loss_func, head.forward_ret_dict = own_loss, ret
    return 1 - totals[1] / totals[0]


def watch_easy_negatives(head: nn.Module, interval: int = _INTERVAL) -> None:
    """Let ``head`` log ``easy_negative_share`` in its first training step and then in every ``interval``-th."""
    own, steps = head.get_cls_layer_loss, 0

    def get_cls_layer_loss():
        nonlocal steps
        steps += 1
        loss, logged = own()
        if steps == 1 or steps % interval == 0:
            logged = {**logged, SHARE: easy_negative_share(head)}
        return loss, logged

    head.get_cls_layer_loss = get_cls_layer_loss


class _Shares:
    """The trainer's scalar log: keeps (iteration, share) and nothing else."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def add(self, values: dict, iteration: int) -> None:
        """``values``: name -> number or 0-d tensor."""
        if f"train/{SHARE}" in values:
            self.points.append((iteration, float(values[f"train/{SHARE}"])))


def train_one(cfg: Config, run: Run) -> dict[str, Any]:
    """Train and evaluate one run on the CPU, write its result.json and return it: ap {class: 3-D AP_R40 moderate},
    figures, shares, seconds.
    """
    disable_malloc_trim()
    started = time.monotonic()
    cfg = with_recipe(cfg, run.recipe)
    evaluate.check_settings(cfg)
    made_of = fingerprint(cfg)
    set_random_seed(run.seed)
    logger = create_logger()  # what it prints is in the run's log
    epochs = cfg.OPTIMIZATION.NUM_EPOCHS
    loader_args = dict(
        class_names=cfg.CLASS_NAMES,
        batch_size=cfg.OPTIMIZATION.BATCH_SIZE_PER_GPU,
        dist=False,
        workers=0,
        logger=logger,
    )
    train_set, train_loader, sampler = build_dataloader(cfg.DATA_CONFIG, training=True, seed=run.seed, **loader_args)
    _, test_loader, _ = build_dataloader(cfg.DATA_CONFIG, training=False, **loader_args)
    model = build_network(model_cfg=cfg.MODEL, num_class=len(cfg.CLASS_NAMES), dataset=train_set)
    optimizer = build_optimizer(model, cfg.OPTIMIZATION)
    scheduler, warmup = build_scheduler(optimizer, len(train_loader), epochs, last_epoch=-1, optim_cfg=cfg.OPTIMIZATION)
    watch_easy_negatives(model.dense_head)
    shares = _Shares()
    trainer = Trainer(
        model,
        optimizer,
        scheduler,
        train_loader,
        sampler,
        model_fn_decorator(),
        cfg.OPTIMIZATION,
        epochs,
        run.folder,
        logger,
        lr_warmup_scheduler=warmup,
        scalar_log=shares,
        log_interval=_INTERVAL,
        ckpt_save_interval=max(epochs, 1),
        max_ckpt_save_num=1,
        save_seconds=float("inf"),
    )
    trainer.train()
    figures = evaluate.eval_one_epoch(cfg, model, test_loader, epochs, logger, run.folder / "eval")
    result = {
        "recipe": run.recipe.stem,
        "seed": run.seed,
        "fingerprint": made_of,
        "seconds": round(time.monotonic() - started, 1),
        "epochs": epochs,
        "iterations": trainer.iteration,
        "training_frames": len(train_set),
        "test_frames": len(test_loader.dataset),
        "ap": {name: figures[f"{name}_3d/moderate_R40"] for name in cfg.CLASS_NAMES},
        "figures": {key: float(value) for key, value in figures.items()},
        SHARE: shares.points,
    }
    with atomic_write(run.result) as part:
        part.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def main(argv: list[str] | None = None) -> None:
    """One run, in a process of its own."""
    parser = argparse.ArgumentParser(description="One run of tools/compare_losses.py.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--seed", type=cli.whole_number, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    cli.add_config_arguments(parser)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    train_one(cli.load_config(args), Run(args.recipe, args.seed, args.folder))


# ---- what came out
# -----------------------------------------------------------------------------------------------------------------


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


if __name__ == "__main__":
    cli.run_main(main)
