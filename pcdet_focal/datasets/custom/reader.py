"""The files of a folder of one's own data, one function each. Every mistake in a file is an InputError that names
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...files import finite_number, read_lines
from ..paths import find_folder, require_file
from ..scans import read_scan

LAYOUT = """\
<DATA_PATH>/
  ImageSets/train.txt  val.txt  (test.txt)   one frame id a line, for example 000042
  points/000042.npy                          (N, columns): x, y, z in metres, then what src_feature_list names;
                                             or .bin (the same as plain float32) or .pcd
  labels/000042.txt                          one object a line: x y z dx dy dz heading class; empty without objects"""

_FIELDS = ("x", "y", "z", "dx", "dy", "dz", "heading")


def find_root(candidates: Sequence[Path]) -> Path:
    """The first of the candidates that is a folder. Raises InputError, with what was tried and the layout, where none
    is.
    """
    return find_folder(candidates, f"The layout is:\n{LAYOUT}")


def read_points(path: Path, frame_id: str, feature_names: Sequence[str], drop_nonfinite: bool = False) -> np.ndarray:
    """The scan as float32 (N, columns): x, y, z in metres and further features. N may be 0.

    Raises InputError, see :func:`pcdet_focal.datasets.scans.read_scan`.
    """
    require_file(path, "the scan", frame_id, LAYOUT)
    return read_scan(path, feature_names, f"frame {frame_id}: ", drop_nonfinite)


def read_labels(path: Path, frame_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float32 (M, 7) x, y, z, dx, dy, dz, heading, and their names (M,) str. M may be 0; blank lines and lines
    after a # are skipped.

    A line's last word is the class; numbers between the heading and the class are left out, as in OpenPCDet. Raises
    InputError for a missing file and, with the line's number, for a line of fewer than eight words, a word that is not
    a finite number, and a size that is not positive.
    """
    require_file(path, "the label file", frame_id, LAYOUT, "a frame without objects has an empty one: add it")
    boxes: list[list[float]] = []
    names: list[str] = []
    for number, line in enumerate(read_lines(path, "label file"), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 8:
            raise InputError(
                f"{path}:{number}: {len(words)} words; a label is: x y z dx dy dz heading class (a class name has no "
                "blanks)"
            )
        where = f"{path}:{number}"
        boxes.append([finite_number(word, f"the {field}", where) for word, field in zip(words, _FIELDS)])
        for word in words[7:-1]:
            finite_number(word, "a column before the class", where)
        if min(boxes[-1][3:6]) <= 0:
            raise InputError(
                f"{path}:{number}: the sizes dx, dy, dz are {', '.join(words[3:6])}; they are metres and must be "
                "positive"
            )
        names.append(words[-1])
    return np.array(boxes, dtype=np.float32).reshape(-1, 7), np.array(names, dtype=str)


def write_labels(path: Path, boxes: np.ndarray, names: Sequence[str]) -> None:
    """Write a label file: boxes (M, 7 or more) with four digits after the point, which is a tenth of a millimetre."""
    lines = [" ".join([*(f"{value:.4f}" for value in box[:7]), str(name)]) for box, name in zip(boxes, names)]
    path.parent.mkdir(parents=True, exist_ok=True)  # a frame "0000/000042" has a folder
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
