"""Options of the whole suite: `--quick`, and a limit on the time of a test that is not marked slow."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest
from numba.core import event

# Part of a reason to skip: what it would take not to. A run's last lines count each kind.
SKIPS = {
    "needs a CUDA device": "a machine with one",
    "no checkout of OpenPCDet": "OPENPCDET=<folder of a checkout of OpenPCDet>",
    "KITTI": "PCDET_FOCAL_SHARED=<folder with frames of KITTI and what was recorded on them>",
    "Triton's interpreter": "nothing: tests/ops/test_triton_kernels.py runs them in a process of its own",
}
LIMIT = 10.0  # seconds, without what numba compiles: a clean checkout has no cache


class CompileTime(event.Listener):
    """Seconds that numba spent on compiling, nested compilations counted once."""

    def __init__(self):
        self.total, self.depth, self.began = 0.0, 0, 0.0

    def on_start(self, _):
        self.began = time.perf_counter() if self.depth == 0 else self.began
        self.depth += 1

    def on_end(self, _):
        self.depth -= 1
        self.total += time.perf_counter() - self.began if self.depth == 0 else 0.0


compile_time = CompileTime()
event.register("numba:compile", compile_time)


def pytest_addoption(parser):
    parser.addoption(
        "--quick",
        action="store_true",
        help="one case of each parametrised test, and no slow tests: every package in under 90 seconds",
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--quick"):
        slow_files = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow_files)  # the longest first, so that the cores end together
        return
    seen, kept, left_out = set(), [], []
    for item in items:
        function = item.nodeid.partition("[")[0]
        keep = function not in seen and not item.get_closest_marker("slow")
        seen.add(function)
        (kept if keep else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def _processor_time() -> float:
    """Seconds of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fails a test over the limit that has no `slow` mark.

    Elapsed time alone would fail on a busy machine, and processor time alone where several threads work, therefore the
    smaller of both counts, less the time of compiling.
    """
    elapsed, processor, compiling = time.perf_counter(), _processor_time(), compile_time.total
    result = yield  # raises what the test raises
    taken = min(time.perf_counter() - elapsed, _processor_time() - processor) - (compile_time.total - compiling)
    if taken > LIMIT and not item.get_closest_marker("slow"):
        pytest.fail(f"took {taken:.1f} s: make it smaller, or mark it with pytest.mark.slow", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)  # after pytest's own list of what was skipped
def pytest_terminal_summary(terminalreporter):
    """Counts what was skipped, by kind, with what it would take."""
    result = yield
    counts = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        counts[next((kind for kind in SKIPS if kind in reason), reason)] += 1
    for kind, count in counts.most_common():
        terminalreporter.write_line(f"skipped {count}: {kind} (it would take {SKIPS.get(kind, 'what this says')})")
    return result
