"""Heat maps and box codes of center-based heads: drawing, peaks, decoding, NMS by distance.

Names and arguments are OpenPCDet's ``centernet_utils``. A map's cell (y, x) has the flat index ``y * W + x``. Source:
Zhou et al., "Objects as Points", arXiv:1904.07850; Yin et al., CenterPoint, CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...losses.centernet import _gather_feat, _transpose_and_gather_feat  # OpenPCDet has both here

__all__ = [
    "boxes_at_cells",
    "decode_bbox_from_heatmap",
    "decode_bbox_from_pred_dicts",
    "draw_gaussian_to_heatmap",
    "draw_gaussians",
    "gaussian2D",
    "gaussian_radius",
    "_gather_feat",
    "_transpose_and_gather_feat",
]


def gaussian_radius(height: Tensor, width: Tensor, min_overlap: float = 0.5) -> Tensor:
    """How far the centre of a box may move, in each of three ways, until its IoU with the unmoved box falls to
    ``min_overlap``: the least.

    CornerNet's three quadratics with their larger root over 2, as all implementations after it have it, whatever the
    leading coefficient.

    Args:
        height, width: (N,) sizes in cells. min_overlap: IoU in (0, 1).

    Returns:
        (N,) radii in cells, not rounded.

    Source: Law and Deng, CornerNet, arXiv:1808.01244, section 3.2.

    >>> gaussian_radius(torch.tensor([10.0]), torch.tensor([4.0]), min_overlap=0.1)
    tensor([2.6447])
    """
    total, area = height + width, height * width
    radii = []
    for a, b, c in (
        (1.0, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4.0, 2 * total, (1 - min_overlap) * area),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area),
    ):
        radii.append((b + (b**2 - 4 * a * c).sqrt()) / 2)
    return torch.minimum(torch.minimum(radii[0], radii[1]), radii[2])


def gaussian2D(shape: Sequence[int], sigma: float = 1) -> np.ndarray:
    """A Gaussian of peak 1 in the middle of an array of the (odd) ``shape``, float64."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    return np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * sigma * sigma))


def draw_gaussian_to_heatmap(
    heatmap: Tensor, center: Sequence[float], radius: int, k: float = 1, valid_mask: Tensor | None = None
) -> Tensor:
    """Raise ``heatmap`` (H, W), in place, to k times a Gaussian around the cell of ``center`` (x, y), within ``radius``
    cells in x and y.

    ``draw_gaussians`` does this for all objects at once.
    """
    cell = torch.tensor([[int(center[0]), int(center[1])]], device=heatmap.device)
    drawn = (
        draw_gaussians(
            cell, cell.new_tensor([int(radius)]), cell.new_zeros(1), None, (1, *heatmap.shape), heatmap.dtype
        )[0]
        * k
    )
    return torch.maximum(heatmap, drawn if valid_mask is None else drawn * valid_mask.to(drawn.dtype), out=heatmap)


def draw_gaussians(
    cells: Tensor, radius: Tensor, maps: Tensor, valid: Tensor | None, shape: tuple[int, int, int], dtype: torch.dtype
) -> Tensor:
    """Heat maps of many objects: the maximum of Gaussians with sigma (2 r + 1) / 6, cut off at r cells in x and y, 1 at
    the objects' cells.

    Args:
        cells: (N, 2) long x, y inside the map. radius: (N,) long. maps: (N,) long, the map each object belongs to.
        valid: (N,) bool, objects to draw; None for all.
        shape: (maps, H, W). dtype: of the result.

    Returns:
        (maps, H, W). A CUDA device is waited for once, for the largest radius.
    """
    count, height, width = shape
    heat = torch.zeros(count * height * width, dtype=dtype, device=cells.device)
    if len(cells) == 0:
        return heat.view(shape)
    radius = radius if valid is None else torch.where(valid, radius, 0)
    reach = int(radius.max())
    step = torch.arange(-reach, reach + 1, device=cells.device)  # (K,)
    sigma = (2 * radius + 1).double().unsqueeze(1) / 6
    # (N, K); e^-(x2 + y2) = e^-x2 e^-y2
    line = torch.exp(-step.square() / (2 * sigma.square())) * (step.abs() <= radius.unsqueeze(1))
    x, y = (cells[:, axis : axis + 1] + step for axis in (0, 1))  # (N, K)
    line_x, line_y = line * ((x >= 0) & (x < width)), line * ((y >= 0) & (y < height))
    if valid is not None:
        line_x = line_x * valid.unsqueeze(1)
    # (N, K, K)
    cell = (maps.unsqueeze(1) * height + y.clamp(0, height - 1)).unsqueeze(2) * width + x.clamp(0, width - 1).unsqueeze(
        1
    )
    values = (line_y.unsqueeze(2) * line_x.unsqueeze(1)).to(dtype)
    return heat.scatter_reduce_(0, cell.flatten(), values.flatten(), "amax").view(shape)


def _nms(heat: Tensor, kernel: int = 3) -> Tensor:
    """(B, C, H, W) with 0 wherever a cell within ``kernel // 2`` is higher."""
    highest = F.max_pool2d(heat, kernel, stride=1, padding=(kernel - 1) // 2)
    return torch.where(highest == heat, heat, 0)


def _topk(scores: Tensor, K: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The K highest of (B, C, H, W) in each sample: scores (B, K), flat cells, classes, rows y and columns x (as
    floats), best first.
    """
    batch_size, num_class, height, width = scores.shape
    per_class = min(K, height * width)
    class_scores, cells = scores.flatten(2).topk(per_class)  # (B, C, per_class)
    best, indices = class_scores.flatten(1).topk(min(K, num_class * per_class))
    cells = cells.flatten(1).gather(1, indices)
    return (
        best,
        cells,
        (indices // per_class).int(),
        (cells // width).to(scores.dtype),
        (cells % width).to(scores.dtype),
    )


def boxes_at_cells(
    x: Tensor,
    y: Tensor,
    center: Tensor,
    center_z: Tensor,
    size: Tensor,
    rot_cos: Tensor,
    rot_sin: Tensor,
    vel: Tensor | None,
    point_cloud_range: Sequence[float],
    voxel_size: Sequence[float],
    feature_map_stride: int,
) -> Tensor:
    """Boxes from what a head says at cells.

    Args:
        x, y: (..., 1) columns and rows of the cells. center: (..., 2) offset of the centre from the cell's corner, in
            cells.
        center_z: (..., 1) metres. size: (..., 3) dx, dy, dz, metres. rot_cos, rot_sin: (..., 1), of any length. vel:
            (..., 2) or None.

    Returns:
        (..., 7 or 9) x, y, z, dx, dy, dz, heading(, vx, vy); metres and radians, LiDAR frame.
    """
    x = (x + center[..., 0:1]) * feature_map_stride * voxel_size[0] + point_cloud_range[0]
    y = (y + center[..., 1:2]) * feature_map_stride * voxel_size[1] + point_cloud_range[1]
    parts = [x, y, center_z, size, torch.atan2(rot_sin, rot_cos)]
    return torch.cat(parts if vel is None else [*parts, vel], dim=-1)


def decode_bbox_from_heatmap(
    heatmap: Tensor,
    rot_cos: Tensor,
    rot_sin: Tensor,
    center: Tensor,
    center_z: Tensor,
    dim: Tensor,
    point_cloud_range=None,
    voxel_size=None,
    feature_map_stride: int | None = None,
    vel: Tensor | None = None,
    iou: Tensor | None = None,
    K: int = 100,
    circle_nms: bool = False,
    score_thresh: float | Tensor | None = None,
    post_center_limit_range: Tensor | None = None,
) -> list[dict[str, Tensor]]:
    """Boxes at the K highest cells of each sample's heat maps.

    Args:
        heatmap: (B, C, H, W) scores. rot_cos, rot_sin, center_z: (B, 1, H, W). center: (B, 2, H, W). dim: (B, 3, H, W)
            metres.
        vel: (B, 2, H, W) or None. iou: (B, 1, H, W) or None.
        circle_nms: take local maxima of 3 x 3 cells only.
        score_thresh: scores must be above it; one number, or one a class (C,).
        post_center_limit_range: (6,) that centres must lie in, borders included; None for no limit.

    Returns:
        for each sample {"pred_boxes" (k, 7 or 9), "pred_scores" (k,), "pred_labels" (k,) 0-based in the head}, best
        first, and "pred_iou" (k,).
    """
    scores, cells, labels, y, x = _topk(_nms(heatmap) if circle_nms else heatmap, K=K)

    def at(feature_map: Tensor | None) -> Tensor | None:
        return None if feature_map is None else _transpose_and_gather_feat(feature_map, cells)  # (B, K, D)

    boxes = boxes_at_cells(
        x.unsqueeze(-1),
        y.unsqueeze(-1),
        at(center),
        at(center_z),
        at(dim),
        at(rot_cos),
        at(rot_sin),
        at(vel),
        point_cloud_range,
        voxel_size,
        feature_map_stride,
    )
    iou = at(iou)
    keep = torch.ones_like(scores, dtype=torch.bool)
    if post_center_limit_range is not None:
        keep = ((boxes[..., :3] >= post_center_limit_range[:3]) & (boxes[..., :3] <= post_center_limit_range[3:])).all(
            dim=2
        )
    if score_thresh is not None:
        if isinstance(score_thresh, Tensor):
            score_thresh = score_thresh.to(scores.dtype)[labels.long()]
        keep = keep & (scores > score_thresh)
    detections = []
    for b, mask in enumerate(keep):
        detections.append(
            {"pred_boxes": boxes[b, mask], "pred_scores": scores[b, mask], "pred_labels": labels[b, mask]}
        )
        if iou is not None:
            detections[-1]["pred_iou"] = iou[b, mask, 0]
    return detections


def decode_bbox_from_pred_dicts(
    pred_dict: dict[str, Tensor], point_cloud_range=None, voxel_size=None, feature_map_stride: int | None = None
) -> Tensor:
    """Boxes at every cell: ``center``, ``center_z``, ``dim`` (logarithms), ``rot`` (cos, sin)(, ``vel``) maps (B, D, H,
    W) -> (B, H, W, 7 or 9).
    """
    maps = {
        key: pred_dict[key].permute(0, 2, 3, 1)
        for key in ("center", "center_z", "dim", "rot", "vel")
        if key in pred_dict
    }
    _, height, width, _ = maps["center"].shape
    y = torch.arange(height, device=maps["center"].device, dtype=maps["center"].dtype).view(1, height, 1, 1)
    x = torch.arange(width, device=y.device, dtype=y.dtype).view(1, 1, width, 1)
    return boxes_at_cells(
        x,
        y,
        maps["center"],
        maps["center_z"],
        maps["dim"].exp(),
        maps["rot"][..., 0:1],
        maps["rot"][..., 1:2],
        maps.get("vel"),
        point_cloud_range,
        voxel_size,
        feature_map_stride,
    )


def circle_nms(dets: Tensor, thresh: float) -> Tensor:
    """Greedy NMS by distance: (N, 3) x, y, score -> rows that stay, (K,) long, best first.

    ``thresh`` is compared with the *squared* distance (m^2), as in CenterPoint, whose figures for it are called radii.
    Equal scores: the lower row first.
    """
    order = dets[:, 2].sort(descending=True, stable=True).indices
    centers = dets[order, :2]
    near = ((centers.unsqueeze(1) - centers.unsqueeze(0)).square().sum(-1) <= thresh).cpu().numpy()
    stays = np.ones(len(near), dtype=bool)
    for i in range(len(near)):
        if stays[i]:
            stays[i + 1 :] &= ~near[i, i + 1 :]
    return order[torch.from_numpy(stays).to(order.device)]


def _circle_nms(boxes: Tensor, min_radius: float, post_max_size: int = 83) -> Tensor:
    """``circle_nms``, and at most ``post_max_size`` of its rows."""
    return circle_nms(boxes, min_radius)[:post_max_size]
