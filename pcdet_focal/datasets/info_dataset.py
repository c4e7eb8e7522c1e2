"""What data sets with info files share: one info a frame, made ahead by a command line of the data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..safe_pickle import load_pickle
from .dataset import DatasetTemplate
from .image_sets import read_split
from .info_files import load_infos, no_infos
from .kitti import database
from .parallel_map import parallel_map
from .paths import data_path_candidates
from .publish import published, save_pickle


class InfoDataset(DatasetTemplate):
    """Base of the data sets whose frames are listed in info files (pickled lists of dicts, one a frame).

    A subclass gives the four class attributes, ``get_lidar``, ``get_info``, ``__getitem__`` and ``evaluation``. Every
    info has ``info["point_cloud"]["lidar_idx"]``, the id of its frame.

    Attributes:
        infos: one info a frame, in the order of the samples.
        split, sample_id_list: the split that ``set_split`` chose, and the ids in ImageSets/<split>.txt (None without
            that file).

    Raises:
        InputError: the folder is missing. Missing info files are reported when something needs them (``why_empty``),
            because making them needs the data set.
    """

    dataset_name: str  # in log lines
    how_to_make_infos: str  # the command
    dbinfos_name: str  # <dbinfos_name>_<split>.pkl lists the objects of the database
    find_root: Callable[[Sequence[Path]], Path]  # the folder among the candidates; InputError without one

    def __init__(
        self,
        dataset_cfg: Any,
        class_names: Sequence[str],
        training: bool = True,
        root_path: str | Path | None = None,
        logger: Any = None,
    ) -> None:
        # First, because the steps of the configuration also look for files in this folder.
        root_path = self.find_root(
            [Path(root_path)] if root_path is not None else data_path_candidates(dataset_cfg.DATA_PATH)
        )
        super().__init__(
            dataset_cfg=dataset_cfg, class_names=class_names, training=training, root_path=root_path, logger=logger
        )
        self.set_split(dataset_cfg.DATA_SPLIT[self.mode])
        self.infos: list[dict[str, Any]] = []
        self.include_infos(self.mode)

    def include_infos(self, mode: str) -> None:
        """Append the infos of the files in ``INFO_PATH[mode]``; files that do not exist are left out."""
        infos = load_infos(self.root_path, self.dataset_cfg.INFO_PATH[mode], self.how_to_make_infos, self.logger)
        self.infos.extend(infos)
        if self.logger is not None:
            self.logger.info(f"Total samples for {self.dataset_name} dataset: {len(infos)}")

    def why_empty(self) -> str:
        return no_infos(self.root_path, self.dataset_cfg.INFO_PATH[self.mode], self.mode, self.how_to_make_infos)

    def set_split(self, split: str) -> None:
        """Read from here on the frames of ImageSets/<split>.txt."""
        self.split = split
        split_file = self.root_path / "ImageSets" / f"{split}.txt"
        self.sample_id_list = read_split(split_file) if split_file.exists() else None

    def get_lidar(self, idx: str) -> np.ndarray:
        """The scan of a frame, float32 (N, columns)."""
        raise NotImplementedError

    def get_info(self, frame_id: str, **options: Any) -> dict[str, Any]:
        """The info of a frame, from its files."""
        raise NotImplementedError

    def read_infos(self, num_workers: int, sample_id_list: Sequence[str] | None, **options: Any) -> list[dict]:
        """``get_info`` of the frames of this split (or of ``sample_id_list``), in threads, with a progress bar.

        Raises:
            InputError: the split has no file in ImageSets.
        """
        ids = self.sample_id_list if sample_id_list is None else sample_id_list
        if ids is None:
            raise InputError(
                f"there is no {self.root_path / 'ImageSets' / f'{self.split}.txt'}: it lists the frames of the split, "
                "one id a line"
            )
        return parallel_map(partial(self.get_info, **options), ids, len(ids), f"infos {self.split}", num_workers)

    def create_groundtruth_database(
        self,
        info_path: str | Path | None = None,
        used_classes: Sequence[str] | None = None,
        split: str = "train",
        save_path: str | Path | None = None,
        num_workers: int = 4,
    ) -> None:
        """Write the object database of the frames in ``info_path`` under ``save_path`` (default: the data root).

        Folder ``gt_database`` (``gt_database_<split>`` for another split than train), the same name with
        ``_global.npy``, and ``<dbinfos_name>_<split>.pkl``; all appear complete or not at all.
        """
        name = "gt_database" if split == "train" else f"gt_database_{split}"
        with published(Path(save_path or self.root_path)) as folder:
            index = database.write_database(
                load_pickle(info_path), self.get_lidar, folder / name, used_classes, num_workers
            )
            save_pickle(index, folder / f"{self.dbinfos_name}_{split}.pkl")

    def __len__(self) -> int:
        return len(self.infos) * (self.total_epochs if self._merge_all_iters_to_one_epoch else 1)

    def info_of(self, index: int) -> dict[str, Any]:
        """The info of sample ``index``. Raises IndexError."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return self.infos[index % len(self.infos)]

    def points_of(self, frame_id: str, folder: Path) -> np.ndarray:
        """``get_lidar``; a scan of training without a point is an InputError that names ``folder``."""
        points = self.get_lidar(frame_id)
        if self.training and len(points) == 0:
            raise InputError(
                f"frame {frame_id}: its scan in {folder} has no point, and this is training; take {frame_id} out of "
                "ImageSets/train.txt and make the infos anew"
            )
        return points
