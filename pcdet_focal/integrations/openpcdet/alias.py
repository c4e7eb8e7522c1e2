"""``import pcdet`` gives ``pcdet_focal``: the same module objects under a second name."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing.spawn
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import InputError
from ...paths import IMPORT_FOLDER
from . import no_cuda
from .forks import Fork, find_checkout


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


class _SameModule(Loader):
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


def alias(checkout: str | Path | None = None, cuda_means_cpu: bool = True) -> None:
    """From now on ``import pcdet`` and ``from pcdet.X import Y`` are ``pcdet_focal``'s in this process, an installed
    OpenPCDet notwithstanding. Processes that multiprocessing spawns, data loader workers among them, start with it.

    Calling it again changes nothing.

    Args:
        checkout: a checkout of OpenPCDet or of a fork, from whose ``pcdet`` folder modules are loaded that are not
            here; default: the one that the working directory is in, if any. Without one, such a module raises
            ModuleNotFoundError.
        cuda_means_cpu: where no CUDA device is there, ``.cuda()``, ``device="cuda"``, ``torch.cuda.synchronize()`` and
            so on mean the CPU.

    Raises:
        InputError: OpenPCDet itself was imported before; ``checkout`` has no ``pcdet`` folder.
    """
    import pcdet_focal

    if sys.modules.get("pcdet", pcdet_focal) is not pcdet_focal:
        raise InputError(
            f"pcdet is imported already, from {sys.modules['pcdet'].__file__}: call alias() before the first import "
            "pcdet"
        )
    root = find_checkout(Path.cwd() if checkout is None else Path(checkout))
    if root is None and checkout is not None:
        raise InputError(f"{checkout} is no checkout of OpenPCDet or of a fork: no folder pcdet in it or above it")
    if not any(isinstance(finder, SecondName) and finder.alias == "pcdet" for finder in sys.meta_path):
        sys.meta_path.insert(0, SecondName("pcdet", "pcdet_focal"))
        if root is not None:
            Fork(root).install()
        _alias_in_spawned_processes(root, cuda_means_cpu)
    if cuda_means_cpu:
        no_cuda.cuda_means_cpu()


def _alias_in_spawned_processes(root: Path | None, cuda_means_cpu: bool) -> None:
    """A spawned process imports the script's modules before it asks for anything else, so the first line of its command
    must call alias().
    """
    command_line = multiprocessing.spawn.get_command_line
    first = (
        f"import sys; sys.path.append({str(IMPORT_FOLDER)!r}); from {__package__} import alias; "
        f"alias({str(root) if root else None!r}, {cuda_means_cpu}); "
    )

    def get_command_line(**options: Any) -> list[str]:
        words = command_line(**options)
        code = words.index("-c") + 1 if "-c" in words else 0
        return [*words[:code], first + words[code], *words[code + 1 :]] if code else words

    multiprocessing.spawn.get_command_line = get_command_line
