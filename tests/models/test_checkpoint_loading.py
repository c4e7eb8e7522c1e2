"""What is loaded from a checkpoint, what is refused, and what the person who gave the file is told."""

import argparse
import copy
import json
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_kitti
import torch
from model_data import REPOSITORY, dataset_like
from openpcdet import needs_openpcdet, peer_folder
from torch import nn

from pcdet_focal.config import Config, cfg_from_yaml_file
from pcdet_focal.engine.checkpoint import checkpoint_state, save_checkpoint, save_safetensors
from pcdet_focal.engine.optimization import build_optimizer
from pcdet_focal.errors import InputError
from pcdet_focal.models import build_network
from pcdet_focal.models.model_utils.checkpoint_loading import (
    load_params_from_file,
    load_params_with_optimizer,
    read_checkpoint,
)
from pcdet_focal.ops import sparse_conv

LOGGER = logging.getLogger("test")


def net(width=3):
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def saved(tmp_path, model, **extra):
    path = tmp_path / "model.pth"
    torch.save({"model_state": model.state_dict(), "epoch": 4, "it": 70, **extra}, path)
    return path


def test_a_checkpoint_of_the_same_model_restores_weights_optimiser_and_position(tmp_path):
    torch.manual_seed(0)
    source, target = net(), net()
    optimizer = torch.optim.Adam(source.parameters())
    source(torch.randn(5, 2)).sum().backward()
    optimizer.step()
    path = saved(tmp_path, source, optimizer_state=optimizer.state_dict())
    restored = torch.optim.Adam(target.parameters())
    assert load_params_with_optimizer(target, path, restored, LOGGER) == (70, 4)
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values()))
    assert torch.equal(restored.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_what_fits_is_loaded_and_what_does_not_is_named(tmp_path, caplog):
    source = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(5))
    target = net()
    with caplog.at_level(logging.INFO):
        load_params_from_file(target, saved(tmp_path, source), LOGGER)
    assert torch.equal(target[0].weight, source[0].weight)
    assert re.search(r"1\.weight: .*\(5,\) .*\(3,\) ", caplog.text)


def test_another_architecture_is_refused_and_the_model_left_alone(tmp_path):
    path, target = saved(tmp_path, nn.Sequential(nn.Linear(7, 7))), net()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    for load in (lambda: load_params_from_file(target, path, LOGGER), lambda: load_params_with_optimizer(target, path)):
        with pytest.raises(InputError, match=r"0\.weight: .*\(7, 7\) .*\(3, 2\) "):
            load()
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


class Code:
    def __reduce__(self):
        return (print, ("executed",))


class Hidden:
    """Code inside a number of numpy's: an object array's scalar is a pickle of its own."""

    def __reduce__(self):
        return (np._core.multiarray.scalar, (np.dtype("O"), Code()))


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"hello, not a checkpoint", Code(), Hidden(), net(), {}, {"weights": {}}, {"model": Code()}, [1], None],
)
def test_files_that_are_no_checkpoint_get_one_line_and_are_not_executed(tmp_path, capsys, content, old_format):
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(InputError, match=r"file\.pth") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250
    assert "executed" not in capsys.readouterr().out


class Settings(dict):  # as EasyDict: a mapping with a class of its own
    pass


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (Code(), r"builtin.*print"),
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (Settings(a=1), "Settings"),
        ([{"deep": (Settings(a=[Code()]),)}], "Settings"),
        ({Path("a"): 1}, "Path"),
        (np.array([Settings()]), "Settings"),
        (Settings, "Settings"),
        (net(), "torch.nn.modules.container.Sequential"),
    ],
)
def test_objects_beside_the_weights_are_left_out_by_name(tmp_path, capsys, entry, name, old_format):
    path = tmp_path / "file.pth"
    state = {"model_state": net().state_dict(), "epoch": np.int64(3), "more": entry, "curve": np.arange(3.0)}
    torch.save(state, path, _use_new_zipfile_serialization=not old_format)
    with pytest.warns(UserWarning, match=rf"file\.pth: .*more.*({name})"):
        read = read_checkpoint(path)
    assert "more" not in read and read["epoch"] == 3 and type(read["epoch"]) is int
    assert read["curve"].tolist() == [0.0, 1.0, 2.0]
    for key, value in state["model_state"].items():
        assert torch.equal(read["model_state"][key], value)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("key", [None, "model_state", "state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module."])
def test_weights_under_other_keys_and_prefixes(tmp_path, key, prefix):
    source, target = net(), net()
    weights = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    torch.save(weights if key is None else {key: weights, "meta": {"a": 1}}, tmp_path / "file.pth")
    load_params_from_file(target, tmp_path / "file.pth", logging.getLogger())
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_a_program_of_torchscript_is_refused(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "file.pth")
    with pytest.raises(InputError, match=r"file\.pth"):
        read_checkpoint(tmp_path / "file.pth")
    with pytest.raises(InputError, match="folder"):
        read_checkpoint(tmp_path)


def test_numbers_of_numpy_1_and_2_are_read_as_numbers(tmp_path):
    """OpenPCDet's schedule leaves them in its optimiser's state."""
    values = [np.float64(0.1), np.float32(-2.5), np.int64(7), np.bool_(True), np.float64(math.pi)]
    for old_name in (False, True):
        path = saved(tmp_path, net(), optimizer_state={"param_groups": [{"lr": values}]})
        if old_name:  # what numpy 1 would have written
            torch.save(
                {"model_state": {}, "optimizer_state": {"param_groups": [{"lr": values}]}},
                path,
                _use_new_zipfile_serialization=False,
            )
            path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
        before = set(torch.serialization.get_safe_globals())
        read = read_checkpoint(path)["optimizer_state"]["param_groups"][0]["lr"]
        assert read == [0.1, -2.5, 7, True, math.pi] and [type(v) for v in read] == [float, float, int, bool, float]
        assert set(torch.serialization.get_safe_globals()) == before


def test_an_optimisers_state_in_a_file_of_its_own(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5)
    path = saved(tmp_path, model)
    torch.save({"optimizer_state": optimizer.state_dict()}, tmp_path / "model_optim.pth")
    restored = torch.optim.SGD(net().parameters(), lr=1.0)
    load_params_with_optimizer(net(), path, restored)
    assert restored.param_groups[0]["lr"] == 0.25 and restored.param_groups[0]["momentum"] == 0.5


# ---- kernels of sparse convolutions in the layouts of spconv's versions
# ------------------------------------------------------------


class Sparse(nn.Module):
    """A layer with unlike channels, by which a file's layout shows, one with equal channels, by which it does not, and
    a one-cell one.
    """

    def __init__(self, first: bool = True):
        super().__init__()
        self.first = sparse_conv.SubMConv3d(2, 5, 3, bias=False) if first else nn.Identity()
        self.square = sparse_conv.SparseConv3d(5, 5, (3, 1, 1), stride=2, bias=False)
        self.cell = sparse_conv.SubMConv3d(5, 3, 1, bias=False)
        self.flat = sparse_conv.SubMConv2d(5, 4, 3, bias=False)


def in_layout(key: str, weight: torch.Tensor, layout: str) -> torch.Tensor:
    """(out, *kernel, in) as the version writes it; spconv reads a one-cell kernel's memory as (in, out) in every
    version.
    """
    *kernel, channels_in = weight.shape[1:]
    if key.startswith("cell"):
        return weight.reshape(
            *kernel, *((channels_in, len(weight)) if layout == "RSCK" else (len(weight), channels_in))
        )
    axes = list(range(1, weight.dim() - 1))
    return weight.permute(*axes, *((-1, 0) if layout == "RSCK" else (0, -1))).contiguous()


@pytest.mark.parametrize("layout", ["KRSC", "RSCK", "RSKC"])
def test_kernels_go_by_the_layout_of_the_whole_file(tmp_path, layout):
    source, target = Sparse(), Sparse()
    state = {
        key: value if layout == "KRSC" else in_layout(key, value, layout) for key, value in source.state_dict().items()
    }
    optimizer = torch.optim.Adam(source.parameters())
    for p in source.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    moments = copy.deepcopy(optimizer.state_dict())  # the tensors in it are the optimiser's own
    if layout != "KRSC":
        for key, entry in zip(source.state_dict(), moments["state"].values()):
            entry.update({name: in_layout(key, entry[name], layout) for name in ("exp_avg", "exp_avg_sq")})
    path = tmp_path / "model.pth"
    torch.save({"model_state": state, "optimizer_state": moments, "it": 3, "epoch": 1}, path)
    restored = torch.optim.Adam(target.parameters())
    before = {key: value.clone() for key, value in state.items()}
    assert load_params_with_optimizer(target, path, restored) == (3, 1)
    for key, value in target.state_dict().items():
        assert torch.equal(in_layout(key, value, layout) if layout != "KRSC" else value, before[key]), key
    for old, new in zip(source.parameters(), target.parameters()):
        assert torch.equal(restored.state[new]["exp_avg"], optimizer.state[old]["exp_avg"])


@pytest.mark.parametrize("layout", ["RSCK", "RSKC"])
def test_square_kernels_alone_are_spconv_1_unless_declared(tmp_path, layout):
    source = Sparse(first=False).square
    torch.save({"model_state": {"weight": in_layout("", source.weight.detach(), layout)}}, tmp_path / "model.pth")
    for declared in (None, layout):
        target = sparse_conv.SparseConv3d(5, 5, (3, 1, 1), stride=2, bias=False)
        load_params_from_file(target, tmp_path / "model.pth", LOGGER, kernel_layout=declared)
        assert torch.equal(target.weight, source.weight) == (declared == layout or layout == "RSCK")
    with pytest.raises(InputError, match=r"kernel_layout 'HWIO' .*KRSC"):
        load_params_from_file(target, tmp_path / "model.pth", LOGGER, kernel_layout="HWIO")


# ---- safetensors
# -------------------------------------------------------------------------------------------------------------------


def test_safetensors_there_and_back(tmp_path):
    from safetensors import safe_open

    torch.manual_seed(0)
    source, target = net(), net()
    path = save_safetensors(
        checkpoint_state(source, torch.optim.SGD(source.parameters(), lr=1.0), epoch=4, it=70), tmp_path / "model"
    )
    assert path.name == "model.safetensors" and not list(tmp_path.glob("*.part"))
    assert load_params_with_optimizer(target, path, torch.optim.SGD(target.parameters(), lr=0.5)) == (70, 4)
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values()))
    with safe_open(path, framework="np") as file:  # what any other reader sees
        assert file.metadata() == {
            "format": "pt",
            "epoch": "4",
            "it": "70",
            "version": read_checkpoint(path)["version"],
        }
        np.testing.assert_array_equal(file.get_tensor("0.weight"), source[0].weight.detach().numpy())


@pytest.mark.parametrize("content", [b"", b"hello, not a checkpoint", b"\x08\0\0\0\0\0\0\0{]      "])
def test_damaged_safetensors_get_one_line(tmp_path, content):
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"file\.safetensors"):
        read_checkpoint(path)
    with pytest.raises(InputError, match=r"gone\.safetensors"):
        read_checkpoint(tmp_path / "gone.safetensors")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(InputError, match=r'pip install "pcdet_focal\[safetensors\]"'):
        read_checkpoint(tmp_path / "model.safetensors")


# ---- there and back through OpenPCDet itself
# ---------------------------------------------------------------------------------------

META = dict(
    class_names=["Car", "Pedestrian", "Cyclist"],
    grid_size=[128, 128, 40],
    voxel_size=[0.2, 0.2, 0.1],
    point_cloud_range=[0, -12.8, -3, 25.6, 12.8, 1],
    num_point_features=4,
)


def second(folder: Path):
    """A small SECOND and its optimiser, of ``folder/second.yaml``."""
    cfg = cfg_from_yaml_file(folder / "second.yaml", Config())
    model = build_network(cfg.MODEL, 3, dataset_like(META))
    return model, build_optimizer(model, cfg.OPTIMIZATION)


def step(model, optimizer, lr: float, beta: float, first_seed: int) -> None:
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(first_seed + index))
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = lr, (beta, 0.99)
    optimizer.step()


@needs_openpcdet
def test_checkpoints_go_to_openpcdet_and_come_back(tmp_path):
    content = tiny_kitti.second(tiny_kitti.config(tmp_path))
    tiny_kitti.write_config(tmp_path / "second.yaml", content)
    (tmp_path / "meta.json").write_text(json.dumps(META))
    model, optimizer = second(tmp_path)
    step(model, optimizer, 0.003, 0.95, 1000)
    state = checkpoint_state(model, optimizer, epoch=2, it=60)
    save_checkpoint(state, tmp_path / "ours")
    old = {
        key: value.permute(1, 2, 3, 4, 0).contiguous() if value.dim() == 5 else value
        for key, value in state["model_state"].items()
    }
    save_checkpoint({**state, "model_state": old, "optimizer_state": None}, tmp_path / "old")

    script = Path(__file__).with_name("real_openpcdet_checkpoint.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, peer_folder() / "tools", tmp_path],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [REPOSITORY, REPOSITORY / "tests", peer_folder(), *sys.path])),
        },
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "weights": 0.0,
        "weights of spconv 1.x": 0.0,
        "it, epoch": [60, 2],
    }

    read, _ = second(tmp_path)
    load_params_from_file(read, tmp_path / "old.pth", LOGGER)
    assert all(torch.equal(read.state_dict()[key], value) for key, value in state["model_state"].items())
    step(model, optimizer, 0.002, math.cos(0.5), 0)  # the step that OpenPCDet took from there
    back, restored = second(tmp_path)
    assert load_params_with_optimizer(back, tmp_path / "theirs.pth", restored) == (90, 3)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[key], value, rtol=1e-6, atol=1e-7)
    for ours, theirs in zip(model.parameters(), back.parameters()):
        torch.testing.assert_close(restored.state[theirs]["exp_avg_sq"], optimizer.state[ours]["exp_avg_sq"])
    assert {group["weight_decay"] for group in restored.param_groups} == {0.01} and restored.param_groups[0][
        "lr"
    ] == 0.002
