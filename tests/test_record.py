"""``python -m tests.record``, with a checkout of OpenPCDet: it gives the records that are here."""

import subprocess
import sys

import numpy as np
import pytest
import tiny_kitti
from openpcdet import needs_openpcdet, peer_folder

from tests.record import compare


@needs_openpcdet
@pytest.mark.slow
def test_openpcdets_code_gives_the_records_again():
    command = [sys.executable, "-m", "tests.record", "--openpcdet", str(peer_folder())]
    command += ["--compare"]
    done = subprocess.run(command, cwd=tiny_kitti.REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    lines = done.stdout.splitlines()
    for name in (
        "dataset_item.npz",
        "db_sampler.npz",
        "dbinfos.json",
        "infos.json",
        "tiny_models.json",
        "rotated_iou.npz",
    ):
        assert f"{name}: same" in lines
    # OpenPCDet itself stops at this one: docs/differences.md
    assert [line for line in lines if "not made" in line] == [
        "kitti_models/pillarnet: not made: KeyError: 'final_box_dicts'"
    ]


def test_differences_are_found():
    recorded = {"a__idx": np.arange(3), "a__val": np.ones(3), "b": "x", "c": [{"d": 1.0}], "only": 3}
    assert not list(compare.differences({**recorded, "more": 1}, recorded))
    for key, value in (("a__val", np.array([1, 1, 1.1])), ("b", "y"), ("c", [{"d": 1.1}]), ("c", [])):
        assert len(list(compare.differences({**recorded, key: value}, recorded))) == 1
