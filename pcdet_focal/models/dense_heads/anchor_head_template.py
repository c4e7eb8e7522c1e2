"""Base of the anchor heads: anchors, target assignment, losses, decoding."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ... import losses
from ...errors import InputError
from ...geometry import box_coders
from ...geometry.angles import limit_period
from ...ops import anchor_box_loss, focal_loss
from ...ops.anchor_box_loss import box_and_direction_sums, has_kernels
from ...ops.rotated_iou import boxes_aligned_iou3d, boxes_aligned_iou_bev
from ...registry import find_by_name
from .target_assigner.anchor_generator import AnchorGenerator
from .target_assigner.atss_target_assigner import ATSSTargetAssigner
from .target_assigner.axis_aligned_target_assigner import AxisAlignedTargetAssigner, class_ids

_BOX_CODERS = {
    name: getattr(box_coders, name)
    for name in ("ResidualCoder", "PreviousResidualDecoder", "PreviousResidualRoIDecoder")
}
_REGRESSION_LOSSES = {"WeightedSmoothL1Loss": losses.WeightedSmoothL1Loss, "WeightedL1Loss": losses.WeightedL1Loss}
_PER_SAMPLE = losses.PerSampleNormalizer()


def _normalizer_of(loss_func: nn.Module):
    """The normaliser of a loss function: the configured one, or OpenPCDet's for a loss function without one."""
    return getattr(loss_func, "normalizer", _PER_SAMPLE)


def _can_list_positives(labels: Tensor) -> bool:
    """True where the positives can be counted without a device sync or graph break (eager CPU)."""
    return labels.device.type == "cpu" and not torch.compiler.is_compiling()


def joined_convolution(convolutions: list[nn.Conv2d], features: Tensor) -> tuple[Tensor, ...]:
    """Outputs of several 1 x 1 convolutions of one map (B, C, H, W), computed as one: the map is read once.

    >>> convolutions = [nn.Conv2d(8, 2, 1), nn.Conv2d(8, 14, 1)]
    >>> [made.shape[1] for made in joined_convolution(convolutions, torch.zeros(1, 8, 4, 4))]
    [2, 14]
    """
    weight = torch.cat([conv.weight for conv in convolutions])
    bias = torch.cat([conv.bias for conv in convolutions])
    features = features.to(weight.dtype) if weight.dtype == torch.bfloat16 else features
    return nn.functional.conv2d(features, weight, bias).split([conv.out_channels for conv in convolutions], dim=1)


class AnchorHeadTemplate(nn.Module):
    """Base of the anchor heads.

    A subclass's ``forward`` fills ``forward_ret_dict`` with ``cls_preds`` (B, H, W, anchors * classes), ``box_preds``
    (B, H, W, anchors * code), optionally ``dir_cls_preds`` (B, H, W, anchors * bins) and the result of
    :meth:`assign_targets`; :meth:`get_loss` reads it.
    """

    def __init__(
        self, model_cfg, num_class: int, class_names, grid_size, point_cloud_range, predict_boxes_when_training: bool
    ):
        super().__init__()
        self.model_cfg = model_cfg
        self.num_class = num_class
        self.class_names = class_names
        self.predict_boxes_when_training = predict_boxes_when_training
        self.use_multihead = model_cfg.get("USE_MULTIHEAD", False)

        target_cfg = model_cfg.TARGET_ASSIGNER_CONFIG
        coder = find_by_name(_BOX_CODERS, target_cfg.BOX_CODER, "MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.BOX_CODER")
        self.box_coder = coder(num_dir_bins=target_cfg.get("NUM_DIR_BINS", 6), **target_cfg.get("BOX_CODER_CONFIG", {}))
        self.codes_sin_and_cos = getattr(self.box_coder, "encode_angle_by_sincos", False)
        self.use_sin_difference = not self.codes_sin_and_cos  # only angles have one
        anchors, self.num_anchors_per_location = self.generate_anchors(
            model_cfg.ANCHOR_GENERATOR_CONFIG,
            grid_size=grid_size,
            point_cloud_range=point_cloud_range,
            anchor_ndim=self.box_coder.code_size,
        )
        self.anchors = anchors
        self.target_assigner = self.get_target_assigner(target_cfg)
        self.forward_ret_dict: dict = {}
        self.build_losses(model_cfg.LOSS_CONFIG)

    # in evaluation, boxes with a score below this, between 0 and 1, are not decoded (engine.inference); None: all are
    decode_above: float | None = None

    @property
    def anchors(self) -> list[Tensor]:
        """Anchors of each class, (nz, ny, nx, n_sizes, n_rotations, 7+). They follow the module to another device or
        dtype and are not saved.
        """
        return [getattr(self, f"anchors_{i}") for i in range(self._num_anchor_sets)]

    @anchors.setter
    def anchors(self, anchors: list[Tensor]) -> None:
        self._num_anchor_sets = len(anchors)
        for i, value in enumerate(anchors):
            self.register_buffer(f"anchors_{i}", value, persistent=False)
        # (N,), in the order of the predictions
        self.register_buffer("anchor_headings", self._flat_anchors(slice(6, 7)).flatten(), persistent=False)

    @staticmethod
    def generate_anchors(
        anchor_generator_cfg, grid_size, point_cloud_range, anchor_ndim: int = 7
    ) -> tuple[list[Tensor], list[int]]:
        """Anchors of each class and their number at a location; columns beyond the seventh (velocity) are zero."""
        generator = AnchorGenerator(anchor_range=point_cloud_range, anchor_generator_config=anchor_generator_cfg)
        anchors, per_location = generator.generate_anchors(
            [grid_size[:2] // config["feature_map_stride"] for config in anchor_generator_cfg]
        )
        if anchor_ndim != 7:
            anchors = [torch.cat([a, a.new_zeros(*a.shape[:-1], anchor_ndim - 7)], dim=-1) for a in anchors]
        return anchors, per_location

    def get_target_assigner(self, anchor_target_cfg):
        path = "MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.NAME"
        assigner = find_by_name(
            {"AxisAlignedTargetAssigner": AxisAlignedTargetAssigner, "ATSS": ATSSTargetAssigner},
            anchor_target_cfg.NAME,
            path,
        )
        if assigner is ATSSTargetAssigner:
            names = [config["class_name"] for config in self.model_cfg.ANCHOR_GENERATOR_CONFIG]
            return assigner(
                topk=anchor_target_cfg.TOPK,
                box_coder=self.box_coder,
                match_height=anchor_target_cfg.MATCH_HEIGHT,
                use_multihead=self.use_multihead,
                anchor_classes=class_ids(names, self.class_names),
            )
        return assigner(
            model_cfg=self.model_cfg,
            class_names=self.class_names,
            box_coder=self.box_coder,
            match_height=anchor_target_cfg.MATCH_HEIGHT,
        )

    def build_losses(self, losses_cfg) -> None:
        """OpenPCDet's losses, and in their place those that CLS_LOSS, REG_LOSS and DIR_LOSS name
        (``losses.head_losses`` describes the entries).
        """
        path, weights, normalizer = (
            "MODEL.DENSE_HEAD.LOSS_CONFIG",
            losses_cfg.LOSS_WEIGHTS,
            losses_cfg.get("NORMALIZER"),
        )
        if len(weights["code_weights"]) != self.box_coder.code_size:
            raise InputError(
                f"{path}.LOSS_WEIGHTS.code_weights: {len(weights['code_weights'])} numbers do not fit the "
                f"{self.box_coder.code_size} of a box "
                f"code of {type(self.box_coder).__name__}."
            )
        regression = find_by_name(
            _REGRESSION_LOSSES, losses_cfg.get("REG_LOSS_TYPE") or "WeightedSmoothL1Loss", f"{path}.REG_LOSS_TYPE"
        )
        self.cls_loss_func = losses.SigmoidFocalClassificationLoss(alpha=0.25, gamma=2.0)
        self.reg_loss_func = regression(code_weights=weights["code_weights"])
        self.dir_loss_func = losses.WeightedCrossEntropyLoss()
        entries = {name: losses_cfg.get(name) for name in ("CLS_LOSS", "REG_LOSS", "DIR_LOSS")}
        if normalizer is not None:  # for all three, so that each has an entry
            defaults = ("SigmoidFocalClassificationLoss", regression.__name__, "WeightedCrossEntropyLoss")
            entries = {name: entry or default for (name, entry), default in zip(entries.items(), defaults)}
        normalizer = normalizer or "per_sample"
        if entries["CLS_LOSS"]:
            self.cls_loss_func = losses.build_head_classification_loss(
                entries["CLS_LOSS"], f"{path}.CLS_LOSS", weights["cls_weight"], self.num_class, normalizer
            )
        if entries["REG_LOSS"]:
            if losses_cfg.get("REG_LOSS_TYPE") and losses_cfg.get("REG_LOSS"):
                raise InputError(f"{path}: REG_LOSS and REG_LOSS_TYPE both name the box loss: leave one of them out.")
            self.reg_loss_func = losses.build_head_box_loss(
                entries["REG_LOSS"],
                f"{path}.REG_LOSS",
                weights["loc_weight"],
                weights["code_weights"],
                normalizer,
                self.box_coder.code_size,
            )
        if entries["DIR_LOSS"] and self.model_cfg.get("USE_DIRECTION_CLASSIFIER"):
            self.dir_loss_func = losses.build_head_direction_loss(
                entries["DIR_LOSS"], f"{path}.DIR_LOSS", weights["dir_weight"], normalizer, self.model_cfg.NUM_DIR_BINS
            )
        if not losses_cfg.get("FUSED", True):
            for loss in (self.cls_loss_func, self.reg_loss_func, self.dir_loss_func):
                for module in loss.modules():
                    module.fused = False
        elif not torch.cuda.is_available():
            for kernels in (focal_loss, anchor_box_loss):
                kernels.load_kernels()  # seconds, the first time on a machine: here rather than in the first step

    def assign_targets(self, gt_boxes: Tensor) -> dict[str, Tensor]:
        """``gt_boxes`` (B, T, 8) -> ``box_cls_labels`` (B, N) int32, ``box_reg_targets`` (B, N, code), ``reg_weights``
        (B, N).
        """
        return self.target_assigner.assign_targets(self.anchors, gt_boxes)

    def get_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The head's loss and its parts. The parts are detached tensors, not floats: reading one would make the host
        wait for the device.
        """
        cls_loss, tb_dict = self.get_cls_layer_loss()
        box_loss, tb_dict_box = self.get_box_reg_layer_loss()
        loss = cls_loss + box_loss
        return loss, {**tb_dict, **tb_dict_box, "rpn_loss": loss.detach()}

    def get_cls_layer_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss over all anchors that are not ignored: what CLS_LOSS names, else focal loss, each sample's sum divided
        by its positives, averaged.

        The loss object decides how (``from_labels``); a module without that method gets one-hot targets and weights.
        """
        logits = self.forward_ret_dict["cls_preds"]
        return self.classification_loss(
            logits.view(logits.shape[0], -1, self.num_class), self.forward_ret_dict["box_cls_labels"]
        )

    def classification_loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of :meth:`get_cls_layer_loss` for logits (B, N, C) and labels (B, N): -1 ignored, 0 background,
        1..C.
        """
        if isinstance(self.cls_loss_func, losses.HeadClassificationLoss):
            loss, logged = self.cls_loss_func(logits, labels, self._quality_of_positives)
            return loss, {"rpn_loss_cls": loss.detach(), **logged}
        cls_weight = self.model_cfg.LOSS_CONFIG.LOSS_WEIGHTS["cls_weight"]
        from_labels = getattr(self.cls_loss_func, "from_labels", None) or partial(
            losses.LossFromLabels.from_labels, self.cls_loss_func
        )
        loss = from_labels(logits, labels, loss_weight=cls_weight)
        return loss, {"rpn_loss_cls": loss.detach()}

    def get_box_reg_layer_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Box and direction loss over the positive anchors, each sample's sum divided by its positive anchors, averaged
        over the batch.

        OpenPCDet's losses have a kernel. Of others, on the CPU and for losses of decoded boxes only the positive
        anchors are touched; elsewhere, since a CUDA device has to wait for their number, a compiled graph cannot know
        it, and a loss function of another class may look at the others, the dense tensors go in, with a weight of 0 for
        all but the positives.
        """
        weights, batch_size = self.model_cfg.LOSS_CONFIG.LOSS_WEIGHTS, self.forward_ret_dict["box_reg_targets"].shape[0]
        box_loss, dir_loss = self._fused_box_losses() if self._has_box_kernel() else self._plain_box_losses()
        if isinstance(self.reg_loss_func, losses.HeadBoxLoss):
            box_loss = self.reg_loss_func.average(box_loss, batch_size)
        else:
            box_loss = box_loss.sum() / batch_size * weights["loc_weight"]
        tb_dict = {"rpn_loss_loc": box_loss.detach()}
        if dir_loss is not None:
            if isinstance(self.dir_loss_func, losses.HeadDirectionLoss):
                dir_loss = self.dir_loss_func.average(dir_loss, batch_size)
            else:
                dir_loss = dir_loss.sum() / batch_size * weights["dir_weight"]
            box_loss = box_loss + dir_loss
            tb_dict["rpn_loss_dir"] = dir_loss.detach()
        return box_loss, tb_dict

    def _has_box_kernel(self) -> bool:
        ret = self.forward_ret_dict
        directions = ret.get("dir_cls_preds")
        losses = [self.reg_loss_func] if directions is None else [self.reg_loss_func, self.dir_loss_func]
        if not self.use_sin_difference or not all(getattr(loss, "has_kernel", bool)() for loss in losses):
            return False
        return has_kernels(
            ret["box_preds"],
            ret["box_reg_targets"],
            ret["box_cls_labels"],
            *([] if directions is None else [directions]),
        )

    def _fused_box_losses(self) -> tuple[Tensor, Tensor | None]:
        """Box loss and direction loss (None without a direction) of each sample, (B,), divided by the normalisers."""
        ret, normalizer = self.forward_ret_dict, _normalizer_of(self.reg_loss_func)
        loss = getattr(self.reg_loss_func, "kernel_loss", self.reg_loss_func)
        labels, directions = ret["box_cls_labels"], ret.get("dir_cls_preds")
        shape, direction = (labels.shape[0], -1, self.box_coder.code_size), {}
        if directions is not None:
            direction = {
                "dir_logits": directions.reshape(labels.shape[0], -1, self.model_cfg.NUM_DIR_BINS),
                "dir_offset": self.model_cfg.DIR_OFFSET,
                "anchor_headings": self.anchor_headings,
            }
        box_sums, dir_sums, num_positives = box_and_direction_sums(
            ret["box_preds"].reshape(shape),
            ret["box_reg_targets"].reshape(shape),
            labels,
            code_weights=loss.code_weights,
            beta=loss.beta,
            **direction,
        )
        divisor = normalizer.divisor(num_positives)
        if directions is None:
            return box_sums / divisor, None
        dir_normalizer = _normalizer_of(self.dir_loss_func)
        return box_sums / divisor, dir_sums / (
            divisor if dir_normalizer == normalizer else dir_normalizer.divisor(num_positives)
        )

    def _plain_box_losses(self) -> tuple[Tensor, Tensor | None]:
        """Weighted box loss and direction loss (None without a direction), not summed."""
        ret = self.forward_ret_dict
        targets, labels = ret["box_reg_targets"], ret["box_cls_labels"]
        batch_size, code_size = targets.shape[0], self.box_coder.code_size
        has_direction = ret.get("dir_cls_preds") is not None
        normalizer, on_boxes = _normalizer_of(self.reg_loss_func), getattr(self.reg_loss_func, "on_boxes", False)
        if on_boxes and not torch.compiler.is_compiling() or self._takes_positives_only(has_direction):
            rows, reg_weights = losses.positive_rows(labels, normalizer=normalizer)  # (n,), (n,)

            def pick(dense: Tensor, columns: int) -> Tensor:
                return losses.gather_rows_once(dense.reshape(-1, columns), rows)
        else:
            rows, (_, reg_weights, _) = None, losses.anchor_weights_from_labels(labels, normalizer=normalizer)  # (B, N)

            def pick(dense: Tensor, columns: int) -> Tensor:
                return dense.view(batch_size, -1, columns)

        preds, targets = pick(ret["box_preds"], code_size), pick(targets, code_size)  # (n, code) or (B, N, code)
        if on_boxes and rows is None:
            # elsewhere the loss and its gradient are finite, and weigh nothing
            preds = torch.where((labels > 0).unsqueeze(-1), preds, targets)
            compared = [self._boxes_at(None, codes.flatten(0, 1)) for codes in (preds, targets)]  # (B * N, 7+)
        elif on_boxes:
            compared = self._boxes_at(rows, preds), self._boxes_at(rows, targets)
        elif self.use_sin_difference:
            compared = self.add_sin_difference(preds, targets)
        else:
            compared = preds, targets
        box_loss = self.reg_loss_func(*compared, weights=reg_weights.flatten() if on_boxes else reg_weights)
        if not has_direction:
            return box_loss, None
        num_bins = self.model_cfg.NUM_DIR_BINS
        dir_weights, dir_normalizer = reg_weights, _normalizer_of(self.dir_loss_func)
        if dir_normalizer != normalizer and rows is not None:
            dir_weights = losses.positive_rows(labels, normalizer=dir_normalizer)[1]
        elif dir_normalizer != normalizer:
            dir_weights = losses.anchor_weights_from_labels(labels, normalizer=dir_normalizer)[1]
        headings = self.anchor_headings if rows is None else self.anchor_headings[rows % len(self.anchor_headings)]
        bins = self._direction_bins(self._target_headings(headings, targets), self.model_cfg.DIR_OFFSET, num_bins).view(
            dir_weights.shape
        )
        dir_targets = torch.nn.functional.one_hot(bins, num_bins).to(headings.dtype)
        dir_logits = pick(ret["dir_cls_preds"], num_bins)
        return box_loss, self.dir_loss_func(dir_logits, dir_targets.to(dir_logits.dtype), weights=dir_weights)

    def _takes_positives_only(self, has_direction: bool) -> bool:
        losses = [self.reg_loss_func, self.dir_loss_func] if has_direction else [self.reg_loss_func]
        per_anchor = all(getattr(loss, "is_per_anchor", bool)() for loss in losses)
        return per_anchor and _can_list_positives(self.forward_ret_dict["box_cls_labels"])

    def _boxes_at(self, rows: Tensor | None, codes: Tensor) -> Tensor:
        """Box codes (n, code) of the anchors at ``rows``, or all, of the B * N -> (n, 7+) boxes in the LiDAR frame,
        without a direction.
        """
        anchors = self._flat_anchors()[0]
        anchors = anchors.repeat(len(codes) // len(anchors), 1) if rows is None else anchors[rows % len(anchors)]
        boxes = self.box_coder.decode_torch(codes.to(torch.promote_types(codes.dtype, anchors.dtype)), anchors)
        return torch.cat([boxes[..., :6], self._lidar_heading(boxes[..., 6:7]), boxes[..., 7:]], dim=-1)

    @torch.no_grad()
    def _quality_of_positives(self, space: str) -> Tensor:
        """(B, N): the IoU, from above or in '3d', of each positive anchor's decoded box with its ground truth, 0
        elsewhere.

        The ground truth is what the targets decode to. A heading that is wrong by half a turn is the same box.
        """
        ret, code_size = self.forward_ret_dict, self.box_coder.code_size
        labels, iou_of = ret["box_cls_labels"], boxes_aligned_iou3d if space == "3d" else boxes_aligned_iou_bev
        codes = [ret[key].reshape(-1, code_size) for key in ("box_preds", "box_reg_targets")]
        if _can_list_positives(labels):
            rows, _ = losses.positive_rows(labels)
            iou = iou_of(*[self._boxes_at(rows, c[rows])[:, :7] for c in codes]).clamp(min=0, max=1)
            return iou.new_zeros(labels.numel()).index_copy(0, rows, iou).view(labels.shape)
        positive = (labels > 0).view(-1, 1)
        # (B * N, 7); without a size: overlaps nothing
        boxes = [torch.where(positive, self._boxes_at(None, c)[:, :7], 0.0) for c in codes]
        return iou_of(*boxes).clamp(min=0, max=1).view(labels.shape)

    @staticmethod
    def add_sin_difference(boxes1: Tensor, boxes2: Tensor, dim: int = 6) -> tuple[Tensor, Tensor]:
        """Replace the heading a of ``boxes1`` and b of ``boxes2`` by sin a cos b and cos a sin b: their difference is
        sin(a - b).
        """
        a, b = boxes1[..., dim : dim + 1], boxes2[..., dim : dim + 1]
        boxes1 = torch.cat([boxes1[..., :dim], a.sin() * b.cos(), boxes1[..., dim + 1 :]], dim=-1)
        boxes2 = torch.cat([boxes2[..., :dim], a.cos() * b.sin(), boxes2[..., dim + 1 :]], dim=-1)
        return boxes1, boxes2

    @staticmethod
    def get_direction_target(
        anchors: Tensor, reg_targets: Tensor, one_hot: bool = True, dir_offset: float = 0, num_bins: int = 2
    ) -> Tensor:
        """Which of ``num_bins`` equal sectors, counted from ``dir_offset``, holds the true heading.

        Args:
            anchors: (B, N, 7+). reg_targets: (B, N, code), whose column 6 is the heading relative to the anchor.

        Returns:
            (B, N) long, or (B, N, num_bins) of the anchors' dtype with ``one_hot``.
        """
        anchors = anchors.reshape(reg_targets.shape[0], -1, anchors.shape[-1])
        bins = AnchorHeadTemplate._direction_bins(reg_targets[..., 6] + anchors[..., 6], dir_offset, num_bins)
        return torch.nn.functional.one_hot(bins, num_bins).to(anchors.dtype) if one_hot else bins

    def _target_headings(self, anchors: Tensor, targets: Tensor) -> Tensor:
        """True headings from the anchors' (...) and the codes (..., code)."""
        if self.codes_sin_and_cos:
            return torch.atan2(targets[..., 7] + anchors.sin(), targets[..., 6] + anchors.cos())
        return anchors + targets[..., 6]

    @staticmethod
    def _direction_bins(headings: Tensor, dir_offset: float, num_bins: int) -> Tensor:
        sector = limit_period(headings - dir_offset, 0, 2 * math.pi) / (2 * math.pi / num_bins)
        return torch.floor(sector).long().clamp(0, num_bins - 1)

    def generate_predicted_boxes(
        self, batch_size: int, cls_preds, box_preds, dir_cls_preds=None
    ) -> tuple[Tensor, Tensor]:
        """Decode predictions: tensors (B, H, W, C), or lists of (B, n, C) with several heads.

        Returns:
            logits (B, N, classes), or the list given, and boxes (B, N, 7+) in the LiDAR frame.
        """
        anchors = self._flat_anchors()
        count = anchors.shape[1]
        if isinstance(cls_preds, list):
            scores = [self._scores(part) for part in cls_preds]
        else:
            scores = self._scores(self._joined(cls_preds, batch_size, count))
        directions = None if dir_cls_preds is None else self._joined(dir_cls_preds, batch_size, count)
        codes = self._joined(box_preds, batch_size, count)
        return scores, self._decoded(codes, anchors.expand(batch_size, -1, -1), directions)

    def _add_predicted_boxes(self, data_dict: dict, predictions: dict[str, Any]) -> None:
        """Put ``batch_cls_preds``, ``batch_box_preds`` and ``cls_preds_normalized`` into ``data_dict``; with
        ``decode_above`` only (K, ...) of those that can reach it, and ``batch_index`` (K,).
        """
        batch_size, cls_preds = data_dict["batch_size"], predictions["cls_preds"]
        data_dict["cls_preds_normalized"] = False
        if self.decode_above is None or isinstance(cls_preds, list):
            data_dict["batch_cls_preds"], data_dict["batch_box_preds"] = self.generate_predicted_boxes(
                batch_size=batch_size, **predictions
            )
            return
        anchors = self._flat_anchors()[0]
        joined = {key: self._joined(value, batch_size, len(anchors)) for key, value in predictions.items()}
        scores = self._scores(joined["cls_preds"])
        least = math.log(self.decode_above / (1 - self.decode_above)) - 1e-3  # post-processing compares exactly
        sample, row = (scores.amax(dim=-1) >= least).nonzero(as_tuple=True)
        directions = joined["dir_cls_preds"][sample, row] if "dir_cls_preds" in joined else None
        data_dict["batch_cls_preds"], data_dict["batch_index"] = scores[sample, row], sample
        data_dict["batch_box_preds"] = self._decoded(joined["box_preds"][sample, row], anchors[row], directions)

    def _decoded(self, codes: Tensor, anchors: Tensor, directions: Tensor | None) -> Tensor:
        """Boxes (..., 7+) of codes (..., code), anchors (..., 7+) and direction logits (..., bins)."""
        boxes = self.box_coder.decode_torch(codes, anchors)
        heading = boxes[..., 6]
        if directions is not None:
            labels = directions.argmax(dim=-1)
            offset, period = self.model_cfg.DIR_OFFSET, 2 * math.pi / self.model_cfg.NUM_DIR_BINS
            heading = (
                limit_period(heading - offset, self.model_cfg.DIR_LIMIT_OFFSET, period)
                + offset
                + period * labels.to(boxes.dtype)
            )
        return torch.cat([boxes[..., :6], self._lidar_heading(heading).unsqueeze(-1), boxes[..., 7:]], dim=-1)

    def _scores(self, logits: Tensor) -> Tensor:
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        return losses.logits_of_softmax(logits) if getattr(self.cls_loss_func, "is_softmax", False) else logits

    def _lidar_heading(self, heading: Tensor) -> Tensor:
        if isinstance(self.box_coder, box_coders.PreviousResidualDecoder):
            return limit_period(-(heading + math.pi / 2), offset=0.5, period=2 * math.pi)
        return heading

    @staticmethod
    def _joined(preds, batch_size: int, count: int) -> Tensor:
        joined = (torch.cat(preds, dim=1) if isinstance(preds, list) else preds).view(batch_size, count, -1)
        return joined.float() if joined.dtype == torch.bfloat16 else joined

    def _flat_anchors(self, columns: slice = slice(None)) -> Tensor:
        """(1, N, 7+), or some of the columns, in the order of the predictions."""
        anchors = [a[..., columns] for a in self.anchors]
        if self.use_multihead:
            flat = torch.cat([a.permute(3, 4, 0, 1, 2, 5).reshape(-1, a.shape[-1]) for a in anchors])
        else:
            flat = torch.cat(anchors, dim=-3)
        return flat.reshape(1, -1, flat.shape[-1])
