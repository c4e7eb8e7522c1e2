"""Losses and target assignment of OpenPCDet's anchor heads on the recorded predictions and boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .peer import changed, config
from .replay import Given, replay

FOLDERS = ["02_anchor_head_loss", "03_targets"]
NAMES = ["Car", "Pedestrian", "Cyclist"]
CHANGES: dict[str, dict] = {  # of the head's configuration, by case
    "code_weights": {
        "LOSS_CONFIG.LOSS_WEIGHTS": {
            "cls_weight": 2.0,
            "loc_weight": 0.7,
            "dir_weight": 0.3,
            "code_weights": [1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 0.25],
        }
    },
    "reg_l1": {"LOSS_CONFIG.REG_LOSS_TYPE": "WeightedL1Loss"},
    "no_dir": {"USE_DIRECTION_CLASSIFIER": None},
    "dir_offset0_bins3": {"DIR_OFFSET": 0.0, "NUM_DIR_BINS": 3},
    "pos_neg_weight": {
        "LOSS_CONFIG.LOSS_WEIGHTS.pos_cls_weight": 2.0,
        "LOSS_CONFIG.LOSS_WEIGHTS.neg_cls_weight": 0.5,
    },
    "norm_by_num_examples": {"TARGET_ASSIGNER_CONFIG.NORM_BY_NUM_EXAMPLES": True},
}
PREDICTIONS = {"cls_preds": "grad_cls", "box_preds": "grad_box", "dir_cls_preds": "grad_dir"}


def record(recorded: Path, out: Path) -> None:
    replay(recorded / FOLDERS[0], out / FOLDERS[0], _losses)
    replay(recorded / FOLDERS[1], out / FOLDERS[1], _targets)


def anchors(name: str, grid: tuple[int, ...] | None = None) -> dict:
    """The anchors of a configuration, one tensor for each class, how many there are at each place, and where."""
    from pcdet.models.dense_heads.anchor_head_template import AnchorHeadTemplate

    cfg = config(name)
    limits = np.array(cfg.DATA_CONFIG.POINT_CLOUD_RANGE, np.float32)
    voxel = next(step.VOXEL_SIZE for step in cfg.DATA_CONFIG.DATA_PROCESSOR if "VOXEL_SIZE" in step)
    size = np.array(grid or np.round((limits[3:] - limits[:3]) / voxel), np.int64)
    made, count = AnchorHeadTemplate.generate_anchors(cfg.MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG, size, limits)
    return {"anchors": made, "num_per_loc": count, "grid_size": size, "range": limits}


def _head(case: str, grid: tuple[int, ...], num_class: int = 3, multi: bool = False):
    from pcdet.models.dense_heads.anchor_head_multi import AnchorHeadMulti
    from pcdet.models.dense_heads.anchor_head_single import AnchorHeadSingle

    cfg = config("second_multihead" if multi else "second").MODEL.DENSE_HEAD
    cfg = changed(cfg, CHANGES.get(case))
    kind, limits = AnchorHeadMulti if multi else AnchorHeadSingle, np.array([0, -40, -3, 70.4, 40, 1], np.float32)
    return kind(cfg, 8, num_class, NAMES, np.array(grid), limits, predict_boxes_when_training=False)


def _losses(file: str, case: str, given: Given) -> dict:
    if file == "helpers":
        return _helper(case, given)
    multi = "multi" in file
    grid, num_class = (64, 48, 40), 3
    if not multi:
        _, height, width, channels = given["cls_preds"].shape
        grid, num_class = (width * 8, height * 8, 40), channels // 6
    head = _head(case, grid, num_class, multi)
    leaves = {
        name + number: given[name + number].requires_grad_()
        for name in PREDICTIONS
        for number in ("", "0", "1", "2")
        if name + number in given
    }
    for name in PREDICTIONS:
        parts = [leaf for key, leaf in leaves.items() if key.startswith(name)]
        head.forward_ret_dict[name] = parts if multi else parts[0] if parts else None
    labels = given["box_cls_labels"]
    head.forward_ret_dict |= {"box_cls_labels": labels, "box_reg_targets": given["box_reg_targets"]}
    cls_loss, _ = head.get_cls_layer_loss()
    box_loss, parts = head.get_box_reg_layer_loss()
    (cls_loss + box_loss).backward()
    made = {"cls_loss": cls_loss, "box_loss": box_loss, "anchors": _flat(head)}
    prefix, suffix = ("tb_", "") if multi else ("", "_loss")
    made |= {f"{prefix}{part}{suffix}": parts.get(f"rpn_loss_{part}", 0.0) for part in ("loc", "dir")}
    if not multi:
        made["rpn_loss"] = head.get_loss()[0]
    if num_class == 1:
        made["box_cls_labels_after"] = labels
    for key, leaf in leaves.items():
        name = key.rstrip("012")
        made[key.replace(name, PREDICTIONS[name])] = leaf.grad
    return made


def _flat(head) -> torch.Tensor:
    if head.use_multihead:
        return torch.cat([part.permute(3, 4, 0, 1, 2, 5).reshape(-1, 7) for part in head.anchors])
    return torch.cat(head.anchors, dim=-3).view(-1, 7)


def _helper(case: str, given: Given) -> dict:
    head = _head(case, (64, 48, 40))
    if case == "add_sin_difference":
        return dict(zip(("out1", "out2"), head.add_sin_difference(given["boxes1"], given["boxes2"])))
    if case.startswith("dir_target"):
        offset, bins = 0.0 if "off0.0000" in case else np.pi / 4, int(case[-1])
        return {
            name: head.get_direction_target(given["anchors"], given["reg_targets"], name == "one_hot", offset, bins)
            for name in ("one_hot", "index")
        }
    made = head.generate_predicted_boxes(2, **given.some(*PREDICTIONS))
    return {"anchors": _flat(head), **dict(zip(("batch_cls_preds", "batch_box_preds"), made))}


def _targets(file: str, case: str, given: Given) -> dict:
    from pcdet.models.dense_heads.target_assigner.atss_target_assigner import ATSSTargetAssigner
    from pcdet.models.dense_heads.target_assigner.axis_aligned_target_assigner import AxisAlignedTargetAssigner
    from pcdet.utils.box_coder_utils import ResidualCoder

    name = case if case in ("pointpillar", "second_multihead") else "second"
    if file.startswith("atss"):
        priors = anchors(name, (352, 400, 40))["anchors"]
        priors = priors if case == "list3" else priors[:1]
        few = case == "topk5_height"
        assigner = ATSSTargetAssigner(topk=5 if few else 9, box_coder=ResidualCoder(), match_height=few)
    else:
        priors = anchors(name)["anchors"]
        cfg = changed(config(name).MODEL.DENSE_HEAD, CHANGES.get(case))
        assigner = AxisAlignedTargetAssigner(cfg, NAMES, ResidualCoder())
    made = assigner.assign_targets(priors, given["gt_boxes"])
    labels, codes, weights = (made[key] for key in ("box_cls_labels", "box_reg_targets", "reg_weights"))
    positive, ignored = torch.nonzero(labels > 0).T, torch.nonzero(labels == -1).T
    found = tuple(positive)
    return {
        "pos_b": positive[0],
        "pos_idx": positive[1],
        "pos_label": labels[found],
        "pos_reg_targets": codes[found],
        "reg_weights_pos": weights[found],
        "ign_b": ignored[0].byte(),
        "ign_idx": ignored[1].int(),
        "n_neg_per_image": (labels == 0).sum(1),
        "n_ign_per_image": (labels == -1).sum(1),
        "reg_targets_abssum_total": codes.double().abs().sum(),
        "reg_weights_sum": weights.double().sum(1),
        "label_dtype": str(labels.dtype),
    }
