"""The command lines as a user types them: what they write and print, and one line with exit status 2 for each mistake a
user can make.
"""

import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_kitti
import torch

from pcdet_focal.engine import cli
from pcdet_focal.engine.run_log import read_metrics

CFG = "cfgs/tiny_models/tiny.yaml"
RUN = Path("output/tiny_models/tiny")


def typed(*words, workplace) -> subprocess.CompletedProcess:
    """python tools/WORDS, in a process of its own."""
    command = [sys.executable, str(tiny_kitti.REPOSITORY / "tools" / words[0]), *map(str, words[1:])]
    return subprocess.run(
        command, cwd=workplace, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a working directory with a trained run, what training printed). Tests do not write to it."""
    workplace = tmp_path_factory.mktemp("trained")
    content = tiny_kitti.config(tiny_kitti.dataset())
    content["MODEL"]["POST_PROCESSING"]["SCORE_THRESH"] = 0.0
    content["MODEL"]["UNUSED_KEY"] = 1
    tiny_kitti.write_config(workplace / CFG, content)
    more = [
        "--workers",
        1,
        "--logger_iter_interval",
        1,
        "--ckpt_save_interval",
        1,
        "--save_to_file",
        "--num_epochs_to_eval",
        2,
    ]
    done = typed(
        "train.py",
        "--cfg_file",
        CFG,
        "--extra_tag",
        "first",
        *more,
        "--set",
        "OPTIMIZATION.LR",
        "0.002",
        workplace=workplace,
    )
    assert done.returncode == 0, done.stderr
    return workplace, done


@pytest.fixture
def workplace(trained, tmp_path, monkeypatch):
    """A copy of it, in which tests may break things; the working directory."""
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, *argv) -> int:
    """tools/NAME.py in this process, as its last lines call it; returns the exit status."""
    try:
        cli.run_main(tiny_kitti.tool(name).main, [str(word) for word in argv])
    except SystemExit as end:
        return end.code
    return 0


# ---- what they do
# ------------------------------------------------------------------------------------------------------------------


def test_training_writes_checkpoints_log_curves_and_the_table(trained):
    workplace, done = trained
    folder = workplace / RUN / "first"
    assert sorted(path.name for path in (folder / "ckpt").iterdir()) == [
        "checkpoint_epoch_1.pth",
        "checkpoint_epoch_2.pth",
    ]
    assert (folder / "tiny.yaml").read_text() == (workplace / CFG).read_text()
    (log,) = folder.glob("train_*.log")
    for text in (done.stdout, log.read_text()):
        for what in (
            r"epoch 1/2  iteration 2/3  loss [\d.]+  lr 1\.\d+e-03  grad norm .*left 00:",
            r"epoch 2/2: mean loss [\d.]+ in 00:\d\d",
            "Car AP_R40@0.70, 0.70, 0.70:",
            "Cyclist AP@0.50, 0.25, 0.25:",
            "Objects behind the table",
        ):
            assert re.search(what, text), what
    assert re.search(r"cfg\.OPTIMIZATION\.LR: 0\.002", log.read_text()) and "cfg.OPTIMIZATION" not in done.stdout
    (warning,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert re.match(rf"warning: {CFG}: .*MODEL\.UNUSED_KEY$", warning)
    values = read_metrics(folder / "metrics.jsonl")
    assert {
        "train/loss",
        "train/rpn_loss_cls",
        "train/rpn_loss_loc",
        "train/rpn_loss_dir",
        "meta_data/learning_rate",
    } <= values.keys()
    assert [iteration for iteration, _ in values["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert values["meta_data/learning_rate"][0][1] == pytest.approx(0.0002)
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert not list(workplace.rglob("*.part"))

    evaluation = folder / "eval/eval_with_train"
    assert (evaluation / "eval_list_val.txt").read_text().split() == ["1", "2"]
    figures = json.loads((evaluation / "epoch_2/val/result.json").read_text())
    assert {"Car_3d/moderate_R40", "recall/rcnn_0.3"} <= figures.keys()
    results = sorted((evaluation / "epoch_2/val/final_result/data").iterdir())
    assert [path.stem for path in results] == [
        f"{tiny_kitti.NUM_TRAIN + place:06d}" for place in range(tiny_kitti.NUM_VAL)
    ]
    assert all(len(line.split()) == 16 for path in results for line in path.read_text().splitlines())


def test_evaluation_of_one_and_of_all_checkpoints(workplace, capsys):
    assert (
        run("test", "--cfg_file", CFG, "--extra_tag", "first", "--workers", 0, "--infer_time", "--eval_tag", "one") == 0
    )
    out = capsys.readouterr().out
    assert "Car AP_R40@0.70, 0.70, 0.70:" in out and "inference: " in out and "checkpoint_epoch_2.pth" in out
    result = RUN / "first/eval/epoch_2/val/one/result.pkl"
    with open(result, "rb") as file:
        annos = pickle.load(file)
    with open(RUN / "first/eval/eval_with_train/epoch_2/val/result.pkl", "rb") as file:
        after_training = pickle.load(file)
    for one, other in zip(annos, after_training, strict=True):
        assert one["frame_id"] == other["frame_id"] and len(one["score"]) > 10
        np.testing.assert_allclose(one["score"], other["score"], rtol=1e-5)

    assert run("test", "--cfg_file", CFG, "--extra_tag", "first", "--workers", 0, "--eval_all") == 0
    assert re.findall(r"results of epoch (\d)", capsys.readouterr().out) == ["1", "2"]
    # nothing is left to do
    assert run("test", "--cfg_file", CFG, "--extra_tag", "first", "--workers", 0, "--eval_all") == 0
    assert "results of" not in capsys.readouterr().out


def test_a_finished_run_started_again_does_nothing_and_more_epochs_go_on(workplace, capsys):
    assert run("train", "--cfg_file", CFG, "--extra_tag", "first", "--workers", 0) == 0
    assert "mean loss" not in capsys.readouterr().out
    assert run("train", "--cfg_file", CFG, "--extra_tag", "first", "--workers", 0, "--epochs", 3) == 0
    assert re.findall(r"epoch (\d)/3: mean loss", capsys.readouterr().out) == ["3"]


def test_pretrained_weights_start_a_new_run(workplace, capsys):
    pretrained = RUN / "first/ckpt/checkpoint_epoch_2.pth"
    assert (
        run(
            "train",
            "--cfg_file",
            CFG,
            "--extra_tag",
            "second",
            "--workers",
            0,
            "--epochs",
            0,
            "--pretrained_model",
            pretrained,
        )
        == 0
    )
    assert str(pretrained) in capsys.readouterr().out


def test_demo_prints_boxes_and_draws_them(workplace, capsys):
    scans = tiny_kitti.dataset() / "training/velodyne"
    checkpoint = RUN / "first/ckpt/checkpoint_epoch_2.pth"
    assert (
        run(
            "demo",
            "--cfg_file",
            CFG,
            "--ckpt",
            checkpoint,
            "--data_path",
            scans / "000001.bin",
            "--score_thresh",
            0,
            "--html",
        )
        == 0
    )
    out = capsys.readouterr().out
    assert re.search(r"^000001\.bin: (\d+) boxes .*output/demo_scan/000001\.png$", out, re.M)
    rows = [line.split() for line in out.splitlines() if re.match(r"  (Car|Pedestrian|Cyclist) ", line)]
    assert len(rows) > 10 and all(len(row) == 9 for row in rows)
    scores = [float(row[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert (workplace / "output/demo_scan/000001.png").read_bytes().startswith(b"\x89PNG")
    assert "<canvas" in (workplace / "output/demo_scan/000001.html").read_text(encoding="utf-8")

    (workplace / "scans").mkdir()
    points = np.fromfile(scans / "000002.bin", np.float32).reshape(-1, 4)
    np.save(workplace / "scans/b.npy", points)
    np.save(workplace / "scans/a.npy", points[:0])
    (workplace / "scans/other.bin").write_bytes(b"x")
    folder = ["--data_path", "scans", "--ext", ".npy", "--score_thresh", 0.999, "--out", "pictures"]
    assert run("demo", "--ckpt", checkpoint, *folder) == 0  # it knows its configuration
    captured = capsys.readouterr()
    assert re.findall(r"^(\w+\.npy): (\d+) boxes", captured.out, re.M) == [("a.npy", "0"), ("b.npy", "0")]
    (warning,) = captured.err.splitlines()
    assert re.match(r"warning: a\.npy has no point", warning)
    assert sorted(path.name for path in (workplace / "pictures").iterdir()) == ["a.png", "b.png"]


def test_pictures_of_a_run(workplace, capsys):
    assert run("visualize", "--cfg_file", CFG, "--extra_tag", "first", "--num", 2, "--score_thresh", 0.9) == 0
    drawn = [Path(line) for line in capsys.readouterr().out.splitlines() if line.endswith(".png")]
    first, last = tiny_kitti.NUM_TRAIN, tiny_kitti.NUM_TRAIN + tiny_kitti.NUM_VAL - 1
    assert [path.name for path in drawn] == [
        f"{first:06d}.png",
        f"{last:06d}.png",
        "precision_recall.png",
        "training.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert run("visualize", "--cfg_file", CFG, "--extra_tag", "none") == 2
    assert "output/tiny_models/tiny/none/eval" in capsys.readouterr().err


# ---- mistakes
# ----------------------------------------------------------------------------------------------------------------------


def edit(old: str, new: str):
    def change(workplace: Path) -> None:
        text = (workplace / CFG).read_text()
        assert old in text
        (workplace / CFG).write_text(text.replace(old, new))

    return change


def second_config(workplace: Path) -> None:
    tiny_kitti.write_config(workplace / CFG, tiny_kitti.second(tiny_kitti.config(tiny_kitti.dataset())))


def own_data(change):
    """The configuration reads a copy of the data, which ``change(root)`` spoils."""

    def prepare(workplace: Path) -> None:
        root = workplace / "own_data"
        shutil.copytree(tiny_kitti.dataset(), root)
        edit(str(tiny_kitti.dataset()), str(root))(workplace)
        change(root)

    return prepare


def lose(name: str):
    return lambda root: (root / name).unlink()


def truncate(root: Path) -> None:
    for path in (root / "training/velodyne").iterdir():
        path.write_bytes(path.read_bytes()[:-3])


def scan(name: str, content):
    def write(workplace: Path) -> None:
        (workplace / name).parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            (workplace / name).write_bytes(content)
        else:
            np.save(workplace / name, content)

    return write


def half_a_checkpoint(workplace: Path) -> None:
    content = (workplace / CHECKPOINT).read_bytes()
    (workplace / "x.pth").write_bytes(content[: len(content) // 2])


NOTHING = lambda workplace: None  # noqa: E731
NAN = np.array([[1, 1, 1, 0], [2, np.nan, 2, 0], [3, 3, 3, np.inf]], np.float32)
TRAIN = ["train", "--cfg_file", CFG, "--workers", 0]
TEST = ["test", "--cfg_file", CFG, "--workers", 0, "--extra_tag", "first"]
DEMO = ["demo", "--cfg_file", CFG, "--ckpt", RUN / "first/ckpt/checkpoint_epoch_2.pth", "--data_path"]
CHECKPOINT = RUN / "first/ckpt/checkpoint_epoch_1.pth"

MISTAKES = {
    "no such configuration": (
        NOTHING,
        ["train", "--cfg_file", "cfgs/tiny.yaml"],
        r"cfgs/tiny\.yaml",
    ),
    "not YAML": (edit("CLASS_NAMES:", "CLASS_NAMES: ["), TRAIN, r"cfgs/tiny_models/tiny\.yaml:\d+: "),
    "typo in a key of the model": (
        edit("DIR_OFFSET", "DIR_OFSET"),
        TRAIN,
        r"MODEL\.DENSE_HEAD\.DIR_OFFSET.*DIR_OFSET",
    ),
    "typo in a key of the data": (
        edit("VOXEL_SIZE", "VOXELSIZE"),
        TRAIN,
        r"DATA_CONFIG\.DATA_PROCESSOR\[2\]\.VOXEL_SIZE\b",
    ),
    "typo in a key of the optimiser": (
        edit("GRAD_NORM_CLIP", "GRAD_NORM_CLP"),
        TRAIN,
        r"OPTIMIZATION\.GRAD_NORM_CLIP\b",
    ),
    "typo in a key that only evaluation reads": (
        edit("NMS_THRESH", "NMS_TRESH"),
        TRAIN,
        r"MODEL\.POST_PROCESSING\.NMS_CONFIG\.NMS_THRESH\b",
    ),
    "unknown model": (
        edit("NAME: PointPillar\n", "NAME: PointPilar\n"),
        TRAIN,
        r"MODEL\.NAME: .*PointPilar.*PointPillar",
    ),
    "--set a key that is not there": (
        NOTHING,
        [*TRAIN, "--set", "OPTIMIZATION.LRR", "1"],
        r"--set OPTIMIZATION\.LRR: .*\bLR\b",
    ),
    "--set a value of another type": (
        NOTHING,
        [*TRAIN, "--set", "OPTIMIZATION.LR", "fast"],
        r"--set OPTIMIZATION\.LR fast: .*0\.003",
    ),
    "--set without a value": (NOTHING, [*TRAIN, "--set", "OPTIMIZATION.LR"], r"--set .*OPTIMIZATION\.LR"),
    "no data": (
        lambda workplace: edit(str(tiny_kitti.dataset()), "nowhere/kitti")(workplace),
        TRAIN,
        r"DATA_CONFIG\.DATA_PATH.*nowhere/kitti",
    ),
    "no training infos": (
        own_data(lose("kitti_infos_train.pkl")),
        TRAIN,
        r"own_data/kitti_infos_train\.pkl .*create-infos",
    ),
    "no validation infos": (
        own_data(lose("kitti_infos_val.pkl")),
        TRAIN,
        r"own_data/kitti_infos_val\.pkl .*create-infos",
    ),
    "no database": (own_data(lose("kitti_dbinfos_train.pkl")), TRAIN, r"own_data/kitti_dbinfos_train\.pkl"),
    "a scan that is cut off": (
        own_data(truncate),
        TRAIN,
        r"frame 0000\d\d: .*own_data/training/velodyne/0000\d\d\.bin .*\d+",
    ),
    "batch size 0": (NOTHING, [*TRAIN, "--batch_size", 0], r"--batch_size 0\b"),
    "a launcher without its surroundings": (NOTHING, [*TRAIN, "--launcher", "pytorch"], r"torchrun"),
    "a device that is none": (NOTHING, [*TRAIN, "--device", "gpu0"], r"--device gpu0: "),
    "go on from no checkpoint": (NOTHING, [*TRAIN, "--ckpt", "none.pth"], r"none\.pth"),
    "go on from another architecture": (
        second_config,
        [*TRAIN, "--ckpt", CHECKPOINT],
        r"checkpoint_epoch_1\.pth",
    ),
    "evaluate no checkpoint": (NOTHING, [*TEST, "--ckpt", "none.pth"], r"none\.pth"),
    "evaluate an empty run": (
        NOTHING,
        [*TEST[:-1], "empty"],
        r"output/tiny_models/tiny/empty/ckpt",
    ),
    "evaluate half a checkpoint": (
        half_a_checkpoint,
        [*TEST, "--ckpt", "x.pth"],
        r"x\.pth",
    ),
    "evaluate another architecture": (
        second_config,
        [*TEST, "--ckpt", CHECKPOINT],
        r"epoch_1\.pth .*\d+",
    ),
    "demo: no such path": (NOTHING, [*DEMO, "none"], r"none"),
    "demo: a folder without scans": (NOTHING, [*DEMO, "cfgs"], r"cfgs .*\.bin"),
    "demo: a scan that is cut off": (
        scan("a.bin", b"123456789012345"),
        [*DEMO, "a.bin"],
        r"a\.bin .*15 .*16",
    ),
    "demo: another kind of file": (
        scan("a.txt", b"1 2 3"),
        [*DEMO, "a.txt"],
        r"a\.txt: .*\.bin, \.npy, .* or \.laz",
    ),
    "demo: NaN points": (
        scan("a.bin", NAN.tobytes()),
        [*DEMO, "a.bin"],
        r"2 .*3 .*a\.bin .*DROP_NONFINITE_POINTS",
    ),
    "demo: an array of another shape": (
        scan("a.npy", NAN[:, :3]),
        [*DEMO, "a.npy"],
        r"a\.npy .*\(3, 3\) .*4",
    ),
    "demo: not an array": (scan("a.npy", b"\x93NUMPY"), [*DEMO, "a.npy"], r"a\.npy"),
    "demo: another architecture": (
        lambda workplace: (second_config(workplace), scan("a.bin", bytes(16))(workplace)),
        [*DEMO, "a.bin"],
        r"checkpoint_epoch_2\.pth",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2(workplace, capsys, mistake):
    prepare, (name, *argv), told = MISTAKES[mistake]
    prepare(workplace)
    before = {path for path in workplace.rglob("*") if path.suffix in (".pth", ".pkl", ".png")}
    assert run(name, *argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert lines[0].startswith("error: ") and re.search(told, lines[0]), lines
    assert len(lines) == 1 or mistake == "no data"  # which shows the layout of a KITTI folder below it
    left = {path for path in workplace.rglob("*") if path.suffix in (".pth", ".pkl", ".png")} | set(
        workplace.rglob("*.part")
    )
    assert left == before  # nothing half-done


def test_what_ends_a_run_is_in_its_log(workplace):
    run(*TRAIN[:5], "--extra_tag", "bad", "--ckpt", "none.pth")
    (log,) = (RUN / "bad").glob("train_*.log")
    assert re.search(r"ERROR  error: .*none\.pth", log.read_text())


def test_a_mistake_in_a_process_of_its_own_shows_no_traceback(trained, tmp_path):
    done = typed("train.py", "--cfg_file", "cfgs/none.yaml", workplace=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert re.match(r"error: .*cfgs/none\.yaml", done.stderr) and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_mistake_met_in_a_loader_process_shows_none_either(workplace):
    own_data(truncate)(workplace)
    done = typed("test.py", "--cfg_file", CFG, "--extra_tag", "first", "--workers", 1, workplace=workplace)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert re.match(r"error: frame 0000\d\d: .*own_data/training/velodyne/0000\d\d\.bin .*\d+", line)


def test_ctrl_c_is_one_word(workplace, monkeypatch, capsys):
    # a terminal tells every process; here the loader hears it long before the rest, and must go on loading
    def press(*_, **__):
        steps.append(1)
        if len(steps) == 1:
            (loader,) = set(multiprocessing.active_children()) - others
            os.kill(loader.pid, signal.SIGINT)
        if len(steps) == tiny_kitti.NUM_TRAIN:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
            steps.append("not interrupted")

    steps, others = [], set(multiprocessing.active_children())
    monkeypatch.setattr(torch.optim.AdamW, "step", press)
    before = signal.getsignal(signal.SIGINT)
    assert run("train", "--cfg_file", CFG, "--workers", 1, "--batch_size", 1, "--extra_tag", "stopped") == 130
    assert capsys.readouterr().err == "interrupted\n" and len(steps) == tiny_kitti.NUM_TRAIN
    assert signal.getsignal(signal.SIGINT) is before
    assert not list((RUN / "stopped/ckpt").iterdir())


def test_a_warning_is_one_line_told_once(capsys):
    def main() -> None:
        warnings.simplefilter("always")
        for number in (1, 1, 2):
            warnings.warn(f"this is\n  no. {number}", stacklevel=1)

    cli.run_main(main)
    assert capsys.readouterr().err == "warning: this is no. 1\nwarning: this is no. 2\n"


def test_an_error_of_ours_keeps_its_traceback(workplace, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(*TRAIN, "--extra_tag", "broken")
    (log,) = (RUN / "broken").glob("train_*.log")
    assert "stopped by this error:\nTraceback" in log.read_text()
