"""Classes from outside the package: the registries, --import and CUSTOM_IMPORTS, a plug-in's own keys, and plug-ins in
worker processes that were spawned.
"""

import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import tiny_kitti
import torch
import yaml
from head_cases import small_head, with_predictions
from torch import nn

from pcdet_focal import datasets, models, registry
from pcdet_focal.config import Config, cfg_from_list, cfg_from_yaml_file
from pcdet_focal.datasets import build_dataloader
from pcdet_focal.engine.optimization import build_optimizer, build_scheduler
from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    GammaSchedule,
    QualityFocalLoss,
    RotatedIoULoss,
    build_gamma_schedule,
    build_normalizer,
    register_loss,
    set_training_progress,
)
from pcdet_focal.losses.normalizers import OneDivisor
from pcdet_focal.models.backbones_3d import vfe
from pcdet_focal.registry import GAMMA_SCHEDULES, LR_SCHEDULES, NORMALIZERS, Registry


@pytest.fixture(autouse=True)
def registries_as_they_were(monkeypatch):
    """What a test registers or imports is gone after it."""
    tables = [value for value in vars(registry).values() if isinstance(value, Registry)]
    before = [dict(table) for table in tables]
    monkeypatch.setattr(registry, "_plugin_config_keys", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    yield
    for table, entries in zip(tables, before):
        table.clear()
        table.update(entries)
    for name in set(sys.modules) - modules:
        if name.startswith("plugin_"):
            del sys.modules[name]


# ---- the class


def test_a_registry_is_a_mapping_and_decorators_return_the_class():
    shapes = Registry("shape", "MODEL.SHAPE.NAME")

    @shapes.register()
    class Circle:
        pass

    @shapes.register("square")
    @shapes.register("Quadrat")
    class Square:
        pass

    @shapes.register
    class Line:
        pass

    assert dict(shapes) == {"Circle": Circle, "square": Square, "Quadrat": Square, "Line": Line}
    assert shapes["Circle"] is shapes.find("Circle") is Circle and shapes.get("Cone") is None and "Cone" not in shapes
    assert shapes.register("Circle")(Circle) is Circle  # a module that is loaded twice
    with pytest.raises(InputError, match="'Circle'.*taken"):
        shapes.register("Circle")(Square)
    assert shapes["Circle"] is Circle


@pytest.mark.parametrize("name", ["Circel", None, ["Circle"]])
def test_an_unknown_name_is_an_error_with_key_path_and_names(name):
    shapes = Registry("shape", "MODEL.SHAPE.NAME").add({"Circle": nn.Linear, "Line": nn.Conv2d})
    with pytest.raises(InputError, match=r"^MODEL\.SHAPE\.NAME: .*Circle, Line"):
        shapes[name]
    with pytest.raises(InputError, match=r"^MODEL\.OTHER: "):
        shapes.find(name, "MODEL.OTHER")
    if name == "Circel":
        with pytest.raises(InputError, match=r"did you mean Circle\?"):
            shapes[name]


def test_the_tables_of_openpcdets_names_are_the_registries():
    assert vfe.__all__ is registry.VFES and vfe.__all__["PillarVFE"] is vfe.PillarVFE
    assert datasets.__all__ is registry.DATASETS and models.detectors.__all__ is registry.DETECTORS


# ---- losses, normalisers, schedules


class Square(nn.Module):
    """mmdetection's style."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, pred, target, weight=None, avg_factor=None, reduction_override=None):
        assert reduction_override == "none" and pred.shape == target.shape
        loss = self.factor * (pred - target) ** 2
        return loss if weight is None else loss * weight


def test_a_loss_of_mmdetections_style_can_stand_in_any_of_the_three_places():
    register_loss("ASquare")(Square)
    names = ("CLS_LOSS", "REG_LOSS", "DIR_LOSS")
    parts = []
    for factor in (1.0, 3.0):
        head = small_head(**{name: {"type": "ASquare", "factor": factor, "LOSS_WEIGHT": 1.0} for name in names})
        predictions = with_predictions(head)
        loss, values = head.get_loss()
        loss.backward()
        assert all(p.grad.abs().sum() > 0 for p in predictions.values())
        parts.append({key: value.item() for key, value in values.items() if "loss" in key})
    labels = head.forward_ret_dict["box_cls_labels"]
    target = nn.functional.one_hot(labels.long().clamp(min=0), 4)[..., 1:]
    dense = ((predictions["cls_preds"].view(2, -1, 3) - target) ** 2).sum(-1) * (labels >= 0)
    by_hand = (dense.sum(1) / (labels > 0).sum(1).clamp(min=1)).mean()
    assert parts[0]["rpn_loss_cls"] == pytest.approx(by_hand.item(), rel=1e-5)
    assert parts[1] == pytest.approx({key: 3 * value for key, value in parts[0].items()}, rel=1e-5)


def test_a_loss_is_given_what_its_base_class_or_its_head_kind_says():
    given = {}

    @register_loss()
    class MyIoU(RotatedIoULoss):
        def forward(self, pred, target, *args, **kwargs):
            given["boxes"] = target.detach()
            return super().forward(pred, target, *args, **kwargs)

    @register_loss()
    class MyQuality(QualityFocalLoss):
        def forward(self, pred, target, *args, **kwargs):
            given["quality"] = target.detach()
            return super().forward(pred, target, *args, **kwargs)

    @register_loss()
    class MySoftmax(nn.Module):
        head_kind = "softmax"

        def forward(self, pred, target, weight=None, avg_factor=None, reduction_override=None):
            given.setdefault("classes", []).append((pred.shape[-1], target.dtype))
            return nn.functional.cross_entropy(pred, target, reduction="none")

    head = small_head(CLS_LOSS="MyQuality", REG_LOSS="MyIoU", DIR_LOSS="MySoftmax")
    with_predictions(head)
    loss, _ = head.get_loss()
    assert torch.isfinite(loss) and given["classes"] == [(2, torch.int64)]
    assert (given["boxes"][..., 3:6] > 0.5).all()  # sizes in metres, not codes
    assert given["quality"].max() < 1 and (given["quality"] > 0).any()
    standard = small_head(CLS_LOSS="QualityFocalLoss", REG_LOSS="RotatedIoULoss", DIR_LOSS="SoftmaxFocalLoss")
    with_predictions(standard)
    parts = [{key: value.item() for key, value in h.get_loss()[1].items()} for h in (head, standard)]
    for key in ("rpn_loss_cls", "rpn_loss_loc"):
        assert parts[0][key] == pytest.approx(parts[1][key], rel=1e-5)
    for place, name in (("CLS_LOSS", "MyIoU"), ("REG_LOSS", "MySoftmax"), ("DIR_LOSS", "MyQuality")):
        with pytest.raises(InputError, match=rf"LOSS_CONFIG\.{place}\.NAME: '{name}'"):
            small_head(**{place: name})


def test_a_normaliser_of_ones_own():
    @NORMALIZERS.register("half")
    class Half(OneDivisor):
        def __init__(self, at_least=1):
            self.at_least = at_least

        def denominator(self, num_positives):
            return (num_positives.sum() / 2).clamp(min=self.at_least)

    assert build_normalizer({"NAME": "half", "AT_LEAST": 5}).at_least == 5
    losses = {}
    for name in ("batch", "half"):
        head = small_head(NORMALIZER=name)
        with_predictions(head)
        losses[name] = head.get_loss()[0].item()
    assert losses["half"] == pytest.approx(2 * losses["batch"], rel=1e-5)
    with pytest.raises(InputError, match=r"X\.AT_LAST: .*AT_LEAST"):
        build_normalizer({"NAME": "half", "AT_LAST": 5}, "X")
    NORMALIZERS.register("other")(nn.Linear)
    with pytest.raises(InputError, match="X: .*OneDivisor"):
        build_normalizer("other", "X")


def test_schedules_of_ones_own():
    @GAMMA_SCHEDULES.register("inverse")
    class Inverse(GammaSchedule):
        def __init__(self, start: float):
            super().__init__()
            self.start = start

        def at(self, epoch, iteration):
            return self.start / (1 + iteration)

    schedule = build_gamma_schedule({"TYPE": "inverse", "START": 6.0})
    set_training_progress(schedule, epoch=0, iteration=2)
    assert schedule.value == 2.0
    with pytest.raises(InputError, match=r"X\.STRAT: .*START"):
        build_gamma_schedule({"TYPE": "inverse", "STRAT": 6.0}, "X")

    @LR_SCHEDULES.register()
    def halving(optim_cfg, iters_each_epoch, epochs):
        return lambda iteration, epoch: (optim_cfg.LR / 2**epoch, None)

    cfg = Config(tiny_kitti.config("x")["OPTIMIZATION"])
    rates = {}
    for name in ("halving", "step_decay", "one_cycle"):
        for optimizer_name in ("adam_onecycle", "sgd"):
            cfg.update(SCHEDULER=name, OPTIMIZER=optimizer_name)
            optimizer = build_optimizer(nn.Linear(2, 2), cfg)
            scheduler, _ = build_scheduler(optimizer, 10, 4, last_epoch=-1, optim_cfg=cfg)
            scheduler.step(25)
            rates[name, optimizer_name] = optimizer.param_groups[0]["lr"]
    assert rates["halving", "sgd"] == rates["halving", "adam_onecycle"] == cfg.LR / 4
    assert rates["step_decay", "sgd"] == cfg.LR and optimizer.param_groups[0]["momentum"] < 0.95  # one-cycle's, of SGD
    cfg.SCHEDULER = "halvin"
    with pytest.raises(InputError, match=r"OPTIMIZATION\.SCHEDULER: .*halving"):
        build_scheduler(optimizer, 10, 4, last_epoch=-1, optim_cfg=cfg)


# ---- import from outside

PLUGIN = """
from pcdet_focal.datasets.kitti.kitti_dataset import KittiDataset
from pcdet_focal.registry import AUGMENTORS, DATA_PROCESSORS, DATASETS

@DATASETS.register(config_keys=["BRIGHTER_BY"])
class BrightKitti(KittiDataset):
    CONFIG_KEYS = ("OTHER_KEY",)
    def get_lidar(self, idx):
        points = super().get_lidar(idx)
        points[:, 3] += self.dataset_cfg.BRIGHTER_BY
        return points

@AUGMENTORS.register()
def brighten(data_dict, config):
    data_dict["points"][:, 3] += config["BY"]
    return data_dict

@DATA_PROCESSORS.register("keep_first")
def keep_first_points(data_dict, config, training):
    data_dict["points"] = data_dict["points"][: config["NUM_POINTS"]["train" if training else "test"]]
    return data_dict
"""


def plugin_config(folder, **more) -> dict:
    (folder / "plugin_bright.py").write_text(textwrap.dedent(PLUGIN))
    content = tiny_kitti.config(tiny_kitti.dataset())
    data = content["DATA_CONFIG"]
    data.update(DATASET="BrightKitti", BRIGHTER_BY=100.0)
    data["DATA_AUGMENTOR"]["AUG_CONFIG_LIST"] = [{"NAME": "brighten", "BY": 1000.0}]
    data["DATA_PROCESSOR"].insert(1, {"NAME": "keep_first", "NUM_POINTS": {"train": 50, "test": 60}})
    return {**content, **more}


def load(folder, content) -> Config:
    return cfg_from_yaml_file(tiny_kitti.write_config(folder / "cfgs/x/mine.yaml", content), Config())


def test_a_plugs_data_set_augmentation_and_processor_load_in_spawned_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load(tmp_path, plugin_config(tmp_path, CUSTOM_IMPORTS=["plugin_bright"]))
    for training, low in ((True, 1100), (False, 100)):
        dataset, loader, _ = build_dataloader(
            cfg.DATA_CONFIG, cfg.CLASS_NAMES, 2, dist=False, workers=int(training), training=training
        )
        loader.multiprocessing_context = "spawn" if training else None
        batch = next(iter(loader))
        assert type(dataset).__name__ == "BrightKitti" and batch["points"][:, 4].min() >= low
        assert max(np.bincount(batch["points"][:, 0].astype(int))) <= (50 if training else 60)
    cfg.DATA_CONFIG.DATA_AUGMENTOR.AUG_CONFIG_LIST[0].NAME = "brigten"
    with pytest.raises(InputError, match=r"AUG_CONFIG_LIST\[0\]\.NAME: .*brighten"):
        build_dataloader(cfg.DATA_CONFIG, cfg.CLASS_NAMES, 2, dist=False, workers=0, training=True)


def test_the_keys_of_a_plugin_are_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = plugin_config(tmp_path, CUSTOM_IMPORTS=["plugin_bright"])
    content["DATA_CONFIG"]["OTHER_KEY"] = content["DATA_CONFIG"]["OTHER_KYE"] = 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(tmp_path, content)
    messages = [str(warning.message) for warning in caught]
    assert [m for m in messages if "OTHER_KYE" in m and "OTHER_KEY?" in m]
    assert not [m for m in messages if "BRIGHTER_BY" in m or "DATA_CONFIG.OTHER_KEY;" in m or "CUSTOM_IMPORTS" in m]


def test_base_files_and_the_command_line_may_name_modules_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"plugin_{name}.py").write_text("")
    (tmp_path / "base.yaml").write_text("CUSTOM_IMPORTS: [plugin_a]\n")
    (tmp_path / "data.yaml").write_text("CUSTOM_IMPORTS: [plugin_b]\n")
    content = {
        "_BASE_CONFIG_": "base.yaml",
        "CUSTOM_IMPORTS": ["plugin_c", "plugin_a"],
        "DATA_CONFIG": {"_BASE_CONFIG_": "data.yaml"},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    cfg = cfg_from_yaml_file(tmp_path / "mine.yaml", Config())
    assert cfg.CUSTOM_IMPORTS == ["plugin_a", "plugin_c"]
    assert {"plugin_a", "plugin_b", "plugin_c"} <= set(sys.modules) and "plugin_d" not in sys.modules
    cfg_from_list(["CUSTOM_IMPORTS", "[plugin_d]"], cfg)
    assert "plugin_d" in sys.modules


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("plugin_absent.part", None, "ModuleNotFoundError"),
        ("plugin_broken", "x = (\n", "SyntaxError"),
        ("plugin_raises", "\n1 / 0\n", r"ZeroDivisionError.*plugin_raises\.py:2"),
        ("plugin_taken", "from pcdet_focal.registry import VFES\n@VFES.register()\nclass PillarVFE: ...\n", "taken"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_error(tmp_path, monkeypatch, name, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(InputError, match=rf"--import: {name}.*{message}"):
        registry.import_modules([name], "--import")
    (tmp_path / "mine.yaml").write_text(f"MODEL: {{CUSTOM_IMPORTS: [{name}]}}\n")
    with pytest.raises(InputError, match=rf"mine\.yaml: MODEL\.CUSTOM_IMPORTS: {name}.*{message}"):
        cfg_from_yaml_file(tmp_path / "mine.yaml", Config())
    (tmp_path / "text.yaml").write_text(f"CUSTOM_IMPORTS: {name}\n")
    with pytest.raises(InputError, match=r"CUSTOM_IMPORTS: .* list"):
        cfg_from_yaml_file(tmp_path / "text.yaml", Config())


@pytest.mark.slow
def test_every_tool_that_reads_a_configuration_takes_import(tmp_path):
    """A real process: tools/ is on the path there, the working directory is not."""
    path = tiny_kitti.write_config(tmp_path / "cfgs/x/mine.yaml", plugin_config(tmp_path))
    (tmp_path / "plugin_loud.py").write_text("print('loud is here')\n")
    for name in ("train", "test", "demo", "visualize", "check_dataset", "compare_losses"):
        words = ["--cfg_file", "x.yaml", "--import", "a", "--import", "b.c"]
        words += ["--data_path", "scan.bin", "--ckpt", "x.pth"] if name == "demo" else []
        assert tiny_kitti.tool(name).build_parser().parse_args(words).imports == ["a", "b.c"]
    command = [sys.executable, str(tiny_kitti.REPOSITORY / "tools/test.py"), "--cfg_file", str(path)]
    command += ["--import", "plugin_loud", "--import", "plugin_bright", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "loud is here" in done.stdout and "there is no checkpoint" in done.stderr
    assert "nothing here reads" not in done.stderr
    command[-4:] = ["--import", "plugin_absent"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --import: plugin_absent")
