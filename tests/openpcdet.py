"""A checkout of OpenPCDet, to ask its own code: the environment variable OPENPCDET names its folder; tests that need it skip without."""
import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import pytest

needs_openpcdet = pytest.mark.skipif("OPENPCDET" not in os.environ, reason="no checkout of OpenPCDet: set OPENPCDET to its folder")


def peer_folder() -> Path:
    """The checkout's folder."""
    return Path(os.environ["OPENPCDET"]).resolve()


@lru_cache(None)
def peer_module(name: str) -> ModuleType:
    """One module of OpenPCDet that needs nothing else of it (``config``, ``utils.loss_utils``), from its file, not as ``pcdet``."""
    path = peer_folder() / "pcdet" / f"{name.replace('.', '/')}.py"
    spec = importlib.util.spec_from_file_location(f"openpcdet_checkout.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
