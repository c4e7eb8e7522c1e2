"""Where a data set lies: how ``DATA_PATH`` of a configuration becomes a folder, and what is said of files that are not
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError


def data_path_candidates(data_path: str | Path) -> list[Path]:
    """The places that a configured ``DATA_PATH`` can mean, in the order in which they are tried.

    An absolute path means itself. A relative one is taken from the working directory, and then from ``tools/`` inside
    it: OpenPCDet's own files say ``../data/kitti`` because its commands start in ``tools/``, so they work unchanged
    from the repository root.
    """
    path = Path(data_path).expanduser()
    if path.is_absolute():
        return [path]
    # pathlib keeps the "..", and tools/../data does not exist without a folder tools, so the second place is worked out
    # on paper.
    return [Path.cwd() / path, (Path.cwd() / "tools" / path).resolve()]


def resolve_data_path(data_path: str | Path) -> Path:
    """The first existing candidate, else the first one: whether a missing folder is a mistake is for the data set to
    say.
    """
    candidates = data_path_candidates(data_path)
    return next((path for path in candidates if path.exists()), candidates[0])


def find_folder(candidates: Sequence[Path], advice: str) -> Path:
    """The first of the candidates that is a folder. Raises InputError, with what was tried and ``advice`` (how to get
    one), where none is.
    """
    for path in candidates:
        if path.is_dir():
            return path
    raise InputError(
        f"the folder of the data set (DATA_CONFIG.DATA_PATH) is missing; tried {' and '.join(map(str, candidates))}. "
        f"{advice}"
    )


def require_file(path: Path, what: str, frame_id: str, layout: str, remedy: str = "add the file") -> None:
    """Raise InputError, naming file and frame, where ``path`` is missing, and with the ``layout`` of the data set where
    its whole folder is.
    """
    if path.is_file():
        return
    if not path.parent.is_dir():
        raise InputError(
            f"there is no folder {path.parent}, where {what} of frame {frame_id} should be. The layout is:\n{layout}"
        )
    raise InputError(
        f"frame {frame_id}: {what} {path} is missing; {remedy}, or take {frame_id} out of ImageSets and make the "
        "infos anew"
    )
