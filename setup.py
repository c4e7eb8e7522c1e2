"""pcdet_focal: LiDAR 3-D detection, compatible with OpenPCDet, nothing to compile."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(
    r'__version__ = "([^"]+)"', (HERE / "pcdet_focal" / "__init__.py").read_text(encoding="utf-8")
).group(1)

setup(
    name="pcdet_focal",
    version=VERSION,
    description="LiDAR 3-D detection with OpenPCDet's names and numbers; installs with pip, runs on a CPU or a GPU",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=[*find_packages(include=["pcdet_focal", "pcdet_focal.*"]), "pcdet_focal.cfgs"],
    package_dir={"pcdet_focal.cfgs": "cfgs"},  # the configurations go along with the package
    package_data={"pcdet_focal": ["py.typed"], "pcdet_focal.cfgs": ["*/*.yaml"]},
    entry_points={"console_scripts": ["pcdet-focal = pcdet_focal.commands:main"]},
    install_requires=["torch>=2.6", "numpy", "numba", "easydict", "pyyaml", "tqdm", "tensorboard", "matplotlib"],
    extras_require={
        "cu120": ["spconv-cu120"],
        "cu126": ["spconv-cu126"],
        "triton-sparse": ["spconv-triton"],
        "safetensors": ["safetensors"],
        "hub": ["huggingface_hub", "safetensors"],
        "completion": ["argcomplete"],
        "formats": ["plyfile", "laspy[lazrs]"],
        "dev": ["pytest", "hypothesis", "shapely", "safetensors", "mmengine-lite"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
