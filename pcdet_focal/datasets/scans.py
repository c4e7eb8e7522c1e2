"""Reading scans that numpy saved, and what to do with points that are not numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError


def read_npy_scan(path: Path, feature_names: Sequence[str], where: str = "") -> np.ndarray:
    """The array (N, len(feature_names)) of a .npy file as float32; N may be 0.

    ``where`` opens every message, "frame 000042: " for example. Raises InputError, naming the file, for one that is cut
    off, holds anything else than an array of numbers, or has another number of columns than ``feature_names``
    (src_feature_list of the configuration).
    """
    try:
        points = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{where}{path} is not an array saved by numpy, or is cut off: {error}") from error
    if (
        not isinstance(points, np.ndarray)
        or points.ndim != 2
        or points.shape[1] != len(feature_names)
        or points.dtype.kind not in "fiu"
    ):
        what = f"an array {points.shape} of {points.dtype}" if isinstance(points, np.ndarray) else "several arrays"
        raise InputError(
            f"{where}{path} holds {what}; a scan has {len(feature_names)} columns ({', '.join(feature_names)}: "
            "DATA_CONFIG.POINT_FEATURE_ENCODING.src_feature_list)"
        )
    return points.astype(np.float32)


def finite_points(points: np.ndarray, path: Path, where: str = "", drop_nonfinite: bool = False) -> np.ndarray:
    """``points`` (N, C) where all are finite numbers; else InputError naming ``path``, or without the others where
    ``drop_nonfinite``.
    """
    finite = np.isfinite(points)  # (N, C)
    if finite.all():
        return points
    finite = finite.all(axis=1)
    if drop_nonfinite:
        return points[finite]
    raise InputError(
        f"{where}{np.count_nonzero(~finite)} of the {len(points)} points in {path} have NaN or infinite values, the "
        "first is point "
        f"{int(np.argmin(finite))}; repair the scan, or set DROP_NONFINITE_POINTS: True under DATA_CONFIG to leave "
        "such points out"
    )
