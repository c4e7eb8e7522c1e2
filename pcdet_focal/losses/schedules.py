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

from ..errors import InputError
from ..registry import GAMMA_SCHEDULES
from .arguments import constructor_arguments, require_number


class GammaSchedule(nn.Module):
    """One number that changes with the epoch or the iteration t, both counted from 0. With r = (t - from) / (to -
    from), held within [0, 1]::

        constant   value
        linear     start + (end - start) r
        cosine     start + (end - start) (1 - cos(pi r)) / 2
        steps      values[number of the ``at`` that are <= t]

    A schedule has neither parameters nor buffers. One of your own derives from this class, defines ``at(epoch,
    iteration)`` and is registered as ``@GAMMA_SCHEDULES.register("name")`` of pcdet_focal.registry; its constructor's
    parameters are the keys of its entry.

    >>> schedule = build_gamma_schedule({"TYPE": "linear", "START": 0.0, "END": 2.0, "BY": "epoch", "TO": 20})
    >>> schedule.at(epoch=0, iteration=0), schedule.at(epoch=5, iteration=700), schedule.at(epoch=40, iteration=5600)
    (0.0, 0.5, 2.0)
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch: int | None = None
        self.iteration: int | None = None

    def set_progress(self, epoch: int, iteration: int) -> None:
        """Tell the epoch and the iteration (over all epochs) of the step to come, both counted from 0."""
        self.epoch, self.iteration = int(epoch), int(iteration)

    @property
    def value(self) -> float:
        """Gamma of the present step.

        Raises:
            InputError: nobody said where training is.
        """
        if self.epoch is None or self.iteration is None:
            raise InputError(
                "GAMMA_SCHEDULE: the training loop has not said where it is. Call "
                "pcdet_focal.losses.set_training_progress(model, "
                "epoch, iteration) before each step, as pcdet_focal.engine.train does."
            )
        return self.at(self.epoch, self.iteration)

    def at(self, epoch: int, iteration: int) -> float:
        """Gamma at any time."""
        raise NotImplementedError


@GAMMA_SCHEDULES.register("constant")
class ConstantGamma(GammaSchedule):
    """The same gamma all the time; see :class:`GammaSchedule`."""

    def __init__(self, value: float) -> None:
        super().__init__()
        require_number("constant", "gamma", value)
        self.constant = float(value)

    def extra_repr(self) -> str:
        return f"{self.constant}"

    @property
    def value(self) -> float:
        """Gamma, which does not depend on where training is."""
        return self.constant

    def at(self, epoch: int, iteration: int) -> float:
        return self.constant


class _TimedGamma(GammaSchedule):
    """What the schedules share that change at given epochs or iterations."""

    def __init__(self, name: str, by: str, values: Sequence[float], times: Sequence[int]) -> None:
        super().__init__()
        if by not in ("epoch", "iteration"):
            raise InputError(f"{name}: by={by!r} is not allowed: epoch or iteration.")
        for value in values:
            require_number(name, "gamma", value)
        for time in times:
            if isinstance(time, bool) or not isinstance(time, int) or time < 0:
                raise InputError(f"{name}: {time!r} is no {by}: an integer of at least 0.")
        if any(later <= earlier for earlier, later in zip(times, times[1:])):
            raise InputError(f"{name}: the times {times} have to increase.")
        self.by, self.values, self.times = by, tuple(map(float, values)), tuple(times)

    def extra_repr(self) -> str:
        return f"by={self.by}, values={self.values}, at={self.times}"

    def _time(self, epoch: int, iteration: int) -> int:
        return epoch if self.by == "epoch" else iteration


@GAMMA_SCHEDULES.register("linear")
class LinearGamma(_TimedGamma):
    """A straight line from ``start`` to ``end``; see :class:`GammaSchedule`."""

    def __init__(self, start: float, end: float, by: str, to: int, from_: int = 0) -> None:
        super().__init__("linear", by, [start, end], [from_, to])

    def at(self, epoch: int, iteration: int) -> float:
        (start, end), (first, last) = self.values, self.times
        ratio = min(max((self._time(epoch, iteration) - first) / (last - first), 0.0), 1.0)
        return start + (end - start) * self._shape(ratio)

    @staticmethod
    def _shape(ratio: float) -> float:
        return ratio


@GAMMA_SCHEDULES.register("cosine")
class CosineGamma(LinearGamma):
    """Half a cosine from ``start`` to ``end``; see :class:`GammaSchedule`."""

    @staticmethod
    def _shape(ratio: float) -> float:
        return 0.5 * (1 - math.cos(math.pi * ratio))


@GAMMA_SCHEDULES.register("steps")
class StepGamma(_TimedGamma):
    """``values``, one after the other at the times ``at``; see :class:`GammaSchedule`."""

    def __init__(self, values: Sequence[float], at: Sequence[int], by: str) -> None:
        for name, given in (("VALUES", values), ("AT", at)):
            if not isinstance(given, (list, tuple)):
                raise InputError(f"steps: {name} {given!r} is not a list.")
        if len(values) != len(at) + 1:
            raise InputError(
                f"steps: {len(values)} VALUES do not fit {len(at)} times in AT: one more is needed, since the first "
                "value holds before the first time."
            )
        super().__init__("steps", by, values, list(at))

    def at(self, epoch: int, iteration: int) -> float:
        return self.values[bisect.bisect_right(self.times, self._time(epoch, iteration))]


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


def build_gamma_schedule(cfg: Mapping[str, Any], key_path: str = "GAMMA_SCHEDULE") -> GammaSchedule:
    """A schedule from its configuration::

        {TYPE: linear, START: 0.0, END: 2.0, BY: epoch, FROM: 0, TO: 20}         or cosine; FROM is 0 where absent
        {TYPE: steps, VALUES: [0.0, 1.0, 2.0], AT: [10, 20], BY: iteration}
        {TYPE: constant, VALUE: 2.0}

    Raises:
        InputError: an unknown type or argument (with the nearest match), a missing one, a gamma below 0, times that do
            not increase.

    >>> schedule = build_gamma_schedule({"TYPE": "cosine", "START": 0.0, "END": 2.0, "BY": "iteration", "TO": 100})
    >>> schedule.at(epoch=0, iteration=100)
    2.0
    """
    if not isinstance(cfg, Mapping):
        raise InputError(
            f"{key_path}: {cfg!r} is not a schedule: a mapping with TYPE ({', '.join(GAMMA_SCHEDULES)}) and its "
            "arguments is needed."
        )
    given = {str(key).upper(): value for key, value in cfg.items()}
    name = given.pop("TYPE", None)
    schedule_class = GAMMA_SCHEDULES.find(name, f"{key_path}.TYPE")
    arguments = constructor_arguments(given, name, schedule_class, key_path)
    try:
        return schedule_class(**arguments)
    except InputError as error:
        raise InputError(f"{key_path}: {error}") from error


def accepts_gamma(loss: nn.Module) -> str | None:
    """The attribute of a loss that a schedule drives, ``gamma`` or quality focal loss's ``beta``; None where the loss
    has no focusing exponent.
    """
    parameters = inspect.signature(type(loss)).parameters
    return next((name for name in ("gamma", "beta") if name in parameters and hasattr(loss, name)), None)
