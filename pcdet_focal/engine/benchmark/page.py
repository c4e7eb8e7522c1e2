"""benchmarks/README.md, made of the JSON files beside it and of nothing else: the same files give the same page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint import atomic_write
from . import SUITES, goals, results, step

NOT_YET = "not measured yet"
_INTRO = """# Benchmarks

How fast the package is beside what one would use without it. Made by `pcdet-focal benchmark page` from the JSON files in this folder, whose
schema is described in `pcdet_focal/engine/benchmark/results.py`. To measure on another machine, idle if possible:

```sh
pcdet-focal benchmark losses && pcdet-focal benchmark ops && pcdet-focal benchmark data && pcdet-focal benchmark step && pcdet-focal benchmark page
```

**Times.** The sides of a row run in turns in one process. On a CPU each round calls every side once, so that each
finds the caches as other work left them, as in a training step; on a GPU each side runs for about 50 ms. A time is the
median of the rounds, a ratio the median of the rounds' ratios, each with its quartiles. Both sides get a new gradient
buffer in every call, as `loss.backward()` with cleared gradients does. Compiling is never counted. Memory is allocated
with Python's and torch's defaults. The trainer's setting, which keeps freed memory in the process, makes the eager
sides about a quarter faster. Noise hits both sides, so trust the ratios more than the times. "Load before" is the
number of other processes that wanted a core when the run began: above about 0.5 the machine was busy, and torch's
threads waited for each other. "CPU time" (`--cpu_time`) is the time that one thread computed: steady on a busy machine,
but blind to how well threads share the work.

**Extra memory** is the most that was allocated at one moment beyond inputs and results (the gradient). On the CPU it adds what torch's allocator
reports to `torch.profiler` and what numpy reports to `tracemalloc`; the figure in brackets is a check from outside, the growth of the resident memory
of a fresh process with every block mapped by itself. It is smaller where the call gives back what an earlier one left, the targets that the head keeps.
On a GPU it is `torch.cuda.max_memory_allocated`.

**Sides.**
- ours: what the package does by default
- eager: OpenPCDet's formula, one torch operation after the other (`pcdet_focal/engine/benchmark/eager.py`)
- compiled: the same formula under `torch.compile`
- copy: a copy of the logits, the floor
- reference: the package's own definition in plain torch, `PCDET_FOCAL_BACKEND=reference`
- shapely, shapely loop, spconv: the packages of that name
- openpcdet: OpenPCDet's detector of the same configuration and weights, on a CPU in a process of its own; rotated overlaps and NMS, which it has only for CUDA, are this package's, and spconv takes its Native algorithm
"""
_TITLES = {
    "losses": "Losses",
    "ops": "Operators",
    "step": "Training steps and evaluated frames",
    "data": "Data pipeline",
}


def write(path: str | Path) -> None:
    """Write the page from the JSON files in its folder. Raises InputError where there are none, or one cannot be
    used.
    """
    path = Path(path)
    text = render(results.read_all(path.parent))
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def render(files: Sequence[Mapping[str, Any]]) -> str:
    """The page from the contents of the files."""
    parts = [_INTRO, "## Machines\n", _machines(files), "## Goals\n", _goals(files)]
    for suite, title in _TITLES.items():
        of_suite = [content for content in files if content["suite"] == suite]
        parts.append(f"## {title}\n")
        if not of_suite:
            parts.append(f"{NOT_YET.capitalize()}.\n")
        for content in of_suite:
            parts += list(_suite(content))
        if suite != "data" and not any(row["device"] == "cuda" for content in of_suite for row in content["rows"]):
            parts.append(f"On a GPU: {NOT_YET}.\n")
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _device(content: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    machine = content["machine"]
    if row["device"] == "cuda":
        return machine["gpu"]
    clock = ", CPU time" if content["clock"] == "cpu" else ""
    return f"{machine['cpu']}, {content['threads']} of {machine['cores']} cores{clock}"


def _machines(files: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for content in files:
        machine = content["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
        load = "" if content["load"] is None else f"{content['load']:.1f}"
        cpu = f"{machine['cpu']}, {machine['cores']} cores"
        rows.append(
            [
                content["suite"],
                content["date"],
                machine["gpu"] or "none",
                cpu,
                str(content["threads"]),
                load,
                versions,
                f"`{content['command']}`",
            ]
        )
    return _table(["suite", "day", "GPU", "CPU", "threads", "load before", "versions", "command"], rows)


def _goals(files: Sequence[Mapping[str, Any]]) -> str:
    rows, missed = [], []
    for goal in goals.GOALS:
        what = f"{goal.row}: {goal.case}" + (", GPU" if goal.device == "cuda" else "")
        measured = [
            (content, row, value)
            for content in files
            if content["suite"] == goal.suite
            for row in content["rows"]
            if (row["row"], row["case"], row["device"]) == (goal.row, goal.case, goal.device)
            and (value := goal.found(row)) is not None
        ]
        for content, row, value in measured:
            verdict = "reached" if goal.met(value) else "**missed**"
            rows.append(
                [what, goal.text(), goal.figure(value) + _quartiles_of(goal, row), verdict, _device(content, row)]
            )
            if not goal.met(value):
                missed.append(f"- {what}: {goal.text()}; it is {goal.figure(value)} ({_device(content, row)})\n")
        if not measured:
            rows.append([what, goal.text(), NOT_YET, "", ""])
    table = _table(["what", "goal", "measured", "", "on"], rows)
    if missed:
        return f"{table}\nMissed:\n\n{''.join(missed)}"
    return f"{table}\nNone of the goals measured so far is missed.\n"


def _quartiles_of(goal: goals.Goal, row: Mapping[str, Any]) -> str:
    ratio = row["ratios"].get(goal.measure)
    if ratio is None:
        return ""
    low, high = (1 / ratio["q3"], 1 / ratio["q1"]) if goal.inverse else (ratio["q1"], ratio["q3"])
    return f" ({low:.3g} to {high:.3g})"


def _suite(content: Mapping[str, Any]) -> Iterator[str]:
    suite = content["suite"]
    for device in ("cpu", "cuda"):
        rows = [row for row in content["rows"] if row["device"] == device]
        if not rows:
            continue
        yield f"### {_device(content, rows[0])}\n"
        if suite == "data":
            yield f"{rows[0]['shape']}.\n"
            yield _table(
                ["stage", "time of a sample (quartiles)", "share"],
                [[_case(row), _time(row["sides"]["ours"]), _share(row)] for row in rows],
            )
            continue
        yield _table(
            ["what", "side", "time (quartiles)", "time / ours (quartiles)", "extra memory"],
            [line for row in rows for line in _lines(row)],
        )
        yield "\n".join(f"- {row}: {_doc(suite, row)}" for row in dict.fromkeys(row["row"] for row in rows)) + "\n"
        notes = dict.fromkeys(f"- {row['row']}, {row['case']}: {row['note']}" for row in rows if row["note"])
        if notes:
            yield "Notes:\n\n" + "\n".join(notes) + "\n"
    if content["startup"]:
        seconds = content["startup"]
        compiling = [row["sides"]["compiled"]["first_call"] for row in content["rows"] if "compiled" in row["sides"]]
        beside = (
            f" For comparison, the first call of the compiled formula takes {compiling[0]:.2g} s." if compiling else ""
        )
        yield (
            f"Before the first step: importing `pcdet_focal.losses` takes {seconds['import']:.2g} s (torch and numba "
            "not counted); compiling the "
            f"CPU kernels of the focal loss {seconds['kernels_cold']:.2g} s the first time on a machine, "
            f"{seconds['kernels_cached']:.2g} s from "
            f"then on.{beside}\n"
        )


def _doc(suite: str, row: str) -> str:
    """What a row is, as its function says."""
    doc = step.MODES.get(row) if suite == "step" else getattr(SUITES[suite].get(row), "__doc__", None)
    return " ".join((doc or "no longer measured").split())


def _case(row: Mapping[str, Any]) -> str:
    return f"**{row['case']}**" if row["row"] == "pipeline" else row["case"]


def _share(row: Mapping[str, Any]) -> str:
    return (
        f"{1 / row['sides']['ours']['median']:.0f} samples a second"
        if row["row"] == "pipeline"
        else row["shape"].removesuffix(" of a sample")
    )


def _lines(row: Mapping[str, Any]) -> Iterator[list[str]]:
    what = f"{row['row']}: {row['case']}, {row['shape']}"
    for name, side in row["sides"].items():
        ratio = row["ratios"].get(name)
        against = "" if ratio is None else f"{ratio['median']:.3g} ({ratio['q1']:.3g} to {ratio['q3']:.3g})"
        yield [what, name, _time(side), against, _memory(side)]
        what = ""


def _memory(side: Mapping[str, Any]) -> str:
    if "extra_memory" not in side:
        return ""
    checked = f" ({side['rss'] / goals.MEGABYTE:.3g})" if "rss" in side else ""
    return f"{side['extra_memory'] / goals.MEGABYTE:.3g} MB{checked}"


def _time(side: Mapping[str, Any]) -> str:
    scale, unit = (1, "s") if side["median"] >= 1 else (1000, "ms")
    return f"{scale * side['median']:.3g} {unit} ({scale * side['q1']:.3g} to {scale * side['q3']:.3g})"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
