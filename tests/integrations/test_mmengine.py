"""This package's losses built by mmengine's own registry."""

import subprocess
import sys

import pytest
import tiny_kitti
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.integrations.mmengine import register
from pcdet_focal.losses import GHMC, VarifocalLoss, registered_losses, sigmoid_focal_loss

mmengine_registry = pytest.importorskip("mmengine.registry")


def new_registry(name="losses"):
    return mmengine_registry.Registry(name)


def test_every_loss_is_built_from_mmdetections_dict():
    registry = new_registry()
    assert register(registry) == register(registry) == list(registered_losses())
    assert all(registry.get(name) is loss for name, loss in registered_losses().items())
    loss = registry.build(
        dict(type="FocalLoss", use_sigmoid=True, gamma=1.5, alpha=0.5, loss_weight=2.0, reduction="mean")
    )
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 3, generator=generator, dtype=torch.float64), torch.tensor([0, 3, 1, 2, 3, 1])
    one_hot = torch.nn.functional.one_hot(labels, 4)[:, :3].double()
    expected = 2.0 * sigmoid_focal_loss(logits, one_hot, alpha=0.5, gamma=1.5).sum() / 4
    torch.testing.assert_close(loss(logits, labels, avg_factor=4.0), expected, rtol=1e-6, atol=0)


def test_a_module_of_mmengine_finds_them_in_the_root_registry():
    class Head(torch.nn.Module):
        def __init__(self, loss_cls):
            super().__init__()
            self.loss_cls = mmengine_registry.MODELS.build(loss_cls)

    heads = new_registry("heads")
    heads.register_module(module=Head)
    before = dict(mmengine_registry.MODELS.module_dict)
    try:
        assert register(names=["VarifocalLoss"]) == ["VarifocalLoss"]
        head = heads.build(dict(type="Head", loss_cls=dict(type="VarifocalLoss", alpha=0.6, iou_weighted=False)))
        assert type(head.loss_cls) is VarifocalLoss and head.loss_cls.alpha == 0.6
    finally:
        mmengine_registry.MODELS.module_dict.clear()
        mmengine_registry.MODELS.module_dict.update(before)


def test_names_that_are_taken():
    class GHMCOfSomebodyElse(torch.nn.Module):
        pass

    registry = new_registry()
    registry.register_module(name="GHMC", module=GHMCOfSomebodyElse)
    with pytest.raises(InputError, match="GHMC .*losses .*override=True.*prefix="):
        register(registry)
    assert list(registry.module_dict) == ["GHMC"]
    assert register(registry, ["GHMC"], prefix="Focal") == ["FocalGHMC"] and registry.get("GHMC") is GHMCOfSomebodyElse
    register(registry, override=True)
    assert registry.get("GHMC") is GHMC
    with pytest.raises(InputError, match="GHMD.*AsymmetricLoss, "):
        register(registry, ["GHMD"])


def test_without_mmengine_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmengine.registry", None)
    with pytest.raises(InputError, match="pip install mmengine"):
        register()


def test_the_package_itself_imports_none_of_the_optional_libraries():
    script = (
        "import sys, pcdet_focal, pcdet_focal.integrations.openpcdet, pcdet_focal.integrations.mmengine, "
        "pcdet_focal.models, pcdet_focal.engine.checkpoint\n"
        "print([name for name in ('mmengine', 'safetensors', 'pcdet', 'spconv', 'triton', 'plotly') if name in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tiny_kitti.REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
