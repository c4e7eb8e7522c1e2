"""Cases of the losses: from labels or ground truth to the gradient of a head's predictions."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ... import losses
from . import eager, workloads
from .measure import Case, Side

# B is 4 on a CPU and 16 on a GPU
HEAD_SHAPES = {
    "SECOND KITTI": (211_200, 3),
    "PointPillars KITTI": (321_408, 3),
    "nuScenes, 10 classes": (327_680, 10),
}
NUSCENES_NOTE = (
    "one head of 10 classes over the anchors of OpenPCDet's cbgs_second_multihead.yaml: 128 x 128 cells, 10 classes, "
    "2 headings"
)
QUICK_ANCHORS = 4_000
POSITIVES = 200  # in a sample: 800 in a batch of 4
BOXES = 30


def batch_size(device: torch.device) -> int:
    return 16 if device.type == "cuda" else 4


def gradient_of(loss: Callable[[], Tensor], *leaves: Tensor) -> Side:
    """A side that computes the loss and the gradient of the leaves, in a buffer of its own each time."""
    return lambda: torch.autograd.grad(loss(), leaves)


def nbytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs: a C++ compiler, on a GPU Triton."""
    return (
        importlib.util.find_spec("triton") is not None
        if device.type == "cuda"
        else shutil.which(os.environ.get("CXX", "g++")) is not None
    )


def text(*shape: int) -> str:
    return " x ".join(f"{n:,}" for n in shape)


def classification(device: torch.device, quick: bool) -> Iterator[Case]:
    """Labels to the normalised loss and its gradient."""
    for name, (anchors, classes) in HEAD_SHAPES.items():
        yield _classification(name, (batch_size(device), QUICK_ANCHORS if quick else anchors, classes), device)


def _classification(name: str, shape: tuple[int, int, int], device: torch.device) -> Case:
    logits, labels = workloads.logits(shape, device), workloads.labels(*shape, device)
    sides = {
        "ours": gradient_of(lambda: losses.sigmoid_focal_loss_from_labels(logits, labels), logits),
        "eager": gradient_of(lambda: eager.classification_loss(logits, labels), logits),
    }
    if can_compile(device):
        compiled = torch.compile(eager.classification_loss, dynamic=False)
        sides["compiled"] = gradient_of(lambda: compiled(logits, labels), logits)
    memory = list(sides) if name == "SECOND KITTI" else []
    sides["copy"] = logits.detach().clone
    return Case(
        "classification",
        name,
        text(*shape),
        sides,
        device,
        nbytes(logits),
        memory,
        NUSCENES_NOTE if shape[2] == 10 else "",
    )


def box_and_direction(device: torch.device, quick: bool) -> Iterator[Case]:
    """Box and direction losses and their gradients."""
    head = workloads.kitti_head("second", quick, device)
    anchors = workloads.flat_anchors(head)
    batch, count = batch_size(device), len(anchors)
    labels = workloads.labels(batch, count, 3, device, POSITIVES)
    generator = torch.Generator().manual_seed(1)
    targets = (0.3 * torch.randn(batch, count, 7, generator=generator)).to(device) * (labels > 0).unsqueeze(-1)
    box_preds, dir_preds = (0.3 * torch.randn(batch, count, n, generator=generator).to(device) for n in (7, 2))
    leaves = box_preds.requires_grad_(), dir_preds.requires_grad_()

    def ours() -> Tensor:
        head.forward_ret_dict = {
            "box_preds": box_preds,
            "dir_cls_preds": dir_preds,
            "box_reg_targets": targets,
            "box_cls_labels": labels,
        }
        return head.get_box_reg_layer_loss()[0]

    sides = {
        "ours": gradient_of(ours, *leaves),
        "eager": gradient_of(lambda: eager.box_and_direction_loss(*leaves, targets, labels, anchors), *leaves),
    }
    shape = f"{text(batch, count)} anchors, {int((labels > 0).sum())} positives"
    yield Case("box_and_direction", "SECOND KITTI", shape, sides, device, nbytes(*leaves), list(sides))


def drop_in(device: torch.device, quick: bool) -> Iterator[Case]:
    """The module ``SigmoidFocalClassificationLoss`` alone: one-hot targets and weights in, elementwise loss out, its
    sum differentiated.
    """
    anchors, classes = HEAD_SHAPES["SECOND KITTI"]
    shape = batch_size(device), QUICK_ANCHORS if quick else anchors, classes
    logits = workloads.logits(shape, device)
    target, weights = eager.one_hot_and_weights(logits.detach(), workloads.labels(*shape, device))
    module = losses.SigmoidFocalClassificationLoss()
    sides = {
        "ours": gradient_of(lambda: module(logits, target, weights).sum(), logits),
        "eager": gradient_of(lambda: eager.focal_loss(logits, target, weights).sum(), logits),
    }
    yield Case("drop_in", "SECOND KITTI", text(*shape), sides, device, nbytes(logits), list(sides))


def soft_labels(device: torch.device, quick: bool) -> Iterator[Case]:
    """Quality focal and varifocal loss as a head's CLS_LOSS: labels and the positives' qualities to the gradient."""
    yield _soft_labels("quality focal", "QualityFocalLoss", device, quick)
    yield _soft_labels("varifocal", "VarifocalLoss", device, quick)


def _soft_labels(case: str, loss_name: str, device: torch.device, quick: bool) -> Case:
    anchors, classes = HEAD_SHAPES["SECOND KITTI"]
    shape = batch_size(device), QUICK_ANCHORS if quick else anchors, classes
    logits, labels = workloads.logits(shape, device), workloads.labels(*shape, device)
    rows, _ = losses.positive_rows(labels)
    quality = torch.rand(len(rows), generator=torch.Generator().manual_seed(1)).to(device)
    dense = torch.zeros(labels.numel(), device=device).index_copy(0, rows, quality).view_as(labels)
    head_loss = losses.build_head_classification_loss(loss_name, "CLS_LOSS", 1.0, classes)
    formula = eager.varifocal_loss if loss_name == "VarifocalLoss" else eager.quality_focal_loss
    sides = {
        "ours": gradient_of(lambda: head_loss(logits, labels, lambda space: dense)[0], logits),
        "eager": gradient_of(lambda: eager.soft_classification_loss(formula, logits, labels, dense), logits),
    }
    return Case("soft_labels", case, text(*shape), sides, device, nbytes(logits), note="SECOND KITTI's shape")


def head_sides(head, gt_boxes: Tensor) -> tuple[dict[str, Side], tuple[Tensor, ...]]:
    """Assignment, all losses, and the gradients of the predictions (the second value), by the head itself and by the
    eager formulas.
    """
    anchors, batch = workloads.flat_anchors(head), len(gt_boxes)
    generator = torch.Generator().manual_seed(1)
    box_preds, dir_preds = (
        0.1 * torch.randn(batch, len(anchors), n, generator=generator).to(gt_boxes.device) for n in (7, 2)
    )
    leaves = (
        workloads.logits((batch, len(anchors), 3), gt_boxes.device),
        box_preds.requires_grad_(),
        dir_preds.requires_grad_(),
    )

    def ours() -> Tensor:
        head.forward_ret_dict = {
            **dict(zip(("cls_preds", "box_preds", "dir_cls_preds"), leaves)),
            **head.assign_targets(gt_boxes),
        }
        return head.get_loss()[0]

    return {
        "ours": gradient_of(ours, *leaves),
        "eager": gradient_of(lambda: eager_head_loss(head, gt_boxes, *leaves), *leaves),
    }, leaves


def eager_targets(head, gt_boxes: Tensor) -> dict[str, Tensor]:
    """The head's targets by the eager formulas."""
    assigner = head.target_assigner
    names = assigner.anchor_class_names
    return eager.assign_targets(
        head.anchors,
        gt_boxes,
        [assigner.class_names.index(name) + 1 for name in names],
        [assigner.matched_thresholds[name] for name in names],
        [assigner.unmatched_thresholds[name] for name in names],
    )


def eager_head_loss(head, gt_boxes: Tensor, cls_preds: Tensor, box_preds: Tensor, dir_preds: Tensor) -> Tensor:
    """Targets and the sum of the three losses by the eager formulas."""
    targets = eager_targets(head, gt_boxes)
    cls_loss = eager.classification_loss(cls_preds, targets["box_cls_labels"])
    return cls_loss + eager.box_and_direction_loss(
        box_preds, dir_preds, targets["box_reg_targets"], targets["box_cls_labels"], workloads.flat_anchors(head)
    )


def whole_head(device: torch.device, quick: bool) -> Iterator[Case]:
    """Target assignment, all losses, the gradients of the predictions."""
    for case, model in workloads.KITTI_MODELS.items():
        head = workloads.kitti_head(model, quick, device)
        gt_boxes = workloads.ground_truth(workloads.kitti_config(model, quick), batch_size(device), BOXES, device)
        sides, leaves = head_sides(head, gt_boxes)
        memory = list(sides) if case == "SECOND KITTI" else []
        yield Case(
            "whole_head",
            case,
            f"{text(*leaves[0].shape[:2])} anchors, {BOXES} boxes each",
            sides,
            device,
            nbytes(*leaves),
            memory,
        )


def target_assignment(device: torch.device, quick: bool) -> Iterator[Case]:
    """Ground truth to labels and box codes."""
    head = workloads.kitti_head("second", quick, device)
    gt_boxes = workloads.ground_truth(workloads.kitti_config("second", quick), batch_size(device), BOXES, device)
    sides = {"ours": lambda: head.assign_targets(gt_boxes), "eager": lambda: eager_targets(head, gt_boxes)}
    count = len(workloads.flat_anchors(head))
    yield Case(
        "target_assignment", "SECOND KITTI", f"{text(len(gt_boxes), count)} anchors, {BOXES} boxes each", sides, device
    )


ROWS: dict[str, Callable[[torch.device, bool], Iterator[Case]]] = {
    "classification": classification,
    "box_and_direction": box_and_direction,
    "target_assignment": target_assignment,
    "whole_head": whole_head,
    "drop_in": drop_in,
    "soft_labels": soft_labels,
}
