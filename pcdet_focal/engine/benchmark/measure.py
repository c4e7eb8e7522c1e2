"""Timing several ways to compute one thing, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

OURS = "ours"
FEWEST, MOST = 3, 30  # rounds
# on a CUDA device a round is so many seconds of calls of a side, at most so many calls
BLOCK_SECONDS, LONGEST_BLOCK = 0.05, 40
CASE_SECONDS = 5.0  # rounds are repeated for about so long

Side = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One workload and the sides that compute it.

    Attributes:
        row, case: what is measured, and on which input; together the name of the case within a suite.
        shape: of the input, for the reader.
        sides: name -> a function without arguments that does the work once and returns what it made; ``ours`` is the
            one to compare with. What a side returns is freed outside the time that is measured.
        device: where the work is done.
        kept_bytes: size of the results (a gradient), which any way of computing them needs; extra memory is what goes
            beyond.
        memory_sides: sides whose memory is counted.
        note: for the reader.
    """

    row: str
    case: str
    shape: str
    sides: Mapping[str, Side]
    device: torch.device = torch.device("cpu")
    kept_bytes: int = 0
    memory_sides: Sequence[str] = field(default=())
    note: str = ""


def time_case(case: Case, rounds: int | None = None, cpu_time: bool = False) -> dict[str, Any]:
    """Time the sides of a case: round after round, in each round every side, every second round backwards and every
    third with another side first.

    On the CPU a side is called once in a round, so that it finds the caches, the threads and the memory as other work
    has left them: that is how a training step calls it. On a CUDA device it is called as often as fits into
    ``BLOCK_SECONDS``, and the round counts the mean, between two events.
    One call of each side goes before and is not counted; it compiles what there is to compile.

    Args:
        rounds: default as many as take ``CASE_SECONDS``, within ``FEWEST`` and ``MOST``.
        cpu_time: on the CPU count the seconds that this process computed (in all its threads) instead of those that
            passed.
    Returns:
        ``sides``: name -> median, q1, q3 (seconds), n (rounds), calls (in a round), first_call (seconds); ``ratios``:
            name of each other side ->
        median, q1, q3 of its time divided by ours, round by round.
    """
    if case.device.type == "cuda":
        clock = _cuda_seconds
    else:
        clock = functools.partial(_cpu_seconds, now=time.process_time if cpu_time else time.perf_counter)
    first, calls = {}, {}
    for name, side in case.sides.items():
        first[name] = clock(side, 1)
    for name, side in case.sides.items():
        seconds = clock(side, 1)
        calls[name] = (
            max(1, min(LONGEST_BLOCK, int(BLOCK_SECONDS / max(seconds, 1e-9)))) if case.device.type == "cuda" else 1
        )
    names = list(case.sides)
    times: dict[str, list[float]] = {name: [] for name in names}
    began = time.monotonic()
    gc.collect()
    gc.disable()
    try:
        for turn in range(MOST if rounds is None else rounds):
            start = turn // 2 % len(names)
            order = names[start:] + names[:start]
            for name in order if turn % 2 == 0 else reversed(order):
                times[name].append(clock(case.sides[name], calls[name]))
            if rounds is None and turn + 1 >= FEWEST and time.monotonic() - began > CASE_SECONDS:
                break
    finally:
        gc.enable()
    sides = {
        name: {**spread(times[name]), "n": len(times[name]), "calls": calls[name], "first_call": first[name]}
        for name in names
    }
    ratios = {
        name: spread([other / ours for other, ours in zip(times[name], times[OURS])])
        for name in names
        if name != OURS and OURS in times
    }
    return {"sides": sides, "ratios": ratios}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles.

    >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
    {'median': 3.0, 'q1': 2.0, 'q3': 4.0}
    """
    if len(values) < 2:
        return {"median": values[0], "q1": values[0], "q3": values[0]}
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def _cpu_seconds(side: Side, calls: int, now: Callable[[], float]) -> float:
    began = now()
    result = side()
    taken = now() - began
    del result  # freeing it is not counted
    return taken


def _cuda_seconds(side: Side, calls: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        side()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / calls
