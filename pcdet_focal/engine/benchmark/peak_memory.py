"""How much memory a computation needs at its peak beyond what it leaves behind.

On the CPU two counters are added: torch's allocator reports every block to ``torch.profiler`` (compiled graphs' too),
and numpy reports its own to ``tracemalloc``. Neither sees what a C++ library takes by itself, so ``peak_rss`` asks the
system in a fresh process as a check. On a CUDA device torch's allocator keeps the peak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from ...paths import IMPORT_FOLDER
from .measure import Side

_M_MMAP_THRESHOLD = -3  # glibc's mallopt(3)


def peak_bytes(side: Side, device: torch.device) -> int:
    """The most that was allocated at one moment of ``side()``, beyond what was allocated before. Run it once before, so
    that caches are filled.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = side()
        torch.cuda.synchronize()
        del result
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library announces itself otherwise
    numpy_peak = _numpy_peak(side)
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorder:
            result = side()
        del result
        trace = Path(folder) / "trace.json"
        recorder.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    allocated = peak = 0
    for event in sorted(
        (e for e in events if e.get("name") == "[memory]"), key=lambda e: (e["ts"], e["args"]["Ev Idx"])
    ):
        allocated += event["args"]["Bytes"]
        peak = max(peak, allocated)
    return peak + numpy_peak


def _numpy_peak(side: Side) -> int:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        result = side()
        _, peak = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return peak - before


def peak_rss(suite: str, row: str, case: str, side: str, quick: bool) -> int | None:
    """By how many bytes the resident memory of a fresh process grows at most in its second call of this side; None
    where Linux does not tell.

    What the first call leaves, compiled code above all, does not count.
    """
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    words = [sys.executable, "-m", __name__, suite, row, case, side, str(int(quick)), str(torch.get_num_threads())]
    done = subprocess.run(words, capture_output=True, text=True, cwd=IMPORT_FOLDER)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def _resident(field: str) -> int:
    """Bytes that /proc/self/status gives for VmRSS or VmHWM."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _main() -> None:
    import ctypes

    from . import SUITES

    libc = ctypes.CDLL(None)
    # every larger block is mapped by itself and goes back at once: no holes in a heap are counted
    libc.mallopt(_M_MMAP_THRESHOLD, 2**16)
    suite, row, name, side_name, quick, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    case = next(case for case in SUITES[suite][row](torch.device("cpu"), bool(int(quick))) if case.case == name)
    side = case.sides[side_name]
    result = side()
    del result
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    result = side()
    print(_resident("VmHWM") - before)
    del result


if __name__ == "__main__":
    _main()
