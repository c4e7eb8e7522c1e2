"""Data sets, and the loader that makes batches of them.

``__all__`` is the registry, as in OpenPCDet: the name in ``DATA_CONFIG.DATASET`` -> class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed
from torch.utils.data import DataLoader, DistributedSampler  # noqa: F401  (the latter for code of OpenPCDet's users)

from ..errors import InputError
from ..registry import DATASETS
from .custom.dataset import CustomDataset
from .dataset import DatasetTemplate
from .kitti.dataset import KittiDataset
from .samplers import EpochSampler

__all__ = DATASETS.add(
    {
        "DatasetTemplate": DatasetTemplate,
        "KittiDataset": KittiDataset,
        "CustomDataset": CustomDataset,
    }
)


def build_dataloader(
    dataset_cfg: Any,
    class_names: Sequence[str],
    batch_size: int,
    dist: bool,
    root_path: str | Path | None = None,
    workers: int = 4,
    seed: int | None = None,
    logger: Any = None,
    training: bool = True,
    merge_all_iters_to_one_epoch: bool = False,
    total_epochs: int = 0,
    persistent_workers: bool = False,
) -> tuple[DatasetTemplate, DataLoader, EpochSampler]:
    """The data set that ``dataset_cfg.DATASET`` names, a loader of its batches, and the sampler that orders its frames.

    Args:
        dataset_cfg: the DATA_CONFIG of a configuration. class_names: in the order of their class numbers 1, 2, …
        batch_size: frames per batch and process. dist: share the frames among the processes of torch.distributed.
        root_path: instead of DATA_PATH. workers: loader processes; 0 loads in this one.
        seed: of order and augmentation. None: one is drawn from numpy's global state (rank 0 tells the others), so
            seeding that state makes the run repeatable. Test mode always takes 0 then, so that evaluating twice gives
            the same figures.
        merge_all_iters_to_one_epoch, total_epochs: one pass over ``total_epochs`` times the frames.
        persistent_workers: keep the loader processes from one epoch to the next. Of later changes to the data set they
            see only the epoch; without this, workers start anew in each epoch, so that all changes (an augmentation
            switched off) reach them.

    Call ``sampler.set_epoch(epoch)`` before each epoch. Batches are numpy arrays, see ``collate_batch``.

    Raises InputError for an unknown DATASET and for a data set without frames.
    """
    dataset = DATASETS[dataset_cfg.DATASET](
        dataset_cfg=dataset_cfg, class_names=class_names, root_path=root_path, training=training, logger=logger
    )
    if merge_all_iters_to_one_epoch:
        dataset.merge_all_iters_to_one_epoch(merge=True, epochs=total_epochs)
    if len(dataset) == 0:
        raise InputError(dataset.why_empty())

    rank, world_size = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if dist else (0, 1)
    dataset.seed = _agreed_seed(world_size) if seed is None and training else int(seed or 0)
    sampler = EpochSampler(dataset, rank=rank, world_size=world_size, shuffle=training, seed=dataset.seed)
    # No pinned memory: batches are numpy arrays, which torch does not pin.
    dataloader = _Loader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=dataset.collate_batch,
        drop_last=False,
        persistent_workers=persistent_workers and workers > 0,
    )
    return dataset, dataloader, sampler


class _Loader(DataLoader):
    """A DataLoader whose workers' InputErrors arrive as they were raised; torch puts the worker's whole traceback into
    the message.
    """

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return _Batches(super().__iter__())


class _Batches:
    def __init__(self, batches: Iterator[dict[str, Any]]) -> None:
        self._batches = batches
        self._dataset = batches._dataset  # OpenPCDet's hooks reach the data set through it

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        try:
            return next(self._batches)
        except InputError as error:
            last_line = f"{type(error).__module__}.{type(error).__qualname__}: "
            raise InputError(str(error).rpartition(last_line)[2].strip()) from None


def _agreed_seed(world_size: int) -> int:
    seed = [int(np.random.randint(2**31))]
    if world_size > 1:
        torch.distributed.broadcast_object_list(seed, src=0)
    return seed[0]
