"""OpenPCDet's loss_utils on the recorded inputs."""

from __future__ import annotations

from pathlib import Path

from .replay import Given, replay, with_gradient

FOLDERS = ["01_loss_utils"]
# arguments in order; the gradient is with respect to the first
HEAT_MAP = "pred gt mask"
CODES = "input target weights"
ARGUMENTS = {
    "FocalLossCenterNet": HEAT_MAP,
    "FocalLossSparse": HEAT_MAP,
    "neg_loss_cornernet": HEAT_MAP,
    "neg_loss_sparse": HEAT_MAP,
    "get_corner_loss_lidar": HEAT_MAP,
    "bbox3d_iou_func": HEAT_MAP,
    "GaussianFocalLoss": "pred target",
    "IouLossSparse": "iou_pred mask ind box_pred box_gt batch_index",
    "IouRegLossSparse": "box_pred mask ind box_gt batch_index",
    "RegLossCenterNet": "input mask ind target",
    "RegLossSparse": "input mask ind target batch_index",
    "calculate_iou_loss_centerhead": "iou_preds batch_box_preds mask ind gt_boxes",
    "calculate_iou_reg_loss_centerhead": "batch_box_preds mask ind gt_boxes",
    "sigmoid_cross_entropy_with_logits": CODES,
    "smooth_l1_loss": "diff beta",
}
CONSTRUCTOR = ("alpha", "beta", "gamma", "code_weights")
# cases that are a method of the file's class
METHODS = {
    "bbox3d_iou_func": "bbox3d_iou_func",
    "static_bce_with_logits": "sigmoid_cross_entropy_with_logits",
    "static_smooth_l1_b1": "smooth_l1_loss",
    "static_smooth_l1_b0": "smooth_l1_loss",
}


def record(recorded: Path, out: Path) -> None:
    replay(recorded / FOLDERS[0], out / FOLDERS[0], make)


def make(file: str, case: str, given: Given) -> dict:
    from pcdet.utils import loss_utils

    function = getattr(loss_utils, file)
    if file == "compute_fg_mask":
        boxes = given["gt_boxes2d_in"]
        mask = function(boxes, given["shape"].tolist(), given["downsample_factor"])
        return {"output": mask, "gt_boxes2d_after": boxes}
    if isinstance(function, type):
        options = given.some(*CONSTRUCTOR)
        options = {name: value.tolist() if name == "code_weights" else value for name, value in options.items()}
        function = function(**options)
    name = METHODS.get(case, file)
    function = getattr(function, name, function)
    arguments = [_argument(given, part, case) for part in ARGUMENTS.get(name, CODES).split()]
    while arguments[-1] is None:
        del arguments[-1]
    made = with_gradient(function, *arguments)
    if "output64" in given:
        wide = with_gradient(function, *[argument.detach().double() for argument in arguments])
        made |= {f"{name}64": value for name, value in wide.items()}
    return made


def _argument(given: Given, name: str, case: str):
    if name == "box_gt":
        return list(given.some("box_gt0", "box_gt1").values())
    if name == "beta":
        return float(case[-1])
    return given[name] if name in given else None
