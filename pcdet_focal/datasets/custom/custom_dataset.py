"""OpenPCDet's name for :class:`CustomDataset`, and the command that prepares a folder for training::

    python -m pcdet_focal.datasets.custom.custom_dataset create_custom_infos cfgs/dataset_configs/custom_dataset.yaml

The configuration is that of a data set or of a model. The files go into the folder itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..prepare import Preparation, prepare_command
from .create import create_custom_infos
from .dataset import CustomDataset
from .reader import find_root

__all__ = ["CustomDataset", "create_custom_infos"]


PREPARATION = Preparation(
    module="pcdet_focal.datasets.custom.custom_dataset",
    command="create_custom_infos",
    find_root=find_root,
    default_classes=lambda dataset_cfg: list(dataset_cfg.MAP_CLASS_TO_KITTI),
    create=create_custom_infos,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for a mistake that the user can mend."""
    return prepare_command(PREPARATION, arguments)


if __name__ == "__main__":
    sys.exit(main())
