"""The report for bugs: python -m pcdet_focal.env."""

import re
import subprocess
import sys

import torch

import pcdet_focal
from pcdet_focal import env


def test_the_command_prints_versions_and_backends():
    done = subprocess.run([sys.executable, "-m", "pcdet_focal.env"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines() if "known" not in line)
    assert lines["pcdet_focal"] == pcdet_focal.__version__ and lines["torch"].startswith(torch.__version__)
    assert lines["operations on cpu"] == "cpu" and lines["sparse convolutions on cpu"] == "native"
    assert {"numpy", "numba", "python", "system", "processors"} <= lines.keys()


def test_pairs_that_are_known_to_fail_are_named():
    (line,) = env.known_problems({"spconv-cu120": "2.3.6", "numpy": "2.1.0", "torch": "2.4.0"})
    assert line.startswith("spconv-cu120 2.3.6 with numpy 2.1.0: ") and "SIGFPE" in line
    assert not env.known_problems({"spconv-cu120": "2.3.6", "numpy": "1.26.4"})
    assert not env.known_problems({"numpy": "2.1.0"})


def test_a_backend_that_cannot_be_chosen_is_part_of_the_report(monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_SPARSE", "nothing")
    assert "nothing" in env.backends()["sparse convolutions on cpu"]
