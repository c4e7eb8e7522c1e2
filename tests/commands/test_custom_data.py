"""Custom data through the command lines, from a folder of arrays and labels to detections in a scan, as
docs/custom_data.md goes.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_custom
import tiny_kitti

from pcdet_focal.datasets.custom import custom_dataset
from pcdet_focal.datasets.custom.reader import read_labels
from pcdet_focal.engine import cli
from pcdet_focal.engine.run_log import read_metrics

CFG = "cfgs/tiny_models/tiny.yaml"
RUN = Path("output/tiny_models/tiny/first")


def run(name: str, *argv) -> int:
    """tools/NAME.py in this process; returns the exit status."""
    try:
        cli.run_main(tiny_kitti.tool(name).main, [str(word) for word in argv])
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A working directory with data, its infos and a trained run; (directory, what both commands printed)."""
    workplace = tmp_path_factory.mktemp("custom")
    shutil.copytree(tiny_custom.dataset(), workplace / "data/custom")
    content = tiny_custom.config("data/custom")
    content["MODEL"]["POST_PROCESSING"]["SCORE_THRESH"] = 0.0
    tiny_kitti.write_config(workplace / CFG, content)
    command = [sys.executable, "-m", "pcdet_focal.datasets.custom.custom_dataset", "create_custom_infos", CFG]
    environment = {**os.environ, "PYTHONPATH": str(tiny_kitti.REPOSITORY)}
    made = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=300, env=environment)
    assert made.returncode == 0, made.stderr
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(workplace)
        assert (
            run(
                "train",
                "--cfg_file",
                CFG,
                "--extra_tag",
                "first",
                "--workers",
                0,
                "--save_to_file",
                "--fix_random_seed",
                "--logger_iter_interval",
                1,
            )
            == 0
        )
    return workplace, (made.stdout, printed.getvalue())


@pytest.fixture
def workplace(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    return trained[0]


def test_infos_and_training(workplace, trained):
    made, training = trained[1]
    assert (
        "custom_infos_train.pkl: 5" in made
        and "custom_infos_val.pkl: 3" in made
        and re.search(r"custom_dbinfos_train\.pkl: Vehicle: \d+", made)
    )
    assert "Total samples for CUSTOM dataset: 5" in training and "Car AP_R40@0.70, 0.70, 0.70:" in training
    assert sorted(path.name for path in (RUN / "ckpt").iterdir()) == [
        "checkpoint_epoch_1.pth",
        "checkpoint_epoch_2.pth",
    ]
    losses = [value for _, value in read_metrics(RUN / "metrics.jsonl")["train/loss"]]
    assert len(losses) == 6 and np.isfinite(losses).all() and losses[-1] < losses[0]
    files = sorted((RUN / "eval/eval_with_train/epoch_2/val/final_result/data").iterdir())
    assert [path.stem for path in files] == ["000005", "000006", "000007"]
    boxes, names = read_labels(files[0], "000005")
    assert len(boxes) > 10 and set(names) <= {"Vehicle", "Pedestrian", "Cyclist"}


def test_evaluation_and_pictures(workplace, capsys):
    assert run("test", "--cfg_file", CFG, "--extra_tag", "first", "--workers", 0) == 0
    assert "Cyclist AP@0.50, 0.25, 0.25:" in capsys.readouterr().out
    figures = json.loads((RUN / "eval/epoch_2/val/default/result.json").read_text())
    assert {"Car_3d/moderate_R40", "Pedestrian_bev/easy_R40", "recall/rcnn_0.3"} <= figures.keys()
    assert run("visualize", "--cfg_file", CFG, "--extra_tag", "first", "--num", 1) == 0
    assert (RUN / "pictures/000005.png").read_bytes().startswith(b"\x89PNG")


def test_demo_on_an_array(workplace, capsys):
    words = [
        "--ckpt",
        RUN / "ckpt/checkpoint_epoch_2.pth",
        "--data_path",
        "data/custom/points/000006.npy",
        "--score_thresh",
        0,
    ]
    assert run("demo", "--cfg_file", CFG, *words) == 0
    assert re.search(r"^000006\.npy: \d+ boxes", capsys.readouterr().out, re.M)


def test_a_training_without_infos_names_the_command(workplace, tmp_path, capsys):
    shutil.copytree(tiny_custom.dataset(), tmp_path / "custom")
    assert (
        run(
            "train",
            "--cfg_file",
            CFG,
            "--workers",
            0,
            "--extra_tag",
            "none",
            "--set",
            "DATA_CONFIG.DATA_PATH",
            tmp_path / "custom",
        )
        == 2
    )
    assert "create-infos" in capsys.readouterr().err
    assert custom_dataset.main(["create_custom_infos", CFG, "--data_path", str(tmp_path / "nowhere")]) == 2
