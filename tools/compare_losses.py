"""Compare classification losses: train one small model per loss recipe and seed, then write a table and pictures.

    python -m pcdet_focal.datasets.synthetic --root data/synthetic --num_train 200 --num_val 50
    python tools/compare_losses.py --cfg_file cfgs/synthetic_models/pointpillar_compare.yaml --recipes all \\
        --seeds 0 1 --jobs 2
    python tools/compare_losses.py --cfg_file cfgs/synthetic_models/pointpillar_compare.yaml \\
        --recipes focal cross_entropy own/recipe.yaml

Run it from the repository's root. Each run is a process of one thread; its log and result.json are in
<out>/<recipe>/seed_<n>. Re-running computes only the missing results. <out> gets table.md, ap.png, loss_curves.png and
easy_negatives.png.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import _init_path  # noqa: F401

from pcdet_focal.engine import cli, compare
from pcdet_focal.engine.checkpoint import atomic_write
from pcdet_focal.errors import InputError
from pcdet_focal.visualization import losses as pictures


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
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
        command = shlex.join(["python", "tools/compare_losses.py", *(sys.argv[1:] if argv is None else argv)])
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


if __name__ == "__main__":
    cli.run_main(main)
