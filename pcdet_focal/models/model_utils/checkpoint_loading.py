"""Reading checkpoints into a model: what fits, what does not, and why; kernels of sparse convolutions in any of
spconv's layouts.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...ops.sparse_conv import SparseConvolution, convert_spconv_kernel
from ...ops.sparse_conv.layouts import LAYOUTS
from .checkpoint_files import read_checkpoint, read_plain
from .torch_pointcloud import with_own_names

__all__ = ["load_params_from_file", "load_params_with_optimizer", "match_state", "model_state", "read_checkpoint"]


def _kernels(model: nn.Module) -> dict[str, SparseConvolution]:
    return {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, SparseConvolution)
    }


def _shape_in(layout: str, module: SparseConvolution) -> tuple[int, ...]:
    sizes = {"K": (module.out_channels,), "C": (module.in_channels,), "R": tuple(module.kernel_size), "S": ()}
    return tuple(size for letter in layout for size in sizes[letter])


def file_layout(model: nn.Module, state: dict[str, Tensor]) -> str:
    """The kernel layout of a whole file, a key of ``ops.sparse_conv.layouts.LAYOUTS``: the one in which most of its
    kernels fit the model.

    A file is written by one version of spconv. So a kernel with equal in and out channels, whose shape is the same in
    RSCK and in RSKC, goes by the others; with none to go by it counts as RSCK (spconv 1.x).
    """

    def fitting(layout: str) -> int:
        return sum(
            key in state and tuple(state[key].shape) == _shape_in(layout, module)
            for key, module in _kernels(model).items()
        )

    return max(("KRSC", "RSCK", "RSKC"), key=fitting)


def model_state(
    model: nn.Module,
    filename: str | Path,
    pre_trained_path: str | Path | None = None,
    kernel_layout: str | None = None,
    checkpoint: dict | None = None,
) -> dict[str, Tensor]:
    """The weights of a checkpoint, over them those of a second one, their sparse kernels in the model's layout (out,
    *kernel, in).

    ``kernel_layout`` declares the first file's, see ``ops.sparse_conv.layouts.LAYOUTS``; None: :func:`file_layout`
    tells. ``checkpoint``: what :func:`read_checkpoint` made of ``filename``, if that has been done.
    """
    checkpoint = read_checkpoint(filename) if checkpoint is None else checkpoint
    state = _in_own_layout(model, checkpoint["model_state"], kernel_layout)
    if pre_trained_path is not None:
        state.update(_in_own_layout(model, read_checkpoint(pre_trained_path)["model_state"], None))
    return state


def _without_prefix(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without the prefix that a wrapper gave all names ("module." of DistributedDataParallel, "_orig_mod." of
    torch.compile, "model." of trainers), where no name fits the model as it is.
    """
    names = model.state_dict().keys()
    if not names or any(key in names for key in state):
        return state
    prefixes = {key.removesuffix(name) for key in state for name in names if key.endswith(f".{name}")}

    def fitting(prefix: str) -> int:
        return sum(f"{prefix}{name}" in state for name in names)

    prefix = max(sorted(prefixes), key=fitting, default="")
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _with_own_names(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under this package's names where it has torch-pointcloud's; integers that the file lacks, the count
    of training steps for example, are the model's.
    """
    renamed = with_own_names(state)
    if renamed.keys() == state.keys():
        return state
    return {**{key: value for key, value in model.state_dict().items() if not value.is_floating_point()}, **renamed}


def _in_own_layout(model: nn.Module, state: dict[str, Tensor], layout: str | None) -> dict[str, Tensor]:
    state = _with_own_names(model, _without_prefix(model, state))
    layout = layout or file_layout(model, state)
    if layout not in LAYOUTS:
        raise InputError(
            f"kernel_layout {layout!r} is unknown; it must be one of "
            f"{', '.join(f'{name} = {meaning}' for name, meaning in LAYOUTS.items())}"
        )
    kernels = {
        key: module
        for key, module in _kernels(model).items()
        if key in state and tuple(state[key].shape) == _shape_in(layout, module)
    }
    return {
        **state,
        **{key: convert_spconv_kernel(state[key], layout, module.conv1x1) for key, module in kernels.items()},
    }


def match_state(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The entries of ``state`` that fit ``model``, and one line for each that does not, or that the model has and
    ``state`` lacks.
    """
    model_state = model.state_dict()
    fitting, problems = {}, []
    for key, value in state.items():
        if key not in model_state:
            problems.append(f"{key}: the model has no such weight")
        elif model_state[key].shape != value.shape:
            problems.append(
                f"{key}: shape {tuple(value.shape)} in the file, {tuple(model_state[key].shape)} in the model"
            )
        else:
            fitting[key] = value
    problems += [f"{key}: not in the file" for key in model_state if key not in state]
    return fitting, problems


def load_params_from_file(
    model: nn.Module,
    filename: str | Path,
    logger,
    pre_trained_path: str | Path | None = None,
    kernel_layout: str | None = None,
) -> None:
    """Load what fits of a checkpoint's weights and log what does not. Raises InputError where nothing but buffers would
    fit.

    ``kernel_layout``: see :func:`model_state`.
    """
    fitting, problems = match_state(model, model_state(model, filename, pre_trained_path, kernel_layout))
    if not set(fitting) & {name for name, _ in model.named_parameters()}:
        raise InputError(
            f"{filename} is a checkpoint of another architecture: none of its weights fits this model, for example "
            f"{problems[0]}"
        )
    model.load_state_dict(fitting, strict=False)
    for problem in problems:
        logger.info("not loaded: %s", problem)
    logger.info("loaded %d of %d weights from %s", len(fitting), len(model.state_dict()), filename)


def load_params_with_optimizer(
    model: nn.Module,
    filename: str | Path,
    optimizer=None,
    logger=None,
    kernel_layout: str | None = None,
    checkpoint: dict | None = None,
) -> tuple[int, int]:
    """Load a whole checkpoint of the same architecture, to go on training; returns (iteration, epoch).

    As with OpenPCDet, the optimiser's state may also be in a file of its own beside it, ``<name>_optim.pth``.

    Args:
        kernel_layout: see :func:`model_state`.
        checkpoint: what :func:`read_checkpoint` made of ``filename``, if that has been done.

    Raises:
        InputError: any weight is missing, extra or of another shape; the model is left as it was.
    """
    checkpoint = read_checkpoint(filename) if checkpoint is None else checkpoint
    weights = _with_own_names(model, _without_prefix(model, checkpoint["model_state"]))
    layout = kernel_layout or file_layout(model, weights)
    fitting, problems = match_state(model, _in_own_layout(model, weights, layout))
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"{filename} is a checkpoint of another architecture: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(fitting)
    state = None if optimizer is None else _optimizer_state(checkpoint, Path(filename))
    if state is not None:
        try:
            optimizer.load_state_dict(state)
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{filename}: the optimiser's state does not fit this optimiser ({error}); start without it through "
                "--pretrained_model"
            ) from error
        for module in _kernels(model).values():
            moments = optimizer.state.get(module.weight, {})
            for key, value in moments.items():
                if torch.is_tensor(value) and tuple(value.shape) == _shape_in(layout, module):
                    moments[key] = convert_spconv_kernel(value, layout, module.conv1x1)
    if logger is not None:
        logger.info("loaded %s: epoch %s, iteration %s", filename, checkpoint.get("epoch"), checkpoint.get("it"))
    return int(checkpoint.get("it") or 0), int(checkpoint.get("epoch") or 0)


def _optimizer_state(checkpoint: dict, path: Path) -> dict | None:
    if checkpoint.get("optimizer_state") is not None:
        return checkpoint["optimizer_state"]
    beside = path.with_name(f"{path.stem}_optim.pth")
    content = read_plain(beside) if beside.is_file() else {}
    return content.get("optimizer_state") if isinstance(content, dict) else None
