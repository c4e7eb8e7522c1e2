"""KITTI average precision of a folder of result files, on the command line::

python -m pcdet_focal.datasets.kitti.kitti_object_eval_python.evaluate --label_path data/kitti/training/label_2
    --result_path output/final_result/data --label_split_file data/kitti/ImageSets/val.txt
    --current_class Car Pedestrian Cyclist
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence

from ....errors import InputError
from ....evaluation.kitti.filters import filter_annos_low_score
from ....evaluation.kitti.labels import get_label_annos, read_image_ids
from .eval import get_coco_eval_result, get_official_eval_result


def evaluate(
    label_path: str | os.PathLike,
    result_path: str | os.PathLike,
    label_split_file: str | os.PathLike,
    current_class: str | int | Iterable[str | int] = 0,
    coco: bool = False,
    score_thresh: float = -1,
) -> tuple[str, dict] | str:
    """Evaluate the result files of the frames that a split file lists.

    Args:
        label_path, result_path: folders of ``<frame>.txt``; a frame without detections has an empty result file.
        label_split_file: the frames, one a line.
        current_class: class names or positions.
        coco: average over ten overlaps instead of the official ones.
        score_thresh: if above 0, ignore detections with a lower score.

    Returns:
        what get_official_eval_result returns, with ``coco`` the text of get_coco_eval_result.

    Raises:
        InputError: a missing folder or file, or one that cannot be understood (a result file needs scores).
    """
    image_ids = read_image_ids(label_split_file)
    gt_annos = get_label_annos(label_path, image_ids)
    dt_annos = get_label_annos(result_path, image_ids, require_score=True)
    if score_thresh > 0:
        dt_annos = filter_annos_low_score(dt_annos, score_thresh)
    return (get_coco_eval_result if coco else get_official_eval_result)(gt_annos, dt_annos, current_class)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="KITTI average precision of a folder of result files.")
    parser.add_argument("command", nargs="?", choices=["evaluate"], default="evaluate", help="may be left out")
    parser.add_argument("--label_path", required=True, help="folder of the label files")
    parser.add_argument(
        "--result_path", required=True, help="folder of the result files, one for each frame of the split"
    )
    parser.add_argument(
        "--label_split_file", required=True, help="the frames, one a line, for example ImageSets/val.txt"
    )
    parser.add_argument(
        "--current_class",
        nargs="+",
        default=["0"],
        help="class names or positions (0 Car, 1 Pedestrian, 2 Cyclist, ...), with blanks or commas between them",
    )
    parser.add_argument(
        "--coco",
        nargs="?",
        const="true",
        default="false",
        type=str.lower,
        choices=["true", "false"],
        help="average over ten overlaps",
    )
    parser.add_argument("--score_thresh", type=float, default=-1.0, help="ignore detections with a lower score")
    args = parser.parse_args(argv)
    names = [name for word in args.current_class for name in word.split(",") if name]
    classes = [int(name) if name.isdigit() else name for name in names]
    try:
        result = evaluate(
            args.label_path, args.result_path, args.label_split_file, classes, args.coco == "true", args.score_thresh
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(result if isinstance(result, str) else result[0], end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
