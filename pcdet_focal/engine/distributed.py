"""Several processes: starting the group, who am I, gathering results."""
from __future__ import annotations

import os
import subprocess

import torch
import torch.distributed as dist

from ..errors import InputError


def init_dist_pytorch(tcp_port: int, local_rank: int, backend: str | None = None) -> tuple[int, int]:
    """Join the group that ``torchrun`` (or ``python -m torch.distributed.run``) started; returns (number of processes, rank).

    nccl where there is a CUDA device for each process, else gloo on the CPU.
    """
    if "RANK" not in os.environ:
        raise InputError("--launcher pytorch needs torchrun: torchrun --nproc_per_node=N tools/train.py --launcher pytorch --cfg_file ...")
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    dist.init_process_group(backend=_backend(backend))
    return dist.get_world_size(), dist.get_rank()


def init_dist_slurm(tcp_port: int, local_rank: int, backend: str | None = None) -> tuple[int, int]:
    """Join the group of a SLURM job (one task a process); returns (number of processes, rank)."""
    if "SLURM_PROCID" not in os.environ:
        raise InputError("--launcher slurm works inside a SLURM job: srun --ntasks=N python tools/train.py --launcher slurm --cfg_file ...")
    rank, world_size, nodes = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"]), os.environ["SLURM_NODELIST"]
    address = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True).stdout.split()[0]
    local = int(os.environ.get("SLURM_LOCALID", rank))
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(tcp_port), RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local))
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    dist.init_process_group(backend=_backend(backend))
    return dist.get_world_size(), dist.get_rank()


def _backend(asked: str | None) -> str:
    return asked if asked and (asked != "nccl" or torch.cuda.is_available()) else "nccl" if torch.cuda.is_available() else "gloo"


def get_dist_info() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) outside a group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def merge_results_dist(result_part: list, size: int, tmpdir=None) -> list | None:
    """Join lists that the ranks filled in turns (rank r has items r, r + world, ...), cut to ``size`` items; None on all ranks but the first.

    ``tmpdir`` is OpenPCDet's argument; the lists travel through the process group, no files are needed.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return result_part[:size]
    parts = [None] * world_size if rank == 0 else None
    dist.gather_object(result_part, parts, dst=0)
    if rank != 0:
        return None
    return [item for turn in zip(*_padded(parts)) for item in turn if item is not None][:size]


def _padded(parts: list[list]) -> list[list]:
    longest = max(map(len, parts))
    return [part + [None] * (longest - len(part)) for part in parts]
