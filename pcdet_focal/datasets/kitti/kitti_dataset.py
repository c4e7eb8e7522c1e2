"""OpenPCDet's name for :class:`KittiDataset`, and the command that prepares a KITTI folder for training::

    python -m pcdet_focal.datasets.kitti.kitti_dataset create_kitti_infos cfgs/dataset_configs/kitti_dataset.yaml

The configuration is that of a data set or of a model. The files go into the KITTI folder itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..prepare import Preparation, prepare_command
from .create import create_kitti_infos
from .dataset import KittiDataset
from .reader import find_root

__all__ = ["KittiDataset", "create_kitti_infos"]


PREPARATION = Preparation(
    module="pcdet_focal.datasets.kitti.kitti_dataset",
    command="create_kitti_infos",
    find_root=find_root,
    default_classes=lambda _: ["Car", "Pedestrian", "Cyclist"],
    create=create_kitti_infos,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for a mistake that the user can mend."""
    return prepare_command(PREPARATION, arguments)


if __name__ == "__main__":
    sys.exit(main())
