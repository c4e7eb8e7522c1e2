"""Losses by name: every kind of entry, and every mistake answered with the key path, what is allowed and the nearest
match.
"""

import pytest
import torch
from easydict import EasyDict
from torch import nn

from pcdet_focal.errors import InputError
from pcdet_focal.losses import build_loss, loss_style, register_loss, registered_losses
from pcdet_focal.losses import mmdet as mmdet_losses
from pcdet_focal.losses.reduction import ReducedLoss
from pcdet_focal.registry import LOSSES
from pcdet_focal.utils import loss_utils

KEY = "MODEL.DENSE_HEAD.LOSS_CONFIG.CLS_LOSS"


@pytest.mark.parametrize(
    "name", ["SigmoidFocalClassificationLoss", "WeightedSmoothL1Loss", "WeightedL1Loss", "WeightedCrossEntropyLoss"]
)
def test_openpcdet_names_are_its_classes(name):
    loss = build_loss(name)
    assert type(loss) is getattr(loss_utils, name) and loss_style(name) == loss_style(loss) == "openpcdet"


@pytest.mark.parametrize(
    "name", ["FocalLoss", "CrossEntropyLoss", "SmoothL1Loss", "L1Loss", "GaussianFocalLoss", "MSELoss"]
)
@pytest.mark.parametrize("prefix", ["", "mmdet."])
def test_mmdetection_names_are_its_classes(name, prefix):
    loss = build_loss({"type": prefix + name})
    assert type(loss) is getattr(mmdet_losses, name) and loss_style(prefix + name) == "mmdetection"


def test_a_yaml_entry_and_an_mmdetection_dict():
    entry = EasyDict(NAME="SigmoidFocalClassificationLoss", ALPHA=0.5, GAMMA=3.0)
    loss = build_loss(entry, KEY)
    assert (loss.alpha, loss.gamma) == (0.5, 3.0) and entry == {
        "NAME": "SigmoidFocalClassificationLoss",
        "ALPHA": 0.5,
        "GAMMA": 3.0,
    }
    weights = build_loss({"NAME": "WeightedSmoothL1Loss", "CODE_WEIGHTS": [1.0, 2.0], "BETA": 0.5}).code_weights
    assert weights.tolist() == [1.0, 2.0]
    loss = build_loss(dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=3.0, reduction="sum"))
    assert (loss.gamma, loss.alpha, loss.loss_weight, loss.reduction, loss.use_sigmoid) == (2.0, 0.25, 3.0, "sum", True)
    # either kind of entry, either kind of name
    assert build_loss({"NAME": "FocalLoss", "LOSS_WEIGHT": 3.0}).loss_weight == 3.0
    assert build_loss({"type": "SigmoidFocalClassificationLoss", "alpha": None}).alpha is None


def test_the_two_kinds_of_call():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 3, 2, 3])
    one_hot = torch.nn.functional.one_hot(labels, 4)[:, :3].float()
    weights = torch.rand(5)
    elementwise = build_loss({"NAME": "SigmoidFocalClassificationLoss", "ALPHA": 0.3, "GAMMA": 1.5})(
        logits, one_hot, weights
    )
    reduced = build_loss(dict(type="FocalLoss", alpha=0.3, gamma=1.5, reduction="sum", loss_weight=2.0))(
        logits, labels, weights
    )
    assert elementwise.shape == (5, 3)
    torch.testing.assert_close(2 * elementwise.sum(), reduced)


@pytest.mark.parametrize(
    "cfg, words",
    [
        (
            "SigmoidFocalClasificationLoss",
            ["'SigmoidFocalClasificationLoss'", "SigmoidFocalClassificationLoss", "WeightedL1Loss"],
        ),
        ({"NAME": "sigmoidfocalclassificationloss"}, [f"{KEY}.NAME:", "did you mean SigmoidFocalClassificationLoss?"]),
        ({"type": "mmdet.FocalLos"}, [f"{KEY}.type:", "'FocalLos'", "did you mean FocalLoss?"]),
        (
            {"NAME": "SigmoidFocalClassificationLoss", "ALHPA": 0.25},
            [f"{KEY}.ALHPA:", "GAMMA, ALPHA"],
        ),
        (
            {"type": "FocalLoss", "los_weight": 1.0},
            [f"{KEY}.los_weight:", "use_sigmoid, gamma, alpha, reduction"],
        ),
        ({"NAME": "WeightedCrossEntropyLoss", "ALPHA": 0.25}, [f"{KEY}.ALPHA:"]),
        ({"NAME": "SigmoidFocalClassificationLoss", "ALPHA": 0.2, "alpha": 0.3}, [f"{KEY}.alpha:"]),
        ({"NAME": "FocalLoss", "type": "FocalLoss"}, ["NAME", "type"]),
        ({"ALPHA": 0.25}, ["NAME", "type", "ALPHA"]),
        ({}, ["NAME", "type"]),
        ({"NAME": None}, [f"{KEY}.NAME:", "None"]),
        (None, ["None"]),
        (3, ["3"]),
        (["FocalLoss"], ["['FocalLoss']"]),
        ({"type": "FocalLoss", "use_sigmoid": False}, ["use_sigmoid=False"]),
        ({"type": "FocalLoss", "alpha": 2.0}, ["alpha=2.0"]),
        ({"type": "FocalLoss", "gamma": "two"}, ["gamma='two'"]),
        ({"type": "L1Loss", "loss_weight": "1.0"}, ["loss_weight='1.0'"]),
        ({"type": "L1Loss", "reduction": "batchmean"}, ["'batchmean'", "'none'", "'mean'", "'sum'"]),
        ({"NAME": "SmoothL1Loss", "BETA": 0.0}, ["beta=0.0"]),
        ({"type": "CrossEntropyLoss", "class_weight": "many"}, ["class_weight='many'"]),
        ({"type": "CrossEntropyLoss", "class_weight": [[1.0]]}, ["class_weight"]),
        ({"type": "CrossEntropyLoss", "use_mask": True}, ["use_mask"]),
        ({"type": "GaussianFocalLoss", "alpha": -1.0}, ["alpha=-1.0"]),
        ({"NAME": "WeightedSmoothL1Loss", "CODE_WEIGHTS": "x"}, ["code_weights='x'"]),
    ],
)
def test_mistakes(cfg, words):
    with pytest.raises(InputError) as error:
        build_loss(cfg, KEY)
    message = str(error.value)
    assert message.startswith(KEY) and all(word in message for word in words), message


def test_losses_of_ones_own():
    try:

        @register_loss("TestOnlyLoss")
        class TestOnlyLoss(nn.Module):
            def __init__(self, margin, scale=1.0):
                super().__init__()
                self.margin, self.scale = margin, scale

            def forward(self, pred, target, weight=None, avg_factor=None, reduction_override=None):
                return pred

        assert (
            build_loss({"NAME": "TestOnlyLoss", "MARGIN": 2.0}).margin == 2.0
            and loss_style("TestOnlyLoss") == "mmdetection"
        )
        assert registered_losses()["TestOnlyLoss"] is TestOnlyLoss
        with pytest.raises(InputError, match=r"X: TestOnlyLoss .*margin"):
            build_loss("TestOnlyLoss", "X")
        # a module may be read twice
        assert register_loss("TestOnlyLoss")(TestOnlyLoss) is TestOnlyLoss
        with pytest.raises(InputError, match="'TestOnlyLoss'"):
            register_loss("TestOnlyLoss")(nn.Linear)
    finally:
        LOSSES.pop("TestOnlyLoss", None)


def test_every_registered_loss_builds_or_says_what_it_needs():
    for name, loss_class in registered_losses().items():
        try:
            assert isinstance(build_loss(name), nn.Module), name
        except InputError as error:
            assert name in str(error)
        assert loss_style(name) in ("openpcdet", "mmdetection") and ">>>" in loss_class.__doc__, name


def test_every_loss_with_mmdetections_call_is_a_reduced_loss():
    for name, loss_class in registered_losses().items():
        assert (loss_style(loss_class) == "mmdetection") == issubclass(loss_class, ReducedLoss), name
