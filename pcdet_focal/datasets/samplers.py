"""Which frames, in which order, on which rank, in which epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Dataset, Sampler


class EpochSampler(Sampler):
    """The frames of one rank in one epoch; the order is a function of (seed, epoch) alone.

    Args:
        dataset: anything with a length. If it has ``set_epoch``, it is told the epoch too, so that one call moves order
            and augmentation on.
        rank, world_size: this process and the number of processes. Each gets ``ceil(len(dataset) / world_size)``
            frames, so ranks take equally many steps: the first frames of the order stand again at its end where needed,
                and joined results are cut to ``len(dataset)``.
        shuffle: training order; False keeps the order of the data set (rank r has frames r, r + world_size, …).
        seed: the same on every rank, or the ranks do not share out the frames.

    ``set_epoch(epoch)`` before an epoch names it. A training loop that never calls it still gets a new order every time
    it starts over.
    """

    def __init__(
        self, dataset: Dataset, rank: int = 0, world_size: int = 1, shuffle: bool = True, seed: int = 0
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0 .. {world_size - 1}")
        self.dataset = dataset
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._skip = 0
        self._epoch_used = False

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Name the epoch that the next pass through this sampler is; that pass leaves out the first ``skip`` frames of
        this rank, so that a training that stopped within the epoch goes on where it was.
        """
        self.epoch = int(epoch)
        self._skip = int(skip)
        self._epoch_used = False
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self.epoch)

    def order(self) -> np.ndarray:
        """The frames of all ranks in this epoch, int64 (len(dataset),)."""
        total = len(self.dataset)
        if not self.shuffle:
            return np.arange(total)
        # RandomState, not Generator: numpy promises the same permutation from it in every version.
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(8)
        return np.random.RandomState(state).permutation(total)

    def __iter__(self) -> Iterator[int]:
        if self._epoch_used:
            self.set_epoch(self.epoch + 1 if self.shuffle else self.epoch)
        self._epoch_used = True
        order = np.resize(self.order(), len(self) * self.world_size)  # repeats from the start
        return iter(order[self.rank :: self.world_size][self._skip :].tolist())

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.world_size)
