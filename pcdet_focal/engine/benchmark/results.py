"""The JSON file of a run: made, checked, read.

``benchmarks/<suite>-<machine>.json``, one of a suite and a kind of machine::

    schema       1
    suite        losses, ops, step or data
    quick        true: tiny inputs, only to see that everything runs
    command      what made it
    date         day of the run
    machine      kind (GPU or CPU, and the number of cores), cpu, cores, gpu (null without one), system
    load         running processes when the run began (mean of a minute; null where unknown)
    threads      of torch and of our kernels
    clock        wall, or cpu: the process's seconds on one thread (a GPU's rows have its own clock)
    versions     pcdet_focal, python, and those of torch, numpy, numba, triton, shapely, spconv that are installed
    startup      (losses) seconds: import, kernels_cold, kernels_cached, see ``startup``
    rows         list of
        row, case, shape, device (cpu or cuda), note
        kept_bytes   of the results, which any way of computing them needs
        sides        name -> median, q1, q3 (seconds), n (rounds), calls (in a round), first_call (with compiling)
                     and, where counted, extra_memory (peak bytes beyond kept_bytes) and rss (the system's count)
        ratios       name of another side -> median, q1, q3 of its time / ours
        goals        list of goal, found, met (null: not measured)
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...errors import InputError
from ...files import read_json
from ...paths import IMPORT_FOLDER
from ..checkpoint import atomic_write

SCHEMA = 1
_KEYS = {
    "schema",
    "suite",
    "quick",
    "command",
    "date",
    "machine",
    "load",
    "threads",
    "clock",
    "versions",
    "startup",
    "rows",
}
_ROW_KEYS = {"row", "case", "shape", "device", "note", "kept_bytes", "sides", "ratios", "goals"}
_PACKAGES = ("torch", "numpy", "numba", "triton", "shapely", "spconv-cu120", "spconv-cu126")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        cpu = next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "kind": f"{gpu or cpu}, {cores()} cores",
        "cpu": cpu,
        "cores": cores(),
        "gpu": gpu,
        "system": platform.system(),
    }


def load() -> float | None:
    """How many processes wanted a core in the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def versions() -> dict[str, str]:
    versions = {"pcdet_focal": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def default_path(suite: str) -> Path:
    """benchmarks/<suite>-<machine>.json below the working directory."""
    slug = re.sub(r"[^a-z0-9]+", "-", machine()["kind"].lower()).strip("-")
    return Path("benchmarks") / f"{suite}-{slug}.json"


def new(
    suite: str,
    rows: list[dict[str, Any]],
    *,
    quick: bool,
    command: str,
    load: float | None,
    threads: int,
    clock: str,
    startup: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The content of a file; ``load`` is that before the run."""
    return {
        "schema": SCHEMA,
        "suite": suite,
        "quick": quick,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "load": load,
        "threads": threads,
        "clock": clock,
        "versions": versions(),
        "startup": dict(startup or {}),
        "rows": rows,
    }


def write(content: Mapping[str, Any], path: str | Path) -> None:
    """Numbers are written with four digits: more were noise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_text(json.dumps(_rounded(content), indent=1) + "\n", encoding="utf-8")


def read(path: str | Path) -> dict[str, Any]:
    """Raises InputError for a file that is no JSON, of another schema, or without one of the keys."""
    content = read_json(path, "result")
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(
            f"{path} is not a result of tools/benchmark.py with schema {SCHEMA}; measure anew, or delete the file"
        )
    missing = sorted(_KEYS - content.keys())
    for index, row in enumerate(content.get("rows", [])):
        missing += [f"rows[{index}].{key}" for key in sorted(_ROW_KEYS - row.keys())]
    if missing:
        raise InputError(f"{path} has no {', '.join(missing)}; measure anew, or delete the file")
    return content


def read_all(folder: str | Path) -> list[dict[str, Any]]:
    """The files of a folder, by name. Raises InputError where there is none, and for one of a ``--quick`` run: its
    figures mean nothing.
    """
    results = {path: read(path) for path in sorted(Path(folder).glob("*.json"))}
    if not results:
        raise InputError(f"there is no JSON file in {folder}; measure first: pcdet-focal benchmark losses")
    for path, content in results.items():
        if content["quick"]:
            raise InputError(
                f"{path} is of a --quick run, whose figures mean nothing; measure without --quick, or delete the file"
            )
    return list(results.values())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


_STARTUP = """
import sys, time
import torch, numba
began = time.perf_counter()
from pcdet_focal.losses import sigmoid_focal_loss_from_labels
imported = time.perf_counter()
from pcdet_focal.ops.focal_loss import load_kernels
load_kernels()
logits = torch.zeros(1, 9, 3, requires_grad=True)
sigmoid_focal_loss_from_labels(logits, torch.ones(1, 9, dtype=torch.int32)).backward()
print(imported - began, time.perf_counter() - imported)
"""


def startup() -> dict[str, float]:
    """Seconds in a fresh process: ``import`` of pcdet_focal.losses (torch and numba imported before), and until the
    first loss from labels is differentiated, on a machine that has never done it (``kernels_cold``) and with numba's
    cache on disk (``kernels_cached``)."""
    with tempfile.TemporaryDirectory() as cache:
        return dict(_startup(cache))


def _startup(cache: str) -> Iterator[tuple[str, float]]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    for name in ("kernels_cold", "kernels_cached"):
        done = subprocess.run(
            [sys.executable, "-c", _STARTUP],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            cwd=IMPORT_FOLDER,
        )
        imported, kernels = map(float, done.stdout.split()[-2:])
        yield name, kernels
    yield "import", imported
