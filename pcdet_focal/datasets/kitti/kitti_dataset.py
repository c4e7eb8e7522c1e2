"""OpenPCDet's name for :class:`KittiDataset`, and the command that prepares a KITTI folder for training::

    python -m pcdet_focal.datasets.kitti.kitti_dataset create_kitti_infos cfgs/dataset_configs/kitti_dataset.yaml

The configuration is that of a data set or of a model. The files go into the KITTI folder itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ...errors import InputError
from ..paths import data_path_candidates
from .create import create_kitti_infos
from .dataset import KittiDataset
from .reader import find_root

__all__ = ["KittiDataset", "create_kitti_infos"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for a mistake that the user can mend."""
    from ...config import Config, cfg_from_yaml_file

    parser = argparse.ArgumentParser(
        prog="python -m pcdet_focal.datasets.kitti.kitti_dataset", description="Prepare a KITTI folder for training."
    )
    parser.add_argument("command", choices=["create_kitti_infos"])
    parser.add_argument(
        "cfg_file", help="YAML file of a data set (cfgs/dataset_configs/kitti_dataset.yaml) or of a model"
    )
    parser.add_argument("--data_path", help="the KITTI folder, instead of DATA_PATH in the file")
    parser.add_argument("--workers", type=int, default=4, help="threads (default %(default)s)")
    options = parser.parse_args(arguments)
    try:
        config = cfg_from_yaml_file(options.cfg_file, Config())
        dataset_cfg = config.get("DATA_CONFIG", config)
        data_path = find_root(data_path_candidates(options.data_path or dataset_cfg.DATA_PATH))
        class_names = config.get("CLASS_NAMES", ["Car", "Pedestrian", "Cyclist"])
        counts = create_kitti_infos(dataset_cfg, class_names, data_path, data_path, workers=options.workers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {data_path}:")
    for name, count in counts.items():
        print(f"  {name}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
