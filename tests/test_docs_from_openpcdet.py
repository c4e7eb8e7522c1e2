"""docs/from_openpcdet.md: its commands and examples as they stand, and its tables against OpenPCDet's names and
configurations.
"""

import fnmatch
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_kitti
from easydict import EasyDict
from golden_data import record
from model_data import dataset_like
from openpcdet import copy_tools, needs_openpcdet, peer_folder, public_names
from openpcdet_stand_in import write_stand_in

from pcdet_focal import datasets
from pcdet_focal.config import Config, cfg_from_yaml_file
from pcdet_focal.engine import cli
from pcdet_focal.engine.checkpoint import checkpoint_state, save_checkpoint
from pcdet_focal.engine.optimization import build_optimizer
from pcdet_focal.errors import InputError
from pcdet_focal.models import backbones_2d, backbones_3d, build_network, dense_heads, detectors
from pcdet_focal.models.backbones_2d import map_to_bev
from pcdet_focal.models.backbones_3d import vfe

PAGE = (tiny_kitti.REPOSITORY / "docs/from_openpcdet.md").read_text(encoding="utf-8")
CFG = "cfgs/kitti_models/pointpillar.yaml"


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.partition(f"## {title}\n")[2], flags=re.M)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's tables, without their heads."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [i for i, row in enumerate(cells) if set(row[0]) == {"-"}]
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ---- commands and examples
# ---------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from pcdet.config import cfg, cfg_from_yaml_file
from pcdet.models import build_network
from pcdet.utils import common_utils

cfg_from_yaml_file("cfgs/kitti_models/pointpillar.yaml", cfg)
print(build_network.__module__, cfg.MODEL.NAME, sys.argv[1:])
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what the page speaks of, all of it small: the configuration, a checkpoint, two scripts, an
    installed OpenPCDet.
    """
    shutil.copytree(tiny_kitti.REPOSITORY / "cfgs", tmp_path / "cfgs")
    content = tiny_kitti.config(tiny_kitti.dataset())
    loaded = cfg_from_yaml_file(tiny_kitti.write_config(tmp_path / CFG, content), Config())
    for name in ("my_script.py", "their_script.py"):
        (tmp_path / name).write_text(SCRIPT)
    meta = dict(
        class_names=loaded.CLASS_NAMES,
        grid_size=[32, 32, 1],
        voxel_size=[0.8, 0.8, 4],
        point_cloud_range=[0, -12.8, -3, 25.6, 12.8, 1],
    )
    model = build_network(loaded.MODEL, 3, dataset_like({**meta, "num_point_features": 4}))
    save_checkpoint(
        checkpoint_state(model, build_optimizer(model, loaded.OPTIMIZATION), epoch=80, it=7),
        tmp_path / "pointpillar_7728",
    )
    write_stand_in(tmp_path / "installed")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(words, folder, *paths, **more) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        map(str, [*paths, tiny_kitti.REPOSITORY, *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def blocks(kind: str, title: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", section(title), re.M | re.S)


@pytest.mark.slow
def test_scripts_run_with_one_word_changed_or_none(workplace):
    changed, unchanged, *_ = blocks("sh", "Scripts")
    printed = [started(["bash", "-ec", block], workplace).stdout.splitlines()[-1] for block in (changed, unchanged)]
    assert printed == ["pcdet_focal.models PointPillar []", "pcdet_focal.models PointPillar ['--any', '--arguments']"]
    assert "from pcdet_focal.models import" in (workplace / "my_script.py").read_text()


@needs_openpcdet
@pytest.mark.slow
def test_openpcdets_own_tools_run(workplace):
    copy_tools(workplace / "OpenPCDet")
    shutil.copy(workplace / CFG, workplace / "OpenPCDet/tools" / CFG)
    done = started(["bash", "-ec", blocks("sh", "Scripts")[2]], workplace, workplace / "OpenPCDet/no_waiting")
    assert done.stdout.count("Car AP_R40@0.70, 0.70, 0.70") == 2
    assert (workplace / "OpenPCDet/output/kitti_models/pointpillar/here/ckpt/checkpoint_epoch_1.pth").exists()
    data = workplace / "OpenPCDet/data/kitti"
    shutil.copytree(tiny_kitti.dataset(), data, ignore=shutil.ignore_patterns("*.pkl", "gt_database*"))
    started(["bash", "-ec", blocks("sh", "Scripts")[3]], workplace)
    assert (data / "kitti_infos_train.pkl").is_file() and (data / "gt_database").is_dir()


@pytest.mark.parametrize("title", ["Scripts", "The losses alone, inside an installed OpenPCDet"])
def test_examples_run(workplace, title):
    examples = blocks("python", title)
    assert examples
    for example in examples:
        started([sys.executable, "-c", example], workplace, workplace / "installed")


@pytest.mark.slow
@pytest.mark.parametrize("title, runs", [("Configurations", 1), ("Checkpoints", 3)])
def test_commands_run(workplace, capsys, title, runs):
    (block,) = blocks("sh", title)
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == runs
    for python, tool, *words in commands:
        name = re.fullmatch(r"tools/(\w+)\.py", tool).group(1)
        assert python == "python"
        cli.run_main(tiny_kitti.tool(name).main, words)  # raises SystemExit for a status other than 0
    printed = capsys.readouterr().out
    assert "Car AP_R40@0.70, 0.70, 0.70:" in printed
    if title == "Checkpoints":
        assert (
            "pointpillar.safetensors: " in printed
            and "loaded 30 of 30 weights from pointpillar.safetensors" in re.sub(r"\d+ of \d+", "30 of 30", printed)
        )


# ---- tables
# ----------------------------------------------------------------------------------------------------------------------

ALL_NAMES = json.loads((tiny_kitti.REPOSITORY / "tests/openpcdet_names.json").read_text())
ABSENT_MODULES = [
    pattern for row in rows("What is not here: names") for pattern in names(row[0]) if len(names(row[1])) == 0
]
ABSENT_NAMES = {names(row[0])[0]: names(row[1]) for row in rows("What is not here: names") if names(row[1])}


@needs_openpcdet
def test_the_list_of_names_is_openpcdets():
    assert public_names(peer_folder()) == ALL_NAMES


@pytest.mark.parametrize(
    "module", [m for m in ALL_NAMES if not any(fnmatch.fnmatchcase(m, pattern) for pattern in ABSENT_MODULES)]
)
def test_every_public_name_is_here_or_on_the_page(module):
    absent = ABSENT_NAMES.get(module or "pcdet", [])
    here = importlib.import_module(f"pcdet_focal.{module}" if module else "pcdet_focal")
    missing = [name for name in ALL_NAMES[module] if not hasattr(here, name) and name not in absent]
    assert not missing


def test_what_the_page_says_is_absent_is_openpcdets():
    """Neither a misspelt name nor one that has come since may stand there."""
    for pattern in ABSENT_MODULES:
        assert fnmatch.filter(ALL_NAMES, pattern), pattern
    for module, absent in ABSENT_NAMES.items():
        theirs = ALL_NAMES["" if module == "pcdet" else module]
        assert set(absent) - {"EpochSampler", "build_dataloader", "rotate_iou_gpu_eval"} <= set(theirs), module


ROOMS = {
    "MODEL": detectors,
    "MODEL.VFE": vfe,
    "MODEL.BACKBONE_3D": backbones_3d,
    "MODEL.MAP_TO_BEV": map_to_bev,
    "MODEL.BACKBONE_2D": backbones_2d,
    "MODEL.DENSE_HEAD": dense_heads,
    "DATA_CONFIG.DATASET": datasets,
}


@pytest.mark.parametrize("place", ROOMS)
def test_the_modules_are_those_of_the_page(place):
    (listed,) = [row[1].split(", ") for row in rows("What is here: modules") if names(row[0]) == [place]]
    assert sorted(listed) == sorted(name for name in ROOMS[place].__all__ if "Template" not in name)


CONFIGS = {names(row[0])[0]: row[1] for row in rows("What is here: configurations")}


@needs_openpcdet
def test_the_configurations_are_openpcdets():
    there = sorted(
        str(path.relative_to(peer_folder() / "tools/cfgs"))
        for path in (peer_folder() / "tools/cfgs").rglob("*_models/*.yaml")
    )
    assert sorted(CONFIGS) == there


@needs_openpcdet
@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_builds_with_the_recorded_keys_or_is_refused_by_name(name, monkeypatch):
    monkeypatch.chdir(peer_folder() / "tools")
    cfg = cfg_from_yaml_file(f"cfgs/{name}", EasyDict())
    if CONFIGS[name] == "no":
        small = {
            "grid_size": [8, 8, 8],
            "voxel_size": [1, 1, 1],
            "point_cloud_range": [0, 0, 0, 8, 8, 8],
            "num_point_features": 4,
        }
        with pytest.raises(InputError, match=r"MODEL\S*\.NAME: "):
            build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset_like({**small, "class_names": cfg.CLASS_NAMES}))
        return
    meta = json.loads(record(f"04_state_dicts/{name.replace('/', '__').replace('.yaml', '.json')}").read_text())
    model = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset_like(meta))
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == {
        k: tuple(v[0]) for k, v in meta["state_dict"].items()
    }
    assert CONFIGS[name] == ("yes" if cfg.DATA_CONFIG.DATASET in datasets.__all__ else "model")
