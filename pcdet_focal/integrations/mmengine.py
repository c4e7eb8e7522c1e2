"""This package's losses in an mmengine registry, for the configurations of mmdetection, mmdetection3d and their
relatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..losses import registered_losses

__all__ = ["register"]


def register(
    registry: Any = None, names: Sequence[str] | None = None, prefix: str = "", override: bool = False
) -> list[str]:
    """Register losses so that ``registry.build(dict(type="VarifocalLoss", ...))`` makes them; calling it again changes
    nothing.

    The losses with mmdetection's names are called as there, ``loss(pred, target, weight=, avg_factor=,
    reduction_override=)``; those with OpenPCDet's, ``loss(input, target, weights=)``: ``losses.loss_style`` tells which
    is which.

    Args:
        registry: an ``mmengine.Registry``, such as ``mmdet3d.registry.MODELS``. None: mmengine's own ``MODELS``.
        names: which; None: all that ``build_loss`` knows.
        prefix: put before each name, to have both these and the ones that are there under other names:
            ``prefix="Focal"`` gives FocalGHMC.
        override: replace what is registered under these names.
    Returns:
        The names in the registry, sorted.
    Raises:
        InputError: mmengine is not installed, an unknown name, or a name that is taken by another class (nothing is
            registered then).

    >>> register(names=["VarifocalLoss"])  # doctest: +SKIP
    ['VarifocalLoss']
    """
    if registry is None:
        registry = _models()
    losses = registered_losses()
    unknown = sorted(set(names or ()) - set(losses))
    if unknown:
        raise InputError(f"register(): there is no loss {', '.join(unknown)}; there are {', '.join(losses)}")
    chosen = {f"{prefix}{name}": losses[name] for name in sorted(losses if names is None else names)}
    there = registry.module_dict
    taken = [name for name, loss in chosen.items() if there.get(name, loss) is not loss]
    if taken and not override:
        ways = "override=True replaces them, prefix='...' names these otherwise"
        raise InputError(f"register(): {', '.join(taken)} are in the registry {registry.name} already; {ways}")
    for name, loss in chosen.items():
        registry.register_module(name=name, force=override or name in there, module=loss)
    return list(chosen)


def _models() -> Any:
    try:
        from mmengine.registry import MODELS
    except ImportError as error:
        raise InputError(
            "register() needs mmengine: pip install mmengine, or mmengine-lite, which does without OpenCV"
        ) from error
    return MODELS
