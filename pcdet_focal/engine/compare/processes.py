"""All runs, each in a process of one thread, so that they do not compete for cores and a failure stays in its run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ...config import Config
from ...paths import IMPORT_FOLDER
from .runs import Run, read_result


def run_all(
    runs: Sequence[Run], cfg: Config, cfg_words: Sequence[str], jobs: int, report: Callable[[str], None] = print
) -> dict[Run, str]:
    """Do the runs that have no result yet, ``jobs`` at once. When this is interrupted, finished runs stay and the
    others end.

    Args:
        cfg: the configuration that ``cfg_words`` (``--cfg_file FILE [--set KEY VALUE ...]``) stand for.
        report: called with one line a run.

    Returns:
        the runs that failed, and the last line that each wrote.
    """
    waiting = [run for run in runs if read_result(run, cfg) is None]
    report(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done before")
    running: dict[Run, tuple[subprocess.Popen, float]] = {}
    failed: dict[Run, str] = {}
    count = len(runs) - len(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < max(jobs, 1):
                run = waiting.pop(0)
                running[run] = _start(run, cfg_words), time.monotonic()
            time.sleep(0.1)
            for run, (process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[run]
                count += 1
                line = f"{count}/{len(runs)}  {run.name}"
                if process.returncode == 0 and run.result.is_file():
                    ap = [
                        f"{name} {value:.1f}"
                        for name, value in json.loads(run.result.read_text(encoding="utf-8"))["ap"].items()
                    ]
                    report(f"{line}: {', '.join(ap)}  ({time.monotonic() - started:.0f} s)")
                else:
                    failed[run] = last_line(run.log) or f"exit status {process.returncode}"
                    report(f"{line} failed: {failed[run]}  (all of it in {run.log})")
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
    return failed


def _start(run: Run, cfg_words: Sequence[str]) -> subprocess.Popen:
    run.folder.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(IMPORT_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = {
        name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    }
    words = ["--recipe", str(run.recipe), "--seed", str(run.seed), "--folder", str(run.folder), *cfg_words]
    with open(run.log, "w", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pcdet_focal.engine.compare", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # the terminal's Ctrl-C comes to us, and we end them
            env={**os.environ, **threads, "PYTHONPATH": path},
            start_new_session=True,
        )


def last_line(log: Path) -> str:
    """The last line with anything on it, progress bars passed over."""
    lines = re.split(r"[\r\n]+", log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
    return next(
        (line.strip() for line in reversed(lines) if line.strip() and "it/s]" not in line and "s/it]" not in line), ""
    )
