"""2-D detection, for no head of this package: the pixels of an image inside a 2-D ground-truth box."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...errors import InputError
from ..numerics import at_least_float32


def compute_fg_mask(
    gt_boxes2d: torch.Tensor,
    shape: Sequence[int],
    downsample_factor: float = 1,
    device: torch.device | str = torch.device("cpu"),
) -> torch.Tensor:
    """Foreground mask of down-sampled images (CaDDN's depth loss, Reading et al. 2021, arXiv:2103.01100)::

        mask[b, v, u] = any box of image b has
                        floor(u1 / f) <= u < ceil(u2 / f) and floor(v1 / f) <= v < ceil(v2 / f)

    Boxes are clipped to the image; an all-zero (padding) row covers nothing; the input is not changed.

    Args:
        gt_boxes2d: (B, N, 4) u1, v1, u2, v2 in pixels of the full image, any dtype.
        shape: (B, H, W) of the mask. downsample_factor: f, pixels of the full image per pixel of the mask.
        device: device of the mask.
    Returns:
        (B, H, W) bool.
    Raises:
        InputError: shapes that do not fit.

    >>> compute_fg_mask(torch.tensor([[[-3.0, 0.5, 1.5, 2.0]]]), shape=(1, 3, 4)).int()
    tensor([[[1, 1, 0, 0],
             [1, 1, 0, 0],
             [0, 0, 0, 0]]], dtype=torch.int32)
    """
    shape = tuple(shape)
    if gt_boxes2d.dim() != 3 or gt_boxes2d.shape[2] != 4 or len(shape) != 3 or shape[0] != gt_boxes2d.shape[0]:
        raise InputError(
            f"compute_fg_mask: gt_boxes2d {tuple(gt_boxes2d.shape)} and shape {shape} do not fit: (B, N, 4) and (B, "
            "H, W) are allowed."
        )
    (boxes,) = at_least_float32(gt_boxes2d.detach().to(device))
    boxes = boxes / downsample_factor
    low, high = boxes[..., :2].floor(), boxes[..., 2:].ceil()  # (B, N, 2) as u, v
    columns = torch.arange(shape[2], device=device, dtype=boxes.dtype)
    rows = torch.arange(shape[1], device=device, dtype=boxes.dtype)
    in_columns = (columns >= low[..., :1]) & (columns < high[..., :1])  # (B, N, W)
    in_rows = (rows >= low[..., 1:]) & (rows < high[..., 1:])  # (B, N, H)
    # How many boxes cover a pixel is a product of the two one-dimensional memberships, summed over the boxes.
    return torch.bmm(in_rows.to(boxes.dtype).transpose(1, 2), in_columns.to(boxes.dtype)) > 0
