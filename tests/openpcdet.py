"""A checkout of OpenPCDet, to ask its own code: the environment variable OPENPCDET names its folder; tests that need it
skip without.
"""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import pytest

needs_openpcdet = pytest.mark.skipif(
    "OPENPCDET" not in os.environ, reason="no checkout of OpenPCDet: set OPENPCDET to its folder"
)


def peer_folder() -> Path:
    """The checkout's folder."""
    return Path(os.environ["OPENPCDET"]).resolve()


def copy_tools(folder: Path) -> None:
    """Its tools in ``folder/tools``, beside an empty folder where its package would be, and ``folder/no_waiting`` for
    the path of Python processes.

    Its train.py sleeps half a minute at the end, for checkpoints of other runs; with that folder on the path nothing
    sleeps.
    """
    shutil.copytree(peer_folder() / "tools", folder / "tools")
    (folder / "pcdet").mkdir()
    (folder / "no_waiting").mkdir()
    (folder / "no_waiting/sitecustomize.py").write_text("import time\n\ntime.sleep = lambda seconds: None\n")


def run(folder, *words, path=()) -> subprocess.CompletedProcess:
    """``python -m pcdet_focal.integrations.openpcdet WORDS`` in ``folder``, with ``path`` on Python's path."""
    command = [sys.executable, "-m", "pcdet_focal.integrations.openpcdet", *map(str, words)]
    paths = [*path, Path(__file__).resolve().parents[1], *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)


@lru_cache(None)
def peer_module(name: str) -> ModuleType:
    """One module of OpenPCDet that needs nothing else of it (``config``, ``utils.loss_utils``), from its file, not as
    ``pcdet``.
    """
    path = peer_folder() / "pcdet" / f"{name.replace('.', '/')}.py"
    spec = importlib.util.spec_from_file_location(f"openpcdet_checkout.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_names(folder: Path) -> dict[str, list[str]]:
    """{module below pcdet: names of its classes, functions and constants, and in a package those it brings in from its
    modules}, read, not run.
    """
    found = {}
    for path in sorted((folder / "pcdet").rglob("*.py")):
        parts = path.relative_to(folder / "pcdet").with_suffix("").parts
        package = parts[-1] == "__init__"
        try:
            with warnings.catch_warnings():  # of escapes in its strings
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError:  # kitti_object_eval_python/evaluate.py
            continue
        names: list[str] = []
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.append(node.name)
            elif isinstance(node, ast.Assign):
                names += [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.ImportFrom) and node.level == 1 and node.module and package:
                names += [alias.asname or alias.name for alias in node.names]
        names = sorted({name for name in names if not name.startswith("_") or name == "__all__"})
        if names:
            found[".".join(parts[:-1] if package else parts)] = names
    return found
