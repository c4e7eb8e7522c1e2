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

from ..errors import InputError
from ..registry import LOSSES
from .arguments import constructor_arguments
from .cross_entropy import WeightedCrossEntropyLoss
from .sigmoid_focal import SigmoidFocalClassificationLoss
from .smooth_l1 import WeightedL1Loss, WeightedSmoothL1Loss


def register_loss(name: str | None = None) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: make a loss of either style available to ``build_loss``, and so to CLS_LOSS, REG_LOSS and
    DIR_LOSS of LOSS_CONFIG, under ``name`` (by default the class's). Several names on one class are several decorators.

    The constructor's parameters are what a configuration may set; they should be lower case and checked by the
    constructor with InputError. A loss that derives from one of the package's is given what that one is given; any
    other gets (B, A, C) logits and one-hot targets as CLS_LOSS and DIR_LOSS, and box codes as REG_LOSS. A class
    attribute ``head_kind`` chooses otherwise: ``"softmax"`` for integer classes (background 0 in CLS_LOSS), ``"boxes"``
    for
    decoded boxes in REG_LOSS.

    Raises:
        InputError: the name is taken by another loss.

    >>> @register_loss("ExampleSquaredLoss")
    ... class ExampleSquaredLoss(nn.Module):
    ...     def forward(self, input, target, weights=None):
    ...         return (input - target)**2 if weights is None else (input - target)**2 * weights[..., None]
    >>> build_loss("ExampleSquaredLoss")
    ExampleSquaredLoss()
    >>> _ = LOSSES.pop("ExampleSquaredLoss")
    """
    return LOSSES.register(name)


def registered_losses() -> dict[str, type[nn.Module]]:
    """{name: class} of every loss that ``build_loss`` can make, sorted by name; a copy.

    >>> "FocalLoss" in registered_losses() and "SigmoidFocalClassificationLoss" in registered_losses()
    True
    """
    return dict(sorted(LOSSES.items()))


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
        arguments = constructor_arguments({}, name, loss_class, key_path)
    elif isinstance(cfg, Mapping):
        name_key, given_name = _name_entry(cfg, key_path)
        name, loss_class = _find(given_name, f"{key_path}.{name_key}")
        given = {key: value for key, value in cfg.items() if key != name_key}
        arguments = constructor_arguments(given, name, loss_class, key_path)
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
        keys_text = f"it has {' and '.join(keys)}" if keys else f"it has only {', '.join(map(str, cfg)) or 'no keys'}"
        raise InputError(f"{key_path}: exactly one of NAME and type must say which loss this is, but {keys_text}.")
    return keys[0], cfg[keys[0]]


def _find(name: Any, key_path: str) -> tuple[str, type[nn.Module]]:
    bare = name.removeprefix("mmdet.") if isinstance(name, str) else name
    return bare, LOSSES.find(bare, key_path)


LOSSES.add(
    {
        loss_class.__name__: loss_class
        for loss_class in (
            SigmoidFocalClassificationLoss,
            WeightedSmoothL1Loss,
            WeightedL1Loss,
            WeightedCrossEntropyLoss,
        )
    }
)
