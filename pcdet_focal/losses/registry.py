"""Losses by name: one registry for OpenPCDet's names and mmdetection's, and ``build_loss``, which makes one from a line
of configuration.

Two kinds of module live here side by side; ``loss_style(name)`` says which one a name is.

- ``"openpcdet"``: ``loss(input, target, weights=None)`` returns the weighted elementwise loss; the head normalises and
  sums. These are the names that OpenPCDet's YAML files use: SigmoidFocalClassificationLoss, WeightedSmoothL1Loss,
  WeightedL1Loss, WeightedCrossEntropyLoss.
- ``"mmdetection"``: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)`` returns the reduced
  loss times ``loss_weight`` (FocalLoss, CrossEntropyLoss, SmoothL1Loss, L1Loss, GaussianFocalLoss, ...).
  GaussianFocalLoss and L1Loss exist in both projects; by name they are mmdetection's, which with ``reduction: none``
  give OpenPCDet's values. OpenPCDet's classes are imported from ``pcdet_focal.utils.loss_utils``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..errors import InputError, did_you_mean
from .cross_entropy import WeightedCrossEntropyLoss
from .sigmoid_focal import SigmoidFocalClassificationLoss
from .smooth_l1 import WeightedL1Loss, WeightedSmoothL1Loss

_LOSSES: dict[str, type[nn.Module]] = {}


def register_loss(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: make a loss module available to ``build_loss`` under ``name``. Several names on one class are
    several decorators.

    The constructor's parameters are what a configuration may set; they should be lower case and checked by the
    constructor with InputError.

    >>> @register_loss("ExampleSquaredLoss")
    ... class ExampleSquaredLoss(nn.Module):
    ...     def forward(self, input, target, weights=None):
    ...         return (input - target)**2 if weights is None else (input - target)**2 * weights[..., None]
    >>> build_loss("ExampleSquaredLoss")
    ExampleSquaredLoss()
    >>> _ = _LOSSES.pop("ExampleSquaredLoss")
    """

    def add(loss_class: type[nn.Module]) -> type[nn.Module]:
        known = _LOSSES.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (
            loss_class.__module__,
            loss_class.__qualname__,
        ):
            raise InputError(
                f"The loss name {name!r} of {loss_class.__module__}.{loss_class.__qualname__} is taken by "
                f"{known.__module__}.{known.__qualname__}."
            )
        _LOSSES[name] = loss_class
        return loss_class

    return add


def registered_losses() -> dict[str, type[nn.Module]]:
    """{name: class} of every loss that ``build_loss`` can make, sorted by name; a copy.

    >>> "FocalLoss" in registered_losses() and "SigmoidFocalClassificationLoss" in registered_losses()
    True
    """
    return dict(sorted(_LOSSES.items()))


def loss_style(loss: str | nn.Module | type[nn.Module]) -> str:
    """How a loss (a registered name, a class or a module) is called: ``'openpcdet'`` or ``'mmdetection'``; see the head
    of this file.

    Told by the signature: ``forward`` of the first kind takes ``weights``.

    >>> loss_style("WeightedSmoothL1Loss"), loss_style("FocalLoss")
    ('openpcdet', 'mmdetection')
    """
    if isinstance(loss, str):
        loss = _find(loss, "loss_style")[1]
    forward = loss.forward if isinstance(loss, nn.Module) or inspect.isclass(loss) else loss
    return "openpcdet" if "weights" in inspect.signature(forward).parameters else "mmdetection"


def build_loss(cfg: str | Mapping[str, Any], key_path: str = "LOSS") -> nn.Module:
    """Make a loss module from a name, an OpenPCDet style entry or an mmdetection dict.

    Args:
        cfg: one of
            - ``"SigmoidFocalClassificationLoss"``: a bare name, with the constructor's defaults;
            - ``{"NAME": "SigmoidFocalClassificationLoss", "ALPHA": 0.25, "GAMMA": 2.0}``: as in a YAML file; keys are
              the constructor's parameters in upper case;
            - ``{"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0, "reduction":
              "sum"}``: mmdetection's.
            The name may have the prefix ``mmdet.``; the case of keys does not matter, and both kinds of names can be
            used in both kinds of entries. It is the name that decides how the module is called (``loss_style``). The
            entry is not changed.
        key_path: where the entry stands, for messages, e.g. ``"MODEL.DENSE_HEAD.LOSS_CONFIG.CLS_LOSS"``.
    Returns:
        The module.
    Raises:
        InputError: an unknown name or argument (with what is allowed and the nearest match), a missing or a refused
            argument, all with the key path.

    >>> build_loss({"NAME": "SigmoidFocalClassificationLoss", "ALPHA": 0.5, "GAMMA": 1.0})
    SigmoidFocalClassificationLoss(gamma=1.0, alpha=0.5)
    >>> build_loss({"type": "mmdet.FocalLoss", "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0, "reduction": "sum"})
    FocalLoss(gamma=2.0, alpha=0.25, activated=False, reduction='sum', loss_weight=1.0)
    """
    if isinstance(cfg, str):
        name, loss_class = _find(cfg, key_path)
        arguments = _arguments({}, "", name, loss_class, key_path)
    elif isinstance(cfg, Mapping):
        name_key, given_name = _name_entry(cfg, key_path)
        name, loss_class = _find(given_name, f"{key_path}.{name_key}")
        arguments = _arguments(cfg, name_key, name, loss_class, key_path)
    else:
        raise InputError(
            f"{key_path}: {cfg!r} is not a loss: a name, or a mapping with NAME (or type) and the loss's arguments, "
            "is needed."
        )
    try:
        return loss_class(**arguments)
    except (TypeError, ValueError) as error:  # InputError is a ValueError
        message = str(error) if isinstance(error, InputError) else f"{name} cannot be made with {arguments}: {error}"
        raise InputError(f"{key_path}: {message}") from error


def _name_entry(cfg: Mapping[str, Any], key_path: str) -> tuple[str, Any]:
    """The key that holds the name, and what it holds."""
    keys = [key for key in cfg if isinstance(key, str) and key.lower() in ("name", "type")]
    if len(keys) != 1:
        found = f"it has {' and '.join(keys)}" if keys else f"it has only {', '.join(map(str, cfg)) or 'no keys'}"
        raise InputError(f"{key_path}: exactly one of NAME and type must say which loss this is, but {found}.")
    return keys[0], cfg[keys[0]]


def _find(name: Any, key_path: str) -> tuple[str, type[nn.Module]]:
    bare = name[len("mmdet.") :] if isinstance(name, str) and name.startswith("mmdet.") else name
    if not isinstance(bare, str) or bare not in _LOSSES:
        raise InputError(
            f"{key_path}: {name!r} is no known loss{did_you_mean(bare, _LOSSES)} Known are: "
            f"{', '.join(sorted(_LOSSES))}."
        )
    return bare, _LOSSES[bare]


def parameters_of(loss_class: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """What a loss's constructor takes by name."""
    return {
        parameter.name: parameter
        for parameter in inspect.signature(loss_class).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _arguments(
    cfg: Mapping[str, Any], name_key: str, name: str, loss_class: type[nn.Module], key_path: str
) -> dict[str, Any]:
    """The constructor's keyword arguments from all the other keys of the entry."""
    parameters = parameters_of(loss_class)
    by_lower_case = {parameter.lower(): parameter for parameter in parameters}
    arguments: dict[str, Any] = {}
    for key, value in cfg.items():
        if key == name_key:
            continue
        parameter = by_lower_case.get(str(key).lower())
        shown = [p.upper() for p in parameters] if str(key).isupper() else list(parameters)
        if parameter is None:
            allowed = f"Allowed are: {', '.join(shown)}." if shown else "It takes none."
            raise InputError(f"{key_path}.{key}: {name} has no such argument{did_you_mean(str(key), shown)} {allowed}")
        if parameter in arguments:
            raise InputError(f"{key_path}.{key}: the argument {parameter} of {name} is given twice.")
        arguments[parameter] = value
    missing = [p for p, parameter in parameters.items() if parameter.default is parameter.empty and p not in arguments]
    if missing:
        raise InputError(
            f"{key_path}: {name} needs the argument{'s' if len(missing) > 1 else ''} {', '.join(missing)}."
        )
    return arguments


for _loss_class in (SigmoidFocalClassificationLoss, WeightedSmoothL1Loss, WeightedL1Loss, WeightedCrossEntropyLoss):
    register_loss(_loss_class.__name__)(_loss_class)
