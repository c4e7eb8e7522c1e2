"""What a report of a bug needs to say about the machine: versions, devices, and which backend computes what.

    pcdet-focal env

Known bad pairs of versions are named at the end.
"""

from __future__ import annotations

import argparse

from ..engine import cli
from ..env import report


def build_parser() -> argparse.ArgumentParser:
    return cli.new_parser(__doc__)


def main(argv: list[str] | None = None) -> None:
    build_parser().parse_args(argv)
    print(report())
