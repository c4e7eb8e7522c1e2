"""Freed memory stays with the process: the same tensor made again costs no new pages."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from pcdet_focal.engine.memory import disable_malloc_trim
if sys.argv[1] == "keep" and not disable_malloc_trim():
    sys.exit(77)
for _ in range(20):  # the heap grows to what is needed
    torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_a_tensor_made_again_touches_no_new_pages():
    faults = {}
    for mode in ("default", "keep"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True)
        if done.returncode == 77:
            pytest.skip("this C library has no mallopt")
        assert done.returncode == 0, done.stderr
        faults[mode] = int(done.stdout)
    assert faults["keep"] < 100 < faults["default"]
