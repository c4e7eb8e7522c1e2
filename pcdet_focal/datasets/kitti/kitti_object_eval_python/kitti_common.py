"""OpenPCDet's names for KITTI label files and annotations; the work is done in :mod:`pcdet_focal.evaluation.kitti`."""

from __future__ import annotations

import os
from pathlib import Path

from ....errors import InputError
from ....evaluation.kitti.filters import (
    add_difficulty_to_annos,
    area,
    filter_annos_low_score,
    filter_kitti_anno,
    intersection,
    iou,
)
from ....evaluation.kitti.labels import get_label_anno, get_label_annos, kitti_result_line
from ....evaluation.kitti.labels import image_index_str as get_image_index_str

__all__ = [
    "add_difficulty_to_annos",
    "area",
    "filter_annos_low_score",
    "filter_kitti_anno",
    "get_calib_path",
    "get_image_index_str",
    "get_image_path",
    "get_kitti_info_path",
    "get_label_anno",
    "get_label_annos",
    "get_label_path",
    "get_velodyne_path",
    "intersection",
    "iou",
    "kitti_result_line",
]


def get_kitti_info_path(
    idx: int | str,
    prefix: str | os.PathLike,
    info_type: str = "image_2",
    file_tail: str = ".png",
    training: bool = True,
    relative_path: bool = True,
) -> str:
    """Path of one frame's file in the KITTI folder ``prefix``, relative to it or not.

    Raises:
        InputError: there is no such file.
    """
    path = Path("training" if training else "testing", info_type, get_image_index_str(idx) + file_tail)
    if not (Path(prefix) / path).exists():
        raise InputError(f"{Path(prefix) / path}: there is no such file.")
    return str(path if relative_path else Path(prefix) / path)


def get_image_path(idx: int | str, prefix: str | os.PathLike, training: bool = True, relative_path: bool = True) -> str:
    """Path of a frame's left colour image."""
    return get_kitti_info_path(idx, prefix, "image_2", ".png", training, relative_path)


def get_label_path(idx: int | str, prefix: str | os.PathLike, training: bool = True, relative_path: bool = True) -> str:
    """Path of a frame's label file."""
    return get_kitti_info_path(idx, prefix, "label_2", ".txt", training, relative_path)


def get_velodyne_path(
    idx: int | str, prefix: str | os.PathLike, training: bool = True, relative_path: bool = True
) -> str:
    """Path of a frame's scan."""
    return get_kitti_info_path(idx, prefix, "velodyne", ".bin", training, relative_path)


def get_calib_path(idx: int | str, prefix: str | os.PathLike, training: bool = True, relative_path: bool = True) -> str:
    """Path of a frame's calibration file."""
    return get_kitti_info_path(idx, prefix, "calib", ".txt", training, relative_path)
