"""Losses of CenterPoint's head: focal loss of a heat map, L1 of what is read at the object centres."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import InputError
from .numerics import at_least_float32, finite_log
from .weights import require_same_shape


def heatmap_focal_loss(pred: torch.Tensor, gt: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """CornerNet's focal loss summed over a map of any layout and divided by the number of centres; see
    ``neg_loss_cornernet``.

    Args:
        pred, gt: any shape. mask: broadcastable to it.
    Returns:
        Scalar.
    """
    pred, gt = at_least_float32(pred, gt)
    positive = gt.eq(1).to(pred.dtype)
    negative = gt.lt(1).to(pred.dtype)
    if mask is not None:
        positive = positive * mask
        negative = negative * mask
    log_likelihood = (
        finite_log(pred) * (1 - pred).square() * positive
        + finite_log(1 - pred) * pred.square() * (1 - gt).pow(4) * negative
    )
    num_pos = positive.sum()
    return -log_likelihood.sum() / torch.where(num_pos > 0, num_pos, torch.ones_like(num_pos))


def neg_loss_cornernet(pred: torch.Tensor, gt: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Focal loss of CornerNet (Law and Deng 2018, arXiv:1808.01244, equation 1 with alpha 2, beta 4), as CenterPoint
    uses it::

        -1/N sum  (1 - p)^2 log p                 where gt = 1
                  (1 - gt)^4 p^2 log(1 - p)       where gt < 1

    N is the number of places with gt = 1 (weighted by the mask), and 1 if there is none.

    Args:
        pred: (B, C, H, W) probabilities. At exactly 0 or 1 the logarithm is held at that of the smallest normal number:
            finite.
        gt: (B, C, H, W) heat map, 1 at object centres.
        mask: (B, H, W) bool or weights; None for all.
    Returns:
        Scalar, in float32 or better.
    Raises:
        InputError: shapes that do not fit.

    >>> heat = torch.zeros(1, 1, 4, 4)
    >>> heat[0, 0, 1, 2] = 1.0
    >>> round(neg_loss_cornernet(torch.full((1, 1, 4, 4), 0.5), heat).item(), 4)              # 16 * 0.25 * log 2 / 1
    2.7726
    """
    require_same_shape("neg_loss_cornernet", pred=pred, gt=gt)
    if mask is None:
        return heatmap_focal_loss(pred, gt)
    if pred.dim() != 4 or tuple(mask.shape) != (pred.shape[0], *pred.shape[2:]):
        raise InputError(
            f"neg_loss_cornernet: a mask of shape {tuple(mask.shape)} does not fit predictions of shape "
            f"{tuple(pred.shape)}: "
            "(B, H, W) for (B, C, H, W) is allowed."
        )
    return heatmap_focal_loss(pred, gt, mask[:, None].to(torch.promote_types(torch.float32, pred.dtype)))


class FocalLossCenterNet(nn.Module):
    """``neg_loss_cornernet`` as a module.

    >>> FocalLossCenterNet()(torch.full((1, 1, 4, 4), 1e-4), torch.zeros(1, 1, 4, 4)).item() < 1e-9
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self.neg_loss = neg_loss_cornernet

    def forward(self, out: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W) probabilities, (B, C, H, W) heat map, (B, H, W) mask or None -> scalar."""
        return self.neg_loss(out, target, mask=mask)


def _reg_loss(regr: torch.Tensor, gt_regr: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Masked L1 per box code: ``sum_{b,m} mask |regr - gt| / max(sum mask, 1)``, ignoring NaN targets.

    Args:
        regr: (B, M, D) predictions at the object slots. gt_regr: (B, M, D) targets; NaN entries add nothing.
        mask: (B, M) bool, int or float weights; slots with 0 add nothing, whatever they contain. Not changed.
    Returns:
        (D,) in float32 or better.
    Raises:
        InputError: shapes that do not fit.

    >>> _reg_loss(torch.ones(1, 2, 2), torch.tensor([[[0.0, float("nan")], [9.0, 9.0]]]), torch.tensor([[1, 0]]))
    tensor([1., 0.])
    """
    require_same_shape("_reg_loss", regr=regr, gt_regr=gt_regr)
    if regr.dim() != 3 or tuple(mask.shape) != tuple(regr.shape[:2]):
        raise InputError(
            f"_reg_loss: a mask of shape {tuple(mask.shape)} does not fit predictions of shape {tuple(regr.shape)}: "
            "(B, M) for (B, M, D) is allowed."
        )
    regr, gt_regr = at_least_float32(regr, gt_regr)
    mask = mask.to(regr.dtype)
    counted = (mask != 0).unsqueeze(-1) & ~torch.isnan(gt_regr)
    diff = torch.where(counted, regr - gt_regr, 0.0)
    return (diff.abs() * mask.unsqueeze(-1)).sum(dim=(0, 1)) / mask.sum().clamp(min=1.0)


def _gather_feat(feat: torch.Tensor, ind: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Read rows: feat (B, N, D), ind (B, M) int64 -> (B, M, D); with a mask (B, M) only the rows where it is set, (K,
    D).
    """
    feat = feat.gather(1, ind.long().unsqueeze(2).expand(-1, -1, feat.shape[2]))
    return feat if mask is None else feat[mask.bool()]


def _transpose_and_gather_feat(feat: torch.Tensor, ind: torch.Tensor) -> torch.Tensor:
    """Read a map at flat cells: feat (B, D, H, W), ind (B, M) = y * W + x -> (B, M, D)."""
    return _gather_feat(feat.flatten(2).transpose(1, 2), ind)


class RegLossCenterNet(nn.Module):
    """L1 loss of the box codes at the object centres, one value per code: ``_reg_loss`` of the map read at ``ind``.

    >>> # two slots, the second unused
    >>> code_map, ind = torch.zeros(1, 8, 16, 16), torch.tensor([[5, 0]])
    >>> RegLossCenterNet()(code_map, mask=torch.tensor([[1, 0]]), ind=ind, target=torch.ones(1, 2, 8)).shape
    torch.Size([8])
    """

    def forward(
        self,
        output: torch.Tensor,
        mask: torch.Tensor,
        ind: torch.Tensor | None = None,
        target: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            output: (B, D, H, W) map; or (B, M, D), already read, if ``ind`` is None.
            mask: (B, M), 1 where a slot holds an object.
            ind: (B, M) flat cell y * W + x of each slot.
            target: (B, M, D); NaN entries are ignored.
        Returns:
            (D,)
        Raises:
            InputError: shapes that do not fit, or no target.
        """
        if target is None:
            raise InputError("RegLossCenterNet: target is missing: a tensor of shape (B, M, D) is needed.")
        return _reg_loss(output if ind is None else _transpose_and_gather_feat(output, ind), target, mask)
