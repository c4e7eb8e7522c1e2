"""What the command lines in tools/ share: arguments, configuration, output folders, one-line errors."""
from __future__ import annotations

import argparse
import datetime
import os
import sys
import warnings
from pathlib import Path
from typing import Callable

import torch

from ..config import cfg, cfg_from_list, cfg_from_yaml_file
from ..errors import InputError
from . import distributed
from .run_log import create_logger


def run_main(main: Callable[[], None]) -> None:
    """Run a command. A mistake in its input (InputError) is printed as one line, exit status 2; Ctrl-C ends quietly, exit status 130."""
    warnings.showwarning = lambda message, category, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of both train.py and test.py; OpenPCDet's names and defaults."""
    parser.add_argument("--cfg_file", required=True, help="configuration (YAML)")
    parser.add_argument("--batch_size", type=int, default=None, help="frames a step, over all processes (default: BATCH_SIZE_PER_GPU each)")
    parser.add_argument("--workers", type=int, default=4, help="loader processes; 0 loads in the main process")
    parser.add_argument("--extra_tag", default="default", help="name of this run, a folder in the output")
    parser.add_argument("--ckpt", default=None, help="checkpoint to start from")
    parser.add_argument("--pretrained_model", default=None, help="checkpoint whose fitting weights are taken")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none", help="how several processes were started")
    parser.add_argument("--tcp_port", type=int, default=18888, help="port of the first process (slurm)")
    parser.add_argument("--local_rank", type=int, default=None, help="set by some launchers")
    parser.add_argument("--device", default=None, help="cpu, cuda or cuda:N (default: cuda where there is one)")
    parser.add_argument("--save_to_file", action="store_true", help="also write one result file a frame")
    parser.add_argument("--max_waiting_mins", type=int, default=0, help="how long to wait for further checkpoints (--eval_all)")
    parser.add_argument("--start_epoch", type=int, default=0, help="evaluate checkpoints from this epoch on (--eval_all)")
    parser.add_argument("--set", dest="set_cfgs", default=None, nargs=argparse.REMAINDER, help="KEY VALUE ...: change configuration keys")


def load_config(args: argparse.Namespace):
    """Fill the package's ``cfg`` from ``--cfg_file`` and ``--set``; adds TAG and EXP_GROUP_PATH (the folders below ``cfgs``)."""
    cfg_from_yaml_file(args.cfg_file, cfg)
    path = Path(args.cfg_file)
    parts = path.parent.parts
    cfg.TAG = path.stem
    cfg.EXP_GROUP_PATH = "/".join(parts[len(parts) - parts[::-1].index("cfgs"):]) if "cfgs" in parts else path.parent.name
    if getattr(args, "set_cfgs", None) is not None:
        cfg_from_list(args.set_cfgs, cfg)
    return cfg


def start_processes(args: argparse.Namespace) -> tuple[bool, int]:
    """Join the group that ``--launcher`` names; returns (several processes?, their number) and sets ``cfg.LOCAL_RANK`` (the rank)."""
    if args.launcher == "none":
        return False, 1
    local_rank = args.local_rank if args.local_rank is not None else int(os.environ.get("LOCAL_RANK", "0"))
    world_size, cfg.LOCAL_RANK = getattr(distributed, f"init_dist_{args.launcher}")(args.tcp_port, local_rank)
    return True, world_size


def batch_size_per_process(args: argparse.Namespace, world_size: int) -> int:
    """``--batch_size`` shared among the processes, else OPTIMIZATION.BATCH_SIZE_PER_GPU."""
    if args.batch_size is None:
        return cfg.OPTIMIZATION.BATCH_SIZE_PER_GPU
    if args.batch_size < 1 or args.batch_size % world_size:
        raise InputError(f"--batch_size {args.batch_size} must be a positive multiple of the number of processes, {world_size}")
    return args.batch_size // world_size


def pick_device(args: argparse.Namespace) -> torch.device:
    """``--device``, else this process's CUDA device, else the CPU."""
    try:
        device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise InputError(f"--device {args.device}: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {args.device}: this machine or this build of torch has no CUDA device")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def output_dir() -> Path:
    """output/<EXP_GROUP_PATH>/<TAG> below the working directory."""
    return Path("output") / cfg.EXP_GROUP_PATH / cfg.TAG


def run_logger(folder: Path, name: str):
    """A logger to the console and to ``folder/<name>_<time>.log``."""
    folder.mkdir(parents=True, exist_ok=True)
    return create_logger(folder / f"{name}_{datetime.datetime.now():%Y%m%d-%H%M%S}.log", rank=cfg.LOCAL_RANK)
