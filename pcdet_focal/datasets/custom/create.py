"""Preparing a folder of one's own data: info files of its splits and the object database, published only when all of
them are complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..kitti.database import write_database
from ..publish import published, save_pickle
from .dataset import CustomDataset
from .reader import LAYOUT


def create_custom_infos(
    dataset_cfg: Any, class_names: Sequence[str], data_path: str | Path, save_path: str | Path, workers: int = 4
) -> dict[str, int]:
    """Make the info files and the object database of a folder, with OpenPCDet's names and content.

    For each of the splits train, val and test that ImageSets lists: ``custom_infos_<split>.pkl`` (test has no labels
    where the first of its frames has none); and of the train split ``gt_database/*.bin`` with
    ``custom_dbinfos_train.pkl``. Nothing appears in ``save_path`` before all of it is complete.

    Args:
        dataset_cfg: the DATA_CONFIG. class_names: of the model; the files hold every class. data_path: the folder.
            save_path: where the files go; training looks for them in the folder itself. workers: threads.

    Returns {file name: frames in it, for the database objects}. Raises InputError for a folder without ImageSets and
    for any faulty file.
    """
    dataset = CustomDataset(dataset_cfg=dataset_cfg, class_names=class_names, root_path=data_path, training=False)
    splits = [
        split for split in ("train", "val", "test") if (dataset.root_path / "ImageSets" / f"{split}.txt").is_file()
    ]
    if not splits:
        raise InputError(
            f"there is neither train.txt nor val.txt nor test.txt in {dataset.root_path / 'ImageSets'}. The layout "
            f"is:\n{LAYOUT}"
        )
    counts: dict[str, int] = {}
    with published(Path(save_path)) as folder:
        for split in splits:
            dataset.set_split(split)
            first = dataset.sample_id_list[:1]
            labelled = split != "test" or not first or (dataset.root_path / "labels" / f"{first[0]}.txt").is_file()
            infos = dataset.get_infos(num_workers=workers, has_label=labelled)
            save_pickle(infos, folder / f"custom_infos_{split}.pkl")
            counts[f"custom_infos_{split}.pkl"] = len(infos)
            if split == "train":
                index = write_database(infos, dataset.get_lidar, folder / "gt_database", num_workers=workers)
                save_pickle(index, folder / "custom_dbinfos_train.pkl")
                counts.update({f"custom_dbinfos_train.pkl: {name}": len(entries) for name, entries in index.items()})
    return counts
