"""Shape-aware augmentation of SE-SSD (Zheng et al., CVPR 2021, arXiv 2104.09804): each box is cut into six pyramids,
apex in its centre and one face as base, and pyramids are emptied, thinned out, or exchanged with the same face of
another object.

Random numbers come from numpy's global generator in OpenPCDet's order. The arguments are never changed. Arrays as in
``world.py``.
"""

from __future__ import annotations

import numpy as np

from ...geometry.boxes import boxes_to_corners_3d
from .kernels import in_pyramids, index_near

# +x, top, -x, bottom, -y, +y
_FACES = np.array([[0, 1, 5, 4], [4, 5, 6, 7], [7, 6, 2, 3], [3, 2, 1, 0], [1, 2, 6, 5], [0, 4, 7, 3]])


def get_pyramids(boxes: np.ndarray) -> np.ndarray:
    """The six pyramids of each box (N, 7+): (N, 6, 15), each the apex and four base corners in cyclic order; faces +x,
    top, -x, bottom, -y, +y.
    """
    corners = boxes_to_corners_3d(boxes[:, :7])[:, _FACES]  # (N, 6, 4, 3)
    apex = np.broadcast_to(boxes[:, None, None, 0:3], (len(boxes), 6, 1, 3))
    return np.concatenate([apex, corners], axis=2).astype(corners.dtype).reshape(-1, 6, 15)


def one_hot(x: np.ndarray, num_class: int | None = 1) -> np.ndarray:
    """(N, num_class) float64 with a 1 in column ``x[i]`` of row i."""
    out = np.zeros((len(x), num_class or 1))
    out[np.arange(len(x)), x] = 1
    return out


def points_in_pyramids_mask(points: np.ndarray, pyramids: np.ndarray) -> np.ndarray:
    """Mask (M, N) bool of the points (M, 3+C) in the pyramids (N, 15) or (N, 5, 3)."""
    return in_pyramids(points, pyramids.reshape(-1, 5, 3))


def _pyramids_of(gt_boxes: np.ndarray, pyramids: np.ndarray | None) -> np.ndarray:
    return get_pyramids(gt_boxes).reshape(-1, 6, 5, 3) if pyramids is None else pyramids


def _members(points: np.ndarray, pyramids: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """For pyramids (N, ..., 5, 3), N at least 1: the indices, ascending, of the points in each, and the mask of the
    points in none of them.
    """
    near = index_near(points, pyramids.reshape(len(pyramids), -1, 3))
    inside = points_in_pyramids_mask(points[near], pyramids)
    outside = np.ones(len(points), dtype=bool)
    outside[near[inside.any(axis=1)]] = False
    return [near[mask] for mask in inside.T], outside


def _draw_one_face(n: int, prob: float) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``n`` boxes a face 0..5 and whether the box is hit."""
    face = np.random.randint(0, 6, (n,))
    return face, np.random.uniform(0, 1, (n,)) <= prob


def local_pyramid_dropout(
    gt_boxes: np.ndarray, points: np.ndarray, dropout_prob: float, pyramids: np.ndarray | None = None
) -> tuple:
    """Empty one random pyramid of each box, each with probability ``dropout_prob``.

    Returns ``(gt_boxes, points, pyramids)``: the points that stay, in order, and the pyramids (K, 6, 5, 3) of the boxes
    that were not hit.
    """
    pyramids = _pyramids_of(gt_boxes, pyramids)
    face, hit = _draw_one_face(len(pyramids), dropout_prob)
    if hit.any():
        points = points[_members(points, pyramids[hit, face[hit]])[1]]
    return gt_boxes, points, pyramids[~hit]


def local_pyramid_sparsify(
    gt_boxes: np.ndarray, points: np.ndarray, prob: float, max_num_pts: int, pyramids: np.ndarray | None = None
) -> tuple:
    """Thin one random pyramid of each box to ``max_num_pts`` points if it has more, each with probability ``prob``.

    Returns ``(gt_boxes, points, pyramids)``: untouched points first, then those kept of each thinned pyramid; pyramids
    of boxes not hit.
    """
    pyramids = _pyramids_of(gt_boxes, pyramids)
    if not len(pyramids):
        return gt_boxes, points, pyramids
    face, hit = _draw_one_face(len(pyramids), prob)
    if hit.any():
        chosen = pyramids[hit, face[hit]]
        crowded = [len(members) > max_num_pts for members in _members(points, chosen)[0]]
        if any(crowded):
            members, outside = _members(points, chosen[crowded])
            kept = [index[np.random.choice(len(index), size=max_num_pts, replace=False)] for index in members]
            points = points[np.concatenate([np.flatnonzero(outside), *kept])]
    return gt_boxes, points, pyramids[~hit]


def _frame(pyramid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origins (3, 3) and axes (3, 3) of the pyramid's own coordinates: along two base edges from the first corner, and
    base centre to apex.
    """
    apex, first, second, _, last = pyramid
    centre = pyramid[1:].mean(axis=0)
    return np.stack((first, first, centre)), np.stack((second - first, last - first, apex - centre)), first


def _coordinates(points: np.ndarray, pyramid: np.ndarray) -> np.ndarray:
    origins, axes, _ = _frame(pyramid)
    return ((points[:, None, :3] - origins) * axes).sum(axis=2) / (axes**2).sum(axis=1)  # (K, 3)


def _exchange(
    source: np.ndarray, target: np.ndarray, source_pyramid: np.ndarray, target_pyramid: np.ndarray
) -> np.ndarray:
    """The points ``source`` carried into ``target_pyramid``, their last column stretched to the range it has among the
    points ``target``.
    """
    _, axes, first = _frame(target_pyramid)
    moved = source.copy()
    moved[:, :3] = _coordinates(source, source_pyramid) @ axes + first
    if source.shape[1] > 3:
        low, high = source[:, -1].min(), source[:, -1].max()
        share = (source[:, -1] - low) / np.clip(high - low, 1e-6, 1)
        moved[:, -1] = share * (target[:, -1].max() - target[:, -1].min()) + target[:, -1].min()
    return moved


def local_pyramid_swap(
    gt_boxes: np.ndarray, points: np.ndarray, prob: float, max_num_pts: int, pyramids: np.ndarray | None = None
) -> tuple:
    """Exchange one pyramid of each box, each with probability ``prob``, with the same face of another object.

    Only pyramids with more than ``max_num_pts`` points take part. Returns ``(gt_boxes, points)``: untouched points,
    then the exchanged ones.
    """
    pyramids = _pyramids_of(gt_boxes, pyramids)
    hit = np.random.uniform(0, 1, (len(pyramids),)) <= prob
    if not hit.any():
        return gt_boxes, points
    counts = np.array([len(members) for members in _members(points, pyramids)[0]]).reshape(len(pyramids), 6)
    filled = counts > max(max_num_pts, 0)
    boxes = [i for i in np.flatnonzero(hit) if filled[i].any()]
    if not boxes:
        return gt_boxes, points
    faces = [int(np.random.choice(np.flatnonzero(filled[i]))) for i in boxes]
    filled[boxes, faces] = False
    partners = [
        int(np.random.choice(np.flatnonzero(filled[:, j]))) if filled[:, j].any() else i for i, j in zip(boxes, faces)
    ]
    first, second = pyramids[boxes, faces].astype(np.float64), pyramids[partners, faces].astype(np.float64)
    members, outside = _members(points, np.concatenate([first, second], axis=0))
    result = [points[outside]]
    for a, b, index_a, index_b in zip(first, second, members, members[len(first) :]):
        points_a, points_b = points[index_a], points[index_b]
        result += [_exchange(points_b, points_a, b, a), _exchange(points_a, points_b, a, b)]
    return gt_boxes, np.concatenate(result, axis=0)
