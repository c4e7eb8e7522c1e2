"""Checks of the arguments of losses, and conversion of class labels. Every message names the loss, the
argument and what is right.

Shapes, dtypes and devices are always checked. The values of a tensor are checked on the CPU only, and not inside
``torch.compile``: on a GPU that would stop the queue at every step (an index that is out of range there still fails
loudly, in the device's own assertion).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import InputError, did_you_mean


def require_tensors(loss_name: str, **tensors: torch.Tensor | None) -> None:
    """Raise InputError unless every argument is a tensor (None is skipped) and all are on the device of the first."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in given.items():
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"{loss_name}: {name} needs to be a torch.Tensor, but it is a {type(tensor).__name__}.")
    if len({tensor.device for tensor in given.values()}) > 1:
        devices = ", ".join(f"{name} on {tensor.device}" for name, tensor in given.items())
        raise InputError(f"{loss_name}: all tensors need the same device, but they are {devices}.")


def require_labels(loss_name: str, labels: torch.Tensor, shape: tuple[int, ...], name: str = "target") -> None:
    """Raise InputError unless ``labels`` are integers of this shape."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"{loss_name}: {name} needs integer class labels, but its dtype is {labels.dtype}.")
    if tuple(labels.shape) != tuple(shape):
        raise InputError(
            f"{loss_name}: {name} needs the shape {tuple(shape)}, one label per row of the prediction, but it is "
            f"{tuple(labels.shape)}."
        )


def require_values_between(
    loss_name: str, name: str, values: torch.Tensor, low: float, high: float, why: str = ""
) -> None:
    """Raise InputError where a value is outside [low, high] or NaN; only where looking is free (module docstring)."""
    if values.device.type != "cpu" or torch.compiler.is_compiling() or values.numel() == 0:
        return
    outside = ~((values >= low) & (values <= high))
    if bool(outside.any()):
        raise InputError(
            f"{loss_name}: {name} needs values from {low:g} to {high:g}{why}, but it holds "
            f"{values[outside].flatten()[0].item():g}."
        )


def require_number(
    loss_name: str, name: str, value: float, low: float = 0.0, high: float = float("inf"), low_allowed: bool = True
) -> None:
    """Raise InputError unless the number lies in [low, high] (or (low, high] with ``low_allowed=False``)."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (low <= value <= high) or (value == low and not low_allowed):
        lower_bound = f"{'at least' if low_allowed else 'more than'} {low:g}"
        upper_bound = "" if high == float("inf") else f" and at most {high:g}"
        raise InputError(f"{loss_name}: {name}={value!r} is not allowed: a number of {lower_bound}{upper_bound}.")


def require_count(loss_name: str, name: str, value: int) -> None:
    """Raise InputError unless the argument is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{loss_name}: {name}={value!r} is not allowed: an integer of at least 1.")


def require_sigmoid(loss_name: str, use_sigmoid: bool) -> None:
    """Raise InputError for ``use_sigmoid=False`` where the loss is defined on independent sigmoids only."""
    if not use_sigmoid:
        raise InputError(
            f"{loss_name}: use_sigmoid=False is not allowed: this loss is defined on independent sigmoids; "
            "use_sigmoid=True is."
        )


def one_hot(labels: torch.Tensor, num_classes: int, dtype: torch.dtype) -> torch.Tensor:
    """Labels (...) -> one-hot (..., C); a label outside [0, C), so the background C, -1 or 255, is a row of zeros.

    >>> one_hot(torch.tensor([1, 2, -1]), 2, torch.float32)
    tensor([[0., 1.],
            [0., 0.],
            [0., 0.]])
    """
    return (labels.unsqueeze(-1) == torch.arange(num_classes, device=labels.device)).to(dtype)


def dense_class_targets(loss_name: str, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Targets (..., C) as they are; integer labels (...), background outside [0, C), as one-hot targets.

    Raises:
        InputError: labels that are not integers, or whose shape is not that of ``pred`` without the last axis.
    """
    if target.dim() != pred.dim() - 1:
        return target
    require_labels(loss_name, target, pred.shape[:-1])
    return one_hot(target, pred.shape[-1], pred.dtype)


def parameters_of(entry: Any) -> dict[str, inspect.Parameter]:
    """What a class's constructor or a function takes by name."""
    return {
        parameter.name: parameter
        for parameter in inspect.signature(entry).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def constructor_arguments(given: Mapping[str, Any], name: str, entry: Any, key_path: str) -> dict[str, Any]:
    """Keyword arguments of ``entry``'s constructor from the keys of a configuration entry, whose case does not matter.
    A parameter ``from_`` has the key FROM.

    Args:
        given: the entry without the key that says which class it is.
        name: of the class, for messages. key_path: where the entry stands.

    Raises:
        InputError: an unknown or repeated key, or a missing one, with the key path.
    """
    parameters = {parameter.rstrip("_").lower(): parameter for parameter in parameters_of(entry)}
    arguments: dict[str, Any] = {}
    for key, value in given.items():
        parameter = parameters.get(str(key).lower())
        shown = [p.upper() for p in parameters] if str(key).isupper() else list(parameters)
        if parameter is None:
            allowed = f"Allowed are: {', '.join(shown)}." if shown else "It takes none."
            raise InputError(f"{key_path}.{key}: {name} has no such argument{did_you_mean(str(key), shown)} {allowed}")
        if parameter in arguments:
            raise InputError(f"{key_path}.{key}: the argument {parameter} of {name} is given twice.")
        arguments[parameter] = value
    missing = [
        parameter.rstrip("_")
        for parameter, taken in parameters_of(entry).items()
        if taken.default is taken.empty and parameter not in arguments
    ]
    if missing:
        raise InputError(
            f"{key_path}: {name} needs the argument{'s' if len(missing) > 1 else ''} {', '.join(missing)}."
        )
    return arguments
