"""Stages of work on a stream of items, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Any

_PATIENCE = 0.1  # seconds between two looks at whether the consumer has left


def overlapped(items: Iterable[Any], *stages: Callable[[Any], Any], ahead: int = 2) -> Iterator[Any]:
    """The last of ``stages`` of the one before it of ... of each item, in order.

    Every stage but the last runs in a thread and is at most ``ahead`` items before the next one. An item goes on as
    soon as it is there, so a slow source delays nothing. An exception of an item or a stage is raised in its turn, and
    ends the iteration.
    """
    stop = threading.Event()
    results: Iterator[Any] = iter(items)
    try:
        for stage in stages[:-1]:
            results = _in_a_thread(results, stage, Queue(ahead), stop)
        yield from map(stages[-1], results)
    finally:
        stop.set()


def _in_a_thread(items: Iterator[Any], stage: Callable, queue: Queue, stop: threading.Event) -> Iterator[Any]:
    def put(entry: tuple[str, Any]) -> None:
        while not stop.is_set():
            try:
                return queue.put(entry, timeout=_PATIENCE)
            except Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(("result", stage(item)))
                if stop.is_set():
                    return
            put(("end", None))
        except BaseException as error:  # raised where the results are read
            put(("error", error))

    threading.Thread(target=work, daemon=True, name=f"overlapped {getattr(stage, '__name__', 'stage')}").start()
    return _entries(queue, stop)


def _entries(queue: Queue, stop: threading.Event) -> Iterator[Any]:
    while not stop.is_set():
        try:
            kind, value = queue.get(timeout=_PATIENCE)
        except Empty:
            continue
        if kind == "error":
            raise value
        if kind == "end":
            return
        yield value
