"""Shared code of the command lines in tools/: arguments, configuration, output folders, one-line errors."""

from __future__ import annotations

import argparse
import atexit
import datetime
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from ..config import Config, cfg_from_list, cfg_from_yaml_file, find_config, root_dir
from ..errors import InputError
from ..registry import import_modules
from . import devices, distributed
from .inference import PRECISIONS
from .run_log import create_logger, file_only

_log: list[logging.Logger] = []  # of the run in progress: what ends it is for its file too


def run_main(main: Callable[..., None], *arguments) -> None:
    """Run a command. What its user can mend is printed as one line, exit status 2; Ctrl-C ends quietly, exit status
    130.
    """
    shown: set[str] = set()

    def show_warning(message, category, filename, lineno, file=None, line=None) -> None:
        text = f"warning: {' '.join(str(message).split())}"
        if text not in shown and distributed.is_main_process():
            shown.add(text)
            tqdm.write(text, file=sys.stderr)
            _to_log(logging.WARNING, text)

    def interrupt(*_) -> None:
        if os.getpid() == pid:  # loader processes get the terminal's Ctrl-C too; this one ends them
            raise KeyboardInterrupt

    _log.clear()
    pid, before = os.getpid(), signal.signal(signal.SIGINT, interrupt)
    process = f" (process {os.environ['RANK']})" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            main(*arguments)
        except (InputError, OSError, torch.cuda.OutOfMemoryError) as error:
            _stop(f"error{process}: {_sentence(error)}", 2)
        except KeyboardInterrupt:
            _stop("interrupted", 130)
        except Exception:
            _to_log(logging.ERROR, "stopped by this error:", exc_info=True)
            raise
        finally:
            signal.signal(signal.SIGINT, before)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()  # wait for all ranks: a rank that exits early aborts the others
        torch.distributed.destroy_process_group()
        _end_process()


def _end_process() -> None:
    """End this process with status 0, without taking the interpreter down.

    A thread of gloo may still hold the tensors of the last barrier. Where it lets them go while Python shuts down, the
    process aborts (torch 2.13 on a busy machine: about one run in seven), and torchrun ends the other ranks.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _sentence(error: BaseException) -> str:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"{str(error).splitlines()[0]} (a smaller --batch_size needs less)"
    return str(error)


def _to_log(level: int, text: str, **more) -> None:
    for logger in _log:
        file_only(logger).log(level, text, **more)


def _stop(text: str, status: int) -> None:
    print(text, file=sys.stderr)
    _to_log(logging.ERROR, text)
    sys.exit(status)


def new_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose ``--help`` begins with a command's docstring, examples included."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def whole_number(text: str) -> int:
    """An argument that counts something: 0, 1, ..."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number 0, 1, 2, ...")
    return int(text)


def add_config_arguments(parser: argparse.ArgumentParser, cfg_required: bool = True) -> None:
    """The arguments of every command that reads a configuration; OpenPCDet's names."""
    parser.add_argument("--cfg_file", required=cfg_required, help="a YAML file, or the name of one of the package's")
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import my_package.my_module first, which registers classes of its own; may be repeated",
    )
    parser.add_argument(
        "--set",
        dest="set_cfgs",
        default=None,
        nargs=argparse.REMAINDER,
        help="KEY VALUE ...: change configuration keys; goes last",
    )


def add_model_arguments(parser: argparse.ArgumentParser, cfg_required: bool = True) -> None:
    """The arguments of every command that builds a model."""
    add_config_arguments(parser, cfg_required)
    parser.add_argument("--device", default=None, help="cpu, cuda or cuda:N (default: cuda where there is one)")


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """The argument of every command that evaluates a model without training it."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the 2-D part on a CPU; auto: bfloat16 where the processor has it (default: %(default)s)",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of both train.py and test.py; OpenPCDet's names and defaults."""
    add_model_arguments(parser)
    parser.add_argument(
        "--batch_size",
        type=whole_number,
        default=None,
        help="frames a step, over all processes (default: BATCH_SIZE_PER_GPU each)",
    )
    parser.add_argument("--workers", type=whole_number, default=4, help="loader processes; 0 loads in the main process")
    parser.add_argument("--extra_tag", default="default", help="name of this run, a folder in the output")
    parser.add_argument("--ckpt", default=None, help="checkpoint to start from")
    parser.add_argument("--pretrained_model", default=None, help="checkpoint whose fitting weights are taken")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm"], default="none", help="how several processes were started"
    )
    parser.add_argument("--tcp_port", type=int, default=18888, help="port of the first process (slurm)")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=None, help="set by some launchers")
    parser.add_argument("--save_to_file", action="store_true", help="also write one result file a frame")
    parser.add_argument(
        "--max_waiting_mins",
        type=float,
        default=0,
        help="how long to wait for further checkpoints (test.py --eval_all)",
    )
    parser.add_argument("--start_epoch", type=whole_number, default=0, help="evaluate checkpoints from this epoch on")


def load_config(args: argparse.Namespace) -> Config:
    """The configuration of ``--cfg_file`` and ``--set``, after the modules of ``--import``; adds TAG and EXP_GROUP_PATH
    (the folders below ``cfgs``).
    """
    import_modules(args.imports, "--import")
    cfg = Config(ROOT_DIR=root_dir(), LOCAL_RANK=0)
    path = find_config(args.cfg_file)
    cfg_from_yaml_file(path, cfg)
    parts = path.parent.parts
    cfg.TAG = path.stem
    cfg.EXP_GROUP_PATH = (
        "/".join(parts[len(parts) - parts[::-1].index("cfgs") :]) if "cfgs" in parts else path.parent.name
    )
    if args.set_cfgs is not None:
        cfg_from_list(args.set_cfgs, cfg)
    return cfg


def start_processes(args: argparse.Namespace, cfg: Config) -> tuple[bool, int]:
    """Join the group that ``--launcher`` names; returns (several processes?, their number) and sets ``cfg.LOCAL_RANK``
    (the rank).
    """
    if args.launcher == "none":
        return False, 1
    local_rank = args.local_rank if args.local_rank is not None else int(os.environ.get("LOCAL_RANK", "0"))
    start = {"pytorch": distributed.init_dist_pytorch, "slurm": distributed.init_dist_slurm}[args.launcher]
    world_size, cfg.LOCAL_RANK = start(args.tcp_port, local_rank)
    return True, world_size


def batch_size_per_process(args: argparse.Namespace, cfg: Config, world_size: int) -> int:
    """``--batch_size`` shared among the processes, else OPTIMIZATION.BATCH_SIZE_PER_GPU."""
    if args.batch_size is None:
        return cfg.OPTIMIZATION.BATCH_SIZE_PER_GPU
    if args.batch_size < 1 or args.batch_size % world_size:
        raise InputError(
            f"--batch_size {args.batch_size} must be a positive multiple of the number of processes, {world_size}"
        )
    return args.batch_size // world_size


def pick_device(args: argparse.Namespace) -> torch.device:
    """``--device``, else this process's CUDA device, else the CPU."""
    return devices.pick_device(args.device, "--device")


def output_dir(cfg: Config) -> Path:
    """output/<EXP_GROUP_PATH>/<TAG> below the working directory."""
    return Path("output") / cfg.EXP_GROUP_PATH / cfg.TAG


def run_logger(folder: Path, name: str) -> logging.Logger:
    """A logger to the console and to ``folder/<name>_<time>.log``; what ends the run goes there too."""
    folder.mkdir(parents=True, exist_ok=True)
    logger = create_logger(folder / f"{name}_{datetime.datetime.now():%Y%m%d-%H%M%S}.log", rank=distributed.get_rank())
    _log.append(logger)
    return logger


def log_start(logger: logging.Logger, args: argparse.Namespace, lines: Sequence[str]) -> None:
    """What was asked for: ``lines`` on the console, the command's arguments only in the file."""
    for line in lines:
        logger.info(line)
    for key, value in vars(args).items():
        file_only(logger).info("%-28s %s", key, value)
