"""Reading scans, and noticing those that are not what the configuration says.

A scan is float32 (N, C), one column for each name in ``DATA_CONFIG.POINT_FEATURE_ENCODING.src_feature_list``. It is a
``.bin`` file of plain float32, an array saved by numpy, or a ``.pcd``, ``.ply``, ``.las`` or ``.laz`` file.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import read_bytes
from .pcd import read_pcd
from .ply_las import read_las, read_ply

KEY = "DATA_CONFIG.POINT_FEATURE_ENCODING.src_feature_list"
SUFFIXES = (".bin", ".npy", ".pcd", ".ply", ".las", ".laz")
_SAMPLE = 5040  # numbers from the middle of a file that show how many columns it has: 0.3 ms
_WIDTHS = range(3, 17)


def find_scan(folder: Path, frame_id: str, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """``folder/<frame_id><suffix>`` of the first suffix for which it exists, else of the first suffix."""
    paths = [folder / f"{frame_id}{suffix}" for suffix in suffixes]
    return next((path for path in paths if path.is_file()), paths[0])


def read_scan(path: Path, feature_names: Sequence[str], where: str = "", drop_nonfinite: bool = False) -> np.ndarray:
    """The scan as float32 (N, len(feature_names)): x, y, z in metres, then the other features. N may be 0.

    Args:
        path: a file with one of SUFFIXES.
        feature_names: src_feature_list of the configuration.
        where: the start of every message, "frame 000042: " for example.
        drop_nonfinite: points with NaN and infinite values are left out; else they are an error.

    Raises:
        InputError: the file is missing, cut off, of another type or number of columns, or no scan.
    """
    if path.suffix == ".npy":
        points = _read_npy(path, feature_names, where)
    elif path.suffix == ".pcd":
        points = read_pcd(path, feature_names, where)
    elif path.suffix == ".ply":
        points = read_ply(path, feature_names, where)
    elif path.suffix in (".las", ".laz"):
        points = read_las(path, feature_names, where)
    elif path.suffix == ".bin":
        points = _read_bin(path, feature_names, where)
    else:
        raise InputError(f"{where}{path}: a scan is a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    return finite_points(points, path, where, drop_nonfinite)


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
        f"first is point {int(np.argmin(finite))}; repair the scan, or set DROP_NONFINITE_POINTS: True under "
        "DATA_CONFIG to leave such points out"
    )


def _read_bin(path: Path, feature_names: Sequence[str], where: str) -> np.ndarray:
    data = read_bytes(path, "scan")
    columns = len(feature_names)
    numbers = np.frombuffer(data, "<f4", len(data) // 4)
    _check_type(data, numbers, path, where)
    if len(data) % (4 * columns):
        width = likely_columns(numbers, columns)
        hint = f"; its numbers look like {width} columns" if width != columns else ""
        raise InputError(
            f"{where}the scan {path} has {len(data)} bytes, not a multiple of {4 * columns} for {columns} float32 "
            f"columns ({', '.join(feature_names)}: {KEY}): it is cut off, or of another form{hint}"
        )
    width = likely_columns(numbers, columns)
    if width != columns:
        raise InputError(
            f"{where}the scan {path} looks like {width} columns, and {columns} are read ({', '.join(feature_names)}); "
            f"name all columns of the file in {KEY}"
        )
    return numbers.reshape(-1, columns).astype(np.float32)  # a copy that can be written to


def _read_npy(path: Path, feature_names: Sequence[str], where: str) -> np.ndarray:
    try:
        points = np.load(io.BytesIO(read_bytes(path, "scan")), allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise InputError(f"{where}{path} is not an array saved by numpy, or is cut off: {error}") from error
    if (
        not isinstance(points, np.ndarray)
        or points.ndim != 2
        or points.shape[1] != len(feature_names)
        or points.dtype.kind not in "fiu"
    ):
        what = f"an array {points.shape} of {points.dtype}" if isinstance(points, np.ndarray) else "several arrays"
        raise InputError(
            f"{where}{path} holds {what}; a scan has {len(feature_names)} columns ({', '.join(feature_names)}: {KEY})"
        )
    return points.astype(np.float32)


def likely_columns(numbers: np.ndarray, columns: int) -> int:
    """``columns``, or another number where the numbers (N * C,) of a scan clearly have that many columns.

    With the right number of columns, their ranges differ: x, y and z of a scene, an intensity. With another number,
    every column is a mixture, therefore the columns are alike. Measured is the share of the variance of the ranks that
    lies between columns: 0.5 to 0.85 for the right number in scans of KITTI, nuScenes and the simulator, the same for
    its multiples, below 0.1 for others. Half of the right number has more than half of the share, and is not noticed.
    """
    sample = np.abs(numbers[max(0, (len(numbers) - _SAMPLE) // 2) :][:_SAMPLE])
    if len(sample) < 100 * columns:
        return columns
    _, inverse, counts = np.unique(sample, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # equal numbers share a rank
    ranks -= ranks.mean()
    shares = {
        width: np.square(ranks[: len(ranks) // width * width].reshape(-1, width).mean(axis=0)).mean()
        for width in {columns, *_WIDTHS}
    }
    # multiples have the same share
    best = min(width for width in shares if shares[width] >= 0.97 * max(shares.values()))
    return best if shares[best] > 0.3 * ranks.var() and shares[columns] < 0.5 * shares[best] else columns


def _check_type(data: bytes, numbers: np.ndarray, path: Path, where: str) -> None:
    """float64, integers and big-endian numbers, read as float32, have exponents from 1e-38 to 1e38."""
    middle = max(0, len(numbers) // 2 - _SAMPLE // 2) // 2 * 2

    def wild(values: np.ndarray) -> float:
        with np.errstate(invalid="ignore"):
            size = np.abs(values[np.isfinite(values)].astype(np.float64))
            return float(np.mean((size > 1e7) | ((size > 0) & (size < 1e-9)))) if len(size) else 0.0

    if len(numbers) < 16 or wild(numbers[middle:][:_SAMPLE]) < 0.1:
        return
    as_double = np.frombuffer(data, "<f8", len(data) // 8)[middle // 2 :][: _SAMPLE // 2]
    hint = "it looks like float64: " if len(data) % 8 == 0 and wild(as_double) < 0.01 else ""
    raise InputError(
        f"{where}the numbers in {path} are no float32 coordinates in metres; {hint}write the scan with "
        "points.astype(numpy.float32).tofile(path)"
    )
