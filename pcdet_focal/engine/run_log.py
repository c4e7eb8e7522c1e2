"""Output of a run: console, log file, TensorBoard, and metrics.jsonl for plots."""

from __future__ import annotations

import json
import logging
import random
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..errors import InputError
from ..files import read_lines


class _Console(logging.Handler):
    """Lines on standard output, above a progress bar if one is there."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "console", True):
            mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            tqdm.write(f"{mark}{record.getMessage()}", file=sys.stdout)
            sys.stdout.flush()


def create_logger(log_file: str | Path | None = None, rank: int = 0, log_level: int = logging.INFO) -> logging.Logger:
    """A logger to the console and, with ``log_file``, to that file (there with time and level). Ranks above 0 only
    report errors.
    """
    logger = logging.getLogger(f"pcdet_focal.run.{log_file}")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(log_level if rank == 0 else logging.ERROR)
    logger.propagate = False
    logger.addHandler(_Console())
    if log_file is not None and rank == 0:
        file = logging.FileHandler(log_file, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s  %(levelname)5s  %(message)s"))
        logger.addHandler(file)
    return logger


def file_only(logger: logging.Logger) -> logging.LoggerAdapter:
    """The same logger for what belongs in the file and would only be noise on the console."""
    return logging.LoggerAdapter(logger, {"console": False})


def set_random_seed(seed: int) -> None:
    """Seed Python, numpy and torch, and make cuDNN pick its algorithms the same way every time."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def worker_init_fn(worker_id: int, seed: int | None = 666) -> None:
    """Seed Python, numpy and torch in a loader's worker with ``seed + worker_id``; None leaves them. The loaders here
    need none: a sample seeds itself.
    """
    if seed is not None:
        random.seed(seed + worker_id)
        np.random.seed(seed + worker_id)
        torch.manual_seed(seed + worker_id)


class AverageMeter:
    """The last value, and the mean of all, of something measured now and then."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.val = self.avg = self.sum = 0.0
        self.count = 0

    def update(self, val: float, n: int = 1) -> None:
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


class ScalarLog:
    """Scalars over iterations, to TensorBoard (``folder/tensorboard``) and to ``folder/metrics.jsonl`` (one JSON object
    a line).

    Values may be tensors; they are read here, in one place, and only when they are logged.
    """

    def __init__(self, folder: str | Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("training curves need TensorBoard: pip install tensorboard") from error
        self._writer = SummaryWriter(log_dir=str(Path(folder) / "tensorboard"))
        self._file = open(Path(folder) / "metrics.jsonl", "a", encoding="utf-8")

    def add(self, values: dict, iteration: int) -> None:
        """``values``: name -> number or 0-d tensor."""
        numbers = {key: float(value) for key, value in values.items()}
        for key, value in numbers.items():
            self._writer.add_scalar(key, value, iteration)
        self._file.write(json.dumps({"iteration": iteration, **numbers}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._writer.close()
        self._file.close()


def read_metrics(path: str | Path) -> dict[str, list[tuple[int, float]]]:
    """``metrics.jsonl`` as {name: [(iteration, value), ...]}; where a resumed run wrote an iteration again, the later
    value counts. Raises InputError for a line that is something else.
    """
    series: dict[str, dict[int, float]] = {}
    for number, line in enumerate(read_lines(path, "log of a run"), start=1):
        try:
            record = json.loads(line)
            iteration = record.pop("iteration")
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}:{number}: not the JSON of an iteration; where a run was cut off in the last line, delete it"
            ) from error
        for key, value in record.items():
            series.setdefault(key, {})[iteration] = value
    return {key: sorted(points.items()) for key, points in series.items()}
