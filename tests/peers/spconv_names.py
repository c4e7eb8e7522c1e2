"""A pytest plugin (``-p spconv_names``): this package's sparse convolutions as ``spconv.pytorch``, on the CPU.

The tests name ``cuda:0``; here every device is the CPU. Where they take one of spconv's algorithms, "Native" is this
package's compiled code and "MaskImplicitGemm" its plain torch code, the one that CUDA tensors have without spconv.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from modules import module

from pcdet_focal.ops import sparse_conv


def _with_algorithm(layer: type) -> type:
    class Layer(layer):  # type: ignore[misc, valid-type]
        def __init__(self, *args, algo=None, **kwargs):
            super().__init__(*args, **kwargs)
            self.engine = "reference" if algo is sparse_conv.ConvAlgo.MaskImplicitGemm else "cpu"

        def forward(self, x):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PCDET_FOCAL_BACKEND", self.engine)
                return super().forward(x)

    return Layer


_WINDOWED = sparse_conv.SparseConvolution, sparse_conv.SparseMaxPool
_entries = {name: getattr(sparse_conv, name) for name in sparse_conv.__all__}
for _name, _entry in _entries.items():
    if isinstance(_entry, type) and issubclass(_entry, _WINDOWED) and _entry not in _WINDOWED:
        _entries[_name] = _with_algorithm(_entry)
module("spconv")
module("spconv.core", ConvAlgo=sparse_conv.ConvAlgo)
module("spconv.constants", ALL_WEIGHT_IS_KRSC=True, FILTER_HWIO=False)
module("spconv.pytorch", **_entries, assign_name_for_sparse_modules=lambda network: None)  # for spconv's messages
module("cumm", tensorview=None)
_spec = importlib.util.spec_from_file_location("spconv.test_utils", Path.cwd() / "spconv" / "test_utils.py")
assert _spec and _spec.loader
sys.modules["spconv.test_utils"] = _utils = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_utils)  # numpy only: the checkout's own


class _OnTheCpu(ModuleType):
    device = staticmethod(lambda name: torch.device("cpu"))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture(autouse=True)
def on_the_cpu(request, monkeypatch):
    monkeypatch.setattr(request.module, "torch", _OnTheCpu("torch"))
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, *args: tensor)
