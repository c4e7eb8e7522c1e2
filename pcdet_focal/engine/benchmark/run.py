"""One run of a suite: case after case, on the CPU and, where there is one, on the GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...errors import InputError, did_you_mean
from . import SUITES, goals
from .measure import Case, time_case
from .ops import environment
from .peak_memory import peak_bytes, peak_rss


def choose_rows(known: Sequence[str], only: Sequence[str] | None) -> list[str]:
    """The rows that ``--only`` names, all without it. Raises InputError for a name that is none."""
    for name in only or ():
        if name not in known:
            raise InputError(f"--only {name}: the rows are {', '.join(known)}{did_you_mean(name, known)}")
    return [name for name in known if not only or name in only]


def run_suite(
    suite: str,
    only: Sequence[str] | None = None,
    rounds: int | None = None,
    quick: bool = False,
    cpu_time: bool = False,
    report: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Measure the rows of ``losses`` or ``ops``; ``report`` gets a line a case. Returns the ``rows`` of the JSON file
    (see ``results``).

    torch.compile gets an empty cache, so that ``first_call`` of its side is what it costs on a machine that has not
    seen the graph.
    """
    builders = SUITES[suite]
    devices = [
        torch.device("cpu"),
        *([torch.device("cuda", torch.cuda.current_device())] if torch.cuda.is_available() else []),
    ]
    rows = []
    with tempfile.TemporaryDirectory() as cache, environment("TORCHINDUCTOR_CACHE_DIR", cache):
        for name in choose_rows(list(builders), only):
            for device in devices:
                for case in builders[name](device, quick):
                    rows.append(_measure(suite, case, rounds, quick, cpu_time))
                    report(describe(rows[-1]))
    return rows


def _measure(suite: str, case: Case, rounds: int | None, quick: bool, cpu_time: bool) -> dict[str, Any]:
    row = {
        "row": case.row,
        "case": case.case,
        "shape": case.shape,
        "device": case.device.type,
        "note": case.note,
        "kept_bytes": case.kept_bytes,
        **time_case(case, rounds, cpu_time),
    }
    for name in case.memory_sides:
        row["sides"][name]["extra_memory"] = peak_bytes(case.sides[name], case.device) - case.kept_bytes
        resident = peak_rss(suite, case.row, case.case, name, quick) if case.device.type == "cpu" else None
        if resident is not None:
            row["sides"][name]["rss"] = resident - case.kept_bytes
    return {**row, "goals": goals.judge(suite, row)}


def describe(row: Mapping[str, Any]) -> str:
    """A row in a few lines of plain text: times, ratios with their quartiles, memory, goals."""
    lines = [f"{row['row']}: {row['case']}, {row['shape']}, {row['device']}"]
    for name, side in row["sides"].items():
        parts = [
            f"  {name:12} {1000 * side['median']:10.3f} ms  ({1000 * side['q1']:.3f} .. {1000 * side['q3']:.3f}, n "
            f"{side['n']})"
        ]
        ratio = row["ratios"].get(name)
        if ratio is not None:
            parts.append(f"{ratio['median']:.3g} x ours ({ratio['q1']:.3g} .. {ratio['q3']:.3g})")
        if "extra_memory" in side:
            checked = f" (RSS {side['rss'] / goals.MEGABYTE:.3g})" if "rss" in side else ""
            parts.append(f"{side['extra_memory'] / goals.MEGABYTE:.3g} MB more{checked}")
        lines.append("  ".join(parts))
    for goal in row["goals"]:
        lines.append(
            f"  goal: {goal['goal']}: "
            f"{'not measured' if goal['met'] is None else 'reached' if goal['met'] else 'MISSED'}"
        )
    return "\n".join(lines)
