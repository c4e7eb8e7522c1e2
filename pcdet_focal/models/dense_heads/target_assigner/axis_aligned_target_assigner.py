from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from ....errors import InputError
from ....ops.anchor_targets import AssignmentRules, assign_anchor_targets
from ....ops.anchor_targets.reference import assign_single


def class_ids(anchor_class_names: Sequence[str], class_names: Sequence[str]) -> tuple[int, ...]:
    """The label (1-based, of ``class_names``) of each class of anchors.

    Anchors of a class that is not in CLASS_NAMES get a label that no box has: they learn background, as in OpenPCDet.
    A warning names them.

    Raises:
        InputError: no anchor has a class of CLASS_NAMES.
    """
    path = "MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG"
    unknown = [name for name in anchor_class_names if name not in class_names]
    if len(unknown) == len(anchor_class_names):
        raise InputError(
            f"{path}: none of its classes ({', '.join(unknown)}) is in CLASS_NAMES ({', '.join(class_names)})"
        )
    if unknown:
        warnings.warn(
            f"{path}: {', '.join(unknown)} not in CLASS_NAMES ({', '.join(class_names)}); these anchors learn "
            "background only, remove their entries to save their time",
            stacklevel=2,
        )
    labels = {name: label for label, name in enumerate(class_names, start=1)}
    return tuple(labels.get(name, len(class_names) + 1) for name in anchor_class_names)


class AxisAlignedTargetAssigner:
    """Tells every anchor what it should predict, by overlap with the ground truth of its own class.

    An anchor is positive if its best overlap reaches the class's ``matched_threshold``, or if it has the best overlap
    that some box finds (every anchor that ties for it); it is background below ``unmatched_threshold``; between the two
    it is ignored. The overlap is the bird's-eye IoU of the boxes turned to the nearest axis, or the 3-D IoU with
    ``match_height``.

    Args:
        model_cfg: the head's configuration: ANCHOR_GENERATOR_CONFIG (class_name, thresholds), TARGET_ASSIGNER_CONFIG,
            USE_MULTIHEAD.
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
        self.unmatched_thresholds = {
            c["class_name"]: c["unmatched_threshold"] for c in model_cfg.ANCHOR_GENERATOR_CONFIG
        }
        self.class_ids = class_ids(self.anchor_class_names, self.class_names)
        self.pos_fraction = config.POS_FRACTION if config.get("POS_FRACTION", -1) >= 0 else None
        self.sample_size = config.get("SAMPLE_SIZE", 512)
        self.norm_by_num_examples = config.get("NORM_BY_NUM_EXAMPLES", False)
        if self.norm_by_num_examples:
            warnings.warn(
                "TARGET_ASSIGNER_CONFIG.NORM_BY_NUM_EXAMPLES only changes reg_weights, which no head reads",
                stacklevel=2,
            )

    def assign_targets(self, all_anchors: list[Tensor], gt_boxes_with_classes: Tensor) -> dict[str, Tensor]:
        """
        Args:
            all_anchors: one tensor a class, (nz, ny, nx, n_sizes, n_rotations, 7+).
            gt_boxes_with_classes: (B, T, 8+) boxes, the 1-based class last; rows of class 0 pad.

        Returns:
            ``box_cls_labels`` (B, N) int32: -1 ignored, 0 background, else the class; ``box_reg_targets`` (B, N, code
            size); ``reg_weights`` (B, N); ``label_weights`` (B, N) and ``bbox_weights`` (B, N, code size), as
            mmdetection's losses take them. The N anchors are location by location, classes within a location (with
            USE_MULTIHEAD: class by class).
        """
        return assign_anchor_targets(all_anchors, gt_boxes_with_classes, self._rules())

    def assign_targets_single(
        self,
        anchors: Tensor,
        gt_boxes: Tensor,
        gt_classes: Tensor,
        matched_threshold: float = 0.6,
        unmatched_threshold: float = 0.45,
    ) -> dict[str, Tensor]:
        """One sample, one class: anchors (N, 7+) and gt_boxes (M, 7+), gt_classes (M,) int -> the same three entries,
        for N anchors.

        The anchors need not be a grid, so this is the dense definition; :meth:`assign_targets` gives the same numbers
        without it.
        """
        return assign_single(anchors, gt_boxes, gt_classes, matched_threshold, unmatched_threshold, self._rules())

    def _rules(self) -> AssignmentRules:
        return AssignmentRules(
            class_ids=self.class_ids,
            matched=tuple(self.matched_thresholds[name] for name in self.anchor_class_names),
            unmatched=tuple(self.unmatched_thresholds[name] for name in self.anchor_class_names),
            box_coder=self.box_coder,
            class_major=self.use_multihead,
            match_height=self.match_height,
            pos_fraction=self.pos_fraction,
            sample_size=self.sample_size,
            norm_by_num_examples=self.norm_by_num_examples,
        )
