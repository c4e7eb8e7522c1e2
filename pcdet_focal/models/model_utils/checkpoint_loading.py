"""Reading checkpoints into a model: what fits, what does not, and why; never executing pickled code."""
from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import InputError


def read_checkpoint(filename: str | Path) -> dict:
    """The contents of a ``.pth`` file, tensors on the CPU. Files may come from elsewhere, so only tensors and plain containers are read.

    Raises:
        InputError: no such file, not a checkpoint (no ``model_state``), or a file that holds code.
    """
    path = Path(filename)
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: refused: it holds more than tensors and plain values, or it is damaged") from error
    except (RuntimeError, EOFError, OSError, LookupError, ValueError, AttributeError, TypeError) as error:  # whatever torch meets in such files
        raise InputError(f"{path} is not a readable checkpoint: cut short, damaged, or another kind of file") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_state"), dict):
        raise InputError(f"{path} is not a checkpoint: it has no entry model_state")
    return content


def match_state(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The entries of ``state`` that fit ``model``, and one line for each that does not, or that the model has and ``state`` lacks."""
    own = model.state_dict()
    fitting, problems = {}, []
    for key, value in state.items():
        if key not in own:
            problems.append(f"{key}: the model has no such weight")
        elif own[key].shape != value.shape:
            problems.append(f"{key}: shape {tuple(value.shape)} in the file, {tuple(own[key].shape)} in the model")
        else:
            fitting[key] = value
    problems += [f"{key}: not in the file" for key in own if key not in state]
    return fitting, problems


def load_params_from_file(model: nn.Module, filename: str | Path, logger, pre_trained_path: str | Path | None = None) -> None:
    """Load what fits of a checkpoint's weights and log what does not. Raises InputError where nothing but buffers would fit."""
    state = dict(read_checkpoint(filename)["model_state"])
    if pre_trained_path is not None:
        state.update(read_checkpoint(pre_trained_path)["model_state"])
    fitting, problems = match_state(model, state)
    if not set(fitting) & {name for name, _ in model.named_parameters()}:
        raise InputError(f"{filename} is a checkpoint of another architecture: none of its weights fits this model, for example {problems[0]}")
    model.load_state_dict(fitting, strict=False)
    for problem in problems:
        logger.info("not loaded: %s", problem)
    logger.info("loaded %d of %d weights from %s", len(fitting), len(model.state_dict()), filename)


def load_params_with_optimizer(model: nn.Module, filename: str | Path, optimizer=None, logger=None) -> tuple[int, int]:
    """Load a whole checkpoint of the same architecture, to go on training; returns (iteration, epoch).

    Raises:
        InputError: any weight is missing, extra or of another shape; the model is left as it was.
    """
    checkpoint = read_checkpoint(filename)
    fitting, problems = match_state(model, checkpoint["model_state"])
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"{filename} is a checkpoint of another architecture: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(fitting)
    if optimizer is not None and checkpoint.get("optimizer_state") is not None:
        try:
            optimizer.load_state_dict(checkpoint["optimizer_state"])
        except (ValueError, KeyError) as error:
            raise InputError(f"{filename}: the optimiser's state does not fit this optimiser ({error}); start without it through --pretrained_model") from error
    if logger is not None:
        logger.info("loaded %s: epoch %s, iteration %s", filename, checkpoint.get("epoch"), checkpoint.get("it"))
    return int(checkpoint.get("it") or 0), int(checkpoint.get("epoch") or 0)
