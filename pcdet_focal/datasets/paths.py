"""Where a data set lies: how ``DATA_PATH`` of a configuration becomes a folder."""
from __future__ import annotations

from pathlib import Path


def data_path_candidates(data_path: str | Path) -> list[Path]:
    """The places that a configured ``DATA_PATH`` can mean, in the order in which they are tried.

    An absolute path means itself. A relative one is taken from the working directory, and then from ``tools/`` inside it: OpenPCDet's own
    files say ``../data/kitti`` because its commands start in ``tools/``, so they work unchanged from the repository root.
    """
    path = Path(data_path).expanduser()
    if path.is_absolute():
        return [path]
    # pathlib keeps the "..", and tools/../data does not exist without a folder tools, so the second place is worked out on paper.
    return [Path.cwd() / path, (Path.cwd() / "tools" / path).resolve()]


def resolve_data_path(data_path: str | Path) -> Path:
    """The first existing candidate, else the first one: whether a missing folder is a mistake is for the data set to say."""
    candidates = data_path_candidates(data_path)
    return next((path for path in candidates if path.exists()), candidates[0])
