"""OpenPCDet's detectors on a CPU, in a process of their own: what ``step`` compares with.

Compiled extensions and packages that the compared code never calls are empty modules; rotated overlap and NMS,
which OpenPCDet has only for CUDA, are this package's, and spconv takes its Native algorithm, the only one on a CPU.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...paths import IMPORT_FOLDER

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


def make_importable() -> None:
    """Make a checkout on ``sys.path`` importable without its extensions. Changes torch and numpy, so only for processes
    that do nothing else: ``.cuda()`` gives what it is called on.
    """
    import numba  # noqa: F401  (before the empty scipy, whose version it would read)

    # compiles functions that use kornia's constants
    sys.modules["pcdet.datasets.argo2.argo2_dataset"] = _Empty("argo2_dataset")
    sys.meta_path.append(_Finder())  # last: what is installed is found before
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **kwargs: self
    np.int, np.float = int, float  # names that numpy has dropped and OpenPCDet still says


@dataclass(frozen=True)
class Task:
    """What the process is to compute: a configuration, the detector's first weights, a batch (see
    ``step.simulated_batch``), ``train`` or ``evaluate``, the clock, the number of threads.
    """

    cfg: Any
    state: dict[str, torch.Tensor]
    batch: dict
    mode: str
    cpu_time: bool
    threads: int


class Peer:
    """A process with OpenPCDet's detector; ``step`` gives the seconds of each stage of one step (``step.staged``).

    Raises InputError, here or in ``step``, with the last lines of what the process said, where it fails.
    """

    def __init__(self, checkout: str | Path, task: Task):
        checkout = Path(checkout).resolve()
        if not (checkout / "pcdet/models").is_dir() or not (checkout / "tools/train_utils").is_dir():
            raise InputError(f"--openpcdet {checkout}: there is no pcdet/models and tools/train_utils in it")
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / "task.pt"
        torch.save({**asdict(task), "cfg": json.loads(json.dumps(task.cfg))}, file)
        self._errors = open(file.with_name("stderr"), "w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(checkout), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=IMPORT_FOLDER,
        )
        self._read()  # until it is ready

    def step(self) -> dict[str, float]:
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        last_lines = self._errors.read().strip().splitlines()[-3:]
        self.close()
        raise InputError(f"OpenPCDet's code does not run here: {' | '.join(last_lines)}")

    def close(self) -> None:
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()


def _serve(checkout: str, file: str) -> None:
    """The process: a step for every line of the standard input, its seconds as a line of JSON on the output."""
    from ...ops.iou3d_nms import iou3d_nms_utils as overlaps  # before torch is changed
    from . import step

    out, sys.stdout = sys.stdout, sys.stderr
    make_importable()
    sys.path[:0] = [checkout, f"{checkout}/tools"]
    from easydict import EasyDict
    from pcdet.models import build_network
    from pcdet.ops.iou3d_nms import iou3d_nms_utils
    from spconv.core import ConvAlgo
    from train_utils.optimization import build_optimizer

    for name in ("boxes_iou_bev", "boxes_iou3d_gpu", "nms_gpu", "nms_normal_gpu"):
        setattr(iou3d_nms_utils, name, getattr(overlaps, name))
    task = Task(**torch.load(file, weights_only=False))
    torch.set_num_threads(task.threads)
    cfg = EasyDict(task.cfg)
    net = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), step.dataset_like(cfg)).train(task.mode == "train")
    for module in net.modules():
        if hasattr(module, "algo"):
            module.algo = ConvAlgo.Native
    net.load_state_dict(task.state)
    optimizer = build_optimizer(net, cfg.OPTIMIZATION) if task.mode == "train" else None
    now = step.clock(torch.device("cpu"), task.cpu_time)
    print("{}", file=out, flush=True)
    for _ in sys.stdin:
        seconds = step.staged(net, task.batch, now, optimizer, cfg.OPTIMIZATION.GRAD_NORM_CLIP)
        print(json.dumps(seconds), file=out, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
