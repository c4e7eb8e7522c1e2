"""Options of the whole suite: `--quick`, and a limit on the time of a test that is not marked slow."""

from __future__ import annotations

import os
import time

import pytest

LIMIT = 10.0  # seconds


def pytest_addoption(parser):
    parser.addoption(
        "--quick",
        action="store_true",
        help="one case of each parametrised test, and no slow tests: every package in under 90 seconds",
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--quick"):
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


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """Fails a test over the limit that has no `slow` mark.

    Elapsed time alone would fail on a busy machine, and processor time alone where several threads work, therefore the
    smaller of both counts.
    """
    elapsed, processor = time.perf_counter(), _processor_time()
    outcome = yield
    taken = min(time.perf_counter() - elapsed, _processor_time() - processor)
    if taken > LIMIT and outcome.excinfo is None and not item.get_closest_marker("slow"):
        pytest.fail(f"took {taken:.1f} s: make it smaller, or mark it with pytest.mark.slow", pytrace=False)
