"""The backend of a sparse convolution: native CPU code, or one of the two GPU packages with spconv's interface.

- ``native``: CPU tensors. On another device only when forced, with the plain torch reference, correct and slow.
- ``spconv``: CUDA tensors where a wheel spconv-cuXXX is installed. Forced on the CPU: its one-thread debugging path.
- ``spconv_triton``: CUDA tensors where spconv-triton is installed and no wheel spconv-cuXXX.

The environment variable PCDET_FOCAL_SPARSE forces one by name. Neither package is imported before it is chosen.
"""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from functools import cache
from importlib import metadata
from types import ModuleType

import numpy as np
import torch

from ...errors import InputError

VARIABLE = "PCDET_FOCAL_SPARSE"
BACKENDS = ("native", "spconv", "spconv_triton")
_WHEELS = tuple(f"spconv-cu{version}" for version in (126, 124, 121, 120, 118, 117, 116, 114, 113))
_EXTRAS = (
    "pip install 'pcdet_focal[cu126]' (Python 3.9 to 3.13), 'pcdet_focal[cu120]' (Python 3.8 to 3.11) or "
    "'pcdet_focal[triton-sparse]' (any GPU that Triton knows)"
)
_FAULTY = (
    "the installed package named plain 'spconv' is the CPU build, which gives wrong values for strided convolutions "
    "and has no "
    "working backward pass: pip uninstall spconv, then "
)

logger = logging.getLogger(__name__)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _installed_wheel() -> tuple[str | None, str | None]:
    """(name, version) of the spconv wheel with CUDA code that is installed, (None, None) without one."""
    for name in _WHEELS:
        version = _version(name)
        if version is not None:
            return name, version
    return None, None


def select_backend(device: torch.device | str) -> str:
    """The backend for tensors on ``device``: ``"native"``, ``"spconv"`` or ``"spconv_triton"``.

    Decided once in a process for each kind of device (and value of PCDET_FOCAL_SPARSE), and written to the
    log at the first forward pass.

    Raises:
        InputError: PCDET_FOCAL_SPARSE has an unknown value, or no package for this device is installed; the message
            says what to install.
    """
    return _select(torch.device(device).type, os.environ.get(VARIABLE, "").strip().lower())


@cache
def _select(device_type: str, forced: str) -> str:
    if forced and forced not in BACKENDS:
        raise InputError(
            f"The environment variable {VARIABLE} is {forced!r}: it must be one of {', '.join(BACKENDS)}, or not set."
        )
    wheel, version = _installed_wheel()
    if forced:
        backend, why = forced, f"{VARIABLE} asks for it"
    elif device_type != "cuda":
        backend, why = "native", f"tensors on {device_type}"
    elif wheel is not None:
        backend, why = "spconv", f"CUDA tensors, {wheel} {version} is installed"
    elif _version("spconv-triton") is not None:
        backend, why = (
            "spconv_triton",
            f"CUDA tensors, no spconv wheel, spconv-triton {_version('spconv-triton')} is installed",
        )
    else:
        faulty = (
            _FAULTY
            if _version("spconv") is not None
            else "no sparse convolution package for CUDA tensors is installed: "
        )
        raise InputError(
            f"Sparse convolution: {faulty}{_EXTRAS}. {VARIABLE}=own runs the slow plain torch reference on the GPU."
        )
    if backend != "native":
        load_library(backend)
    logger.info("sparse convolution on %s: %s (%s)", device_type, backend, why)
    return backend


@cache
def load_library(backend: str) -> ModuleType:
    """The module ``spconv.pytorch`` or ``spconv_triton.pytorch``.

    Raises:
        InputError: it is not installed, or only the faulty CPU build of spconv is.
    """
    if backend == "spconv":
        wheel, version = _installed_wheel()
        if wheel is None and _version("spconv") is not None:
            raise InputError(f"Sparse convolution: {_FAULTY}{_EXTRAS}.")
        if wheel == "spconv-cu120" and int(np.__version__.split(".")[0]) >= 2:
            warnings.warn(
                f"spconv-cu120 {version} with numpy {np.__version__} can end the process with a floating point "
                "exception: "
                "use pip install 'pcdet_focal[cu126]', or numpy below 2.",
                RuntimeWarning,
                stacklevel=2,
            )
    try:
        library = importlib.import_module(f"{backend}.pytorch")
        if backend == "spconv":  # OpenPCDet's setting: the direct table needs memory proportional to the grid
            importlib.import_module("spconv.constants").SPCONV_USE_DIRECT_TABLE = False
    except ImportError as error:
        raise InputError(f"Sparse convolution: {backend} cannot be imported ({error}): {_EXTRAS}.") from error
    return library
