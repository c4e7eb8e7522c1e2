"""The registries: what a configuration may name, and how a module outside this package adds to it.

    from pcdet_focal.registry import ROI_HEADS

    @ROI_HEADS.register(config_keys=("MY_OWN_KEY",))
    class MyHead(nn.Module): ...

``MODEL.ROI_HEAD.NAME: MyHead`` then builds it. docs/extending.md has an example of each kind and says how a tool gets
to
import the module. The packages that hold the classes fill the registries; their ``__all__`` is the same object, so
OpenPCDet's ``__all__["PillarVFE"]`` works. Importing this file alone gives empty registries.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from .errors import InputError, did_you_mean

T = TypeVar("T")

_plugin_config_keys: set[str] = set()
# (name, key path) -> an entry that no registry has, or None; integrations/openpcdet/forks.py sets it
elsewhere: Callable[[str, str], Any] | None = None


def plugin_config_keys() -> frozenset[str]:
    """The configuration keys that registered classes declared as their own."""
    return frozenset(_plugin_config_keys)


def find_by_name(known: Mapping[str, T], name: Any, key_path: str, kind: str = "name") -> T:
    """``known[name]``.

    Raises:
        InputError: an unknown name, with the key path, the nearest name and what there is.

    >>> find_by_name({"circle_nms": 1}, "circle_nms", "NMS_TYPE")
    1
    """
    if isinstance(name, str) and name in known:
        return known[name]
    there = ", ".join(sorted(known)) or "none, see docs/extending.md"
    raise InputError(f"{key_path}: {name!r} is no known {kind}{did_you_mean(name, known)} Known are: {there}.")


class Registry(dict[str, Any]):
    """A dictionary {name: class or function} that others can add to.

    ``registry[name]`` and ``registry.find(name, key_path)`` raise InputError for an unknown name; ``get`` and ``in``
    are those of any dictionary.

    Args:
        kind: the word for an entry in messages, for example "RoI head".
        key_path: the configuration key that chooses an entry.

    >>> shapes = Registry("shape", "MODEL.SHAPE.NAME")
    >>> @shapes.register()
    ... class Circle: ...
    >>> shapes["Circle"] is Circle, "Square" in shapes
    (True, False)
    """

    def __init__(self, kind: str, key_path: str) -> None:
        super().__init__()
        self.kind, self.key_path = kind, key_path

    def register(self, name: str | None = None, *, config_keys: Iterable[str] = ()) -> Callable[[T], T]:
        """Decorator that adds a class or function under ``name``, by default its own name, and returns it unchanged.

        Args:
            name: what the configuration says; several names are several decorators.
            config_keys: keys of its own that the class reads from the configuration, so that loading a configuration
                does not report them as unknown. A class attribute ``CONFIG_KEYS`` does the same.

        Raises:
            InputError: the name is taken by something else.
        """

        def decorate(entry: T) -> T:
            self.add({name or _origin(entry).rpartition(".")[2]: entry})
            _plugin_config_keys.update(config_keys, getattr(entry, "CONFIG_KEYS", ()))
            return entry

        if callable(name):  # @REGISTRY.register without parentheses
            entry, name = name, None
            return decorate(entry)
        return decorate

    def add(self, entries: Mapping[str, Any]) -> Registry:
        """Add ``{name: entry}`` and return the registry. An entry of the same module and name replaces the old one, so
        that a module can be reloaded.

        Raises:
            InputError: a name is taken by something else.
        """
        for name, entry in entries.items():
            known = self.get(name)
            if known is not None and _origin(known) != _origin(entry):
                raise InputError(
                    f"the name {name!r} of the {self.kind} {_origin(entry)} is taken by {_origin(known)}: register it "
                    "under another name"
                )
            self[name] = entry
        return self

    def find(self, name: Any, key_path: str | None = None) -> Any:
        """The entry called ``name``; ``key_path`` in messages where it is not the registry's own.

        Raises:
            InputError: an unknown name, with the key path, the nearest name and what there is.
        """
        if isinstance(name, str) and name not in self and elsewhere is not None:
            entry = elsewhere(name, self.key_path)
            if entry is not None:
                self[name] = entry
        return find_by_name(self, name, key_path or self.key_path, self.kind)

    def __getitem__(self, name: Any) -> Any:
        return super().__getitem__(name) if isinstance(name, str) and name in self else self.find(name)


def _origin(entry: Any) -> str:
    return f"{entry.__module__}.{entry.__qualname__}"


def import_modules(names: Iterable[str], asked_by: str) -> None:
    """Import modules so that they register what they define; the working directory is importable, as with ``python
    -m``. DataLoader workers that are spawned inherit ``sys.path`` and import a plug-in when they unpickle its classes.

    Args:
        names: dotted names, for example ``["my_package.my_module"]``.
        asked_by: the flag or configuration key that names them, for messages.

    Raises:
        InputError: a module cannot be imported, with the file and line that failed.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{asked_by}: {names!r} is not a list of module names such as [my_package.my_module]")
    for name in names:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(name)
        except InputError as error:
            raise InputError(f"{asked_by}: {name}: {error}") from error
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            at = "" if "importlib" in last.filename else f" ({last.filename}:{last.lineno})"
            raise InputError(f"{asked_by}: {name} cannot be imported: {type(error).__name__}: {error}{at}") from error


DETECTORS = Registry("detector", "MODEL.NAME")
VFES = Registry("voxel feature encoder", "MODEL.VFE.NAME")
BACKBONES_3D = Registry("3-D backbone", "MODEL.BACKBONE_3D.NAME")
MAP_TO_BEV = Registry("map encoder", "MODEL.MAP_TO_BEV.NAME")
PFES = Registry("point feature encoder", "MODEL.PFE.NAME")
BACKBONES_2D = Registry("2-D backbone", "MODEL.BACKBONE_2D.NAME")
DENSE_HEADS = Registry("dense head", "MODEL.DENSE_HEAD.NAME")
POINT_HEADS = Registry("point head", "MODEL.POINT_HEAD.NAME")
ROI_HEADS = Registry("RoI head", "MODEL.ROI_HEAD.NAME")
LOSSES = Registry("loss", "MODEL.DENSE_HEAD.LOSS_CONFIG")
NORMALIZERS = Registry("normaliser", "MODEL.DENSE_HEAD.LOSS_CONFIG.NORMALIZER")
GAMMA_SCHEDULES = Registry("schedule", "MODEL.DENSE_HEAD.LOSS_CONFIG.CLS_LOSS.GAMMA_SCHEDULE.TYPE")
LR_SCHEDULES = Registry("learning-rate schedule", "OPTIMIZATION.SCHEDULER")
DATASETS = Registry("data set", "DATA_CONFIG.DATASET")
AUGMENTORS = Registry("augmentation", "DATA_CONFIG.DATA_AUGMENTOR.AUG_CONFIG_LIST")
DATA_PROCESSORS = Registry("data processor", "DATA_CONFIG.DATA_PROCESSOR")
