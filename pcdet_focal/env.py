"""``python -m pcdet_focal.env``: what a report of a bug needs to say about the machine.

Nothing that can stop the process is imported: spconv's version comes from its metadata.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

import torch

from . import __version__

PACKAGES = ("numpy", "numba", "triton", "easydict", "PyYAML", "safetensors", "spconv-triton", "cumm")
# pairs that fail: (package, its versions, other package, its versions, what happens)
KNOWN_BAD = (
    (
        "spconv-cu",
        "2.3.",
        "numpy",
        "2.",
        "spconv's voxel generator and version 2.3.6 can die with SIGFPE; use numpy < 2",
    ),
    ("nuscenes-devkit", "1.", "numpy", "2.", "nuscenes-devkit needs numpy < 2"),
)


def version_of(package: str) -> str | None:
    """The installed version, None without one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed() -> dict[str, str]:
    """{package: version} of those that matter here."""
    names = [*PACKAGES, "nuscenes-devkit"]
    names += sorted(
        {
            name
            for distribution in importlib.metadata.distributions()
            for name in [distribution.metadata["Name"] or ""]
            if name.lower().replace("_", "-").startswith(("spconv-cu", "cumm-cu"))
        }
    )
    return {name: version for name in names if (version := version_of(name)) is not None}


def backends() -> dict[str, str]:
    """What computes here: {what: how}."""
    from .ops.backend import choose_backend
    from .ops.sparse_conv import select_backend

    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    found = {f"operations on {d.type}": choose_backend(d, "env", has_cuda=True) for d in devices}
    for device in devices:
        try:
            found[f"sparse convolutions on {device.type}"] = select_backend(device)
        except Exception as error:  # the report goes on
            found[f"sparse convolutions on {device.type}"] = str(error)
    return found


def known_problems(packages: dict[str, str]) -> list[str]:
    """A line for each pair of ``packages`` {name: version} that is known to fail."""
    return [
        f"{name} {version} with {other} {packages[other]}: {what}"
        for start, versions, other, other_versions, what in KNOWN_BAD
        for name, version in packages.items()
        if name.startswith(start) and version.startswith(versions)
        if packages.get(other, "").startswith(other_versions)
    ]


def report() -> str:
    """The whole report."""
    lines = {
        "pcdet_focal": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "processors": f"{os.cpu_count()}, torch uses {torch.get_num_threads()}",
        "torch": f"{torch.__version__}, built for CUDA {torch.version.cuda}",
        **installed(),
    }
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        size = f"{properties.total_memory / 2**30:.0f} GiB, compute capability {properties.major}.{properties.minor}"
        lines[f"cuda:{index}"] = f"{properties.name}, {size}"
    lines |= backends()
    lines |= {name: value for name, value in sorted(os.environ.items()) if name.startswith(("PCDET_FOCAL", "TRITON_"))}
    width = max(map(len, lines))
    problems = [f"known problem: {line}" for line in known_problems(installed())]
    return "\n".join([*(f"{name:{width}}  {value}" for name, value in lines.items()), *problems])


if __name__ == "__main__":
    print(report())
