"""Every block of README.md does what it says; long runs are shortened, and what needs KITTI is only parsed."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import tiny_kitti
import torch

from pcdet_focal.commands import COMMANDS
from pcdet_focal.config import Config, as_plain, cfg_from_list, cfg_from_yaml_file, find_config
from pcdet_focal.detector import _dataset_of
from pcdet_focal.engine.checkpoint import checkpoint_state, save_checkpoint
from pcdet_focal.models import build_network

REPOSITORY = tiny_kitti.REPOSITORY
TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)


def blocks(kind: str, word: str) -> list[str]:
    found = [text for language, text in BLOCKS if language == kind and word in text]
    assert found, word
    return found


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def run(words: list[str], cwd) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, f"{words}\n{done.stderr}"


def test_every_block_is_one_of_those_below():
    tested = ("pip install", "Detector.load", "pcdet-focal", "torch", "training/velodyne")
    assert all(any(word in text for word in tested) for _, text in BLOCKS)
    for language, text in BLOCKS:
        for words in commands(text) if language == "sh" else []:
            assert words[0] in ("pip", "pcdet-focal", "torchrun"), words
            assert words[0] != "pcdet-focal" or words[1] in COMMANDS


def test_the_extras_exist():
    setup = (REPOSITORY / "setup.py").read_text()
    (text,) = blocks("sh", "pip install")
    for extra in re.findall(r"[\w-]+", " ".join(re.findall(r"\[(.*?)\]", text))):
        assert f'"{extra}": [' in setup, extra


@pytest.mark.slow
def test_the_commands_on_simulated_data(tmp_path):
    (text,) = blocks("sh", "pcdet-focal synthetic")
    shorter = {
        "--num_train 200 --num_val 50": "--num_train 6 --num_val 2 --quiet",
        "checkpoint_epoch_20": "checkpoint_epoch_1",
        "000200.bin": "000006.bin",
        "--extra_tag first\npcdet-focal test": "--extra_tag first --epochs 1 --workers 0\npcdet-focal test",
    }
    for old, new in shorter.items():
        assert old in text, old
        text = text.replace(old, new)
    for words in commands(text):
        run([sys.executable, "-m", "pcdet_focal", *words[1:]], tmp_path)
    assert (tmp_path / "output/demo_scan/000006.html").is_file()
    assert list((tmp_path / "output/synthetic_models/pointpillar/first/pictures").glob("*.png"))


def test_the_detector(tmp_path):
    cfg = cfg_from_yaml_file(
        tiny_kitti.write_config(tmp_path / "cfgs/tiny.yaml", tiny_kitti.config(tiny_kitti.dataset())), Config()
    )
    net = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), _dataset_of(cfg))
    with torch.no_grad():
        net.dense_head.conv_cls.bias += 4
    save_checkpoint(checkpoint_state(net, config=as_plain(cfg)), tmp_path / "model")
    scan = sorted((tiny_kitti.dataset() / "training/velodyne").iterdir())[0]
    (tmp_path / "scan.bin").write_bytes(scan.read_bytes())
    (text,) = blocks("python", "Detector.load")
    run([sys.executable, "-c", text], tmp_path)
    assert (tmp_path / "scan.png").is_file() and (tmp_path / "scan.html").is_file()


def test_the_losses():
    (text,) = blocks("python", "loss_utils")
    names: dict = {}
    smaller = text.replace("321408", "1000")
    assert smaller != text
    exec(smaller.replace("loss = sigmoid_focal_loss_from_labels", "second = sigmoid_focal_loss_from_labels"), names)
    torch.testing.assert_close(names["second"], names["loss"], rtol=1e-5, atol=0)


def test_commands_that_need_kitti_or_hours_are_understood():
    for text in blocks("sh", "kitti_models") + blocks("sh", "_BASE_CONFIG_"):
        for words in commands(text):
            words = words[words.index("pcdet_focal") + 1 :] if "pcdet_focal" in words else words[1:]
            args = tiny_kitti.tool(words[0].replace("-", "_")).build_parser().parse_args(words[1:])
            cfg = cfg_from_yaml_file(find_config(args.cfg_file), Config())
            cfg_from_list(getattr(args, "set_cfgs", None) or [], cfg)
