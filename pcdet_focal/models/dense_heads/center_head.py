"""The head of CenterPoint (Yin, Zhou, Krähenbühl, CVPR 2021): a heat map for every class, and a box at each of its
peaks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ... import losses
from ...errors import InputError
from ...losses.centernet import _transpose_and_gather_feat
from ...losses.numerics import at_least_float32
from ..model_utils import centernet_utils, model_nms_utils
from .target_assigner.center_target_assigner import CenterTargetAssigner

_PATH = "MODEL.DENSE_HEAD"
_CODE = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}  # branches in the order of the targets' columns
_LIMITS = ("NMS_THRESH", "NMS_PRE_MAXSIZE", "NMS_POST_MAXSIZE")
_NMS = {
    "nms_gpu": _LIMITS,
    "nms_normal_gpu": _LIMITS,
    "class_specific_nms": _LIMITS,
    "circle_nms": ("MIN_RADIUS", "NMS_POST_MAXSIZE"),
}


class SeparateHead(nn.Module):
    """A branch of convolutions for each entry of ``sep_head_dict`` ({name: {"out_channels": n, "num_conv": k}}), over
    one shared map.

    ``init_bias`` is the last bias of the heat map: a score of 0.1 everywhere at -2.19.
    """

    def __init__(
        self,
        input_channels: int,
        sep_head_dict: dict,
        init_bias: float = -2.19,
        use_bias: bool = False,
        norm_func: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        self.sep_head_dict = sep_head_dict
        norm = norm_func or nn.BatchNorm2d
        for name, branch in sep_head_dict.items():
            layers: list[nn.Module] = []
            for _ in range(branch["num_conv"] - 1):
                layers.append(
                    nn.Sequential(
                        nn.Conv2d(input_channels, input_channels, 3, padding=1, bias=use_bias),
                        norm(input_channels),
                        nn.ReLU(inplace=True),
                    )
                )
            layers.append(nn.Conv2d(input_channels, branch["out_channels"], 3, padding=1, bias=True))
            convolutions = nn.Sequential(*layers)
            if "hm" in name:
                nn.init.constant_(convolutions[-1].bias, init_bias)
            else:
                for module in convolutions.modules():
                    if isinstance(module, nn.Conv2d):
                        nn.init.kaiming_normal_(module.weight)
                        if module.bias is not None:
                            nn.init.zeros_(module.bias)
            self.add_module(name, convolutions)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> {name: (B, out_channels, H, W)}."""
        return {name: self._modules[name](x) for name in self.sep_head_dict}


class CenterHead(nn.Module):
    """One or several heads, each with heat maps of some classes and the branches of SEPARATE_HEAD_CFG.

    Configuration: CLASS_NAMES_EACH_HEAD, SHARED_CONV_CHANNEL, NUM_HM_CONV, USE_BIAS_BEFORE_NORM, BN_EPS, BN_MOM;
    SEPARATE_HEAD_CFG with HEAD_ORDER (center, center_z, dim, rot and perhaps vel, in this order) and HEAD_DICT (the
    same and perhaps ``iou``, a branch that predicts 2 IoU - 1); TARGET_ASSIGNER_CONFIG; LOSS_CONFIG.LOSS_WEIGHTS;
    IOU_REG_LOSS (a distance-IoU loss of the decoded boxes); POST_PROCESSING with NMS_CONFIG.NMS_TYPE: nms_gpu or
    nms_normal_gpu (all classes of a head together), class_specific_nms (lists, one entry a class; a SCORE_THRESH of its
    own) or circle_nms (MIN_RADIUS, one
    number or one a head: the smallest *squared* distance of two centres, as in CenterPoint's files);
    USE_IOU_TO_RECTIFY_SCORE with IOU_RECTIFIER, one number or one a class: score^(1 - r) IoU^r.
    """

    def __init__(
        self,
        model_cfg,
        input_channels: int,
        num_class: int,
        class_names,
        grid_size,
        point_cloud_range,
        voxel_size,
        predict_boxes_when_training: bool = True,
    ):
        super().__init__()
        self.model_cfg, self.num_class, self.class_names = model_cfg, num_class, list(class_names)
        self.grid_size, self.point_cloud_range, self.voxel_size = grid_size, point_cloud_range, voxel_size
        self.predict_boxes_when_training = predict_boxes_when_training
        assigner = model_cfg.TARGET_ASSIGNER_CONFIG
        self.feature_map_stride = assigner.FEATURE_MAP_STRIDE
        self.class_names_each_head = [
            [name for name in names if name in self.class_names] for names in model_cfg.CLASS_NAMES_EACH_HEAD
        ]
        named = [name for names in self.class_names_each_head for name in names]
        if sorted(named) != sorted(self.class_names) or not all(self.class_names_each_head):
            raise InputError(
                f"{_PATH}.CLASS_NAMES_EACH_HEAD must name each of CLASS_NAMES ({', '.join(self.class_names)}) once, "
                "and at least one in "
                f"every head; of these it has {self.class_names_each_head}"
            )
        classes = [[self.class_names.index(name) for name in names] for names in self.class_names_each_head]
        for i, ids in enumerate(classes):
            self.register_buffer(f"class_ids_{i}", torch.tensor(ids, dtype=torch.long), persistent=False)

        self.separate_head_cfg = model_cfg.SEPARATE_HEAD_CFG
        self._check_branches()
        norm = partial(nn.BatchNorm2d, eps=model_cfg.get("BN_EPS", 1e-5), momentum=model_cfg.get("BN_MOM", 0.1))
        channels, use_bias = model_cfg.SHARED_CONV_CHANNEL, model_cfg.get("USE_BIAS_BEFORE_NORM", False)
        self.shared_conv = nn.Sequential(
            nn.Conv2d(input_channels, channels, 3, padding=1, bias=use_bias), norm(channels), nn.ReLU(inplace=True)
        )
        self.heads_list = nn.ModuleList()
        for names in self.class_names_each_head:
            branches = copy.deepcopy(dict(self.separate_head_cfg.HEAD_DICT))
            branches["hm"] = {"out_channels": len(names), "num_conv": model_cfg.NUM_HM_CONV}
            self.heads_list.append(SeparateHead(channels, branches, init_bias=-2.19, use_bias=use_bias, norm_func=norm))
        self.target_assigner = CenterTargetAssigner(
            classes,
            point_cloud_range,
            voxel_size,
            self.feature_map_stride,
            assigner.NUM_MAX_OBJS,
            assigner.GAUSSIAN_OVERLAP,
            assigner.MIN_RADIUS,
        )
        self.forward_ret_dict: dict = {}
        self.build_losses()
        self._read_post_processing()

    def _check_branches(self) -> None:
        order, branches = list(self.separate_head_cfg.HEAD_ORDER), self.separate_head_cfg.HEAD_DICT
        if order not in (list(_CODE)[:4], list(_CODE)):
            raise InputError(
                f"{_PATH}.SEPARATE_HEAD_CFG.HEAD_ORDER: {order} does not fit the targets: center, center_z, dim, rot, "
                "in this order, "
                "and then perhaps vel"
            )
        for name in order:
            if name not in branches or branches[name]["out_channels"] != _CODE[name]:
                raise InputError(
                    f"{_PATH}.SEPARATE_HEAD_CFG.HEAD_DICT.{name}: a branch with out_channels {_CODE[name]} is needed"
                )
        self.code_size = sum(_CODE[name] for name in order)

    def _read_post_processing(self) -> None:
        cfg, path = self.model_cfg.POST_PROCESSING, f"{_PATH}.POST_PROCESSING"
        cfg["MAX_OBJ_PER_SAMPLE"]  # an error now if it is missing, not after the training
        model_nms_utils.check_score_thresh(cfg.SCORE_THRESH, len(self.class_names), f"{path}.SCORE_THRESH")
        if cfg.NMS_CONFIG.NMS_TYPE not in _NMS:
            raise InputError(
                f"{path}.NMS_CONFIG.NMS_TYPE: {cfg.NMS_CONFIG.NMS_TYPE} is not supported here (supported: "
                f"{', '.join(_NMS)})"
            )
        for key in _NMS[cfg.NMS_CONFIG.NMS_TYPE]:
            cfg.NMS_CONFIG[key]
        if cfg.NMS_CONFIG.NMS_TYPE == "class_specific_nms":
            for key in _LIMITS:
                if not isinstance(cfg.NMS_CONFIG[key], (list, tuple)) or len(cfg.NMS_CONFIG[key]) != len(
                    self.class_names
                ):
                    raise InputError(
                        f"{path}.NMS_CONFIG.{key}: {cfg.NMS_CONFIG[key]} must be a list of {len(self.class_names)}, "
                        "one a class"
                    )
        if cfg.NMS_CONFIG.NMS_TYPE == "circle_nms":
            self.min_radius = self._one_each(
                cfg.NMS_CONFIG.MIN_RADIUS, len(self.heads_list), f"{path}.NMS_CONFIG.MIN_RADIUS", "head"
            )
        self.register_buffer(
            "post_center_limit_range", torch.tensor(cfg.POST_CENTER_LIMIT_RANGE, dtype=torch.float32), persistent=False
        )
        if cfg.get("USE_IOU_TO_RECTIFY_SCORE", False):
            powers = self._one_each(cfg.IOU_RECTIFIER, len(self.class_names), f"{path}.IOU_RECTIFIER", "class")
            self.register_buffer("iou_rectifier", torch.tensor(powers, dtype=torch.float32), persistent=False)

    @staticmethod
    def _one_each(value, count: int, path: str, what: str) -> list[float]:
        values = [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)] * count
        if len(values) != count:
            raise InputError(f"{path}: {len(values)} values for {count}: one number, or one a {what}")
        return values

    @property
    def class_id_mapping_each_head(self) -> list[Tensor]:
        """The 0-based class of each heat map, a tensor for each head."""
        return [getattr(self, f"class_ids_{i}") for i in range(len(self.class_names_each_head))]

    def build_losses(self) -> None:
        """CornerNet's focal loss of the heat maps and an L1 loss of the box codes; weights from
        LOSS_CONFIG.LOSS_WEIGHTS.
        """
        cfg = self.model_cfg.LOSS_CONFIG
        for entry in ("CLS_LOSS", "REG_LOSS", "DIR_LOSS", "NORMALIZER"):
            if cfg.get(entry) is not None:
                raise InputError(
                    f"{_PATH}.LOSS_CONFIG.{entry}: the losses of a CenterHead are fixed; it chooses those of anchor "
                    "heads"
                )
        weights = cfg.LOSS_WEIGHTS["code_weights"]
        if len(weights) != self.code_size:
            raise InputError(
                f"{_PATH}.LOSS_CONFIG.LOSS_WEIGHTS.code_weights: {len(weights)} values for the {self.code_size} "
                "columns of HEAD_ORDER"
            )
        self.register_buffer("code_weights", torch.tensor(np.asarray(weights, np.float64)).float(), persistent=False)
        self.hm_loss_func = losses.FocalLossCenterNet()
        self.reg_loss_func = losses.RegLossCenterNet()

    def assign_targets(self, gt_boxes: Tensor, feature_map_size=None, **kwargs) -> dict[str, list[Tensor]]:
        """``gt_boxes`` (B, T, 8 or 10) and the map's (H, W) -> the lists of
        :meth:`CenterTargetAssigner.assign_targets`.
        """
        height, width = feature_map_size
        return self.target_assigner.assign_targets(gt_boxes, (int(width), int(height)))

    def forward(self, data_dict: dict) -> dict:
        """Reads ``spatial_features_2d`` (B, C, H, W) and, in training, ``gt_boxes`` (B, T, 8 or 10).

        Leaves ``pred_dicts`` and ``target_dicts`` in ``forward_ret_dict``. In evaluation adds ``final_box_dicts``; in
        training with predict_boxes_when_training ``rois`` (B, R, 7 or 9), ``roi_scores``, ``roi_labels`` (B, R) and
        ``has_class_labels``.
        """
        features = data_dict["spatial_features_2d"]
        x = self.shared_conv(features)
        self.forward_ret_dict = {"pred_dicts": [head(x) for head in self.heads_list]}
        if self.training:
            self.forward_ret_dict["target_dicts"] = self.assign_targets(
                data_dict["gt_boxes"], feature_map_size=features.shape[2:]
            )
        if not self.training or self.predict_boxes_when_training:
            detections = self.generate_predicted_boxes(data_dict["batch_size"], self.forward_ret_dict["pred_dicts"])
            if self.predict_boxes_when_training:
                data_dict["rois"], data_dict["roi_scores"], data_dict["roi_labels"] = self.reorder_rois_for_refining(
                    data_dict["batch_size"], detections
                )
                data_dict["has_class_labels"] = True
            else:
                data_dict["final_box_dicts"] = detections
        return data_dict

    @staticmethod
    def sigmoid(x: Tensor) -> Tensor:
        """Scores held within 1e-4 and 1 - 1e-4, for the logarithms of the loss; in float32 or better, since half
        precision has no 1 - 1e-4.
        """
        return at_least_float32(x)[0].sigmoid().clamp(min=1e-4, max=1 - 1e-4)

    def get_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over the heads of heat map, box and IoU losses, and its parts as detached tensors."""
        targets, weights = self.forward_ret_dict["target_dicts"], self.model_cfg.LOSS_CONFIG.LOSS_WEIGHTS
        parts: dict[str, Tensor] = {}
        for i, predicted in enumerate(self.forward_ret_dict["pred_dicts"]):
            inds, masks = targets["inds"][i], targets["masks"][i]
            heat = self.hm_loss_func(self.sigmoid(predicted["hm"]), targets["heatmaps"][i])
            parts[f"hm_loss_head_{i}"] = heat * weights["cls_weight"]
            at = {
                name: at_least_float32(_transpose_and_gather_feat(predicted[name], inds))[0]
                for name in self.separate_head_cfg.HEAD_ORDER
            }
            codes = torch.cat(list(at.values()), dim=-1)  # (B, M, code_size)
            # (code_size,)
            by_code = self.reg_loss_func(codes, masks, target=self._target_codes(targets["target_boxes"][i]))
            parts[f"loc_loss_head_{i}"] = (by_code * self.code_weights.to(by_code.dtype)).sum() * weights["loc_weight"]
            if "iou" in predicted or self.model_cfg.get("IOU_REG_LOSS", False):
                parts.update(
                    self._iou_losses(
                        i, predicted, at, inds, masks, targets["target_boxes_src"][i], weights["loc_weight"]
                    )
                )
        loss = sum(parts.values())
        return loss, {**{key: value.detach() for key, value in parts.items()}, "rpn_loss": loss.detach()}

    def _target_codes(self, target_boxes: Tensor) -> Tensor:
        if target_boxes.shape[-1] < self.code_size:
            raise InputError(
                f"gt_boxes have no velocities, which {_PATH}.SEPARATE_HEAD_CFG.HEAD_ORDER predicts: take vel out, or "
                "give boxes of 9 columns"
            )
        return target_boxes[..., : self.code_size]  # velocities that no branch predicts are left out

    def _iou_losses(
        self,
        i: int,
        predicted: dict[str, Tensor],
        at: dict[str, Tensor],
        inds: Tensor,
        masks: Tensor,
        gt_boxes: Tensor,
        loc_weight: float,
    ) -> dict[str, Tensor]:
        """Losses of the IoU branch and of the boxes' IoU, from the boxes at the objects' cells only."""
        width = predicted["center"].shape[-1]
        cells = inds.unsqueeze(-1)
        x, y = (cells % width).to(at["center"].dtype), (cells // width).to(at["center"].dtype)
        boxes = centernet_utils.boxes_at_cells(
            x,
            y,
            at["center"],
            at["center_z"],
            at["dim"].exp(),
            at["rot"][..., 0:1],
            at["rot"][..., 1:2],
            at.get("vel"),
            self.point_cloud_range,
            self.voxel_size,
            self.feature_map_stride,
        )
        # (B, 7 or 9, M, 1)
        as_map, places = (
            boxes.transpose(1, 2).unsqueeze(-1),
            torch.arange(boxes.shape[1], device=inds.device).expand_as(inds),
        )
        parts = {}
        if "iou" in predicted:
            iou = _transpose_and_gather_feat(predicted["iou"], inds).transpose(1, 2).unsqueeze(-1)
            parts[f"iou_loss_head_{i}"] = losses.calculate_iou_loss_centerhead(iou, as_map, masks, places, gt_boxes)
        if self.model_cfg.get("IOU_REG_LOSS", False):
            parts[f"iou_reg_loss_head_{i}"] = (
                losses.calculate_iou_reg_loss_centerhead(as_map, masks, places, gt_boxes) * loc_weight
            )
        return parts

    @torch.no_grad()
    def generate_predicted_boxes(self, batch_size: int, pred_dicts: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Decode and suppress: for each sample {"pred_boxes" (K, 7 or 9), "pred_scores" (K,), "pred_labels" (K,)
        1-based}, head after head.
        """
        cfg = self.model_cfg.POST_PROCESSING
        by_sample: list[list[dict[str, Tensor]]] = [[] for _ in range(batch_size)]
        for i, predicted in enumerate(pred_dicts):
            predicted = {
                name: value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
                for name, value in predicted.items()
            }
            decoded = centernet_utils.decode_bbox_from_heatmap(
                heatmap=predicted["hm"].sigmoid(),
                rot_cos=predicted["rot"][:, 0:1],
                rot_sin=predicted["rot"][:, 1:2],
                center=predicted["center"],
                center_z=predicted["center_z"],
                dim=predicted["dim"].exp(),
                vel=predicted["vel"] if "vel" in self.separate_head_cfg.HEAD_ORDER else None,
                iou=(predicted["iou"] + 1) * 0.5 if "iou" in predicted else None,
                point_cloud_range=self.point_cloud_range,
                voxel_size=self.voxel_size,
                feature_map_stride=self.feature_map_stride,
                K=cfg.MAX_OBJ_PER_SAMPLE,
                circle_nms=cfg.NMS_CONFIG.NMS_TYPE == "circle_nms",
                score_thresh=model_nms_utils.score_thresholds(cfg.SCORE_THRESH, self.class_id_mapping_each_head[i]),
                post_center_limit_range=self.post_center_limit_range,
            )
            for b, sample in enumerate(decoded):
                by_sample[b].append(self._suppress(sample, i))
        return [{key: torch.cat([part[key] for part in parts]) for key in parts[0]} for parts in by_sample]

    def _suppress(self, decoded: dict[str, Tensor], head: int) -> dict[str, Tensor]:
        cfg = self.model_cfg.POST_PROCESSING
        boxes, scores, labels = (
            decoded["pred_boxes"],
            decoded["pred_scores"],
            self.class_id_mapping_each_head[head][decoded["pred_labels"].long()],
        )
        if "pred_iou" in decoded and cfg.get("USE_IOU_TO_RECTIFY_SCORE", False):
            power = self.iou_rectifier.to(scores.dtype)[labels]
            scores = scores.pow(1 - power) * decoded["pred_iou"].clamp(min=0, max=1).pow(power)
        if cfg.NMS_CONFIG.NMS_TYPE == "class_specific_nms":
            selected, scores = model_nms_utils.class_specific_nms(
                scores, boxes, labels, cfg.NMS_CONFIG, cfg.NMS_CONFIG.get("SCORE_THRESH")
            )
        elif cfg.NMS_CONFIG.NMS_TYPE == "circle_nms":
            rows = torch.cat([boxes[:, :2], scores.unsqueeze(1)], dim=1)
            selected = centernet_utils._circle_nms(rows, self.min_radius[head], cfg.NMS_CONFIG.NMS_POST_MAXSIZE)
            scores = scores[selected]
        else:
            selected, scores = model_nms_utils.class_agnostic_nms(scores, boxes, cfg.NMS_CONFIG)
        return {"pred_boxes": boxes[selected], "pred_scores": scores, "pred_labels": labels[selected] + 1}

    @staticmethod
    def reorder_rois_for_refining(
        batch_size: int, pred_dicts: list[dict[str, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes of all samples padded with zeros to one length R, at least 1: rois (B, R, 7 or 9), scores and 1-based
        labels (B, R).
        """
        max_rois = max(1, *(len(detections["pred_boxes"]) for detections in pred_dicts))
        boxes = pred_dicts[0]["pred_boxes"]
        rois, scores = boxes.new_zeros(batch_size, max_rois, boxes.shape[-1]), boxes.new_zeros(batch_size, max_rois)
        labels = torch.zeros(batch_size, max_rois, dtype=torch.long, device=boxes.device)
        for b, detections in enumerate(pred_dicts):
            count = len(detections["pred_boxes"])
            rois[b, :count], scores[b, :count], labels[b, :count] = (
                detections["pred_boxes"],
                detections["pred_scores"],
                detections["pred_labels"],
            )
        return rois, scores, labels
