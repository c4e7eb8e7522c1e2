"""This package's losses inside an installed OpenPCDet."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

from ...errors import InputError

_HEAD_METHODS = ("build_losses", "get_cls_layer_loss", "get_box_reg_layer_loss")
_ATTRIBUTES = {  # of our heads, which theirs lack
    "use_sin_difference": True,
    "codes_sin_and_cos": False,  # ours decide this from the box coder, theirs have one way
    "anchor_headings": property(lambda head: head._flat_anchors(slice(6, 7)).flatten()),  # ours keep them
}
_ABSENT = object()
_replaced: list[tuple[Any, str, Any]] = []  # owner, name, what was there; of the patch in force


def patch() -> list[str]:
    """Put this package's losses into the OpenPCDet that is installed; returns the names replaced. Once is enough: a
    second call changes nothing.

    Every class and function of ``pcdet.utils.loss_utils``, and in ``AnchorHeadTemplate`` ``build_losses`` (which then
    reads CLS_LOSS, REG_LOSS, DIR_LOSS and NORMALIZER too), ``get_cls_layer_loss`` (focal loss straight from the labels)
    and ``get_box_reg_layer_loss`` (on a CPU only the positive anchors). The loss is the same number; the logged parts
    are tensors, which nothing waits for until they are read. Heads built before the call keep the loss modules they
    were built with. ``AnchorHeadMulti`` has loops of its own and gets the loss classes only.

    Raises:
        InputError: OpenPCDet cannot be imported, or lacks a name that would be replaced. Nothing is changed then.
    """
    if not _replaced:
        changes = _changes(_installed("utils.loss_utils"), _installed("models.dense_heads.anchor_head_template"))
        for owner, name, value in changes:
            _replaced.append((owner, name, vars(owner).get(name, _ABSENT)))
            setattr(owner, name, value)
    return [
        f"{getattr(owner, '__module__', owner.__name__)}.{name}" for owner, name, old in _replaced if old is not _ABSENT
    ]


def unpatch() -> None:
    """Give OpenPCDet back what :func:`patch` replaced. Without a patch in force nothing happens."""
    while _replaced:
        owner, name, old = _replaced.pop()
        if old is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, old)


@contextmanager
def patched() -> Iterator[list[str]]:
    """``with patched():`` :func:`patch` for the block; a patch that was in force before stays so after it."""
    before = bool(_replaced)
    try:
        yield patch()
    finally:
        if not before:
            unpatch()


def _installed(name: str) -> ModuleType:
    try:
        module = importlib.import_module(f"pcdet.{name}")
    except ImportError as error:
        raise InputError(
            f"patch() changes an installed OpenPCDet, and pcdet.{name} cannot be imported: {error}"
        ) from error
    if module.__name__.startswith("pcdet_focal"):
        raise InputError(
            "patch(): pcdet is pcdet_focal itself in this process (alias() was called); its losses are in use already"
        )
    return module


def _changes(losses: ModuleType, head: ModuleType) -> list[tuple[Any, str, Any]]:
    """(owner, name, new value) of everything to replace or add."""
    # only here: whoever runs a script needs no losses for that
    from ...models.dense_heads.anchor_head_template import AnchorHeadTemplate
    from ...utils import loss_utils

    template = getattr(head, "AnchorHeadTemplate", None)
    missing = [f"{losses.__name__}.{name}" for name in loss_utils.__all__ if not hasattr(losses, name)]
    missing += [
        f"{head.__name__}.AnchorHeadTemplate.{name}"
        for name in _HEAD_METHODS
        if not callable(getattr(template, name, None))
    ]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"patch() is written for OpenPCDet 0.6; the one installed at {losses.__file__} lacks "
            f"{', '.join(missing[:3])}{more}"
        )
    changes: list[tuple[Any, str, Any]] = [(losses, name, getattr(loss_utils, name)) for name in loss_utils.__all__]
    # The methods may call any function of our class; what theirs has too stays theirs.
    lacking = [
        name
        for name, value in vars(AnchorHeadTemplate).items()
        if name not in vars(template) and isinstance(value, (FunctionType, staticmethod))
    ]
    changes += [(template, name, vars(AnchorHeadTemplate)[name]) for name in (*_HEAD_METHODS, *lacking)]
    return changes + [(template, name, value) for name, value in _ATTRIBUTES.items()]
