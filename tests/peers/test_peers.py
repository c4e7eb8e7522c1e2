"""The peers' own tests on this package. PCDET_FOCAL_PEERS names a folder with their checkouts.

docs/testing.md has the table of what passes, and why the rest does not.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PEERS = Path(os.environ.get("PCDET_FOCAL_PEERS", "nowhere"))
LOSSES = "tests/test_models/test_losses"
# checkout: the plugin with its names, its test files, how many tests pass at least, and how many fail at most
SUITES = {
    "fvcore": ("stand_ins", [f"tests/test_{n}_loss.py" for n in ("focal", "giou", "smooth_l1")], 20, 1),
    "kornia": ("stand_ins", ["tests/losses/test_focal_loss.py"], 212, 0),
    "mmdetection": ("stand_ins", [f"{LOSSES}/test_loss.py", f"{LOSSES}/test_gaussian_focal_loss.py"], 59, 0),
    "mmdetection3d": (
        "mmdet3d_names",
        [
            LOSSES,
            "tests/test_models/test_task_modules",
            "tests/test_models/test_layers/test_box3d_nms.py",
            "tests/test_models/test_utils/test_utils.py",
            "tests/test_evaluation/test_functional/test_kitti_eval.py",
        ],
        12,
        1,
    ),
    "spconv": ("spconv_names", ["test/test_conv.py", "test/test_multi_impl.py"], 5, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_the_tests_of_a_peer(name):
    plugin, files, passed, failed = SUITES[name]
    if not (PEERS / name).is_dir():
        pytest.skip(f"no checkout of {name}: set PCDET_FOCAL_PEERS to the folder that has it")
    paths = [str(HERE), str(HERE.parents[1]), str(PEERS / name)]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        plugin,
        "-p",
        "no:cacheprovider",
        "--noconftest",
        *files,
    ]
    command += ["-c", os.devnull, "--rootdir", str(PEERS / name)]
    done = subprocess.run(
        command,
        cwd=PEERS / name,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    print(done.stdout[-6000:])
    assert counts.get("passed", 0) >= passed and counts.get("failed", 0) + counts.get("error", 0) <= failed
