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
    width = max(map(len, HUB_MODELS))
    print(f"{'name':{width}}  {'configuration':40}{'data':10}{'licence':12}figures of the source")
    for name, model in HUB_MODELS.items():
        print(f"{name:{width}}  {model.config:40}{model.dataset:10}{model.licence:12}{model.figures}")
