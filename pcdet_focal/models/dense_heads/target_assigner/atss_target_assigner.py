from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....errors import InputError
from ....ops.rotated_iou import boxes_iou3d, boxes_iou_bev


class ATSSTargetAssigner:
    """Adaptive training sample selection (Zhang et al. 2020, arXiv:1912.02424): every box sets its own threshold.

    Of the ``topk`` anchors whose centres are nearest to a box (in 3-D), those are positive whose rotated bird's-eye IoU (3-D with ``match_height``)
    reaches mean + standard deviation of the candidates' IoUs, and whose centre lies inside the box seen from above. An anchor that is positive for
    several boxes takes the one of the highest IoU. The anchor that overlaps a box most is always positive for it. All other anchors are background:
    none is ignored. A box that no anchor overlaps has no positive.

    Args:
        topk: candidates of a box; OpenPCDet has no default, the paper uses 9.
        box_coder: encodes a box relative to its anchor.
        match_height: see above.
        use_multihead: the anchors of the result come set by set, each (size, rotation, nz, ny, nx).
        anchor_classes: for each tensor of anchors the class (1-based) whose boxes it takes. None, as in OpenPCDet: every tensor takes all boxes.
    """

    def __init__(
        self, topk: int, box_coder, match_height: bool = False, use_multihead: bool = False, anchor_classes: Sequence[int] | None = None
    ):
        if isinstance(topk, bool) or not isinstance(topk, int) or topk < 1:
            raise InputError(f"MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.TOPK: {topk!r} is not allowed: an integer of at least 1.")
        self.topk, self.box_coder, self.match_height = topk, box_coder, match_height
        self.use_multihead, self.anchor_classes = use_multihead, anchor_classes

    def assign_targets(self, anchors_list: list[Tensor] | Tensor, gt_boxes_with_classes: Tensor, use_multihead: bool = False) -> dict[str, Tensor]:
        """
        Args:
            anchors_list: one tensor a class, (nz, ny, nx, n_sizes, n_rotations, 7+).
            gt_boxes_with_classes: (B, T, 8+) boxes, the 1-based class last; rows of class 0 pad.
            use_multihead: as the constructor's, for this call.

        Returns:
            ``box_cls_labels`` (B, N) int32: 0 background, else the class; ``box_reg_targets`` (B, N, code size); ``reg_weights`` (B, N), 1 for
            positives.
            The N anchors are location by location, classes within a location, if ``anchor_classes`` were given, so that they fit the predictions of
            AnchorHeadSingle; else, and with ``use_multihead``, set by set.
        """
        anchors_list = anchors_list if isinstance(anchors_list, list) else [anchors_list]
        use_multihead = use_multihead or self.use_multihead
        by_location = self.anchor_classes is not None and not use_multihead
        samples = []
        for boxes in gt_boxes_with_classes:
            sets = []
            for i, anchors in enumerate(anchors_list):
                classes = boxes[:, -1].int()
                own = classes > 0 if self.anchor_classes is None else classes == self.anchor_classes[i]
                grid = anchors.shape[:3]
                if use_multihead:
                    anchors = anchors.permute(3, 4, 0, 1, 2, 5)
                target = self.assign_targets_single(anchors.reshape(-1, anchors.shape[-1]), boxes[own, :-1], classes[own])
                sets.append([t.view(*grid, -1, *t.shape[1:]) if by_location else t for t in target])
            samples.append([torch.cat(parts, dim=3 if by_location else 0) for parts in zip(*sets)])
        labels, targets, weights = (torch.stack(parts) for parts in zip(*samples))
        count = labels[0].numel()
        return {
            "box_cls_labels": labels.view(-1, count), "box_reg_targets": targets.view(-1, count, self.box_coder.code_size),
            "reg_weights": weights.view(-1, count),
        }

    def assign_targets_single(self, anchors: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One sample: anchors (N, 7+), gt_boxes (M, 7+), gt_classes (M,) -> labels (N,) int32, codes (N, code size), weights (N,)."""
        labels = torch.zeros(len(anchors), dtype=torch.int32, device=anchors.device)
        targets, weights = anchors.new_zeros(len(anchors), self.box_coder.code_size), anchors.new_zeros(len(anchors))
        if len(gt_boxes) == 0 or len(anchors) == 0:
            return labels, targets, weights
        ious = (boxes_iou3d if self.match_height else boxes_iou_bev)(anchors[:, :7], gt_boxes[:, :7])  # (N, M)
        distance = torch.cdist(anchors[:, :3].double(), gt_boxes[:, :3].double(), compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distance.topk(min(self.topk, len(anchors)), dim=0, largest=False).indices  # (K, M)
        candidates = ious.gather(0, nearest)
        spread = candidates.std(dim=0) if len(candidates) > 1 else 0.0
        positive = (candidates >= candidates.mean(dim=0) + spread + 1e-6) & self._inside(anchors[nearest], gt_boxes)  # (K, M)

        no = ious.new_full((), -1.0)
        claims = torch.full_like(ious, -1.0).scatter(0, nearest, torch.where(positive, candidates, no))  # (N, M)
        value, box = claims.max(dim=1)
        best_iou, best_anchor = ious.max(dim=0)  # (M,)
        forced = torch.full_like(ious, -1.0).scatter(0, best_anchor[None], torch.where(best_iou > 0, best_iou, no)[None])
        forced_value, forced_box = forced.max(dim=1)
        box = torch.where(forced_value >= 0, forced_box, box)

        found = ((value >= 0) | (forced_value >= 0)).nonzero().view(-1)
        labels[found] = gt_classes[box[found]].int()
        targets[found] = self.box_coder.encode_torch(gt_boxes[box[found]], anchors[found]).to(targets.dtype)
        weights[found] = 1.0
        return labels, targets, weights

    @staticmethod
    def _inside(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
        """Whether the centres of anchors (K, M, 7+) lie inside boxes (M, 7+) seen from above: (K, M)."""
        x, y = (anchors[..., :2] - gt_boxes[:, :2]).unbind(-1)
        cos, sin = gt_boxes[:, 6].cos(), gt_boxes[:, 6].sin()
        along, across = x * cos + y * sin, y * cos - x * sin
        return (along.abs() <= gt_boxes[:, 3] / 2) & (across.abs() <= gt_boxes[:, 4] / 2)
