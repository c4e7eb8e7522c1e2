"""Info files: pickled lists with one dict a frame, which a command makes once and training and evaluation read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..safe_pickle import load_pickle

_WIDTHS = {"bbox": 4, "dimensions": 3, "location": 3, "gt_boxes_lidar": 7}  # min columns of annos


def load_infos(root_path: Path, names: Sequence[str], how_to_make: str, logger: Any = None) -> list[dict[str, Any]]:
    """The infos of all files ``names`` in ``root_path``, one after the other; a file that does not exist is left out
    with a word in the log.

    ``how_to_make`` is the command that makes them. Lists in ``annos`` become arrays. Raises InputError (file, frame,
    key) for a file that holds something else.
    """
    infos: list[dict[str, Any]] = []
    for name in names:
        path = root_path / name
        if not path.exists():
            if logger is not None:
                logger.warning(f"There is no info file {path}; make it with: {how_to_make}")
            continue
        frames = load_pickle(path)
        if not (
            isinstance(frames, list) and all(isinstance(frame, dict) and "point_cloud" in frame for frame in frames)
        ):
            raise InputError(f"{path} is not a list of frames; make it anew with: {how_to_make}")
        for index, frame in enumerate(frames):
            if "annos" in frame:
                frame["annos"] = _arrays(frame["annos"], f"{path}, frame {_frame_id(frame, index)}: annos")
        infos.extend(frames)
    return infos


def _frame_id(frame: dict[str, Any], index: int) -> Any:
    cloud = frame["point_cloud"]
    return cloud.get("lidar_idx", f"number {index}") if isinstance(cloud, dict) else f"number {index}"


def _arrays(annos: Any, where: str) -> dict[str, Any]:
    """``annos`` with an array in each list's place: other tools write lists."""
    if not isinstance(annos, dict) or not isinstance(annos.get("name"), (list, tuple, np.ndarray)):
        raise InputError(f"{where} must be a mapping of arrays with one row an object, `name` among them")
    made, num_objects = {}, sum(name != "DontCare" for name in annos["name"])  # the last rows, only some keys have them
    for key, rows in annos.items():
        if isinstance(rows, (list, tuple)):
            try:
                rows = np.array(rows)
            except ValueError:
                raise InputError(f"{where}.{key}: its rows have different lengths") from None
            if not len(rows):
                rows = np.zeros((0, _WIDTHS[key]) if key in _WIDTHS else 0, "U1" if key == "name" else np.float64)
            elif rows.dtype.kind not in "fiub" and (rows.dtype.kind != "U" or key in _WIDTHS):
                raise InputError(f"{where}.{key}: it holds {rows.dtype} in the place of numbers")
        if isinstance(rows, np.ndarray):
            if rows.ndim == 0 or len(rows) < num_objects:
                raise InputError(f"{where}.{key} has {len(rows) if rows.ndim else 'no'} rows for {num_objects} objects")
            if key in _WIDTHS and (rows.ndim != 2 or rows.shape[1] < _WIDTHS[key]):
                raise InputError(f"{where}.{key} is {rows.shape}; (objects, {_WIDTHS[key]}) is needed")
        made[key] = rows
    return made


def no_infos(root_path: Path, names: Sequence[str], mode: str, how_to_make: str) -> str:
    """A sentence for the person whose data set has no frame."""
    paths = ", ".join(str(root_path / name) for name in names)
    return f"no {mode}ing frame: {paths} does not exist or lists none. Make it with: {how_to_make}"
