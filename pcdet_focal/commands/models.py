"""List the trained weights that can be used by name.

    pcdet-focal models
    pcdet-focal demo --ckpt pointpillars.kitti.openpcdet --data_path scan.bin

They are OpenPCDet's, published on the Hugging Face hub by torch-pointcloud, and are fetched on first use. The figures
are those of the source.
"""

from __future__ import annotations

import argparse

from ..engine import cli
from ..hub import HUB_MODELS


def build_parser() -> argparse.ArgumentParser:
    return cli.new_parser(__doc__)


def main(argv: list[str] | None = None) -> None:
    build_parser().parse_args(argv)
    rows = [("name", "configuration", "data", "licence", "figures of the source")]
    rows += [(name, m.config, m.dataset, m.licence, m.figures) for name, m in HUB_MODELS.items()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
