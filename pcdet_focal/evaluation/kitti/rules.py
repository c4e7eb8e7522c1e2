"""The rules of the KITTI object benchmark: which objects count, which are ignored, which do not exist, for a class and
a difficulty.

Source: the benchmark's development kit (https://www.cvlibs.net/datasets/kitti/eval_object.php), with the one deviation
that OpenPCDet's
Python evaluator makes: a ground truth whose image box is *exactly* as high as the minimum is ignored (the C++ program
counts it).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...errors import InputError, did_you_mean
from .annotations import FlatAnnotations

CLASS_NAMES = ("Car", "Pedestrian", "Cyclist", "Van", "Person_sitting", "Truck")
DIFFICULTIES = ("easy", "moderate", "hard")
METRICS = ("bbox", "bev", "3d")

MIN_HEIGHT = (40, 25, 25)  # pixels of the image box
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.3, 0.5)
NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}  # finding one of these is neither right nor wrong

# A detection finds a ground truth when their overlap is above these: (bbox, bev, 3d) for each class.
STRICT_OVERLAPS = {
    "Car": (0.7, 0.7, 0.7),
    "Pedestrian": (0.5, 0.5, 0.5),
    "Cyclist": (0.5, 0.5, 0.5),
    "Van": (0.7, 0.7, 0.7),
    "Person_sitting": (0.5, 0.5, 0.5),
    "Truck": (0.7, 0.7, 0.7),
}
LOOSE_OVERLAPS = {
    "Car": (0.7, 0.5, 0.5),
    "Pedestrian": (0.5, 0.25, 0.25),
    "Cyclist": (0.5, 0.25, 0.25),
    "Van": (0.7, 0.5, 0.5),
    "Person_sitting": (0.5, 0.25, 0.25),
    "Truck": (0.5, 0.5, 0.5),
}

COUNTED, IGNORED, ABSENT = 0, 1, -1
UNKNOWN_ALPHA = -10.0  # what a detector without orientation writes


def resolve_classes(classes: str | int | Iterable[str | int]) -> tuple[str, ...]:
    """Class names from one or many names or positions in :data:`CLASS_NAMES`.

    Raises:
        InputError: a class that KITTI does not evaluate, or none at all.
    """
    if isinstance(classes, (str, int, np.integer)):
        classes = [classes]
    names = []
    for entry in classes:
        if isinstance(entry, (int, np.integer)) and 0 <= entry < len(CLASS_NAMES):
            names.append(CLASS_NAMES[entry])
        elif isinstance(entry, str) and entry in CLASS_NAMES:
            names.append(str(entry))
        else:
            raise InputError(
                f"KITTI evaluation knows no class {entry!r}, only {', '.join(CLASS_NAMES)} (or 0 to 5)"
                f"{did_you_mean(entry, CLASS_NAMES)}"
            )
    if not names:
        raise InputError(f"KITTI evaluation needs at least one class out of {', '.join(CLASS_NAMES)}.")
    return tuple(names)


def ground_truth_states(gt: FlatAnnotations, class_name: str, difficulty: int) -> np.ndarray:
    """COUNTED, IGNORED (too hard, or the neighbour class) or ABSENT (another class) for each ground truth: (G,)
    int8.
    """
    same = gt.class_ids == CLASS_NAMES.index(class_name)
    too_hard = (
        (gt.occluded > MAX_OCCLUSION[difficulty])
        | (gt.truncated > MAX_TRUNCATION[difficulty])
        | (gt.heights <= MIN_HEIGHT[difficulty])
    )
    states = np.full(len(same), ABSENT, dtype=np.int8)
    states[same] = np.where(too_hard[same], IGNORED, COUNTED)
    if class_name in NEIGHBOURS:
        states[gt.class_ids == CLASS_NAMES.index(NEIGHBOURS[class_name])] = IGNORED
    return states


def detection_states(dt: FlatAnnotations, class_name: str, difficulty: int) -> np.ndarray:
    """COUNTED, IGNORED (lower than the minimum, **of any class**, as the official program has it) or ABSENT for each
    detection: (D,) int8.
    """
    states = np.where(dt.class_ids == CLASS_NAMES.index(class_name), COUNTED, ABSENT).astype(np.int8)
    states[np.abs(dt.heights) < MIN_HEIGHT[difficulty]] = IGNORED
    return states
