"""Compare classification losses: train one small model per loss recipe and seed, then write a table and pictures.

    pcdet-focal synthetic --root data/synthetic --num_train 200 --num_val 50
    pcdet-focal compare-losses --cfg_file synthetic_models/pointpillar_compare.yaml --recipes all \\
        --seeds 0 1 --jobs 2
    pcdet-focal compare-losses --cfg_file synthetic_models/pointpillar_compare.yaml \\
        --recipes focal cross_entropy own/recipe.yaml

Each run is a process of one thread; its log and result.json are in
<out>/<recipe>/seed_<n>. Re-running computes only the missing results. <out> gets table.md, ap.png, loss_curves.png and
easy_negatives.png.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from ..engine import cli, compare
from ..engine.checkpoint import atomic_write
from ..errors import InputError
from ..visualization import losses as pictures


def build_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument(
        "--recipes", nargs="+", default=["all"], help="names in cfgs/loss_recipes, YAML files, or all (default)"
    )
    parser.add_argument("--seeds", nargs="+", type=cli.whole_number, default=[0], help="one run each")
    parser.add_argument(
        "--jobs",
        type=cli.whole_number,
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        help="runs at once (default: one a core)",
    )
    parser.add_argument("--out", default="output/compare_losses", help="folder for everything")
    cli.add_config_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    cfg = cli.load_config(args)
    recipes, out = compare.find_recipes(args.recipes), Path(args.out)
    # a recipe's mistakes show before training
    curves = {recipe.stem: compare.response_curves(cfg, recipe, pictures.LOGITS) for recipe in recipes}
    runs = compare.plan(recipes, args.seeds, out)
    words = [
        "--cfg_file",
        args.cfg_file,
        *(word for name in args.imports for word in ("--import", name)),
        *(["--set", *args.set_cfgs] if args.set_cfgs else []),
    ]
    failed = compare.run_all(runs, cfg, words, args.jobs, report=lambda line: print(line, flush=True))

    results = compare.collect(runs, cfg)
    if results:
        command = shlex.join(["pcdet-focal", "compare-losses", *(sys.argv[1:] if argv is None else argv)])
        text = compare.table(results, command, failed)
        with atomic_write(out / "table.md") as part:
            part.write_text(text, encoding="utf-8")
        print(f"\n{text}")
        pictures.draw_ap({name: [result["ap"] for result in group] for name, group in results.items()}, out / "ap.png")
        shares = {name: [result[compare.SHARE] for result in group] for name, group in results.items()}
        pictures.draw_easy_negatives(shares, out / "easy_negatives.png", compare.EASY)
    pictures.draw_loss_curves(curves, out / "loss_curves.png")
    print(f"everything is in {out}")
    if failed:
        names = ", ".join(run.name for run in failed)
        raise InputError(
            f"{len(failed)} of {len(runs)} runs failed: {names}; started again, this command tries them again"
        )
