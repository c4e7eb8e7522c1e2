"""The lists of frames that make the splits of a data set: ImageSets/train.txt, val.txt, test.txt."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError


def read_split(path: Path) -> list[str]:
    """The frame ids of an ImageSets file, in its order; blank lines are skipped. Raises InputError for one that stands
    twice.
    """
    ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(set(ids)) < len(ids):
        twice = next(frame_id for place, frame_id in enumerate(ids) if frame_id in ids[:place])
        raise InputError(f"{path}: frame {twice} stands twice; each frame of a split is listed once")
    return ids
