"""An anchor head of several small heads, each for some of the classes (CBGS, Zhu et al. 2019, arXiv:1908.09492, section
2.3).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import losses
from ...errors import InputError
from ..backbones_2d import BaseBEVBackbone
from .anchor_head_template import AnchorHeadTemplate, joined_convolution

_PATH = "MODEL.DENSE_HEAD"
# the logit of a class that a head does not have: score 0, loss 0, gradient 0; a number that half precision has
_NOT_THERE = -1e4


class SingleHead(BaseBEVBackbone):
    """Predictions for the anchors of some classes: one convolution each, or with SEPARATE_REG_CONFIG a small stack for
    each part of the box code.

    An entry of RPN_HEAD_CFGS with LAYER_NUMS etc. gives the head convolution blocks of its own before them, as in
    BaseBEVBackbone.
    """

    def __init__(
        self,
        model_cfg,
        input_channels: int,
        num_class: int,
        num_anchors_per_location: int,
        code_size: int,
        rpn_head_cfg=None,
        head_label_indices: Tensor | None = None,
        separate_reg_config=None,
    ):
        super().__init__(rpn_head_cfg, input_channels)
        self.model_cfg = model_cfg
        self.num_class, self.code_size, self.num_anchors_per_location = num_class, code_size, num_anchors_per_location
        self.register_buffer("head_label_indices", head_label_indices)  # (num_class of the head,) 1-based labels
        channels = self.num_bev_features if len(self.blocks) else input_channels
        count = num_anchors_per_location
        if separate_reg_config is None:
            self.conv_cls = nn.Conv2d(channels, count * num_class, kernel_size=1)
            self.conv_box = nn.Conv2d(channels, count * code_size, kernel_size=1)
        else:
            parts = [part.split(":") for part in separate_reg_config.REG_LIST]
            if sum(int(width) for _, width in parts) != code_size:
                raise InputError(
                    f"{_PATH}.SEPARATE_REG_CONFIG.REG_LIST: {list(separate_reg_config.REG_LIST)} must add up to the "
                    f"box code's {code_size}"
                )
            # conv_box first: the optimiser's state in a checkpoint goes by the order of the parameters
            self.conv_box = nn.ModuleDict(
                {
                    f"conv_{name}": self._stack(channels, count * int(width), separate_reg_config)
                    for name, width in parts
                }
            )
            self.conv_cls = self._stack(channels, count * num_class, separate_reg_config)
        self.conv_dir_cls = (
            nn.Conv2d(channels, count * model_cfg.NUM_DIR_BINS, kernel_size=1)
            if model_cfg.get("USE_DIRECTION_CLASSIFIER")
            else None
        )
        self.init_weights()

    @staticmethod
    def _stack(channels: int, out_channels: int, cfg) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(cfg.NUM_MIDDLE_CONV):
            layers += [
                nn.Conv2d(channels, cfg.NUM_MIDDLE_FILTER, 3, padding=1, bias=False),
                nn.BatchNorm2d(cfg.NUM_MIDDLE_FILTER),
                nn.ReLU(),
            ]
            channels = cfg.NUM_MIDDLE_FILTER
        return nn.Sequential(*layers, nn.Conv2d(channels, out_channels, 3, padding=1))

    def init_weights(self, prior: float = 0.01) -> None:
        """Every anchor starts with the score ``prior``."""
        last = self.conv_cls[-1] if isinstance(self.conv_cls, nn.Sequential) else self.conv_cls
        nn.init.constant_(last.bias, -math.log((1 - prior) / prior))
        if isinstance(self.conv_box, nn.ModuleDict):
            for module in self.conv_box.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def forward(self, spatial_features_2d: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> ``cls_preds`` (B, n, num_class), ``box_preds`` (B, n, code), ``dir_cls_preds`` (B, n, bins)
        if there is a classifier.

        The n anchors come kind by kind (sizes and rotations of the head's classes), each over the map row by row.
        """
        x = super().forward({"spatial_features": spatial_features_2d})["spatial_features_2d"]
        if isinstance(self.conv_box, nn.ModuleDict):
            # OpenPCDet's layout, which its checkpoints have: all parts' channels in a row are then dealt out anchor by
            # anchor, so that with several anchors at a location the names in REG_LIST do not say which columns of the
            # code a part makes.
            made = {
                "cls_preds": self.conv_cls(x),
                "box_preds": torch.cat([conv(x) for conv in self.conv_box.values()], dim=1),
            }
            if self.conv_dir_cls is not None:
                made["dir_cls_preds"] = self.conv_dir_cls(x)
        else:
            parts = {"cls_preds": self.conv_cls, "box_preds": self.conv_box, "dir_cls_preds": self.conv_dir_cls}
            parts = {key: conv for key, conv in parts.items() if conv is not None}
            made = dict(zip(parts, joined_convolution(list(parts.values()), x)))
        return {key: self._by_anchor(value) for key, value in made.items()}

    def _by_anchor(self, preds: Tensor) -> Tensor:
        batch_size, _, height, width = preds.shape
        by_kind = preds.reshape(batch_size, self.num_anchors_per_location, -1, height * width)
        return by_kind.transpose(2, 3).reshape(batch_size, self.num_anchors_per_location * height * width, -1)


class AnchorHeadMulti(AnchorHeadTemplate):
    """Several heads over one (optionally shared) map.

    Configuration beside the anchor head's: RPN_HEAD_CFGS, one entry a head with HEAD_CLS_NAME (all together in the
    order of ANCHOR_GENERATOR_CONFIG); SEPARATE_MULTIHEAD: a head scores its own classes only (else all classes, at its
    own anchors); SHARED_CONV_NUM_FILTER; SEPARATE_REG_CONFIG; LOSS_WEIGHTS.pos_cls_weight and neg_cls_weight;
    USE_MULTIHEAD must be True.
    """

    def __init__(
        self,
        model_cfg,
        input_channels: int,
        num_class: int,
        class_names,
        grid_size,
        point_cloud_range,
        predict_boxes_when_training: bool = True,
        **kwargs,
    ):
        super().__init__(
            model_cfg=model_cfg,
            num_class=num_class,
            class_names=class_names,
            grid_size=grid_size,
            point_cloud_range=point_cloud_range,
            predict_boxes_when_training=predict_boxes_when_training,
        )
        if not self.use_multihead:
            raise InputError(
                f"{_PATH}.USE_MULTIHEAD: AnchorHeadMulti needs True: its predictions come head by head, and so must "
                "the targets"
            )
        self.separate_multihead = model_cfg.get("SEPARATE_MULTIHEAD", False)
        use_direction = bool(model_cfg.get("USE_DIRECTION_CLASSIFIER"))
        # OpenPCDet's rule: only a direction classifier can tell headings apart that are half a turn from each other.
        self.use_sin_difference = self.use_sin_difference and use_direction
        self.shared_conv, channels = None, input_channels
        if model_cfg.get("SHARED_CONV_NUM_FILTER") is not None:
            channels = model_cfg.SHARED_CONV_NUM_FILTER
            conv = nn.Conv2d(input_channels, channels, 3, padding=1, bias=False)
            self.shared_conv = nn.Sequential(conv, nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), nn.ReLU())
        self.rpn_heads = self._make_heads(channels)
        label_in_head = torch.zeros(len(self.class_names) + 1, dtype=torch.int32)  # of each label in its head, from 1
        for head in self.rpn_heads:
            label_in_head[head.head_label_indices] = torch.arange(
                1, len(head.head_label_indices) + 1, dtype=torch.int32
            )
        self.register_buffer("place_in_head", label_in_head, persistent=False)
        self._check_classification_loss()

    def _make_heads(self, channels: int) -> nn.ModuleList:
        cfgs, names = (
            self.model_cfg.RPN_HEAD_CFGS,
            [config["class_name"] for config in self.model_cfg.ANCHOR_GENERATOR_CONFIG],
        )
        named = [name for cfg in cfgs for name in cfg["HEAD_CLS_NAME"]]
        if named != names:
            raise InputError(
                f"{_PATH}.RPN_HEAD_CFGS: the HEAD_CLS_NAME of all heads must be the classes of "
                "ANCHOR_GENERATOR_CONFIG in its order, "
                f"{', '.join(names)}; they are {', '.join(named)}"
            )
        unknown = [name for name in names if name not in self.class_names]
        if unknown:
            raise InputError(
                f"{_PATH}.RPN_HEAD_CFGS: {', '.join(unknown)} not in CLASS_NAMES ({', '.join(self.class_names)}), and "
                "a head of AnchorHeadMulti predicts classes; remove them here and in ANCHOR_GENERATOR_CONFIG"
            )
        heads = []
        for cfg in cfgs:
            head_classes = cfg["HEAD_CLS_NAME"]
            heads.append(
                SingleHead(
                    self.model_cfg,
                    channels,
                    len(head_classes) if self.separate_multihead else self.num_class,
                    sum(self.num_anchors_per_location[names.index(name)] for name in head_classes),
                    self.box_coder.code_size,
                    cfg,
                    head_label_indices=torch.tensor([list(self.class_names).index(name) + 1 for name in head_classes]),
                    separate_reg_config=self.model_cfg.get("SEPARATE_REG_CONFIG"),
                )
            )
        return nn.ModuleList(heads)

    def _check_classification_loss(self) -> None:
        if not isinstance(self.cls_loss_func, losses.HeadClassificationLoss):
            return
        if set(self._class_loss_weights()) != {1.0}:
            raise InputError(
                f"{_PATH}.LOSS_CONFIG: pos_cls_weight and neg_cls_weight weight the focal loss that is there without "
                "CLS_LOSS and "
                "NORMALIZER; with one of these both must be 1"
            )
        name = type(self.cls_loss_func.loss).__name__
        if self.separate_multihead and (name == "EqualizedFocalLoss" or not self._padding_is_free(name)):
            raise InputError(
                f"{_PATH}.LOSS_CONFIG.CLS_LOSS: {name} looks at all classes together, which SEPARATE_MULTIHEAD splits "
                "over the heads: "
                "take another loss, or SEPARATE_MULTIHEAD: False"
            )

    def _padding_is_free(self, name: str) -> bool:
        """Whether the classes that a head lacks beside the widest one add nothing to the loss."""
        if len({head.num_class for head in self.rpn_heads}) == 1 or self.cls_loss_func.needs_quality:
            return True
        if self.cls_loss_func.is_softmax or name == "GHMC":  # they look at all elements together
            return False
        loss, _ = copy.deepcopy(self.cls_loss_func).eval()(
            torch.full((1, 1, 2), _NOT_THERE), torch.zeros(1, 1, dtype=torch.int32)
        )
        return loss.item() == 0.0

    def _class_loss_weights(self) -> tuple[float, float]:
        weights = self.model_cfg.LOSS_CONFIG.LOSS_WEIGHTS
        return float(weights.get("pos_cls_weight", 1.0)), float(weights.get("neg_cls_weight", 1.0))

    def forward(self, data_dict: dict) -> dict:
        """Reads ``spatial_features_2d`` (B, C, H, W) and, in training, ``gt_boxes`` (B, T, 8+).

        Leaves predictions and targets in ``forward_ret_dict`` (lists with one tensor a head with SEPARATE_MULTIHEAD);
        in evaluation (or with predict_boxes_when_training) adds ``batch_cls_preds``, ``batch_box_preds`` (B, N, 7+),
        ``cls_preds_normalized`` and, for lists, ``multihead_label_mapping``, the 1-based labels of each head's columns.
        """
        features = data_dict["spatial_features_2d"]
        if self.shared_conv is not None:
            features = self.shared_conv(features)
        by_head = [head(features) for head in self.rpn_heads]
        predictions = {key: [made[key] for made in by_head] for key in by_head[0]}
        if not self.separate_multihead:
            predictions = {key: torch.cat(value, dim=1) for key, value in predictions.items()}
        self.forward_ret_dict = predictions
        if self.training:
            self.forward_ret_dict = {**predictions, **self.assign_targets(gt_boxes=data_dict["gt_boxes"])}
        if not self.training or self.predict_boxes_when_training:
            self._add_predicted_boxes(data_dict, predictions)
            if self.separate_multihead:
                data_dict["multihead_label_mapping"] = [head.head_label_indices for head in self.rpn_heads]
        return data_dict

    def get_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of all heads together, and its parts: every loss is a sum over anchors, wherever they come from."""
        with self._joined_predictions():
            return super().get_loss()

    def get_box_reg_layer_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Box and direction loss over the positive anchors of all heads; see AnchorHeadTemplate."""
        with self._joined_predictions():
            return super().get_box_reg_layer_loss()

    @contextmanager
    def _joined_predictions(self) -> Iterator[None]:
        """Boxes and directions of the heads as one tensor each, as the losses take them, for as long as they do."""
        given = self.forward_ret_dict
        joined = {
            key: torch.cat(given[key], dim=1)
            for key in ("box_preds", "dir_cls_preds")
            if isinstance(given.get(key), list)
        }
        self.forward_ret_dict = {**given, **joined}
        try:
            yield
        finally:
            self.forward_ret_dict = given

    def get_cls_layer_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss over all anchors of all heads that are not ignored, each sample's sum divided by its positives, averaged
        over the batch.
        """
        with self._joined_predictions():
            return self._classification_loss_of_all()

    def _classification_loss_of_all(self) -> tuple[Tensor, dict[str, Tensor]]:
        labels, logits = self.forward_ret_dict["box_cls_labels"], self.forward_ret_dict["cls_preds"]
        if self.separate_multihead:
            labels = torch.where(labels > 0, self.place_in_head[labels.clamp(min=0).long()], labels)
            widest = max(head.num_class for head in self.rpn_heads)
            missing = [widest - part.shape[-1] for part in logits]
            # (B, N, widest)
            logits = torch.cat(
                [F.pad(part, (0, n), value=_NOT_THERE) if n else part for part, n in zip(logits, missing)], dim=1
            )
        loss, logged = self.classification_loss(logits, labels)
        positive, negative = self._class_loss_weights()
        if (positive, negative) != (1.0, 1.0):
            # w_neg * L_all + (w_pos - w_neg) * L_pos; both have the same divisor
            of_positives, _ = self.classification_loss(logits, torch.where(labels == 0, -1, labels))
            loss = negative * loss + (positive - negative) * of_positives
            logged = {**logged, "rpn_loss_cls": loss.detach()}
        return loss, logged
