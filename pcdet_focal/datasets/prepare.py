"""Preparing a data set for training: ``pcdet-focal create-infos``, and OpenPCDet's command of each data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .paths import data_path_candidates


@dataclass(frozen=True)
class Preparation:
    """How one data set is prepared.

    Attributes:
        module, command: of OpenPCDet's command line, ``python -m MODULE COMMAND CFG_FILE``.
        find_root: the folder of the data among candidates; InputError without one.
        default_classes: the classes where the configuration has no CLASS_NAMES.
        create: (dataset_cfg, class_names, data_path, save_path, workers=) -> {file written: number of entries}.
    """

    module: str
    command: str
    find_root: Callable[[Sequence[Path]], Path]
    default_classes: Callable[[Any], Sequence[str]]
    create: Callable[..., dict[str, int]]


def add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that prepares data."""
    parser.add_argument("cfg_file", help="YAML file of a data set (as in cfgs/dataset_configs) or of a model")
    parser.add_argument("--data_path", help="the folder of the data, instead of DATA_PATH in the file")
    parser.add_argument("--workers", type=int, default=4, help="threads (default %(default)s)")


def prepare(preparation: Preparation, config: Any, options: argparse.Namespace) -> None:
    """Make infos and database, and print what was written. Raises InputError."""
    dataset_cfg = config.get("DATA_CONFIG", config)
    data_path = preparation.find_root(data_path_candidates(options.data_path or dataset_cfg.DATA_PATH))
    class_names = config.get("CLASS_NAMES", None) or preparation.default_classes(dataset_cfg)
    counts = preparation.create(dataset_cfg, class_names, data_path, data_path, workers=options.workers)
    print(f"written to {data_path}:")
    for name, count in counts.items():
        print(f"  {name}: {count}")


def prepare_command(preparation: Preparation, arguments: Sequence[str] | None) -> int:
    """OpenPCDet's command line of a data set; returns the exit status: 0, or 2 for a user's mistake."""
    from ..config import Config, cfg_from_yaml_file

    parser = argparse.ArgumentParser(
        prog=f"python -m {preparation.module}", description="Prepare a data set for training."
    )
    parser.add_argument("command", choices=[preparation.command])
    add_prepare_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        prepare(preparation, cfg_from_yaml_file(options.cfg_file, Config()), options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
