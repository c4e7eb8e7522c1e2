"""The focusing exponent as a function of training time ("soft gamma": begin with cross entropy, focus more and more).

A schedule keeps no count of its own. The training loop tells it where training is, ``set_training_progress(model,
epoch, iteration)`` before every step, and the loop's own iteration is what a checkpoint restores: the value after a
resume is exactly the one of a run that was not interrupted, the state dict has no new entry, and pre-trained weights do
not bring an old count with them.
"""

from __future__ import annotations

import bisect
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import InputError, did_you_mean
from .arguments import require_number


class GammaSchedule(nn.Module):
    """One number that changes with the epoch or the iteration t, both counted from 0. With r = (t - first) / (last -
    first), held within [0, 1]::

        constant   value
        linear     start + (end - start) r
        cosine     start + (end - start) (1 - cos(pi r)) / 2
        steps      values[number of the ``at`` that are <= t]

    It has neither parameters nor buffers.

    >>> schedule = build_gamma_schedule({"TYPE": "linear", "START": 0.0, "END": 2.0, "BY": "epoch", "FROM": 0, "TO": 20})
    >>> schedule.at(epoch=0, iteration=0), schedule.at(epoch=5, iteration=700), schedule.at(epoch=40, iteration=5600)
    (0.0, 0.5, 2.0)
    """

    def __init__(self, shape: str, by: str, values: Sequence[float], at: Sequence[int]) -> None:
        """
        Args:
            shape: 'constant', 'linear', 'cosine' or 'steps'.
            by: 'epoch' or 'iteration'.
            values, at: constant: (value,), (); linear and cosine: (start, end), (first, last); steps: n + 1 values, n
                times.
        """
        super().__init__()
        self.shape, self.by, self.values, self.times = shape, by, tuple(map(float, values)), tuple(at)
        self.epoch: int | None = None
        self.iteration: int | None = None

    def extra_repr(self) -> str:
        return f"{self.shape}, by={self.by}, values={self.values}, at={self.times}"

    def set_progress(self, epoch: int, iteration: int) -> None:
        """Tell the epoch and the iteration (over all epochs) of the step to come, both counted from 0."""
        self.epoch, self.iteration = int(epoch), int(iteration)

    @property
    def value(self) -> float:
        """Gamma of the present step.

        Raises:
            InputError: nobody said where training is.
        """
        if self.shape == "constant":
            return self.values[0]
        if self.epoch is None or self.iteration is None:
            raise InputError(
                "GAMMA_SCHEDULE: the training loop has not said where it is. Call "
                "pcdet_focal.losses.set_training_progress(model, "
                "epoch, iteration) before each step, as pcdet_focal.engine.train does."
            )
        return self.at(self.epoch, self.iteration)

    def at(self, epoch: int, iteration: int) -> float:
        """Gamma at any time."""
        time = epoch if self.by == "epoch" else iteration
        if self.shape == "constant":
            return self.values[0]
        if self.shape == "steps":
            return self.values[bisect.bisect_right(self.times, time)]
        (start, end), (first, last) = self.values, self.times
        ratio = min(max((time - first) / (last - first), 0.0), 1.0)
        if self.shape == "cosine":
            ratio = 0.5 * (1 - math.cos(math.pi * ratio))
        return start + (end - start) * ratio


def set_training_progress(model: nn.Module, epoch: int, iteration: int) -> None:
    """Tell every schedule in ``model`` (or its DistributedDataParallel) the epoch and iteration of the step to come,
    both counted from 0.

    The iteration counts over all epochs.

    >>> schedule = build_gamma_schedule({"TYPE": "steps", "VALUES": [0, 1, 2], "AT": [10, 20], "BY": "iteration"})
    >>> set_training_progress(nn.Sequential(schedule), epoch=0, iteration=10)
    >>> schedule.value
    1.0
    """
    for module in model.modules():
        if isinstance(module, GammaSchedule):
            module.set_progress(epoch, iteration)


_ARGUMENTS = {
    "constant": {"value": None},
    "linear": {"start": None, "end": None, "by": None, "from": 0, "to": None},
    "cosine": {"start": None, "end": None, "by": None, "from": 0, "to": None},
    "steps": {"values": None, "at": None, "by": None},
}


def build_gamma_schedule(cfg: Mapping[str, Any], key_path: str = "GAMMA_SCHEDULE") -> GammaSchedule:
    """A schedule from its configuration::

        {TYPE: linear, START: 0.0, END: 2.0, BY: epoch, FROM: 0, TO: 20}         or cosine; FROM is 0 where absent
        {TYPE: steps, VALUES: [0.0, 1.0, 2.0], AT: [10, 20], BY: iteration}
        {TYPE: constant, VALUE: 2.0}

    Raises:
        InputError: an unknown type or argument (with the nearest match), a missing one, a gamma below 0, times that do
            not increase.

    >>> build_gamma_schedule({"TYPE": "cosine", "START": 0.0, "END": 2.0, "BY": "iteration", "TO": 100}).at(epoch=0, iteration=100)
    2.0
    """
    if not isinstance(cfg, Mapping):
        raise InputError(
            f"{key_path}: {cfg!r} is not a schedule: a mapping with TYPE ({', '.join(_ARGUMENTS)}) and its arguments "
            "is needed."
        )
    given = {str(key).lower(): value for key, value in cfg.items()}
    shape = given.pop("type", None)
    if shape not in _ARGUMENTS:
        raise InputError(
            f"{key_path}.TYPE: {shape!r} is no known schedule{did_you_mean(shape, _ARGUMENTS)} Known are: "
            f"{', '.join(_ARGUMENTS)}."
        )
    allowed = _ARGUMENTS[shape]
    for argument in given:
        if argument not in allowed:
            known = [a.upper() for a in allowed]
            raise InputError(
                f"{key_path}.{argument.upper()}: {shape} has no such argument{did_you_mean(argument, known)} "
                f"Allowed are: {', '.join(known)}."
            )
    arguments = {name: default for name, default in allowed.items() if default is not None} | given
    missing = [name.upper() for name in allowed if name not in arguments]
    if missing:
        raise InputError(f"{key_path}: {shape} needs {' and '.join(missing)}.")
    by = arguments.get("by", "epoch")
    if by not in ("epoch", "iteration"):
        raise InputError(f"{key_path}.BY: {by!r} is not allowed: epoch or iteration.")
    if shape == "steps":
        values, times = _list(arguments, "values", key_path), _list(arguments, "at", key_path)
        if len(values) != len(times) + 1:
            raise InputError(
                f"{key_path}: {len(values)} VALUES do not fit {len(times)} times in AT: one more is needed, since the "
                "first value holds "
                "before the first time."
            )
    elif shape == "constant":
        values, times = [arguments["value"]], []
    else:
        values, times = [arguments["start"], arguments["end"]], [arguments["from"], arguments["to"]]
    for value in values:
        require_number(key_path, "gamma", value)
    for time in times:
        if isinstance(time, bool) or not isinstance(time, int) or time < 0:
            raise InputError(f"{key_path}: {time!r} is no {by}: an integer of at least 0.")
    if any(later <= earlier for earlier, later in zip(times, times[1:])):
        raise InputError(f"{key_path}: the times {times} have to increase.")
    return GammaSchedule(shape, by, values, times)


def accepts_gamma(loss: nn.Module) -> str | None:
    """The attribute of a loss that a schedule drives, ``gamma`` or quality focal loss's ``beta``; None where the loss
    has no focusing exponent.
    """
    parameters = inspect.signature(type(loss)).parameters
    return next((name for name in ("gamma", "beta") if name in parameters and hasattr(loss, name)), None)


def _list(arguments: Mapping[str, Any], name: str, key_path: str) -> list:
    value = arguments[name]
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{key_path}.{name.upper()}: {value!r} is not a list.")
    return list(value)
