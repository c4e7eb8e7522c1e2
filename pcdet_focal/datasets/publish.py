"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A new folder to write in, inside ``folder``; on success its content moves to ``folder`` (replacing what has the
    same name there), on an error it disappears. Inside ``folder``, because a rename does not cross file systems.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".unfinished_", dir=folder))
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield staging
        retired = staging / ".retired"
        retired.mkdir()
        for made in sorted(path for path in staging.iterdir() if path != retired):
            target = folder / made.name
            if target.is_dir():  # a folder cannot be replaced in one step: the old one steps aside first
                os.replace(target, retired / made.name)
            os.replace(made, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def save_pickle(content: Any, path: Path) -> None:
    """Pickle ``content`` in a protocol that every Python 3 reads."""
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=4)
