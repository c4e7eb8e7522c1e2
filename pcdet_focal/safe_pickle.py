"""Reading the pickles that datasets keep their annotations in, without running what a pickle may contain.

A pickle is a program: ``pickle.load`` of a downloaded file can do anything. Info files need only numpy arrays and
Python's own containers, so nothing else is let through. Files written under numpy 1 and numpy 2 both load (numpy 2
renamed ``numpy.core`` to ``numpy._core``).
"""

from __future__ import annotations

import collections
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .files import read_bytes

_NUMPY = {
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "scalar": np.float64(0).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
}


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """What pickles of protocol 2 and below call to write bytes; any other codec would be a door to more than that."""
    if encoding not in ("latin1", "latin-1", "utf-8"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode(encoding)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _NUMPY["_reconstruct"]
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _NUMPY["scalar"]
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _NUMPY["_frombuffer"]
for _module in ("builtins", "__builtin__"):
    for _type in (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, slice, str, tuple, range):
        _ALLOWED[_module, _type.__name__] = _type
_ALLOWED["collections", "OrderedDict"] = collections.OrderedDict
_ALLOWED["collections", "defaultdict"] = collections.defaultdict


class DataUnpickler(pickle.Unpickler):
    """Knows numpy's arrays and numbers and Python's containers, and no other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and only numpy arrays and plain Python containers are read"
            )
        return _ALLOWED[module, name]


def load_pickle(path: str | Path) -> Any:
    """The content of a pickle of numpy arrays, numbers, strings, lists, tuples, sets and dicts.

    Raises:
        InputError: the file is missing or unreadable, is not a whole pickle, or asks for any other class or function
            (it is named).
    """
    data = read_bytes(path, "pickle")
    if not data:
        raise InputError(f"{path} is empty; make it again with create_kitti_infos or create_custom_infos.")
    try:
        return DataUnpickler(io.BytesIO(data)).load()
    except (
        Exception
    ) as error:  # a damaged pickle can fail in any way: a bad index, a wrong type, an attribute that is not there
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path} is not a pickle of plain data ({reason}); make it again with create_kitti_infos or "
            "create_custom_infos."
        ) from error
