"""docs/losses.md: each of its YAML blocks works, its pictures and files are there, and it names every loss that can be
built.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from easydict import EasyDict
from head_cases import GT, features, small_head

from pcdet_focal.config import cfg_from_yaml_file
from pcdet_focal.losses import build_loss, registered_losses, set_training_progress

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs/losses.md").read_text()
BLOCKS = [(text.strip(), yaml.safe_load(text)) for text in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)]
HEAD = [(text, block) for text, block in BLOCKS if "type" not in block]
DICTS = [(text, block) for text, block in BLOCKS if "type" in block]


def test_there_are_blocks_of_both_kinds():
    assert len(HEAD) > 15 and len(DICTS) > 8


@pytest.mark.parametrize("text, block", HEAD, ids=[text[:60] for text, _ in HEAD])
def test_a_head_takes_the_line_and_has_a_gradient(text, block, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "block.yaml").write_text(text)
    entries = cfg_from_yaml_file(tmp_path / "block.yaml", EasyDict()) if "_BASE_CONFIG_" in block else block
    entries = {key: value for key, value in entries.items() if key != "_BASE_CONFIG_"}
    assert set(entries) <= {"CLS_LOSS", "REG_LOSS", "DIR_LOSS", "NORMALIZER"}
    head = small_head(**entries)
    set_training_progress(head, epoch=0, iteration=0)
    head({"spatial_features_2d": features(), "gt_boxes": GT, "batch_size": 2})
    loss, parts = head.get_loss()
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    for name, layer in (("conv_cls", head.conv_cls), ("conv_box", head.conv_box), ("conv_dir_cls", head.conv_dir_cls)):
        assert torch.isfinite(layer.weight.grad).all() and layer.weight.grad.abs().sum() > 0, name
    for key, function in (
        ("CLS_LOSS", head.cls_loss_func),
        ("REG_LOSS", head.reg_loss_func),
        ("DIR_LOSS", head.dir_loss_func),
    ):
        if key in entries:
            entry = entries[key]
            assert type(function.loss).__name__ == (entry if isinstance(entry, str) else entry["NAME"])


@pytest.mark.parametrize("text, block", DICTS, ids=[text[:60] for text, _ in DICTS])
def test_an_mmdetection_dict_is_built(text, block):
    loss = build_loss(block)
    assert type(loss).__name__ == block["type"].removeprefix("mmdet.")


def test_pictures_and_recipes_are_there():
    pictures = re.findall(r"\]\((images/\S+)\)", PAGE)
    assert len(pictures) == 8  # six curves, two of the measured comparison
    for picture in pictures:
        assert 0 < (REPOSITORY / "docs" / picture).stat().st_size < 60_000
    for name in re.findall(r"cfgs/\S+?\.yaml", PAGE):
        assert (REPOSITORY / name).is_file(), name
    for recipe in (REPOSITORY / "cfgs/loss_recipes").glob("*.yaml"):
        assert recipe.stem in PAGE


def test_every_loss_is_on_the_page():
    assert [name for name in registered_losses() if name not in PAGE] == []


@pytest.mark.slow
def test_the_command_draws_the_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    subprocess.run(
        [sys.executable, REPOSITORY / "tools/plot_losses.py", "--out", tmp_path],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        Path(picture).name for picture in re.findall(r"\]\((images/loss_\S+)\)", PAGE)
    }
