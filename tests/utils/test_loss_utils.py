"""The door with OpenPCDet's name: every name of its loss_utils, and the call its users write."""

import subprocess
import sys

import pytest
import torch

import pcdet_focal.losses
from pcdet_focal.utils import loss_utils

NAMES = {
    "SigmoidFocalClassificationLoss",
    "WeightedSmoothL1Loss",
    "WeightedL1Loss",
    "WeightedCrossEntropyLoss",
    "get_corner_loss_lidar",
    "compute_fg_mask",
    "neg_loss_cornernet",
    "neg_loss_sparse",
    "FocalLossCenterNet",
    "_reg_loss",
    "_gather_feat",
    "_transpose_and_gather_feat",
    "RegLossCenterNet",
    "FocalLossSparse",
    "RegLossSparse",
    "IouLossSparse",
    "IouRegLossSparse",
    "L1Loss",
    "GaussianFocalLoss",
    "calculate_iou_loss_centerhead",
    "calculate_iou_reg_loss_centerhead",
}


def test_every_name():
    assert set(loss_utils.__all__) == NAMES
    for name in NAMES:
        assert callable(getattr(loss_utils, name))
    for name in set(pcdet_focal.losses.__all__) & NAMES:
        assert getattr(loss_utils, name) is getattr(pcdet_focal.losses, name)


def test_the_call_its_users_write():
    cls_preds = torch.zeros(2, 4, 3, requires_grad=True)
    one_hot_targets = torch.zeros(2, 4, 3)
    one_hot_targets[0, 1, 2] = 1
    cls_weights = torch.ones(2, 4)
    cls_weights[0] = 0.5
    loss = loss_utils.SigmoidFocalClassificationLoss(alpha=0.25, gamma=2.0)(
        cls_preds, one_hot_targets, weights=cls_weights
    )
    log2 = torch.log(torch.tensor(2.0)).item()
    assert loss.shape == (2, 4, 3)
    assert loss[0, 1, 2].item() == pytest.approx(0.5 * 0.25 * 0.25 * log2)
    assert loss.sum().item() == pytest.approx(log2 * 0.25 * (0.5 * 0.25 + 0.75 * (11 * 0.5 + 12)))
    loss.sum().backward()
    assert torch.isfinite(cls_preds.grad).all()


def test_losses_add_nothing_to_a_models_state_dict():
    head = torch.nn.Module()
    head.add_module("cls_loss_func", loss_utils.SigmoidFocalClassificationLoss(alpha=0.25, gamma=2.0))
    head.add_module("reg_loss_func", loss_utils.WeightedSmoothL1Loss(code_weights=[1.0] * 7))
    head.add_module("dir_loss_func", loss_utils.WeightedCrossEntropyLoss())
    assert list(head.state_dict()) == []


def test_importing_it_brings_no_heavy_package():
    code = (
        "import sys; from pcdet_focal.utils import loss_utils; "
        "print([m for m in ('triton', 'spconv', 'matplotlib', 'tensorboard', 'plotly') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
