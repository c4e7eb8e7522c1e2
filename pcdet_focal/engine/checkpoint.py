"""Writing checkpoints, and finding the ones that are there. The format is OpenPCDet's; reading is in models/model_utils."""
from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import torch
from torch import nn

from .. import __version__


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A file to write beside ``path``; it takes that name when it is complete and disappears when writing it fails or is interrupted."""
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def checkpoint_state(model: nn.Module, optimizer=None, epoch: int | None = None, it: int | None = None, **extra) -> dict:
    """What a checkpoint holds: ``epoch`` (finished epochs), ``it`` (finished iterations), model_state, optimizer_state, version, extras."""
    model = getattr(model, "module", model)  # without the wrapper of several processes
    return {
        "epoch": epoch,
        "it": it,
        "model_state": {key: value.cpu() for key, value in model.state_dict().items()},
        "optimizer_state": None if optimizer is None else optimizer.state_dict(),
        "version": f"pcdet_focal+{__version__}",
        **extra,
    }


def save_checkpoint(state: dict, filename: str | Path) -> Path:
    """Write ``state`` to ``filename`` with ``.pth`` appended where it is missing. A file of that name is replaced only by a whole one."""
    path = Path(f"{filename}" if str(filename).endswith(".pth") else f"{filename}.pth")
    with whole_file(path) as part:
        torch.save(state, part)
    return path


def epoch_checkpoints(ckpt_dir: str | Path) -> list[tuple[int, Path]]:
    """(epoch, file) of every ``checkpoint_epoch_N.pth`` in a folder, by epoch."""
    found = ((re.fullmatch(r"checkpoint_epoch_(\d+)\.pth", path.name), path) for path in Path(ckpt_dir).glob("checkpoint_epoch_*.pth"))
    return sorted((int(match.group(1)), path) for match, path in found if match)


def newest_checkpoint(ckpt_dir: str | Path) -> Path | None:
    """The checkpoint written last, an epoch's or ``latest_model.pth``; None in an empty folder."""
    paths = [path for _, path in epoch_checkpoints(ckpt_dir)]
    latest = Path(ckpt_dir) / "latest_model.pth"
    if latest.exists():
        paths.append(latest)
    return max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)


def remove_old_checkpoints(ckpt_dir: str | Path, keep: int) -> None:
    """Delete all but the ``keep`` (at least 1) checkpoints of the last epochs."""
    for _, path in epoch_checkpoints(ckpt_dir)[:-max(keep, 1)]:
        path.unlink()
