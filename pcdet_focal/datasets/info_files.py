"""Info files: pickled lists with one dict a frame, which a command makes once and training and evaluation read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .safe_pickle import load_pickle


def load_infos(root_path: Path, names: Sequence[str], how_to_make: str, logger: Any = None) -> list[dict[str, Any]]:
    """The infos of all files ``names`` in ``root_path``, one after the other; a file that does not exist is left out
    with a word in the log.

    ``how_to_make`` is the command that makes them. Raises InputError for a file that holds something else.
    """
    found: list[dict[str, Any]] = []
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
        found.extend(frames)
    return found


def no_infos(root_path: Path, names: Sequence[str], mode: str, how_to_make: str) -> str:
    """A sentence for the person whose data set has no frame."""
    paths = ", ".join(str(root_path / name) for name in names)
    return f"no {mode}ing frame: {paths} does not exist or lists none. Make it with: {how_to_make}"
