"""``import pcdet`` gives ``pcdet_focal``: the same module objects under a second name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from ...errors import InputError


class SecondName:
    """An import finder under which ``alias`` and everything below it is ``package``, imported once whichever name comes
    first.
    """

    def __init__(self, alias: str, package: str):
        self.alias, self.package = alias, package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.alias and not fullname.startswith(f"{self.alias}."):
            return None
        real = self.package + fullname[len(self.alias) :]
        try:
            spec = importlib.util.find_spec(real)
        except ModuleNotFoundError:
            spec = None
        return None if spec is None else ModuleSpec(fullname, _SameModule(real))


class _SameModule:
    """A loader whose module is one that has another name."""

    def __init__(self, real: str):
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.real)
        self.attributes = {
            name: getattr(module, name) for name in ("__spec__", "__loader__", "__package__") if hasattr(module, name)
        }
        return module

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self.attributes)  # the import system has just written the second name's into them


def alias() -> None:
    """From now on ``import pcdet`` and ``from pcdet.X import Y`` are ``pcdet_focal``'s in this process, an installed
    OpenPCDet notwithstanding.

    A module that is not here raises ModuleNotFoundError, as any missing module does. Calling it again changes nothing.

    Raises:
        InputError: OpenPCDet itself was imported before.
    """
    import pcdet_focal

    if sys.modules.get("pcdet", pcdet_focal) is not pcdet_focal:
        raise InputError(
            f"pcdet is imported already, from {sys.modules['pcdet'].__file__}: call alias() before the first import "
            "pcdet"
        )
    if not any(isinstance(finder, SecondName) and finder.alias == "pcdet" for finder in sys.meta_path):
        sys.meta_path.insert(0, SecondName("pcdet", "pcdet_focal"))
