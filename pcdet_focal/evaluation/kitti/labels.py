"""KITTI label and result files: reading with an error that names file and line, and writing.

A line is ``name truncated occluded alpha x1 y1 x2 y2 height width length x y z rotation_y [score]``, separated by
blanks: 15 fields, 16 in a result file; what exporters append after them is skipped. Dimensions become (length, height,
width) in memory, the order in which OpenPCDet keeps them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...files import finite_number, read_lines

_FIELDS = (
    "truncated",
    "occluded",
    "alpha",
    "x1",
    "y1",
    "x2",
    "y2",
    "height",
    "width",
    "length",
    "x",
    "y",
    "z",
    "rotation_y",
    "score",
)


def image_index_str(image_index: int | str) -> str:
    """'000007' for 7: how KITTI names its files."""
    return f"{int(image_index):06d}"


def get_label_anno(label_path: str | os.PathLike, require_score: bool = False) -> dict[str, np.ndarray]:
    """Annotations of one label or result file.

    Args:
        label_path: the file.
        require_score: a line of 15 fields is an error.

    Returns:
        dict of name (N,) str, truncated (N,), occluded (N,) int64, alpha (N,), bbox (N, 4), dimensions (N, 3) length
        height width, location (N, 3), rotation_y (N,), score (N,) (zeros where the file has none); float64. An empty
        file gives N = 0; blank lines are skipped.

    Raises:
        InputError: no such file; a line of fewer than 15 fields, or with a score after lines without; a field
            that is not a finite number; no score where one is required.
    """
    names, rows = [], []
    width = 0
    for number, line in enumerate(read_lines(label_path, "label file"), start=1):
        fields = line.split()[:16]  # exporters append an identity or a number of points
        if len(fields) == 16 and not require_score and not _is_number(fields[15]):
            fields = fields[:15]
        if not fields:
            continue
        if len(fields) < 15:
            raise InputError(
                f"{label_path}:{number}: {len(fields)} fields; a KITTI label line has 15 (16 with a score)."
            )
        if width and len(fields) != width:
            raise InputError(
                f"{label_path}:{number}: {len(fields)} fields after lines of {width}; either every line has a score "
                "or none."
            )
        if require_score and len(fields) == 15:
            raise InputError(
                f"{label_path}:{number}: 15 fields; a line of a result file has 16, the last is the score."
            )
        width = len(fields)
        names.append(fields[0])
        rows.append(_numbers(fields, label_path, number))
    table = np.array(rows, dtype=np.float64).reshape(-1, width - 1 if width else 14)  # (N, 14 or 15)
    return {
        "name": np.array(names, dtype=str),
        "truncated": table[:, 0].copy(),
        "occluded": table[:, 1].astype(np.int64),
        "alpha": table[:, 2].copy(),
        "bbox": table[:, 3:7].copy(),
        "dimensions": table[:, [9, 7, 8]],
        "location": table[:, 10:13].copy(),
        "rotation_y": table[:, 13].copy(),
        "score": table[:, 14].copy() if width == 16 else np.zeros(len(table)),
    }


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _numbers(fields: list[str], path: str | os.PathLike, number: int) -> list[float]:
    where = f"{path}:{number}"
    values = [finite_number(field, name, where) for name, field in zip(_FIELDS, fields[1:])]
    if not values[1].is_integer():
        raise InputError(f"{where}: occluded is {fields[2]!r}; it must be a whole number.")
    return values


def get_label_annos(
    label_folder: str | os.PathLike, image_ids: int | Iterable[int | str] | None = None, require_score: bool = False
) -> list[dict[str, np.ndarray]]:
    """Annotations of the label files ``<frame>.txt`` of a folder, see :func:`get_label_anno`.

    Args:
        label_folder: where the files are.
        image_ids: which, in this order: names of frames, or numbers, which stand for six digits; a number n means 0
            ... n - 1; None all that are called NNNNNN.txt, and where none is, all .txt files, in ascending order.
        require_score: a line without a score is an error.

    Raises:
        InputError: no such folder, no such file, or a file that cannot be understood.
    """
    folder = Path(label_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of label files.")
    if image_ids is None:
        stems = sorted(path.stem for path in folder.glob("*.txt"))
        image_ids = [stem for stem in stems if re.fullmatch(r"\d{6}", stem)] or stems
    elif isinstance(image_ids, (int, np.integer)):
        image_ids = range(image_ids)
    return [get_label_anno(_label_file(folder, index), require_score) for index in image_ids]


def _label_file(folder: Path, frame: int | str) -> Path:
    """A name as it is; a number, and a name of digits that has no file, as six digits."""
    path = folder / f"{frame}.txt"
    if isinstance(frame, str) and (path.is_file() or not frame.isdigit()):
        return path
    return folder / f"{image_index_str(frame)}.txt"


def read_image_ids(path: str | os.PathLike) -> list[str]:
    """The frames of a split file (``ImageSets/val.txt``): one a line.

    Raises:
        InputError: no such file, or no text.
    """
    return [line.strip() for line in read_lines(path, "split file") if line.strip()]


_DEFAULTS = {
    "truncated": -1,
    "occluded": -1,
    "alpha": -10,
    "dimensions": (-1, -1, -1),
    "location": (-1000, -1000, -1000),
    "rotation_y": -10,
}
_LINE_KEYS = ("name", "truncated", "occluded", "alpha", "bbox", "dimensions", "location", "rotation_y", "score")


def kitti_result_line(result_dict: Mapping, precision: int = 4) -> str:
    """One line of text from the values of one object.

    Args:
        result_dict: name, bbox and optionally truncated, occluded, alpha, dimensions, location, rotation_y, score. The
            three dimensions are written in the order given (files want height, width, length); what is absent or None
            is written as KITTI's "unknown", a score not at all.
        precision: digits after the point.

    Raises:
        InputError: an unknown key, or no name or bbox.
    """
    unknown = [key for key in result_dict if key not in _LINE_KEYS]
    if unknown:
        raise InputError(f"kitti_result_line: unknown key {unknown[0]!r}; known are {', '.join(_LINE_KEYS)}.")
    fields = []
    for key in _LINE_KEYS:
        value = result_dict.get(key)
        if value is None:
            if key in ("name", "bbox") or (key == "score" and key in result_dict):
                raise InputError(f"kitti_result_line: {key!r} needs a value.")
            default = _DEFAULTS.get(key, ())
            fields += [str(entry) for entry in (default if isinstance(default, tuple) else (default,))]
        elif key in ("name", "occluded"):
            fields.append(str(value))
        else:
            fields += [f"{entry:.{precision}f}" for entry in np.ravel(value)]
    return " ".join(fields)
