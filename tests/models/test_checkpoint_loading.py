"""What is loaded from a checkpoint, what is refused, and what the person who gave the file is told."""
import logging

import pytest
import torch
from torch import nn

from pcdet_focal.errors import InputError
from pcdet_focal.models.model_utils.checkpoint_loading import load_params_from_file, load_params_with_optimizer, read_checkpoint

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
    assert "1.weight: shape (5,) in the file, (3,) in the model" in caplog.text


def test_another_architecture_is_refused_and_the_model_left_alone(tmp_path):
    path, target = saved(tmp_path, nn.Sequential(nn.Linear(7, 7))), net()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    for load in (lambda: load_params_from_file(target, path, LOGGER), lambda: load_params_with_optimizer(target, path)):
        with pytest.raises(InputError, match=r"another architecture.*0\.weight: shape \(7, 7\) in the file, \(3, 2\) in the model"):
            load()
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


class Code:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", [b"", b"x", b"hello, not a checkpoint", "code", "no model", None])
def test_files_that_are_no_checkpoint_get_one_line_and_are_not_executed(tmp_path, capsys, content):
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save({"model_state": {}, "code": Code()} if content == "code" else {"weights": {}}, path)
    with pytest.raises(InputError, match=r"file\.pth") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250
    assert "executed" not in capsys.readouterr().out
