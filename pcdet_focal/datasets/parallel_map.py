"""One piece of work for each frame, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm


def parallel_map(
    work: Callable[[Any], Any], frames: Iterable[Any], total: int, what: str, num_workers: int
) -> list[Any]:
    """``[work(frame) for frame in frames]`` in ``num_workers`` threads, with a progress bar; the first error stops it
    at once.
    """
    with ThreadPoolExecutor(max(1, num_workers)) as executor:
        try:
            return list(tqdm(executor.map(work, frames), total=total, desc=what, unit="frame"))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
