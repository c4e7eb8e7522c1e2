"""tools/convert_checkpoint.py: there, back, and what it refuses."""

import re

import pytest
import tiny_kitti
import torch
from torch import nn

from pcdet_focal.engine.checkpoint import checkpoint_state, save_checkpoint
from pcdet_focal.errors import InputError
from pcdet_focal.models.model_utils.checkpoint_loading import read_checkpoint


def convert(*words) -> None:
    tiny_kitti.tool("convert_checkpoint").main([str(word) for word in words])


def test_there_and_back(tmp_path, capsys):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    source = save_checkpoint(
        checkpoint_state(model, torch.optim.SGD(model.parameters(), lr=1.0), epoch=7, it=91), tmp_path / "a.pth"
    )
    convert(source, tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c.pth")
    assert re.search(r"c\.pth: 7 .*7.*91", capsys.readouterr().out.splitlines()[1])
    first, last = read_checkpoint(source), torch.load(tmp_path / "c.pth", weights_only=True)
    assert (
        last["optimizer_state"] is None
        and last["version"] == first["version"]
        and (last["epoch"], last["it"]) == (7, 91)
    )
    assert all(torch.equal(last["model_state"][key], value) for key, value in first["model_state"].items())


def test_what_it_refuses(tmp_path):
    source = save_checkpoint({"model_state": {"a": torch.ones(1)}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth .*--force"):
        convert(source, source)
    convert(source, source, "--force")
    with pytest.raises(InputError, match=r"b\.pt: .*\.safetensors .*\.pth"):
        convert(source, tmp_path / "b.pt")
