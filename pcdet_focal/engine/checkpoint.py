"""Writing checkpoints, finding the ones that are there, loading one to use it. The format is OpenPCDet's."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from .. import __version__
from ..errors import InputError
from ..models.model_utils.checkpoint_files import safetensors_torch
from ..models.model_utils.checkpoint_loading import match_state, model_state


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A file to write beside ``path``; it takes that name when it is complete and disappears when writing it fails or
    is interrupted.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def checkpoint_state(
    model: nn.Module, optimizer=None, epoch: int | None = None, it: int | None = None, **extra
) -> dict:
    """What a checkpoint holds: ``epoch`` (finished epochs), ``it`` (finished iterations), model_state, optimizer_state,
    version, extras.
    """
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
    """Write ``state`` to ``filename`` with ``.pth`` appended where it is missing. A file of that name is replaced only
    by a whole one.
    """
    path = Path(f"{filename}" if str(filename).endswith(".pth") else f"{filename}.pth")
    with atomic_write(path) as part:
        torch.save(state, part)
    return path


def save_safetensors(state: dict, filename: str | Path) -> Path:
    """Write a checkpoint's weights to a ``.safetensors`` file: a format without code in it, which other tools read too.

    Epoch, it, version, config and scans go into its header as text; an optimiser's state does not fit the format and
    stays behind. ``read_checkpoint``, and with it every ``--ckpt`` and ``--pretrained_model``, reads the file.
    """
    path = Path(f"{filename}" if str(filename).endswith(".safetensors") else f"{filename}.safetensors")
    header = {key: str(state[key]) for key in ("epoch", "it", "version") if state.get(key) is not None}
    header |= {key: json.dumps(state[key]) for key in ("config", "scans") if state.get(key) is not None}
    weights = {key: value.detach().contiguous() for key, value in state["model_state"].items()}
    with atomic_write(path) as part:
        safetensors_torch().save_file(weights, part, metadata={"format": "pt", **header})
    return path


def load_for_use(
    model: nn.Module,
    filename: str | Path,
    logger,
    pre_trained_path: str | Path | None = None,
    checkpoint: dict | None = None,
) -> None:
    """Load a checkpoint into a model that is used as it then is: every weight must be in the file (or in
    ``pre_trained_path``). ``checkpoint``: what ``read_checkpoint`` made of the file, if that has been done.

    Raises InputError where one is missing or has another shape: figures of a detector that is partly random would only
    mislead.
    """
    fitting, problems = match_state(model, model_state(model, filename, pre_trained_path, checkpoint=checkpoint))
    counters = ("global_step", "num_batches_tracked")  # of training
    missing = [key for key in model.state_dict() if key not in fitting and not key.endswith(counters)]
    if missing:
        reason = next(problem for problem in problems if problem.startswith(f"{missing[0]}:"))
        raise InputError(
            f"{filename} is a checkpoint of another architecture: it lacks {len(missing)} weights of this model, for "
            f"example {reason}"
        )
    model.load_state_dict(fitting, strict=False)
    for problem in problems:
        logger.info("not loaded: %s", problem)
    logger.info("loaded %d of %d weights from %s", len(fitting), len(model.state_dict()), filename)


def epoch_checkpoints(ckpt_dir: str | Path) -> list[tuple[int, Path]]:
    """(epoch, file) of every ``checkpoint_epoch_N.pth`` in a folder, by epoch."""
    epochs = (
        (re.fullmatch(r"checkpoint_epoch_(\d+)\.pth", path.name), path)
        for path in Path(ckpt_dir).glob("checkpoint_epoch_*.pth")
    )
    return sorted((int(match.group(1)), path) for match, path in epochs if match)


def newest_checkpoint(ckpt_dir: str | Path) -> Path | None:
    """The checkpoint written last, an epoch's or ``latest_model.pth``; None in an empty folder."""
    paths = [path for _, path in epoch_checkpoints(ckpt_dir)]
    latest = Path(ckpt_dir) / "latest_model.pth"
    if latest.exists():
        paths.append(latest)
    return max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)


def remove_old_checkpoints(ckpt_dir: str | Path, keep: int) -> None:
    """Delete all but the ``keep`` (at least 1) checkpoints of the last epochs."""
    for _, path in epoch_checkpoints(ckpt_dir)[: -max(keep, 1)]:
        path.unlink()
