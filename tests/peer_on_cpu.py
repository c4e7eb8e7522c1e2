"""Importing this makes a checkout of OpenPCDet (its folder on ``sys.path``) importable on a CPU: for processes of its
own, it changes torch.

Compiled extensions and packages that the compared code never calls are empty modules, every name in which is a
placeholder class; ``.cuda()`` gives what it is called on.
"""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

import numba  # noqa: F401  (before the empty scipy, whose version it would read)
import numpy as np
import torch

_EMPTY = (
    "SharedArray",
    "av2",
    "cv2",
    "kornia",
    "lyft_dataset_sdk",
    "nuscenes",
    "pandas",
    "pyarrow",
    "pyquaternion",
    "scipy",
    "skimage",
    "tensorflow",
    "torch_scatter",
    "torchvision",
)


class _Empty(ModuleType):
    __path__: list = []

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        empty = fullname.split(".")[0] in _EMPTY or fullname == "pcdet.version"
        empty = empty or (fullname.startswith("pcdet.ops.") and fullname.endswith(("_cuda", "_ext")))
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if empty else None

    def create_module(self, spec):
        module = _Empty(spec.name)
        if spec.name == "pcdet.version":
            module.__version__ = "0.6.0"
        return module

    def exec_module(self, module):
        pass


# compiles functions that use kornia's constants
sys.modules["pcdet.datasets.argo2.argo2_dataset"] = _Empty("argo2_dataset")
sys.meta_path.append(_Finder())  # last: what is installed is found before
torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **kwargs: self
np.int, np.float = int, float  # names that numpy has dropped and OpenPCDet still says
