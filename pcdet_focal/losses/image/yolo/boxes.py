"""2-D detection, for no head of this package: IoU, GIoU, DIoU and CIoU of paired axis-aligned boxes, as in YOLOv5."""

from __future__ import annotations

import math

import torch

from ....errors import InputError
from ...numerics import at_least_float32
from ...reduction import require_same_device


def bbox_iou(
    box1: torch.Tensor,
    box2: torch.Tensor,
    xywh: bool = True,
    GIoU: bool = False,
    DIoU: bool = False,
    CIoU: bool = False,
    eps: float = 1e-7,
) -> torch.Tensor:
    """Overlap of paired boxes; eps is added to every divisor::

        IoU     I / U
        GIoU    I / U - (C - U) / C     C: area of the enclosing box (arXiv:1902.09630)
        DIoU    I / U - d^2 / D^2       d: distance of the centres, D: diagonal of the enclosing box (arXiv:1911.08287)
        CIoU    DIoU - a v              v = 4 / pi^2 (atan(w2 / h2) - atan(w1 / h1))^2
                                        a = v / (1 - IoU + v), without gradient

    Finite, with finite gradients, for boxes of any size, 0 included.

    Args:
        box1, box2: (..., 4) each, the same shape or one of them (1, 4): x, y, w, h (centre and size), or corners x1,
            y1, x2, y2. Half precision is computed, and returned, in float32.
        xywh: which of the two.
        GIoU, DIoU, CIoU: which measure, at most one; none for IoU.
        eps: above 0.
    Returns:
        (..., 1).
    Raises:
        InputError: a last axis other than 4, shapes that do not broadcast, more than one measure.

    >>> # 1/3 - 1/13
    >>> bbox_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 2.0, 2.0]]), DIoU=True)
    tensor([[0.2564]])
    """
    if GIoU + DIoU + CIoU > 1:
        raise InputError("bbox_iou: at most one of GIoU, DIoU and CIoU can be True.")
    if box1.shape[-1:] != (4,) or box2.shape[-1:] != (4,) or not _broadcasts(box1, box2):
        raise InputError(
            "bbox_iou: box1 and box2 need the same shape (..., 4), or one of them (1, 4), but they are "
            f"{tuple(box1.shape)} and "
            f"{tuple(box2.shape)}."
        )
    require_same_device("bbox_iou", box1=box1, box2=box2)
    box1, box2 = at_least_float32(box1, box2)
    (centre1, size1), (centre2, size2) = (_centre_and_size(box, xywh) for box in (box1, box2))
    low1, low2, high1, high2 = centre1 - size1 / 2, centre2 - size2 / 2, centre1 + size1 / 2, centre2 + size2 / 2
    if not xywh:
        low1, high1, low2, high2 = box1[..., :2], box1[..., 2:], box2[..., :2], box2[..., 2:]
    overlap = (torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0).prod(-1, keepdim=True)
    union = size1.prod(-1, keepdim=True) + size2.prod(-1, keepdim=True) - overlap + eps
    iou = overlap / union
    if not (GIoU or DIoU or CIoU):
        return iou
    enclosing = torch.maximum(high1, high2) - torch.minimum(low1, low2)  # (..., 2)
    if GIoU:
        area = enclosing.prod(-1, keepdim=True) + eps
        return iou - (area - union) / area
    diou = iou - ((centre1 - centre2) ** 2).sum(-1, keepdim=True) / ((enclosing**2).sum(-1, keepdim=True) + eps)
    if DIoU:
        return diou
    v = 4 / math.pi**2 * (_aspect_angle(size2, eps) - _aspect_angle(size1, eps)) ** 2
    with torch.no_grad():
        a = v / (1 + eps - iou + v).clamp(min=eps)
    return diou - a * v


def _centre_and_size(box: torch.Tensor, xywh: bool) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = box[..., :2], box[..., 2:]
    return (first, second) if xywh else ((first + second) / 2, second - first)


def _aspect_angle(size: torch.Tensor, eps: float) -> torch.Tensor:
    """atan(w / h): (..., 2) -> (..., 1). Heights within eps of 0 count as eps, which keeps the gradient, w / (w^2 +
    h^2), finite.
    """
    height = size[..., 1:]
    return torch.atan(size[..., :1] / torch.where(height.abs() < eps, eps, height))


def _broadcasts(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape or a.numel() == 4 or b.numel() == 4
