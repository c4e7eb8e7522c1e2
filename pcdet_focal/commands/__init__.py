# PYTHON_ARGCOMPLETE_OK
"""The command lines: ``pcdet-focal COMMAND``, or ``python -m pcdet_focal COMMAND``.

A command is a module of this package with ``main(argv)``. It parses its arguments, calls ``engine``, and prints.
``tools/COMMAND.py`` of a checkout runs the same.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from .. import __version__
from ..errors import nearest_or_all

COMMANDS = {
    "train": "train a detector, then evaluate it",
    "test": "evaluate a checkpoint, or all checkpoints of a run",
    "demo": "find objects in scans: a table and a picture of each",
    "visualize": "draw an evaluation: scans, precision over recall, training curves",
    "create-infos": "prepare a data set for training",
    "check-dataset": "find mistakes in a data set and its configuration",
    "synthetic": "write a simulated data set in KITTI's layout",
    "compare-losses": "train one small model a loss, and compare them",
    "plot-losses": "draw losses and gradients over the logit",
    "models": "list trained weights that can be used by name",
    "convert-checkpoint": "from .pth to .safetensors and back",
    "benchmark": "measure this machine",
    "env": "versions and backends, for a report of a bug",
}

_EXAMPLE = """
a first run, on simulated data:
  pcdet-focal synthetic --root data/synthetic
  pcdet-focal create-infos dataset_configs/synthetic_dataset.yaml
  pcdet-focal train --cfg_file synthetic_models/pointpillar.yaml
  pcdet-focal demo --ckpt output/synthetic_models/pointpillar/default/ckpt/checkpoint_epoch_20.pth \\
      --data_path data/synthetic/training/velodyne/000200.bin

Configurations are files, or the names of those that come with the package. pcdet-focal COMMAND --help says more.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The console command; ends the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="pcdet-focal",
        usage="pcdet-focal [--version] [--help] COMMAND ...",
        description="LiDAR 3-D detection with OpenPCDet's names and numbers.",
        epilog="\n".join(["commands:", *(f"  {name:{width}}  {what}" for name, what in COMMANDS.items()), _EXAMPLE]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pcdet_focal {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    if "_ARGCOMPLETE" in os.environ:
        _complete(parser)
    # what follows the command is the command's
    args = parser.parse_args(words[:1])
    if args.command is None:
        parser.print_help()
        sys.exit(2)
    if args.command not in COMMANDS:
        print(f"error: there is no command {args.command}; {nearest_or_all(args.command, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"pcdet-focal {args.command}", *words[1:]]
    run(args.command)


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, which runs the command with _ARGCOMPLETE set (``eval "$(register-python-argcomplete
    pcdet-focal)"``); ends the process.
    """
    import argcomplete

    typed = os.environ.get("COMP_LINE", "").split()[1:2]
    commands = parser.add_subparsers()
    for name, what in COMMANDS.items():
        parents = [_module(name).build_parser()] if [name] == typed else []
        commands.add_parser(name, help=what, parents=parents, add_help=False)
    argcomplete.autocomplete(parser)


def _module(command: str) -> ModuleType:
    return importlib.import_module(f".{command.replace('-', '_')}", __name__)


def _spin_less() -> None:
    """Let threads of GNU's OpenMP, torch's on Linux, wait less busily for each other; before torch is imported.

    They spin at every barrier, so that beside other work a training step takes its fair share many times over
    (docs/results.md has figures). What the user has set wins.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")):
        os.environ["GOMP_SPINCOUNT"] = "10000"


def run(command: str) -> None:
    """Run a command with the words of ``sys.argv``; what its user can mend is one line and exit status 2."""
    _spin_less()
    module = _module(command)
    from ..engine import cli

    cli.run_main(module.main)
