"""A fork's own modules on this package.

A module ``pcdet.X`` that is not here is loaded from the ``pcdet`` folder of the fork's checkout, as ``pcdet_focal.X``.
Its relative imports therefore mean this package's modules where it has them, and the fork's files where it has none.
The fork's classes can then be named in a configuration, because the registries ask here for what they do not know.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from ... import registry

# which packages of a fork define the classes of a registry, by the configuration key
_PACKAGES = {
    "MODEL.NAME": ("models.detectors",),
    "MODEL.VFE.NAME": ("models.backbones_3d.vfe",),
    "MODEL.BACKBONE_3D.NAME": ("models.backbones_3d",),
    "MODEL.MAP_TO_BEV.NAME": ("models.backbones_2d.map_to_bev",),
    "MODEL.PFE.NAME": ("models.backbones_3d.pfe",),
    "MODEL.BACKBONE_2D.NAME": ("models.backbones_2d",),
    "MODEL.DENSE_HEAD.NAME": ("models.dense_heads",),
    "MODEL.POINT_HEAD.NAME": ("models.dense_heads",),
    "MODEL.ROI_HEAD.NAME": ("models.roi_heads",),
    "DATA_CONFIG.DATASET": ("datasets",),
}


def find_checkout(start: Path) -> Path | None:
    """The folder at or above ``start`` with ``pcdet/__init__.py`` in it, or None."""
    start = start.resolve()
    return next((folder for folder in (start, *start.parents) if (folder / "pcdet/__init__.py").is_file()), None)


class _Loader(SourceFileLoader):
    """Says which file is used."""

    def exec_module(self, module: ModuleType) -> None:
        name = self.name.replace("pcdet_focal", "pcdet", 1)
        print(f"{name} is not in pcdet_focal; {self.path} is used", file=sys.stderr)
        super().exec_module(module)


class Fork:
    """The ``pcdet`` folder of a checkout: an import finder behind this package's own, and the registries' last resort.

    Args:
        checkout: the folder that holds ``pcdet``.
    """

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout

    def install(self) -> None:
        """From now on the fork's modules can be imported as ``pcdet.X``, and its classes named in configurations."""
        sys.meta_path.append(self)
        registry.elsewhere = self.find_class

    def uninstall(self) -> None:
        sys.meta_path.remove(self)
        registry.elsewhere = None

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith("pcdet_focal."):
            return None
        below = fullname[len("pcdet_focal.") :]
        file = self.file_of(below)
        if file is None:
            folder = self.checkout.joinpath("pcdet", *below.split("."))
            if not any(folder.glob("*.py")):
                return None
            spec = ModuleSpec(fullname, None, is_package=True)  # a folder without __init__.py
            spec.submodule_search_locations = [str(folder)]
            return spec
        folders = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _Loader(fullname, str(file))
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=folders)

    def file_of(self, module: str) -> Path | None:
        """The file of ``pcdet.<module>`` in the checkout."""
        base = self.checkout.joinpath("pcdet", *module.split("."))
        files = (base / "__init__.py", base.with_suffix(".py")) if module else (base / "__init__.py",)
        return next((file for file in files if file.is_file()), None)

    def definition(self, module: str, name: str) -> tuple[Path, str] | None:
        """(file, module below pcdet) where the fork defines ``name`` of ``pcdet.<module>``; None where it does not.

        Re-exports are followed: ``from .my_head import MyHead`` leads to my_head.py.
        """
        file = self.file_of(module)
        if file is None:
            return None
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        tree = _parse(file)
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                return file, module
            if isinstance(node, ast.ImportFrom) and node.level:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        parts = package.split(".")
                        parts = parts[: len(parts) - node.level + 1] + (node.module or "").split(".")
                        return self.definition(".".join(filter(None, parts)), alias.name) or (file, module)
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return file, module
        return None

    def find_class(self, name: str, key_path: str) -> Any:
        """The fork's class that a configuration calls ``name`` at ``key_path``; None where it has none.

        It is the one that the package's ``__all__`` maps the name to, else a class of that name in one of its files.
        """
        for package in _PACKAGES.get(key_path, ()):
            file = self.file_of(package)
            if file is None:
                continue
            class_name = _all_of(_parse(file)).get(name, name)
            found = self.definition(package, class_name) or self._search(package, file.parent, class_name)
            if found is not None:
                return getattr(importlib.import_module(f"pcdet_focal.{found[1]}"), class_name, None)
        return None

    def _search(self, package: str, folder: Path, class_name: str) -> tuple[Path, str] | None:
        for file in sorted(folder.glob("*.py")):
            if any(isinstance(node, ast.ClassDef) and node.name == class_name for node in _parse(file).body):
                return file, f"{package}.{file.stem}"
        return None

    def hint(self, error: BaseException | None) -> str | None:
        """Of an ImportError or AttributeError about a module of this package: where the fork defines the name."""
        if isinstance(error, AttributeError):
            module = getattr(error.obj, "__name__", "") if error.obj is not None else ""
            names: Iterator[str] = iter([error.name or ""])
        elif isinstance(error, ImportError):
            module = error.name or ""
            names = (word for word in str(error).split("'")[1::2])  # cannot import name 'X' from 'module'
        else:
            return None
        below = module.removeprefix("pcdet_focal").removeprefix("pcdet").removeprefix(".")
        if not module.startswith("pcdet"):
            return None
        for name in names:
            found = self.definition(below, name)
            if found is not None:
                file, where = found
                spec = importlib.util.find_spec(f"pcdet_focal.{where}" if where else "pcdet_focal")
                remedy = (
                    f"write: from pcdet.{where} import {name}"
                    if spec is not None and spec.origin == str(file)
                    else f"pcdet_focal has its own pcdet.{where}; move {name} into a new file beside it"
                )
                return f"{name} is defined in {file}; {remedy}"
        return None


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except SyntaxError:
        return ast.Module([], [])


def _all_of(tree: ast.Module) -> Mapping[str, str]:
    """``__all__ = {'Name': Class, ...}`` as {name: name of the class}."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            if isinstance(node.value, ast.Dict):
                for key, value in zip(node.value.keys, node.value.values):
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Name):
                        found[str(key.value)] = value.id
    return found
