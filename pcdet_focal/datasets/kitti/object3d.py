"""One object of a KITTI label file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import InputError
from ...files import finite_number, read_lines

_FIELDS = (
    "truncation",
    "occlusion",
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
)
_CLASS_IDS = {"Car": 1, "Pedestrian": 2, "Cyclist": 3, "Van": 4}


def cls_type_to_id(cls_type: str) -> int:
    """1 Car, 2 Pedestrian, 3 Cyclist, 4 Van, else -1."""
    return _CLASS_IDS.get(cls_type, -1)


def difficulty_level(height: float, truncation: float, occlusion: float) -> int:
    """KITTI's difficulty of an object whose rectangle in the image is ``height`` pixels high: 0 easy, 1 moderate, 2
    hard, -1 none of them.
    """
    for level, (min_height, max_truncation, max_occlusion) in enumerate(((40, 0.15, 0), (25, 0.3, 1), (25, 0.5, 2))):
        if height >= min_height and truncation <= max_truncation and occlusion <= max_occlusion:
            return level
    return -1


def get_objects_from_label(label_file: str | Path) -> list[Object3d]:
    """The objects of a label file in its order, DontCare included; blank lines are skipped.

    Raises InputError (file, line number, what is wrong) for a line that is no label.
    """
    objects = []
    for number, line in enumerate(read_lines(label_file, "label file"), start=1):
        if line.strip():
            try:
                objects.append(Object3d(line))
            except InputError as error:
                raise InputError(f"{label_file}, line {number}: {error}") from None
    return objects


class Object3d:
    """A label line as numbers; names and types are OpenPCDet's.

    cls_type; cls_id; truncation 0 … 1; occlusion 0 visible, 1 partly, 2 largely, 3 unknown; alpha; box2d (4,) float32
    x1, y1, x2, y2 in pixels; h, w, l in metres; loc (3,) float32, bottom centre in the rectified camera frame;
    dis_to_cam; ry; score (-1 in labels); level 0 easy, 1 moderate, 2 hard, -1 none of them; level_str.
    """

    def __init__(self, line: str) -> None:
        self.src = line
        name, *words = line.split()
        if len(words) < 14:
            raise InputError(
                "a KITTI label has 15 fields: type truncated occluded alpha x1 y1 x2 y2 h w l x y z rotation_y, and "
                f"may have a score and more after them; this line has {len(words) + 1}: '{line.strip()}'"
            )
        numbers = [finite_number(word, f"the {field}") for word, field in zip(words[:14], _FIELDS)]
        self.cls_type = name
        self.cls_id = cls_type_to_id(name)
        self.truncation, self.occlusion, self.alpha = numbers[:3]
        self.box2d = np.array(numbers[3:7], dtype=np.float32)
        self.h, self.w, self.l = numbers[7:10]
        self.loc = np.array(numbers[10:13], dtype=np.float32)
        self.dis_to_cam = np.linalg.norm(self.loc)
        self.ry = numbers[13]
        self.score = _score(words[14:])
        self.level_str = ""
        self.level = self.get_kitti_obj_level()
        if name != "DontCare" and min(self.h, self.w, self.l) <= 0:
            raise InputError(
                f"the {name} has height {self.h}, width {self.w}, length {self.l}; they are metres and must be positive"
            )

    def get_kitti_obj_level(self) -> int:
        """The difficulty as OpenPCDet has it (sets ``level_str``): its height counts both border pixels, so y2 - y1 of
        39 and 24 are enough, where the benchmark's evaluator asks for 40 and 25.
        """
        level = difficulty_level(float(self.box2d[3]) - float(self.box2d[1]) + 1, self.truncation, self.occlusion)
        self.level_str = ("Easy", "Moderate", "Hard", "UnKnown")[level]
        return level

    def generate_corners3d(self) -> np.ndarray:
        """(8, 3) corners in the rectified camera frame: the four at the bottom, then the four at the top."""
        x = self.l / 2 * np.array([1, 1, -1, -1, 1, 1, -1, -1])
        y = -self.h * np.array([0, 0, 0, 0, 1, 1, 1, 1])
        z = self.w / 2 * np.array([1, -1, -1, 1, 1, -1, -1, 1])
        cosine, sine = np.cos(self.ry), np.sin(self.ry)
        return np.stack([cosine * x + sine * z, y, cosine * z - sine * x], axis=1) + self.loc

    def to_str(self) -> str:
        """For people."""
        return (
            f"{self.cls_type} {self.truncation:.3f} {self.occlusion:.3f} {self.alpha:.3f} box2d: {self.box2d} "
            f"hwl: [{self.h:.3f} {self.w:.3f} {self.l:.3f}] pos: {self.loc} ry: {self.ry:.3f}"
        )

    def to_kitti_format(self) -> str:
        """The label line again, two digits after the point, without the score."""
        numbers = [self.alpha, *self.box2d, self.h, self.w, self.l, *self.loc, self.ry]
        return " ".join(
            [
                self.cls_type,
                f"{self.truncation:.2f}",
                f"{int(self.occlusion)}",
                *(f"{number:.2f}" for number in numbers),
            ]
        )


def _score(words: list[str]) -> float:
    """The score, -1 without one: exporters append other words as well, an identity or a number of points."""
    try:
        return float(words[0]) if words else -1.0
    except ValueError:
        return -1.0
