"""What every detector shares: building its modules in order, the loss, post-processing, loading parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ...errors import InputError
from ...ops.rotated_iou import boxes_iou3d
from ...registry import (
    BACKBONES_2D,
    BACKBONES_3D,
    DENSE_HEADS,
    MAP_TO_BEV,
    PFES,
    POINT_HEADS,
    ROI_HEADS,
    VFES,
)
from .. import module_fit
from ..model_utils import checkpoint_loading, model_nms_utils


class Detector3DTemplate(nn.Module):
    """A detector is a list of modules that pass one ``batch_dict`` along, then the sum of the heads' losses (training)
    or post-processing (evaluation).

    The modules are OpenPCDet's eight stages, each built from its registry where the configuration has its section: VFE,
    BACKBONE_3D, MAP_TO_BEV, PFE, BACKBONE_2D, DENSE_HEAD, POINT_HEAD, ROI_HEAD. A two-stage detector is a configuration
    with a ROI_HEAD; the registries of pcdet_focal.registry say which classes there are.

    Subclasses set ``self.module_list = self.build_networks()``. A subclass may override any ``build_*``,
    ``get_training_loss`` or ``post_processing``.
    """

    box_keys = ("batch_box_preds",)  # of batch_dict; post_processing needs one of them

    def __init__(self, model_cfg, num_class: int, dataset):
        super().__init__()
        self.model_cfg = model_cfg
        self.num_class = num_class
        self.dataset = dataset
        self.class_names = dataset.class_names
        self.register_buffer("global_step", torch.zeros(1, dtype=torch.long))
        self.module_topology = [
            "vfe",
            "backbone_3d",
            "map_to_bev_module",
            "pfe",
            "backbone_2d",
            "dense_head",
            "point_head",
            "roi_head",
        ]

    @property
    def mode(self) -> str:
        return "TRAIN" if self.training else "TEST"

    def update_global_step(self) -> None:
        self.global_step += 1

    def build_networks(self) -> list[nn.Module]:
        """Build the modules of ``module_topology`` that the configuration has, register each under its name, return
        them in order.

        Raises:
            InputError: a NAME that is in no registry, with its key path and the registered names; or a module that does
                not fit those before it (``models.module_fit``).
        """
        dataset = self.dataset
        self._check_modules()
        info = {
            "module_list": [],
            "num_rawpoint_features": dataset.point_feature_encoder.num_point_features,
            "num_point_features": dataset.point_feature_encoder.num_point_features,
            "grid_size": dataset.grid_size,
            "point_cloud_range": dataset.point_cloud_range,
            "voxel_size": dataset.voxel_size,
            "depth_downsample_factor": dataset.depth_downsample_factor,
        }
        for name in self.module_topology:
            module, info = getattr(self, f"build_{name}")(model_info_dict=info)
            self.add_module(name, module)
        return info["module_list"]

    def _check_modules(self) -> None:
        if self.dataset.grid_size is None:  # a detector of points
            return
        steps = getattr(getattr(self.dataset, "dataset_cfg", None), "DATA_PROCESSOR", None)
        without_voxels = steps is not None and all(step.NAME != "transform_points_to_voxels" for step in steps)
        keys = {"points", "batch_size", "gt_boxes"}
        given = module_fit.check_modules(
            self.model_cfg,
            module_fit.Given(
                keys=frozenset(keys if without_voxels else keys | {"voxels", "voxel_num_points", "voxel_coords"}),
                grid=tuple(int(cells) for cells in self.dataset.grid_size),
                num_point_features=self.dataset.point_feature_encoder.num_point_features,
                box_size=vars(type(self.dataset)).get("box_size"),  # a subclass may read other boxes
            ),
            [name for name in self.module_topology if self._builds_as_template(name)],
        )
        boxes = type(self).box_keys
        knows = next(base for base in type(self).__mro__ if {"box_keys", "post_processing"} & vars(base).keys())
        head = self.model_cfg.get("DENSE_HEAD")
        if head and given.keys is not None and "box_keys" in vars(knows) and not given.keys & set(boxes):
            raise InputError(
                f"MODEL.NAME: post-processing of {type(self).__name__} reads {' or '.join(boxes)}, which "
                f"{head.NAME} (MODEL.DENSE_HEAD) does not give; write CenterPoint for a CenterHead"
            )

    def _builds_as_template(self, stage: str) -> bool:
        return getattr(type(self), f"build_{stage}", None) is getattr(Detector3DTemplate, f"build_{stage}", self)

    def build_vfe(self, model_info_dict: dict):
        cfg = self.model_cfg.get("VFE")
        if cfg is None:
            return None, model_info_dict
        module = VFES[cfg.NAME](
            model_cfg=cfg,
            num_point_features=model_info_dict["num_rawpoint_features"],
            point_cloud_range=model_info_dict["point_cloud_range"],
            voxel_size=model_info_dict["voxel_size"],
            grid_size=model_info_dict["grid_size"],
            depth_downsample_factor=model_info_dict["depth_downsample_factor"],
        )
        model_info_dict["num_point_features"] = module.get_output_feature_dim()
        model_info_dict["module_list"].append(module)
        return module, model_info_dict

    def build_backbone_3d(self, model_info_dict: dict):
        cfg = self.model_cfg.get("BACKBONE_3D")
        if cfg is None:
            return None, model_info_dict
        module = BACKBONES_3D[cfg.NAME](
            model_cfg=cfg,
            input_channels=model_info_dict["num_point_features"],
            grid_size=model_info_dict["grid_size"],
            voxel_size=model_info_dict["voxel_size"],
            point_cloud_range=model_info_dict["point_cloud_range"],
        )
        model_info_dict["module_list"].append(module)
        model_info_dict["num_point_features"] = module.num_point_features
        model_info_dict["backbone_channels"] = getattr(module, "backbone_channels", None)
        return module, model_info_dict

    def build_map_to_bev_module(self, model_info_dict: dict):
        cfg = self.model_cfg.get("MAP_TO_BEV")
        if cfg is None:
            return None, model_info_dict
        module = MAP_TO_BEV[cfg.NAME](model_cfg=cfg, grid_size=model_info_dict["grid_size"])
        model_info_dict["module_list"].append(module)
        model_info_dict["num_bev_features"] = module.num_bev_features
        return module, model_info_dict

    def build_pfe(self, model_info_dict: dict):
        cfg = self.model_cfg.get("PFE")
        if cfg is None:
            return None, model_info_dict
        module = PFES[cfg.NAME](
            model_cfg=cfg,
            voxel_size=model_info_dict["voxel_size"],
            point_cloud_range=model_info_dict["point_cloud_range"],
            num_bev_features=model_info_dict.get("num_bev_features"),
            num_rawpoint_features=model_info_dict["num_rawpoint_features"],
        )
        model_info_dict["module_list"].append(module)
        model_info_dict["num_point_features"] = module.num_point_features
        model_info_dict["num_point_features_before_fusion"] = getattr(module, "num_point_features_before_fusion", None)
        return module, model_info_dict

    def build_backbone_2d(self, model_info_dict: dict):
        cfg = self.model_cfg.get("BACKBONE_2D")
        if cfg is None:
            return None, model_info_dict
        module = BACKBONES_2D[cfg.NAME](model_cfg=cfg, input_channels=model_info_dict.get("num_bev_features"))
        model_info_dict["module_list"].append(module)
        model_info_dict["num_bev_features"] = module.num_bev_features
        return module, model_info_dict

    def build_dense_head(self, model_info_dict: dict):
        cfg = self.model_cfg.get("DENSE_HEAD")
        if cfg is None:
            return None, model_info_dict
        module = DENSE_HEADS[cfg.NAME](
            model_cfg=cfg,
            input_channels=model_info_dict["num_bev_features"]
            if "num_bev_features" in model_info_dict
            else cfg.INPUT_FEATURES,
            num_class=1 if cfg.get("CLASS_AGNOSTIC", False) else self.num_class,
            class_names=self.class_names,
            grid_size=model_info_dict["grid_size"],
            point_cloud_range=model_info_dict["point_cloud_range"],
            predict_boxes_when_training=bool(self.model_cfg.get("ROI_HEAD", False)),
            voxel_size=model_info_dict.get("voxel_size", False),
        )
        model_info_dict["module_list"].append(module)
        return module, model_info_dict

    def build_point_head(self, model_info_dict: dict):
        cfg = self.model_cfg.get("POINT_HEAD")
        if cfg is None:
            return None, model_info_dict
        before_fusion = cfg.get("USE_POINT_FEATURES_BEFORE_FUSION", False)
        module = POINT_HEADS[cfg.NAME](
            model_cfg=cfg,
            input_channels=model_info_dict[
                "num_point_features_before_fusion" if before_fusion else "num_point_features"
            ],
            num_class=1 if cfg.get("CLASS_AGNOSTIC", False) else self.num_class,
            predict_boxes_when_training=bool(self.model_cfg.get("ROI_HEAD", False)),
        )
        model_info_dict["module_list"].append(module)
        return module, model_info_dict

    def build_roi_head(self, model_info_dict: dict):
        cfg = self.model_cfg.get("ROI_HEAD")
        if cfg is None:
            return None, model_info_dict
        module = ROI_HEADS[cfg.NAME](
            model_cfg=cfg,
            input_channels=model_info_dict["num_point_features"],
            backbone_channels=model_info_dict.get("backbone_channels"),
            point_cloud_range=model_info_dict["point_cloud_range"],
            voxel_size=model_info_dict["voxel_size"],
            num_class=1 if cfg.get("CLASS_AGNOSTIC", False) else self.num_class,
        )
        model_info_dict["module_list"].append(module)
        return module, model_info_dict

    def forward(self, batch_dict: dict):
        """Training: ({"loss": scalar}, logged values, {}). Evaluation: (one prediction dictionary a sample, recall
        counts).
        """
        for module in self.module_list:
            batch_dict = module(batch_dict)
        if self.training:
            loss, tb_dict, disp_dict = self.get_training_loss()
            return {"loss": loss}, tb_dict, disp_dict
        return self.post_processing(batch_dict)

    def get_training_loss(self):
        """(loss, values to log, values to show): the sum of the losses of the dense head, the point head, the RoI head
        and a 3-D backbone that has ``get_loss``, as OpenPCDet's two-stage detectors sum them. The values are detached
        tensors: reading them is the logger's choice.

        ``dense_head.get_loss()`` and the others' ``get_loss(tb_dict)`` return (scalar, values to log); ``loss_rpn`` is
        the dense head's.

        Raises:
            InputError: the detector has no head.
        """
        losses, tb_dict = [], {}
        if getattr(self, "dense_head", None) is not None:
            loss, values = self.dense_head.get_loss()
            losses, tb_dict = [loss], {"loss_rpn": loss.detach(), **values}
        for module in (
            getattr(self, "point_head", None),
            getattr(self, "roi_head", None),
            getattr(self, "backbone_3d", None),
        ):
            if hasattr(module, "get_loss"):
                loss, tb_dict = module.get_loss(tb_dict)
                losses.append(loss)
        if not losses:
            raise InputError("MODEL: a detector needs a DENSE_HEAD, POINT_HEAD or ROI_HEAD to be trained")
        return sum(losses[1:], losses[0]), tb_dict, {}

    @torch.no_grad()
    def post_processing(self, batch_dict: dict) -> tuple[list[dict], dict]:
        """Scores, non-maximum suppression and recall counts.

        Reads from ``batch_dict``: ``batch_size``; ``batch_box_preds`` (B, N, 7+), or (N1 + N2 + ..., 7+) with
        ``batch_index``; ``batch_cls_preds`` (B, N, classes | 1) or a list of such, one for each head, with
        ``multihead_label_mapping`` (a tensor of 1-based labels a head); ``cls_preds_normalized``: scores, not logits;
        ``gt_boxes`` (B, T, 8), optional, for the recall.

        Returns:
            a list of {"pred_boxes" (K, 7+), "pred_scores" (K,), "pred_labels" (K,) 1-based}, and {"gt": count,
            "rcnn_<iou>": recalled, ...}.
        """
        cfg = self.model_cfg.POST_PROCESSING
        recall_dict: dict = {}
        pred_dicts = []
        for index in range(batch_dict["batch_size"]):
            in_sample = index if batch_dict.get("batch_index") is None else batch_dict["batch_index"] == index
            boxes = batch_dict["batch_box_preds"][in_sample]  # (N, 7+)
            preds = batch_dict["batch_cls_preds"]
            logits = [p[in_sample] for p in preds] if isinstance(preds, list) else [preds[in_sample]]
            scores = logits if batch_dict["cls_preds_normalized"] else [p.sigmoid() for p in logits]

            if cfg.NMS_CONFIG.MULTI_CLASSES_NMS:
                final = self._multi_class_nms(boxes, scores, batch_dict.get("multihead_label_mapping"), cfg)
            else:
                given = None
                if batch_dict.get("has_class_labels", False):
                    given = batch_dict["roi_labels" if "roi_labels" in batch_dict else "batch_pred_labels"][index]
                final = self._class_agnostic_nms(boxes, scores, logits, given, cfg)

            recall_dict = self.generate_recall_record(
                box_preds=boxes if "rois" in batch_dict else final["pred_boxes"],
                recall_dict=recall_dict,
                batch_index=index,
                data_dict=batch_dict,
                thresh_list=cfg.RECALL_THRESH_LIST,
            )
            pred_dicts.append(final)
        return pred_dicts, recall_dict

    def _multi_class_nms(self, boxes, scores, label_mapping, cfg) -> dict:
        if label_mapping is None:
            label_mapping = [torch.arange(1, self.num_class + 1, device=boxes.device)]
        parts, start = [], 0
        for head_scores, labels in zip(scores, label_mapping):
            head_boxes = boxes[start : start + len(head_scores)]
            kept_scores, kept_labels, kept_boxes = model_nms_utils.multi_classes_nms(
                cls_scores=head_scores,
                box_preds=head_boxes,
                nms_config=cfg.NMS_CONFIG,
                score_thresh=model_nms_utils.score_thresholds(cfg.SCORE_THRESH, labels - 1),
            )
            parts.append((kept_boxes, kept_scores, labels.to(kept_labels.device)[kept_labels]))
            start += len(head_scores)
        pred_boxes, pred_scores, pred_labels = (torch.cat(part) for part in zip(*parts))
        return {"pred_boxes": pred_boxes, "pred_scores": pred_scores, "pred_labels": pred_labels}

    @staticmethod
    def _class_agnostic_nms(boxes, scores, logits, given_labels, cfg) -> dict:
        scores, logits = (part[0] if len(part) == 1 else torch.cat(part) for part in (scores, logits))
        best, labels = scores.max(dim=-1)
        labels = labels + 1 if given_labels is None else given_labels
        selected, selected_scores = model_nms_utils.class_agnostic_nms(
            box_scores=best,
            box_preds=boxes,
            nms_config=cfg.NMS_CONFIG,
            score_thresh=model_nms_utils.score_thresholds(cfg.SCORE_THRESH, labels.long() - 1),
        )
        if cfg.OUTPUT_RAW_SCORE:
            selected_scores = logits.max(dim=-1).values[selected]
        return {"pred_boxes": boxes[selected], "pred_scores": selected_scores, "pred_labels": labels[selected]}

    @staticmethod
    def generate_recall_record(box_preds, recall_dict: dict, batch_index: int, data_dict: dict, thresh_list) -> dict:
        """Add one sample's ground-truth count and, for every IoU in ``thresh_list``, how many of them some box exceeds
        in 3-D IoU.
        """
        if "gt_boxes" not in data_dict:
            return recall_dict
        if not recall_dict:
            recall_dict = {"gt": 0, **{f"{stage}_{t}": 0 for t in thresh_list for stage in ("roi", "rcnn")}}
        gt = data_dict["gt_boxes"][batch_index]
        real = gt[:, -1] != 0 if gt.shape[-1] > 7 else gt.abs().sum(-1) > 0  # the others pad
        counts = {"gt": real.sum()}
        for stage, boxes in (
            ("rcnn", box_preds),
            ("roi", data_dict["rois"][batch_index] if "rois" in data_dict else None),
        ):
            if boxes is None or not len(boxes) or not len(gt):
                continue
            best = boxes_iou3d(boxes[:, :7].to(gt.dtype), gt[:, :7]).amax(dim=0)
            counts.update({f"{stage}_{threshold}": (real & (best > threshold)).sum() for threshold in thresh_list})
        # all counts in one read: on a GPU each one waits for it
        for key, count in zip(counts, torch.stack(list(counts.values())).tolist()):
            recall_dict[key] += count
        return recall_dict

    def load_params_from_file(
        self, filename: str | Path, logger, to_cpu: bool = False, pre_trained_path: str | Path | None = None
    ) -> None:
        """Load the weights of a checkpoint that fit, and log which do not, and why. ``pre_trained_path`` overrides them
        with a second file's.

        Raises:
            InputError: no such file, not a checkpoint, or no weight of it fits this model.
        """
        checkpoint_loading.load_params_from_file(self, filename, logger, pre_trained_path)

    def load_params_with_optimizer(
        self, filename: str | Path, to_cpu: bool = False, optimizer=None, logger=None
    ) -> tuple[int, int]:
        """Load every weight and the optimiser's state, to go on training; returns (iteration, epoch).

        Raises:
            InputError: no such file, not a checkpoint, or the weights are another architecture's.
        """
        return checkpoint_loading.load_params_with_optimizer(self, filename, optimizer, logger)
