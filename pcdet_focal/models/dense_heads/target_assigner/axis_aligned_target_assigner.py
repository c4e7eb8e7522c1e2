from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ....errors import InputError
from ....geometry.boxes import boxes3d_nearest_bev_iou
from ....ops.rotated_iou import boxes_iou3d


class AxisAlignedTargetAssigner:
    """Tells every anchor what it should predict, by overlap with the ground truth of its own class.

    An anchor is positive if its best overlap reaches the class's ``matched_threshold``, or if it has the best overlap that some box finds
    (every anchor that ties for it); it is background below ``unmatched_threshold``; between the two it is ignored. The overlap is the
    bird's-eye IoU of the boxes turned to the nearest axis, or the 3-D IoU with ``match_height``.

    Args:
        model_cfg: the head's configuration: ANCHOR_GENERATOR_CONFIG (class_name, thresholds), TARGET_ASSIGNER_CONFIG, USE_MULTIHEAD.
        class_names: of the data set; ground-truth class 1 is the first.
        box_coder: encodes a box relative to its anchor.
    """

    def __init__(self, model_cfg, class_names, box_coder, match_height: bool = False):
        config = model_cfg.TARGET_ASSIGNER_CONFIG
        self.box_coder = box_coder
        self.match_height = match_height
        self.class_names = list(class_names)
        self.use_multihead = model_cfg.get("USE_MULTIHEAD", False)
        self.anchor_class_names = [c["class_name"] for c in model_cfg.ANCHOR_GENERATOR_CONFIG]
        self.matched_thresholds = {c["class_name"]: c["matched_threshold"] for c in model_cfg.ANCHOR_GENERATOR_CONFIG}
        self.unmatched_thresholds = {c["class_name"]: c["unmatched_threshold"] for c in model_cfg.ANCHOR_GENERATOR_CONFIG}
        unknown = [name for name in self.anchor_class_names if name not in self.class_names]
        if unknown:
            raise InputError(f"MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG: {', '.join(unknown)} not in CLASS_NAMES ({', '.join(self.class_names)})")
        self.pos_fraction = config.POS_FRACTION if config.get("POS_FRACTION", -1) >= 0 else None
        self.sample_size = config.get("SAMPLE_SIZE", 512)
        self.norm_by_num_examples = config.get("NORM_BY_NUM_EXAMPLES", False)
        if self.norm_by_num_examples:
            warnings.warn("TARGET_ASSIGNER_CONFIG.NORM_BY_NUM_EXAMPLES only changes reg_weights, which no head reads", stacklevel=2)

    def assign_targets(self, all_anchors: list[Tensor], gt_boxes_with_classes: Tensor) -> dict[str, Tensor]:
        """
        Args:
            all_anchors: one tensor a class, (nz, ny, nx, n_sizes, n_rotations, 7+).
            gt_boxes_with_classes: (B, T, 8+) boxes, the 1-based class last; rows of class 0 pad.

        Returns:
            ``box_cls_labels`` (B, N) int32: -1 ignored, 0 background, else the class; ``box_reg_targets`` (B, N, code size);
            ``reg_weights`` (B, N). The N anchors are location by location, classes within a location (with USE_MULTIHEAD: class by class).
        """
        samples = [self._assign_sample(all_anchors, gt) for gt in gt_boxes_with_classes]
        return {key: torch.stack([sample[key] for sample in samples]) for key in ("box_cls_labels", "box_reg_targets", "reg_weights")}

    def _assign_sample(self, all_anchors: list[Tensor], gt: Tensor) -> dict[str, Tensor]:
        classes = gt[:, -1].int()
        targets = []
        for name, anchors in zip(self.anchor_class_names, all_anchors):
            own = classes == self.class_names.index(name) + 1
            grid = anchors.shape[:3]
            if self.use_multihead:
                anchors = anchors.permute(3, 4, 0, 1, 2, 5)
            target = self.assign_targets_single(
                anchors.reshape(-1, anchors.shape[-1]), gt[own, :-1], classes[own], self.matched_thresholds[name], self.unmatched_thresholds[name]
            )
            if not self.use_multihead:
                target = {key: value.view(*grid, -1, *value.shape[1:]) for key, value in target.items()}
            targets.append(target)
        code = self.box_coder.code_size
        axis = 0 if self.use_multihead else 3
        merged = {key: torch.cat([t[key] for t in targets], dim=axis) for key in targets[0]}
        return {
            "box_cls_labels": merged["box_cls_labels"].reshape(-1),
            "box_reg_targets": merged["box_reg_targets"].reshape(-1, code),
            "reg_weights": merged["reg_weights"].reshape(-1),
        }

    def assign_targets_single(
        self, anchors: Tensor, gt_boxes: Tensor, gt_classes: Tensor, matched_threshold: float = 0.6, unmatched_threshold: float = 0.45
    ) -> dict[str, Tensor]:
        """One sample, one class: anchors (N, 7+) and gt_boxes (M, 7+), gt_classes (M,) int -> the same three entries, for N anchors."""
        labels = torch.full((len(anchors),), -1, dtype=torch.int32, device=anchors.device)
        targets = anchors.new_zeros(len(anchors), self.box_coder.code_size)
        if len(gt_boxes) == 0 or len(anchors) == 0:
            labels.zero_()
            return {"box_cls_labels": labels, "box_reg_targets": targets, "reg_weights": anchors.new_zeros(len(anchors))}

        overlap = boxes_iou3d(anchors[:, :7], gt_boxes[:, :7]) if self.match_height else boxes3d_nearest_bev_iou(anchors[:, :7], gt_boxes[:, :7])
        best, best_gt = overlap.max(dim=1)  # (N,)
        best_of_gt = overlap.amax(dim=0)  # (M,)
        best_of_gt = torch.where(best_of_gt == 0, torch.full_like(best_of_gt, -1), best_of_gt)  # a box that no anchor meets claims none
        claimed = (overlap == best_of_gt).any(dim=1)

        labels[best < unmatched_threshold] = 0
        positive = claimed | (best >= matched_threshold)
        labels[positive] = gt_classes[best_gt[positive]].int()
        if self.pos_fraction is not None:
            self._sample(labels)

        found = (labels > 0).nonzero().view(-1)
        targets[found] = self.box_coder.encode_torch(gt_boxes[best_gt[found]], anchors[found]).to(targets.dtype)
        reg_weights = (labels > 0).to(anchors.dtype)
        if self.norm_by_num_examples:
            reg_weights = reg_weights / (labels >= 0).sum().clamp(min=1)
        return {"box_cls_labels": labels, "box_reg_targets": targets, "reg_weights": reg_weights}

    def _sample(self, labels: Tensor) -> None:
        """Keep at random at most POS_FRACTION * SAMPLE_SIZE positives and as much background as fills SAMPLE_SIZE; ignore the rest."""
        for mask, most in (
            (labels > 0, int(self.pos_fraction * self.sample_size)),
            (labels == 0, self.sample_size - min(int((labels > 0).sum()), int(self.pos_fraction * self.sample_size))),
        ):
            indices = mask.nonzero().view(-1)
            if len(indices) > most:
                labels[indices[torch.randperm(len(indices), device=labels.device)[most:]]] = -1
