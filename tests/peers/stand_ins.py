"""A pytest plugin (``-p stand_ins``): this package's losses under the names that the peers' own tests import.

``fvcore``, ``kornia`` and ``mmdet`` become modules of a few names each.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from modules import module

from pcdet_focal import losses
from pcdet_focal.losses.image.iou import ciou_loss, diou_loss, giou_loss
from pcdet_focal.losses.smooth_l1 import smooth_l1
from pcdet_focal.registry import LOSSES


def _reduced(loss: torch.Tensor, reduction: str) -> torch.Tensor:
    return losses.weight_reduce_loss(loss, None, reduction)


# ---- fvcore: functions of boxes and logits, reduced


def fvcore() -> None:
    def of_boxes(function):
        return lambda a, b, reduction="none", eps=1e-7: _reduced(function(a, b, eps), reduction)

    def focal(inputs, targets, alpha=-1, gamma=2, reduction="none"):
        return losses.sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction)

    module("fvcore")
    module(
        "fvcore.nn",
        sigmoid_focal_loss=focal,
        sigmoid_focal_loss_jit=focal,
        sigmoid_focal_loss_star=losses.sigmoid_focal_loss_star,
        sigmoid_focal_loss_star_jit=losses.sigmoid_focal_loss_star,
        giou_loss=of_boxes(giou_loss),
        diou_loss=of_boxes(diou_loss),
        ciou_loss=of_boxes(ciou_loss),
        smooth_l1_loss=lambda a, b, beta, reduction="none": _reduced(smooth_l1(a - b, beta), reduction),
    )


# ---- kornia: classes on axis 1, alpha for all classes but the first


def _binary(pred, target, alpha=0.25, gamma=2.0, reduction="none", pos_weight=None, weight=None, ignore_index=-100):
    if pred.shape != target.shape:
        raise ValueError(f"Expected target size {pred.shape}, got {target.shape}")
    counted = target != ignore_index if ignore_index is not None else torch.ones_like(pred, dtype=torch.bool)
    moved = pred.movedim(1, -1), torch.where(counted, target, 0).movedim(1, -1)
    factors = None if pos_weight is None else pos_weight.flatten()
    loss = losses.sigmoid_focal_loss(*moved, alpha, gamma, pos_weight=factors).movedim(-1, 1)
    if weight is not None:
        loss = loss * weight.view(-1, *[1] * (pred.dim() - 2))
    return _reduced(loss * counted, reduction)


def _softmax(pred, target, alpha, gamma=2.0, reduction="none", weight=None, ignore_index=-100):
    classes = pred.shape[1]
    ignore_index = -100 if ignore_index is None else ignore_index
    factor = torch.ones(classes, dtype=pred.dtype)
    if alpha is not None:
        factor = factor * alpha
        factor[0] = 1 - alpha
    if weight is not None:
        factor = factor * weight
    kept = torch.nn.functional.one_hot(torch.where(target == ignore_index, 0, target), classes).movedim(-1, 1)
    loss = losses.softmax_focal_loss(pred, target, factor, gamma, "none", ignore_index)
    return _reduced(loss.unsqueeze(1) * kept, reduction)  # kornia keeps the axis of the classes


class _AsModule(torch.nn.Module):
    function: Any = None

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.arguments = args, kwargs

    def forward(self, pred, target):
        args, kwargs = self.arguments
        return type(self).function(pred, target, *args, **kwargs)


def kornia() -> None:
    module("kornia")
    module(
        "kornia.losses",
        focal_loss=_softmax,
        binary_focal_loss_with_logits=_binary,
        FocalLoss=type("FocalLoss", (_AsModule,), {"function": staticmethod(_softmax)}),
        BinaryFocalLossWithLogits=type("BinaryFocalLossWithLogits", (_AsModule,), {"function": staticmethod(_binary)}),
    )


# ---- mmdetection: the classes of build_loss


def mmdet() -> None:
    module("mmdet")
    module("mmdet.models")
    for name in ("losses", "losses.ghm_loss", "losses.iou_loss"):
        module(f"mmdet.models.{name}", LOSSES.get)
    module("mmengine")
    module("mmengine.utils", digit_version=lambda text: tuple(int(part) for part in text.split("+")[0].split(".")))


for _name in (fvcore, kornia, mmdet):
    _name()


@pytest.fixture
def device():
    return torch.device("cpu")


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def torch_optimizer():
    return lambda function: torch.compile(function, backend="eager")
