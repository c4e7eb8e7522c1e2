from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ....errors import InputError
from ....ops.anchor_search import search_anchors
from ....ops.rotated_iou import boxes_aligned_iou3d, boxes_aligned_iou_bev


class ATSSTargetAssigner:
    """Adaptive training sample selection (Zhang et al. 2020, arXiv:1912.02424): every box sets its own threshold.

    Of the ``topk`` anchors whose centres are nearest to a box (in 3-D), those are positive whose rotated bird's-eye IoU
    (3-D with ``match_height``) reaches mean + standard deviation of the candidates' IoUs, and whose centre lies inside
    the box seen from above. An anchor that is positive for several boxes takes the one of the highest IoU. The anchor
    that overlaps a box most is always positive for it. All other anchors are background: none is ignored. A box that no
    anchor overlaps has no positive. Of equally near, and of equally overlapping anchors the first counts.

    The work grows with the boxes, not with anchors times boxes (``ops.anchor_search``); a batch is one pass over all
    its boxes.

    Args:
        topk: candidates of a box; OpenPCDet has no default, the paper uses 9.
        box_coder: encodes a box relative to its anchor.
        match_height: see above.
        use_multihead: the anchors of the result come set by set, each (size, rotation, nz, ny, nx).
        anchor_classes: for each tensor of anchors the class (1-based) whose boxes it takes. None, as in OpenPCDet:
            every tensor takes all boxes.
    """

    def __init__(
        self,
        topk: int,
        box_coder,
        match_height: bool = False,
        use_multihead: bool = False,
        anchor_classes: Sequence[int] | None = None,
    ):
        if isinstance(topk, bool) or not isinstance(topk, int) or topk < 1:
            raise InputError(
                f"MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.TOPK: {topk!r} is not allowed: an integer of at least 1."
            )
        self.topk, self.box_coder, self.match_height = topk, box_coder, match_height
        self.use_multihead, self.anchor_classes = use_multihead, anchor_classes

    def assign_targets(
        self, anchors_list: list[Tensor] | Tensor, gt_boxes_with_classes: Tensor, use_multihead: bool = False
    ) -> dict[str, Tensor]:
        """
        Args:
            anchors_list: one tensor a class, (nz, ny, nx, n_sizes, n_rotations, 7+).
            gt_boxes_with_classes: (B, T, 8+) boxes, the 1-based class last; rows of class 0 pad.
            use_multihead: as the constructor's, for this call.

        Returns:
            ``box_cls_labels`` (B, N) int32: 0 background, else the class; ``box_reg_targets`` (B, N, code size);
            ``reg_weights`` (B, N), 1 for positives; ``label_weights`` (B, N), all 1, and ``bbox_weights`` (B, N, code
            size), as mmdetection's losses take them. The N anchors are location by location, classes within a location,
            if ``anchor_classes`` were given, so that they fit the predictions of AnchorHeadSingle; else, and with
            ``use_multihead``, set by set.
        """
        sets = anchors_list if isinstance(anchors_list, list) else [anchors_list]
        batch, max_boxes = gt_boxes_with_classes.shape[:2]
        boxes = gt_boxes_with_classes[..., :-1].flatten(0, 1)  # (M, 7+), M = B * T
        classes = gt_boxes_with_classes[..., -1].flatten().int()
        places = self._places(sets, use_multihead or self.use_multihead)
        count = sum(anchors[..., 0].numel() for anchors in sets)
        labels = classes.new_zeros(batch * count + 1)
        targets = sets[0].new_zeros((batch * count + 1, self.box_coder.code_size))
        weights = sets[0].new_zeros(batch * count + 1)
        for i, anchors in enumerate(sets):
            of_class = classes > 0 if self.anchor_classes is None else classes == self.anchor_classes[i]
            if not anchors.numel() or not len(boxes):
                continue
            anchor, box, positive = self._claims(anchors, boxes, of_class, batch)
            row = places[i](anchor) + box // max_boxes * count
            # what is no claim is written into one more row, which is cut off
            row = torch.where(positive, row, batch * count)
            codes = self.box_coder.encode_torch(boxes[box], anchors.reshape(-1, anchors.shape[-1])[anchor])
            labels[row], targets[row], weights[row] = classes[box], codes.to(targets.dtype), 1.0
        labels, targets, weights = (t[:-1].view(batch, count, *t.shape[1:]) for t in (labels, targets, weights))
        return {
            "box_cls_labels": labels,
            "box_reg_targets": targets,
            "reg_weights": weights,
            "label_weights": torch.ones_like(weights),
            "bbox_weights": weights[..., None].expand_as(targets),
        }

    def assign_targets_single(
        self, anchors: Tensor, gt_boxes: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One sample: anchors (N, 7+), gt_boxes (M, 7+), gt_classes (M,) -> labels (N,) int32, codes (N, code size),
        weights (N,).
        """
        plain = ATSSTargetAssigner(self.topk, self.box_coder, self.match_height)
        boxes = torch.cat([gt_boxes, gt_classes.to(gt_boxes.dtype)[:, None]], dim=1)
        out = plain.assign_targets(anchors.reshape(1, 1, -1, 1, 1, anchors.shape[-1]), boxes[None])
        return out["box_cls_labels"][0], out["box_reg_targets"][0], out["reg_weights"][0]

    def _claims(self, anchors: Tensor, boxes: Tensor, of_class: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Which anchor goes to which box: anchor (C,) int64 within its set, box (C,) int64, and whether the claim holds
        (C,) bool.

        An anchor of a sample is in at most one claim that holds. All boxes of the batch at once; nothing waits for a
        GPU.
        """
        flat = anchors.reshape(-1, anchors.shape[-1])
        nearest, best = search_anchors(anchors, boxes, of_class, self.topk, self.match_height)  # (M, K), (M,)
        candidates = torch.cat([nearest, best[:, None]], dim=1)  # (M, K + 1)
        box = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(candidates)
        overlap = boxes_aligned_iou3d if self.match_height else boxes_aligned_iou_bev
        ious = overlap(flat[candidates.flatten(), :7], boxes[box.flatten(), :7]).view_as(candidates)
        of_nearest = ious[:, :-1]
        spread = of_nearest.std(dim=1, keepdim=True) if of_nearest.shape[1] > 1 else 0.0
        positive = (of_nearest >= of_nearest.mean(dim=1, keepdim=True) + spread + 1e-6) & self._inside(
            flat[nearest.T], boxes
        ).T
        positive = torch.cat([positive, ious[:, -1:] > 0], dim=1) & of_class[:, None]

        # of several claims for an anchor: that of the box it overlaps most of all, then the highest IoU, then the first
        # box
        forced = torch.zeros_like(positive)
        forced[:, -1] = True
        anchor, box, positive, forced, ious = (t.flatten() for t in (candidates, box, positive, forced, ious))
        key = torch.where(positive, box // (len(boxes) // batch) * len(flat) + anchor, -1)
        order = ious.argsort(descending=True, stable=True)
        order = order[forced[order].int().argsort(descending=True, stable=True)]
        order = order[key[order].argsort(stable=True)]
        key = key[order]
        first = key >= 0
        first[1:] &= key[1:] != key[:-1]
        return anchor[order], box[order], first

    def _places(self, sets: list[Tensor], use_multihead: bool) -> list[Callable[[Tensor], Tensor]]:
        """For each set, a function from the place of an anchor in its set to that in a sample of the result."""
        by_location = self.anchor_classes is not None and not use_multihead
        per_set = [anchors.shape[3] * anchors.shape[4] for anchors in sets]
        per_location = sum(per_set)
        places, start = [], 0
        for anchors, kinds in zip(sets, per_set):
            locations = anchors[..., 0].numel() // max(kinds, 1)
            if use_multihead:
                places.append(lambda i, s=start, k=kinds, n=locations: s + i % k * n + i // k)
            elif by_location:
                places.append(lambda i, s=start, k=kinds: s + i // k * per_location + i % k)
            else:
                places.append(lambda i, s=start: s + i)
            start += kinds if by_location else locations * kinds
        return places

    @staticmethod
    def _inside(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
        """Whether the centres of anchors (K, M, 7+) lie inside boxes (M, 7+) seen from above: (K, M)."""
        x, y = (anchors[..., :2] - gt_boxes[:, :2]).unbind(-1)
        cos, sin = gt_boxes[:, 6].cos(), gt_boxes[:, 6].sin()
        along, across = x * cos + y * sin, y * cos - x * sin
        return (along.abs() <= gt_boxes[:, 3] / 2) & (across.abs() <= gt_boxes[:, 4] / 2)
