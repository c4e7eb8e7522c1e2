"""The console command: what it lists and completes, and a wheel of it in an environment of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import tiny_kitti

from pcdet_focal import commands
from pcdet_focal.config import Config, cfg_from_yaml_file, find_config
from pcdet_focal.errors import InputError

REPOSITORY = tiny_kitti.REPOSITORY
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}


def typed(*words, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pcdet_focal", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_of_each_command_has_an_example(name):
    module = tiny_kitti.tool(name.replace("-", "_"))
    assert f"    pcdet-focal {name}" in module.build_parser().format_help()
    door = REPOSITORY / "tools" / f"{name.replace('-', '_')}.py"
    assert not door.is_file() or f'run("{name}")' in door.read_text()


def test_the_command_alone_and_a_wrong_one():
    alone = typed()
    assert alone.returncode == 2 and all(f"\n  {name} " in alone.stdout for name in commands.COMMANDS)
    assert "torch" not in typed("--help", env={**ENVIRONMENT, "PYTHONPROFILEIMPORTTIME": "1"}).stderr  # it is quick
    wrong = typed("trian")
    assert (wrong.returncode, wrong.stderr) == (2, "error: there is no command trian; did you mean train?\n")
    assert typed("--version").stdout.startswith("pcdet_focal ")


@pytest.mark.parametrize(
    "given, wanted",
    [
        ({}, {"GOMP_SPINCOUNT": "10000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_threads_spin_less_unless_the_user_says_otherwise(given, wanted):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {key: value for key, value in ENVIRONMENT.items() if key not in names}
    program = (
        "import os, sys, pcdet_focal.commands as c; before = 'torch' in sys.modules; sys.argv = ['env'];"
        f"c.run('env'); print(before, {{n: os.environ[n] for n in {names} if n in os.environ}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, env={**environment, **given}
    )
    assert done.stdout.splitlines()[-1] == f"False {wanted}", done.stderr  # before torch is there


@pytest.mark.parametrize(
    "line, completed", [("pcdet-focal vis", ["visualize"]), ("pcdet-focal train --fix", ["--fix_random_seed"])]
)
def test_the_shell_completes_commands_and_options(line, completed, tmp_path):
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    environment = {
        **ENVIRONMENT,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    typed(env=environment)
    assert [word.strip() for word in answer.read_text().splitlines()] == completed


def test_a_configuration_of_the_package_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("kitti_models/second.yaml", "cfgs/kitti_models/second.yaml"):
        assert find_config(name) == REPOSITORY / "cfgs/kitti_models/second.yaml"
    assert cfg_from_yaml_file("kitti_models/second.yaml", Config()).DATA_CONFIG.DATASET == "KittiDataset"
    own = tmp_path / "kitti_models/second.yaml"
    own.parent.mkdir()
    own.write_text("_BASE_CONFIG_: cfgs/kitti_models/pointpillar.yaml\n")
    assert find_config("kitti_models/second.yaml").resolve() == own  # a path wins
    assert cfg_from_yaml_file("kitti_models/second.yaml", Config()).MODEL.NAME == "PointPillar"
    with pytest.raises(InputError, match=r"kitti_models/secnd\.yaml .*did you mean kitti_models/second\.yaml"):
        find_config("kitti_models/secnd.yaml")
    with pytest.raises(InputError, match=r"did you mean .*pillarnet\.yaml"):
        find_config("models_of_mine/pillarnet.yaml")


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment_simulates_trains_evaluates_and_detects(tmp_path):
    source, packed, work = tmp_path / "source", tmp_path / "wheel", tmp_path / "work"
    work.mkdir()
    for name in ("pcdet_focal", "cfgs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", packed, source], check=True, env=ENVIRONMENT)
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    site = next((tmp_path / "venv").rglob("site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # torch and the others are not installed anew
    (wheel,) = packed.iterdir()
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True, env=ENVIRONMENT)

    def run(*words: str) -> str:
        done = subprocess.run(
            [python.with_name("pcdet-focal"), *words], cwd=work, capture_output=True, text=True, env=ENVIRONMENT
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    cfg = ["--cfg_file", "synthetic_models/pointpillar.yaml", "--device", "cpu", "--workers", "0", "--batch_size", "2"]
    tag = "output/synthetic_models/pointpillar/default"
    run("synthetic", "--root", "data/synthetic", "--num_train", "4", "--num_val", "2", "--quiet")
    run("create-infos", "dataset_configs/synthetic_dataset.yaml")
    assert "Car" in run("train", *cfg, "--epochs", "1")
    checkpoint = f"{tag}/ckpt/checkpoint_epoch_1.pth"
    assert "Car" in run("test", *cfg, "--ckpt", checkpoint)
    scan = next((work / "data/synthetic/training/velodyne").iterdir())
    run("demo", *cfg[:4], "--ckpt", checkpoint, "--data_path", str(scan), "--out", "pictures")
    assert Path(work / "pictures" / f"{scan.stem}.png").is_file()
    assert str(python) in run("env")
