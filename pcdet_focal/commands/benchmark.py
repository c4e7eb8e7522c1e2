"""Measure how fast the package is on this machine, each figure beside that of the way one would take without it.

    pcdet-focal benchmark losses                      losses, target assignment, the whole head: four minutes
    pcdet-focal benchmark ops                         overlaps, suppression, points in boxes, voxels, KITTI AP,
                                                          sparse convolution: four
    pcdet-focal benchmark data [--root data/kitti]    the training data pipeline, stage by stage: three
    pcdet-focal benchmark step [--models pointpillar] [--openpcdet CHECKOUT]
                                                          training steps and evaluated frames, stage by stage, beside
                                                          OpenPCDet's code on the CPU: ten
    pcdet-focal benchmark page                        benchmarks/README.md from all JSON files beside it

Run it on an idle machine; on a busy one --cpu_time still gives steady ratios, of one thread.
A whole run is saved to benchmarks/<suite>-<machine>.json; with --only or --quick only where --out says. GPU rows are
measured where torch sees a CUDA device.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path

import torch

from ..engine import cli
from ..engine.benchmark import SUITES, page, pipeline, results, run, step
from ..errors import InputError


def build_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in (*SUITES, "step", "data"):
        command = commands.add_parser(name, help=f"measure: {name}")
        command.add_argument(
            "--out", default=None, help="JSON file to write (default: benchmarks/<suite>-<machine>.json)"
        )
        command.add_argument(
            "--quick", action="store_true", help="tiny inputs: shows that everything runs, the figures mean nothing"
        )
        command.add_argument(
            "--cpu_time",
            action="store_true",
            help="on one thread, count the time computed, not passed: for a busy machine",
        )
        if name == "data":
            command.add_argument(
                "--root",
                default=None,
                help="KITTI folder with its infos (default: a simulated one in a temporary folder)",
            )
            command.add_argument(
                "--samples", type=cli.whole_number, default=None, help="samples to load (default: 200)"
            )
            continue
        if name == "step":
            command.add_argument("--models", nargs="+", default=None, help=f"of {', '.join(step.MODELS)}")
            command.add_argument(
                "--openpcdet", default=None, metavar="CHECKOUT", help="folder of OpenPCDet to compare with, on the CPU"
            )
        else:
            command.add_argument("--only", nargs="+", default=None, metavar="ROW", help=f"of {', '.join(SUITES[name])}")
        command.add_argument(
            "--repeats",
            type=cli.whole_number,
            default=None,
            help="rounds of every case (default: by the time they take)",
        )
        command.add_argument(
            "--threads", type=cli.whole_number, default=None, help="threads (default: torch's, one a core)"
        )
    written = commands.add_parser("page", help="write the page of all results")
    written.add_argument(
        "--out", default="benchmarks/README.md", help="page to write; the JSON files are those beside it"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    if args.command == "page":
        page.write(args.out)
        print(f"{args.out} written")
        return
    load = results.load()
    if load is not None and load > 0.5 * results.cores():
        warnings.warn(
            f"the machine is busy (load {load:.1f} on {results.cores()} cores): times say little, and ratios less "
            "than on an idle one"
        )
    if args.command == "data":
        if args.samples == 0:
            raise InputError("--samples 0: at least one sample is needed")
        rows = pipeline.run(args.root, args.samples, args.quick, args.cpu_time)
        threads, seconds, whole = 1, None, True
    else:
        if 0 in (args.repeats, args.threads):
            raise InputError("--repeats and --threads must be at least 1")
        if args.cpu_time and args.threads not in (None, 1):
            raise InputError("--cpu_time adds up the time of all threads, so it needs --threads 1")
        if args.cpu_time or args.threads is not None:
            torch.set_num_threads(args.threads or 1)
        if args.command == "step":
            measure, chosen = partial(step.run, args.models, args.openpcdet), args.models
        else:
            measure, chosen = partial(run.run_suite, args.command, args.only), args.only
        rows = measure(args.repeats, args.quick, args.cpu_time, report=lambda line: print(line, flush=True))
        threads, whole = torch.get_num_threads(), chosen is None
        seconds = results.startup() if args.command == "losses" and whole else None
    out = Path(args.out) if args.out else results.default_path(args.command) if whole and not args.quick else None
    if seconds:
        print("startup: " + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))
    if out is not None:
        content = results.new(
            args.command,
            rows,
            quick=args.quick,
            command=_command(args),
            load=load,
            threads=threads,
            clock="cpu" if args.cpu_time else "wall",
            startup=seconds,
        )
        results.write(content, out)
        print(f"{out} written; pcdet-focal benchmark page makes the page of it")


def _command(args: argparse.Namespace) -> str:
    """As the file keeps it: without paths of this machine."""
    words = [
        "pcdet-focal benchmark",
        args.command,
        *(["--quick"] if args.quick else []),
        *(["--cpu_time"] if args.cpu_time else []),
    ]
    words += ["--root KITTI"] if getattr(args, "root", None) else []
    words += ["--openpcdet CHECKOUT"] if getattr(args, "openpcdet", None) else []
    for name in ("repeats", "threads", "samples"):
        if getattr(args, name, None) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    for name in ("only", "models"):
        words += [f"--{name}", *getattr(args, name)] if getattr(args, name, None) else []
    return " ".join(words)
