"""Losses of sparse heads (VoxelNeXt): predictions are rows, one per voxel, of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from ..geometry.boxes import bbox3d_overlaps_diou, center_to_corner2d
from ..ops.rotated_iou import boxes_aligned_iou3d
from .centernet import _reg_loss, heatmap_focal_loss
from .numerics import at_least_float32
from .weights import require_same_shape


def neg_loss_sparse(pred: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """CornerNet's focal loss (arXiv:1808.01244) on rows: the formula of ``neg_loss_cornernet``, without a mask.

    Args:
        pred: (B, C, N) probabilities; finite at exactly 0 and 1. gt: same shape, 1 at object centres.
    Returns:
        Scalar, in float32 or better.
    Raises:
        InputError: different shapes.

    >>> round(neg_loss_sparse(torch.full((1, 1, 8), 0.5), torch.zeros(1, 1, 8)).item(), 4)    # 8 * 0.25 * log 2
    1.3863
    """
    require_same_shape("neg_loss_sparse", pred=pred, gt=gt)
    return heatmap_focal_loss(pred, gt)


class FocalLossSparse(nn.Module):
    """``neg_loss_sparse`` as a module.

    >>> FocalLossSparse()(torch.full((1, 1, 8), 1e-4), torch.zeros(1, 1, 8)).item() < 1e-9
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self.neg_loss = neg_loss_sparse

    def forward(self, out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(B, C, N) probabilities and heat map -> scalar."""
        return self.neg_loss(out, target)


def gather_rows(rows: torch.Tensor, mask: torch.Tensor, ind: torch.Tensor, batch_index: torch.Tensor) -> torch.Tensor:
    """Read each slot's row: slot m of sample b gets the ind[b, m]-th of the rows whose batch_index is b, in their
    order.

    Args:
        rows: (N, D) of the whole batch, in any order of samples. mask, ind: (B, M). batch_index: (N,).
    Returns:
        (B, M, D); slots with mask 0 are zeros, wherever their ind points.
    Raises:
        IndexError: a slot with mask 1 points beyond its sample's rows (RuntimeError on an accelerator).

    >>> rows, ind, batch_index = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1], [0]]), torch.tensor([0, 1, 0])
    >>> gather_rows(rows, torch.ones(2, 1), ind, batch_index)
    tensor([[[3.]],
    <BLANKLINE>
            [[2.]]])
    """
    num_rows, batch_size = rows.shape[0], mask.shape[0]
    by_sample = torch.argsort(batch_index, stable=True)  # (N,) rows of sample 0, then of sample 1, …
    sample = torch.arange(batch_size, device=batch_index.device)[:, None]
    count = (batch_index[None] == sample).sum(dim=1, keepdim=True)  # (B, 1)
    before = (batch_index[None] < sample).sum(dim=1, keepdim=True)  # (B, 1)
    inside = (ind >= 0) & (ind < count)
    # A zero row stands behind the real ones for slots without an object; a slot that should have one but points outside
    # goes beyond it.
    slot = torch.where(mask.bool(), torch.where(inside, before + ind, num_rows + 1), num_rows)  # (B, M)
    row = torch.cat([by_sample, by_sample.new_tensor([num_rows])])[slot]
    return torch.cat([rows, rows.new_zeros(1, rows.shape[1])])[row]


class RegLossSparse(nn.Module):
    """L1 loss of the box codes at the object voxels, one value per code: ``_reg_loss`` of the rows read at ``ind``.

    >>> rows, batch_index = torch.zeros(5, 2), torch.tensor([0, 0, 0, 1, 1])
    >>> mask, ind = torch.tensor([[1, 0], [1, 1]]), torch.tensor([[2, 0], [0, 1]])
    >>> RegLossSparse()(rows, mask, ind, torch.ones(2, 2, 2), batch_index)
    tensor([1., 1.])
    """

    def forward(
        self,
        output: torch.Tensor,
        mask: torch.Tensor,
        ind: torch.Tensor | None = None,
        target: torch.Tensor | None = None,
        batch_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            output: (N, D) rows of the whole batch.
            mask: (B, M), 1 where a slot holds an object.
            ind: (B, M) row of each slot, counted within its sample.
            target: (B, M, D); NaN entries are ignored.
            batch_index: (N,) sample of each row, in any order.
        Returns:
            (D,)
        Raises:
            InputError: something is missing or the shapes do not fit.
        """
        missing = [
            name for name, value in (("ind", ind), ("target", target), ("batch_index", batch_index)) if value is None
        ]
        if missing:
            raise InputError(
                f"RegLossSparse: {' and '.join(missing)} missing: all of ind (B, M), target (B, M, D), batch_index "
                "(N,) are needed."
            )
        return _reg_loss(gather_rows(output, mask, ind, batch_index), target, mask)


def _paired_boxes(
    boxes: torch.Tensor, box_gt: Sequence[torch.Tensor], used: torch.Tensor, loss_name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The used slots' boxes (B, M, 7+) and their ground truth, both (K, 7): box_gt[b] holds one row per used slot, or
    one per slot from the first.
    """
    count = used.sum(dim=1).tolist()
    boxes = boxes[used][:, :7]
    if not any(count):
        return boxes, boxes.detach()
    if len(box_gt) != len(count):
        raise InputError(f"{loss_name}: box_gt has {len(box_gt)} samples, mask has {len(count)}: they must agree.")
    chosen = []
    for sample, gt in enumerate(box_gt):
        if len(gt) != count[sample] and len(gt) <= used.shape[1]:
            gt = gt[used[sample, : len(gt)]]
        if len(gt) != count[sample]:
            raise InputError(
                f"{loss_name}: sample {sample} has {count[sample]} slots with an object but {len(gt)} ground-truth "
                "boxes for them: "
                "one box per used slot, or one per slot, is allowed."
            )
        chosen.append(gt[:, :7])
    return boxes, torch.cat(chosen).to(boxes)


class IouLossSparse(nn.Module):
    """L1 loss of a predicted IoU against the rotated 3-D IoU of predicted and true box, rescaled to [-1, 1] (CIA-SSD,
    arXiv:2012.03015)::

        sum |iou_pred - (2 IoU3D - 1)| / (number of objects + 1e-4)

    The IoU is a target: no gradient flows into the boxes. Without objects: a differentiable scalar 0.

    >>> box = torch.tensor([[10.0, 0.0, -1.0, 4.0, 2.0, 1.5, 0.3]])
    >>> one = torch.ones(1, 1, dtype=torch.long)
    >>> round(IouLossSparse()(torch.zeros(1, 1), one, 0 * one, box, [box], torch.tensor([0])).item(), 2)    # |0 - 1|
    1.0
    """

    def forward(
        self,
        iou_pred: torch.Tensor,
        mask: torch.Tensor,
        ind: torch.Tensor,
        box_pred: torch.Tensor,
        box_gt: Sequence[torch.Tensor],
        batch_index: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            iou_pred: (N, 1) in [-1, 1]. box_pred: (N, 7 or more) decoded boxes, metres and radians, LiDAR frame.
            mask, ind: (B, M) used slots, and the row of each slot counted within its sample.
            box_gt: B tensors (K_b, 7 or more), one row per used slot (or one per slot).
            batch_index: (N,) sample of each row.
        Returns:
            Scalar.
        Raises:
            InputError: numbers of boxes and objects that do not agree.
        """
        iou_pred, box_pred = at_least_float32(iou_pred)[0], at_least_float32(box_pred)[0].detach()
        used = mask.bool()
        boxes, gt = _paired_boxes(gather_rows(box_pred, used, ind, batch_index), box_gt, used, type(self).__name__)
        target = 2 * boxes_aligned_iou3d(boxes, gt).view(-1) - 1
        pred = gather_rows(iou_pred, used, ind, batch_index)[used].view(-1)
        return F.l1_loss(pred, target.to(pred), reduction="sum") / (used.sum() + 1e-4)


class IouRegLossSparse(nn.Module):
    """Distance-IoU loss of decoded boxes (Zheng et al. 2020, arXiv:1911.08287) with the heading left out::

        sum (1 - DIoU) / (number of objects + 1e-4)
        DIoU = IoU - centre distance^2 / enclosing diagonal^2, clamped to [-1, 1]

    Without objects: a differentiable scalar 0.

    >>> box = torch.tensor([[10.0, 0.0, -1.0, 4.0, 2.0, 1.5, 0.3]])
    >>> one = torch.ones(1, 1, dtype=torch.long)
    >>> ahead = box + torch.tensor([4.0, 0, 0, 0, 0, 0, 0])
    >>> round(IouRegLossSparse()(ahead, one, 0 * one, [box], torch.tensor([0])).item(), 2)
    1.23
    """

    def __init__(self, type: str = "DIoU") -> None:
        """
        Args:
            type: "DIoU", the only one there is.
        """
        super().__init__()
        if type != "DIoU":
            raise InputError(f"IouRegLossSparse: type={type!r} is unknown: 'DIoU' is allowed.")

    def center_to_corner2d(self, center: torch.Tensor, dim: torch.Tensor) -> torch.Tensor:
        """(N, 2) centres and (N, 2) sizes -> (N, 4, 2) corners of upright rectangles."""
        return center_to_corner2d(center, dim)

    def bbox3d_iou_func(self, pred_boxes: torch.Tensor, gt_boxes: torch.Tensor) -> torch.Tensor:
        """(N, 7) and (N, 7) paired boxes -> (N,) axis-aligned DIoU in [-1, 1]."""
        return bbox3d_overlaps_diou(pred_boxes, gt_boxes)

    def forward(
        self,
        box_pred: torch.Tensor,
        mask: torch.Tensor,
        ind: torch.Tensor,
        box_gt: Sequence[torch.Tensor],
        batch_index: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            box_pred: (N, 7 or more) decoded boxes of the whole batch.
            mask, ind: (B, M) used slots, and the row of each slot counted within its sample.
            box_gt: B tensors (K_b, 7 or more), one row per used slot (or one per slot).
            batch_index: (N,) sample of each row.
        Returns:
            Scalar.
        Raises:
            InputError: numbers of boxes and objects that do not agree.
        """
        (box_pred,) = at_least_float32(box_pred)
        used = mask.bool()
        boxes, gt = _paired_boxes(gather_rows(box_pred, used, ind, batch_index), box_gt, used, "IouRegLossSparse")
        return (1 - self.bbox3d_iou_func(boxes, gt)).sum() / (used.sum() + 1e-4)
