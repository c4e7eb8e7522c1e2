"""Prepare a data set for training: a file of its frames for each split, and the database of objects to paste.

    pcdet-focal create-infos dataset_configs/kitti_dataset.yaml
    pcdet-focal create-infos my_model.yaml --data_path /data/kitti --workers 8

The configuration is that of a data set or of a model; DATASET in it says whose. The files go into the folder of the
data (DATA_PATH) itself.
"""

from __future__ import annotations

import argparse

from ..config import Config, cfg_from_yaml_file
from ..datasets.custom import custom_dataset
from ..datasets.kitti import kitti_dataset
from ..datasets.prepare import add_prepare_arguments, prepare
from ..engine import cli
from ..errors import InputError

_PREPARATIONS = {"KittiDataset": kitti_dataset.PREPARATION, "CustomDataset": custom_dataset.PREPARATION}


def build_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    add_prepare_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    config = cfg_from_yaml_file(args.cfg_file, Config())
    name = config.get("DATA_CONFIG", config).DATASET
    if name not in _PREPARATIONS:
        raise InputError(f"{args.cfg_file}: DATASET {name} is not prepared here; {' and '.join(_PREPARATIONS)} are")
    prepare(_PREPARATIONS[name], config, args)
