"""Preparing a KITTI folder: info files of its splits and the object database, published only when all of them are
complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..publish import published, save_pickle
from .database import write_database
from .dataset import KittiDataset


def create_kitti_infos(
    dataset_cfg: Any, class_names: Sequence[str], data_path: str | Path, save_path: str | Path, workers: int = 4
) -> dict[str, int]:
    """Make the info files and the object database of a KITTI folder, with OpenPCDet's names and content.

    For each of the splits train, val and test that ImageSets lists: ``kitti_infos_<split>.pkl``;
    ``kitti_infos_trainval.pkl`` if there are both train and val; and of the train split ``gt_database/*.bin``,
    ``gt_database_global.npy`` and ``kitti_dbinfos_train.pkl``. Nothing appears in ``save_path`` before all of it is
    complete.

    Args:
        dataset_cfg: the DATA_CONFIG. class_names: of the model; the files hold every class. data_path: the KITTI
            folder. save_path: where the files go; training looks for them in the KITTI folder. workers: threads.

    Returns {file name: frames in it, for the database objects}. Raises InputError for a folder without ImageSets and
    for any faulty file.
    """
    dataset = KittiDataset(dataset_cfg=dataset_cfg, class_names=class_names, root_path=data_path, training=False)
    splits = [
        split for split in ("train", "val", "test") if (dataset.root_path / "ImageSets" / f"{split}.txt").is_file()
    ]
    if not splits:
        raise InputError(
            f"there is neither train.txt nor val.txt nor test.txt in {dataset.root_path / 'ImageSets'}; they list "
            "frame ids, one a line"
        )

    made: dict[str, list[dict[str, Any]]] = {}
    counts: dict[str, int] = {}
    with published(Path(save_path)) as folder:
        for split in splits:
            dataset.set_split(split)
            made[split] = dataset.get_infos(
                num_workers=workers, has_label=split != "test", count_inside_pts=split != "test"
            )
        if "train" in made and "val" in made:
            made["trainval"] = made["train"] + made["val"]
        for split, split_infos in made.items():
            save_pickle(split_infos, folder / f"kitti_infos_{split}.pkl")
            counts[f"kitti_infos_{split}.pkl"] = len(split_infos)
        if "train" in made:
            dataset.set_split("train")
            index = write_database(made["train"], dataset.get_lidar, folder / "gt_database", num_workers=workers)
            save_pickle(index, folder / "kitti_dbinfos_train.pkl")
            for name, entries in index.items():
                counts[f"kitti_dbinfos_train.pkl: {name}"] = len(entries)
    return counts
