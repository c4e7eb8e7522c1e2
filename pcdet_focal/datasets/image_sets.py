"""The lists of frames that make the splits of a data set: ImageSets/train.txt, val.txt, test.txt."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..files import read_lines


def read_split(path: Path) -> list[str]:
    """The frame ids of an ImageSets file, in its order; blank lines are skipped. An id is the name of the frame's files
    without suffix, and may have folders ("0000/000042"). Raises InputError for an id that stands twice or leads out of
    the data set.
    """
    ids = [line.strip() for line in read_lines(path, "list of frames") if line.strip()]
    if len(set(ids)) < len(ids):
        twice = next(frame_id for index, frame_id in enumerate(ids) if frame_id in ids[:index])
        raise InputError(f"{path}: frame {twice} stands twice; each frame of a split is listed once")
    for frame_id in ids:
        if frame_id.startswith("/") or ".." in frame_id.split("/"):
            raise InputError(f"{path}: frame {frame_id} leads out of the data set; write ids as 000042 or 0000/000042")
    return ids
