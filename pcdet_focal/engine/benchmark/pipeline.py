"""The training data pipeline of second.yaml on one core: samples a second, and where the time of a sample goes.

Whole samples are timed untouched. For the stages, the steps of a second data set are wrapped in a stopwatch; a stage is
charged for its own time, not for that of a stage within it, and what lies between the wrapped steps is the row
"everything else". Both are measured in turns on the same frames.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...config import Config
from ...datasets.kitti.create import create_kitti_infos
from ...datasets.kitti.dataset import KittiDataset
from ...datasets.synthetic import SyntheticConfig, write_kitti_folder
from ...errors import InputError
from . import goals, workloads
from .measure import spread

SAMPLES, FRAMES, ROUND = 200, 60, 20  # samples in all, simulated frames, samples in a round
REST = "everything else"
# As numpy's wheels and the systems' packages name it.
_BLAS_THREADS = (
    "scipy_openblas_get_num_threads64_",
    "scipy_openblas_get_num_threads",
    "openblas_get_num_threads64_",
    "openblas_get_num_threads",
)
# Methods of the data set that are stages.
_READING = {
    "get_calib": "calibration",
    "get_road_plane": "road plane",
    "get_lidar": "load the scan",
    "_crop_to_image": "crop to the image",
}


class Stopwatch:
    """Seconds of each stage, without those of the stages called within it."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self.seconds: dict[str, float] = {}
        self._within = [0.0]  # for each running stage what its inner stages took

    def wrap(self, stage: str, function: Callable) -> Callable:
        """The function, timed."""

        def timed(*args, **kwargs):
            self._within.append(0.0)
            began = self._now()
            try:
                return function(*args, **kwargs)
            finally:
                took = self._now() - began
                self.seconds[stage] = self.seconds.get(stage, 0.0) + took - self._within.pop()
                self._within[-1] += took

        return timed


def watch(dataset: KittiDataset, now: Callable[[], float]) -> Stopwatch:
    """Change the data set: its steps are timed."""
    stopwatch = Stopwatch(now)
    for method, stage in _READING.items():
        if hasattr(dataset, method):
            setattr(dataset, method, stopwatch.wrap(stage, getattr(dataset, method)))
    for owner, queue in (
        (dataset.data_augmentor, "data_augmentor_queue"),
        (dataset.data_processor, "data_processor_queue"),
    ):
        setattr(owner, queue, [stopwatch.wrap(_name(step), step) for step in getattr(owner, queue)])
    dataset.point_feature_encoder.forward = stopwatch.wrap("point features", dataset.point_feature_encoder.forward)
    return stopwatch


def _name(step: Callable) -> str:
    """A step is a partial of a method with the name that the configuration uses, or the object that pastes objects."""
    return getattr(getattr(step, "func", None), "__name__", "gt_sampling")


@contextmanager
def one_thread() -> Iterator[None]:
    """torch and numpy's matrix products on one thread; the kernels of the pipeline are of one thread anyway."""
    settings = [(torch.get_num_threads(), torch.set_num_threads)]
    for library in _openblas():
        settings += [
            (getattr(library, get)(), getattr(library, get.replace("get", "set")))
            for get in _BLAS_THREADS
            if hasattr(library, get)
        ]
    for _, set_threads in settings:
        set_threads(1)
    try:
        yield
    finally:
        for before, set_threads in settings:
            set_threads(before)


def _openblas() -> list[ctypes.CDLL]:
    """The OpenBLAS that this process has loaded; none where the system does not tell."""
    try:
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [ctypes.CDLL(path) for path in {line.split()[-1] for line in loaded if "openblas" in line}]


@contextmanager
def kitti_folder(cfg: Config, root: str | Path | None, frames: int, full_scan: bool) -> Iterator[Path]:
    """``root``, or a simulated folder that is removed at the end."""
    if root is not None:
        yield Path(root)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "kitti"
        write_kitti_folder(made, frames, 0, SyntheticConfig(seed=0, full_scan=full_scan), progress=False)
        create_kitti_infos(cfg.DATA_CONFIG, cfg.CLASS_NAMES, made, made, workers=1)
        yield made


def run(
    root: str | Path | None = None,
    samples: int | None = None,
    quick: bool = False,
    cpu_time: bool = False,
    report: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Measure on one thread. Returns the ``rows`` of the JSON file (see ``results``): the pipeline, then its stages;
    times are of one sample.

    Raises InputError where ``root`` is no KITTI folder with infos and object database.
    """
    cfg = workloads.kitti_config("second", quick=False)
    samples = samples or (8 if quick else SAMPLES)
    round_of = min(samples, 4 if quick else ROUND)
    rounds = samples // round_of
    with one_thread(), kitti_folder(cfg, root, 3 if quick else FRAMES, full_scan=not quick) as folder:
        plain, watched = (
            KittiDataset(cfg.DATA_CONFIG, cfg.CLASS_NAMES, training=True, root_path=folder) for _ in range(2)
        )
        if not len(plain):
            raise InputError(plain.why_empty())
        plain.seed = watched.seed = 0
        now = time.process_time if cpu_time else time.perf_counter
        stopwatch = watch(watched, now)
        points = [len(plain.get_lidar(info["point_cloud"]["lidar_idx"])) for info in plain.infos[:20]]
        whole, stages = _time(plain, watched, stopwatch, rounds, round_of, now)
    source = "simulated" if root is None else "given with --root"
    shape = f"{len(plain)} frames {source}, {sum(points) // len(points):,} points"
    rows = [_row("pipeline", "second.yaml, 360 degrees", shape, whole, round_of)]
    total = sum(spread(values)["median"] for values in stages.values())
    for stage, values in stages.items():
        rows.append(
            _row("stage", stage, f"{100 * spread(values)['median'] / total:.0f} % of a sample", values, round_of)
        )
    median = rows[0]["sides"]["ours"]["median"]
    report(f"{shape}: {1 / median:.0f} samples a second on one core, {1000 * median:.2f} ms each")
    for row in rows[1:]:
        report(f"  {row['case']:40} {1000 * row['sides']['ours']['median']:7.3f} ms  {row['shape']}")
    for goal in rows[0]["goals"]:
        report(f"  goal: {goal['goal']}: {'reached' if goal['met'] else 'MISSED'}")
    return rows


def _time(
    plain: KittiDataset,
    watched: KittiDataset,
    stopwatch: Stopwatch,
    rounds: int,
    round_of: int,
    now: Callable[[], float],
) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of one sample in each round: untouched, and for each stage."""
    for dataset in (plain, watched):
        dataset.__getitems__(range(min(round_of, len(dataset))))  # compile, open files
    whole: list[float] = []
    stages: dict[str, list[float]] = {}
    for turn in range(rounds):
        indices = [(turn * round_of + k) % len(plain) for k in range(round_of)]
        for dataset in (plain, watched) if turn % 2 else (watched, plain):
            stopwatch.seconds.clear()
            began = now()
            dataset.__getitems__(indices)
            took = now() - began
            if dataset is plain:
                whole.append(took / round_of)
                continue
            for stage, seconds in {**stopwatch.seconds, REST: took - sum(stopwatch.seconds.values())}.items():
                stages.setdefault(stage, []).append(seconds / round_of)
    return whole, stages


def _row(name: str, case: str, shape: str, values: list[float], calls: int) -> dict[str, Any]:
    side = {**spread(values), "n": len(values), "calls": calls, "first_call": values[0]}
    row = {
        "row": name,
        "case": case,
        "shape": shape,
        "device": "cpu",
        "note": "",
        "kept_bytes": 0,
        "sides": {"ours": side},
        "ratios": {},
    }
    return {**row, "goals": goals.judge("data", row)}
