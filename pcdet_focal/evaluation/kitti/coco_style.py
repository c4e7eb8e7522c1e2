"""KITTI's average precision averaged over ten overlaps, as COCO does it: .5 to .95 for vehicles, .25 to .7 for people
and cyclists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .average_precision import evaluate_kitti
from .rules import CLASS_NAMES, METRICS, resolve_classes

NUM_OVERLAPS = 10
OVERLAP_RANGES = {name: (0.5, 0.95) if name in ("Car", "Van", "Truck") else (0.25, 0.7) for name in CLASS_NAMES}


def coco_style_text(
    gt_annos: Sequence[Mapping], dt_annos: Sequence[Mapping], classes: str | int | Iterable[str | int]
) -> str:
    """OpenPCDet's table of the R11 average precision (easy, moderate, hard), averaged over ten overlaps, for bbox, bev,
    3d and aos.

    Arguments and errors are those of :func:`evaluate_kitti`.
    """
    classes = resolve_classes(classes)
    sets = {
        str(i): {name: (np.linspace(*OVERLAP_RANGES[name], NUM_OVERLAPS)[i],) * len(METRICS) for name in classes}
        for i in range(NUM_OVERLAPS)
    }
    result = evaluate_kitti(gt_annos, dt_annos, classes, overlap_sets=sets)
    lines = []
    for name in classes:
        low, high = OVERLAP_RANGES[name]
        lines.append(f"{name} coco AP@{low:.2f}:{(high - low) / (NUM_OVERLAPS - 1):.2f}:{high:.2f}:")
        for metric, table in result.ap[name].items():
            mean = np.mean([entry["R11"] for entry in table.values()], axis=0)
            lines.append(f"{metric:<4} AP:{', '.join(f'{value:.2f}' for value in mean)}")
    return "\n".join(lines) + "\n"
