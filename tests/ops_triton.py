"""Triton's kernels on a machine without a GPU: which backends a test file can ask for, and test files run again in
Triton's interpreter.

Triton decides when it is first imported whether its kernels are compiled or interpreted, so interpreted tests have a
process of their own: ``tests/ops/test_triton_kernels.py`` starts it. By hand: ``TRITON_INTERPRET=1 python -m pytest
tests/ops/nms -k cuda``.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = ["reference", "cpu"] + (["cuda"] if INTERPRETED else [])  # for PCDET_FOCAL_BACKEND, with data in host memory
ROOT = Path(__file__).resolve().parents[1]


def run_in_interpreter(folders: list[str], cases: str) -> dict[str, int]:
    """Run ``cases`` (an expression for pytest's -k) of the tests in ``folders`` (relative to the repository). Raises
    where one does not pass.

    Returns:
        how many passed in each folder, by its last name.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::RuntimeWarning",
        "-rA",
        "-k",
        cases,
        *folders,
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, f"in Triton's interpreter:\n{run.stdout[-6000:]}\n{run.stderr[-2000:]}"
    return Counter(re.findall(r"^PASSED tests/.*?(\w+)/\w+\.py::", run.stdout, re.MULTILINE))
