"""Points inside the convex hull of a few corners (a box, a pyramid, a camera frustum)."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np

MAX_CORNERS = 32  # the faces are found by trying every three corners: 4,960 planes at this limit, 56 for a box


def in_hull(p: np.ndarray, hull: Any) -> np.ndarray:
    """Which points lie inside the convex hull of some corners; points on its faces count as inside.

    The corners are few, so every plane through three of them that has all the others on one side is a face, and a point
    is inside where it is on the inner side of each. That takes as long as the Delaunay triangulation OpenPCDet makes
    for every box, and needs no scipy.

    Args:
        p: (N, K) points, K = 2 or 3.
        hull: (M, K) corners in any order, M up to 32; or a ``scipy.spatial.Delaunay``, which is then asked.

    Returns:
        (N,) bool. All False, with a warning, where the corners have no volume.

    Raises:
        ValueError: shapes that do not fit, or too many corners.
    """
    if hasattr(hull, "find_simplex"):
        return hull.find_simplex(p) >= 0
    p, hull = np.asarray(p), np.asarray(hull, dtype=np.float64)
    if p.ndim != 2 or hull.ndim != 2 or p.shape[1] != hull.shape[1] or hull.shape[1] not in (2, 3):
        raise ValueError(
            f"in_hull takes points (N, K) and corners (M, K) with K = 2 or 3, got the shapes {p.shape} and "
            f"{hull.shape}."
        )
    if len(hull) > MAX_CORNERS:
        raise ValueError(
            f"in_hull takes up to {MAX_CORNERS} corners, got {len(hull)}; pass a scipy.spatial.Delaunay of them "
            "instead."
        )

    inside = np.zeros(len(p), dtype=bool)
    normals, offsets, slack = _faces(hull)
    if len(normals) == 0:
        warnings.warn(f"These corners have no volume, so no point is inside them: {hull.tolist()}", stacklevel=2)
        return inside
    near = np.arange(len(p))
    for axis, (low, high) in enumerate(zip((hull.min(axis=0) - slack).tolist(), (hull.max(axis=0) + slack).tolist())):
        near = near[(p[near, axis] >= low) & (p[near, axis] <= high)]
    inside[near] = (p[near].astype(np.float64) @ normals.T <= offsets + slack).all(axis=1)
    return inside


def _faces(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Unit outward normals (F, K), offsets (F,) with ``normal . point <= offset`` inside, and the slack for rounding,
    metres.
    """
    dims = corners.shape[1]
    centre = corners.mean(axis=0) if len(corners) else np.zeros(dims)
    local = corners - centre
    size = float(np.abs(local).max()) if len(corners) else 0.0
    empty = np.zeros((0, dims)), np.zeros(0), 0.0
    # 1e-6 of the size is what float32 corners leave of a flat hull
    if len(corners) <= dims or np.linalg.svd(local, compute_uv=False)[-1] <= 1e-6 * size:
        return empty
    chosen = local[np.array(list(itertools.combinations(range(len(local)), dims)))]  # (T, K, K)
    edges = chosen[:, 1:] - chosen[:, :1]
    # (T, K)
    normals = np.cross(edges[:, 0], edges[:, 1]) if dims == 3 else np.stack((edges[:, 0, 1], -edges[:, 0, 0]), axis=1)
    length = np.linalg.norm(normals, axis=1)
    upright = length > 1e-9 * size ** (dims - 1)  # three corners on one line span no plane
    normals = normals[upright] / length[upright, None]
    offsets = (normals * chosen[upright, 0]).sum(axis=1)
    flip = np.where(offsets < 0, -1.0, 1.0)  # the centre is inside, so an outward normal has a positive offset
    normals, offsets = normals * flip[:, None], offsets * flip
    slack = 1e-9 * size
    is_face = (local @ normals.T <= offsets + slack).all(axis=0)
    normals = normals[is_face]
    return normals, offsets[is_face] + normals @ centre, slack
