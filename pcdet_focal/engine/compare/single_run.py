"""One run: train and evaluate with one recipe and one seed, then write ``result.json``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from ...config import Config
from ...datasets import build_dataloader
from ...models import build_network, model_fn_decorator
from .. import cli, evaluate
from ..checkpoint import atomic_write
from ..memory import disable_malloc_trim
from ..optimization import build_optimizer, build_scheduler
from ..run_log import create_logger, set_random_seed
from ..train import Trainer
from .easy_negatives import INTERVAL, SHARE, Shares, watch_easy_negatives
from .runs import Run, fingerprint, with_recipe


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
    shares = Shares()
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
        log_interval=INTERVAL,
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
