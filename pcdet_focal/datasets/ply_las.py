"""Scans in .ply files (read by plyfile) and in .las and .laz files (read by laspy): the extra "formats"."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError, nearest_or_all
from ..files import read_bytes

_HINT = 'pip install "pcdet_focal[formats]"'


def read_ply(path: Path, feature_names: Sequence[str], where: str = "") -> np.ndarray:
    """The properties ``feature_names`` of the vertices as float32 (N, len(feature_names)).

    Raises InputError: the file is damaged, lacks a property, or plyfile is not installed.
    """
    try:
        from plyfile import PlyData
    except ImportError as error:
        raise InputError(f"{where}{path}: .ply files need the package plyfile: {_HINT}") from error
    data = io.BytesIO(read_bytes(path, "scan"))
    try:
        vertices = PlyData.read(data, mmap=False)["vertex"].data
    except Exception as error:  # damaged files raise anything
        raise _damaged(path, ".ply", where, error) from error
    return _columns(path, feature_names, list(vertices.dtype.names), vertices.__getitem__, where)


def read_las(path: Path, feature_names: Sequence[str], where: str = "") -> np.ndarray:
    """The dimensions ``feature_names`` as float32 (N, len(feature_names)); x, y and z with scale and offset.

    Raises InputError: the file is damaged, lacks a dimension, or laspy is not installed.
    """
    try:
        import laspy
    except ImportError as error:
        raise InputError(f"{where}{path}: {path.suffix} files need the package laspy: {_HINT}") from error
    data = io.BytesIO(read_bytes(path, "scan"))
    try:
        cloud = laspy.read(data)
    except Exception as error:  # damaged files raise anything
        raise _damaged(path, path.suffix, where, error) from error
    names = ["x", "y", "z", *(name for name in cloud.point_format.dimension_names if name not in ("X", "Y", "Z"))]
    return _columns(path, feature_names, names, cloud.__getitem__, where)


def _columns(
    path: Path, feature_names: Sequence[str], names: list[str], column: Callable[[str], np.ndarray], where: str
) -> np.ndarray:
    by_lower_case = {name.lower(): name for name in names}
    for name in feature_names:
        if name.lower() not in by_lower_case:
            raise InputError(
                f"{where}{path} has no field {name}; {nearest_or_all(name, names)} (its fields are {', '.join(names)}; "
                "DATA_CONFIG.POINT_FEATURE_ENCODING.src_feature_list names what is read)"
            )
    columns = [np.asarray(column(by_lower_case[name.lower()]), np.float32) for name in feature_names]
    return np.stack(columns, axis=1)


def _damaged(path: Path, suffix: str, where: str, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    return InputError(f"{where}{path} is cut off or no {suffix} file: {reason}")
