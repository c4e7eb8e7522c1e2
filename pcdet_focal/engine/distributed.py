"""Distributed runs: process group setup, rank and world size, broadcast, gathered results."""

from __future__ import annotations

import itertools
import os
import subprocess
from typing import Any

import torch
import torch.distributed as dist

from ..errors import InputError


def init_dist_pytorch(tcp_port: int | None = None, local_rank: int = 0, backend: str | None = None) -> tuple[int, int]:
    """Join the group that ``torchrun`` (or ``python -m torch.distributed.run``) started; returns (number of processes,
    rank).

    CUDA tensors travel through nccl, CPU tensors through gloo. ``tcp_port`` is OpenPCDet's argument: torchrun has the
    port.
    """
    if "RANK" not in os.environ:
        raise InputError(
            "--launcher pytorch needs torchrun: torchrun --nproc_per_node=N tools/train.py --launcher pytorch "
            "--cfg_file ..."
        )
    return _join(local_rank, backend)


def init_dist_slurm(tcp_port: int, local_rank: int = 0, backend: str | None = None) -> tuple[int, int]:
    """Join the group of a SLURM job, one task a process; the first one listens at ``tcp_port``. Returns (number of
    processes, rank).
    """
    if "SLURM_PROCID" not in os.environ:
        raise InputError(
            "--launcher slurm works inside a SLURM job: srun --ntasks=N pcdet-focal train --launcher slurm "
            "--cfg_file ..."
        )
    rank, world_size, nodes = os.environ["SLURM_PROCID"], os.environ["SLURM_NTASKS"], os.environ["SLURM_NODELIST"]
    address = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    local = os.environ.get("SLURM_LOCALID", rank)
    os.environ.update(
        MASTER_ADDR=address, MASTER_PORT=str(tcp_port), RANK=rank, WORLD_SIZE=world_size, LOCAL_RANK=local
    )
    return _join(int(local), backend)


def _join(local_rank: int, backend: str | None) -> tuple[int, int]:
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if backend in (None, "nccl") else backend
    dist.init_process_group(backend=backend if torch.cuda.is_available() else "gloo")
    return dist.get_world_size(), dist.get_rank()


def get_dist_info(return_gpu_per_machine: bool = False) -> tuple[int, ...]:
    """(rank, number of processes), (0, 1) outside a group; with ``return_gpu_per_machine`` also this machine's number
    of CUDA devices.
    """
    started = dist.is_available() and dist.is_initialized()
    info = (dist.get_rank(), dist.get_world_size()) if started else (0, 1)
    return (*info, torch.cuda.device_count()) if return_gpu_per_machine else info


def get_rank() -> int:
    """This process's number, 0 outside a group."""
    return get_dist_info()[0]


def get_world_size() -> int:
    """The number of processes, 1 outside a group."""
    return get_dist_info()[1]


def is_main_process() -> bool:
    """Whether this is rank 0."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait here until every process is here."""
    if get_world_size() > 1:
        dist.barrier()


def all_gather(data: Any) -> list:
    """Every rank's ``data`` (anything that can be pickled), in the order of ranks, on every rank."""
    if get_world_size() == 1:
        return [data]
    parts = [None] * get_world_size()
    dist.all_gather_object(parts, data)
    return parts


def average_reduce_value(data: Any) -> Any:
    """The mean of every rank's number or tensor, on every rank."""
    parts = all_gather(data)
    return sum(parts) / len(parts)


def all_reduce(data: torch.Tensor, op: str = "sum", average: bool = False) -> torch.Tensor:
    """Every rank's tensors joined by ``op`` (sum, max, min or product; with ``average`` the sum divided by their
    number), on every rank.
    """
    if average and op.lower() != "sum":
        raise ValueError(f"average=True is a sum divided by its count; op is {op}")
    if get_world_size() == 1:
        return data
    joined = data.clone()
    dist.all_reduce(joined, op=getattr(dist.ReduceOp, op.upper()))
    return joined / get_world_size() if average else joined


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Every rank's tensors of one shape and the same names, summed or averaged name by name, on every rank (OpenPCDet:
    on rank 0).
    """
    if get_world_size() == 1:
        return input_dict
    names = sorted(input_dict)  # in the same order everywhere
    joined = all_reduce(torch.stack([input_dict[name].detach() for name in names]), average=average)
    return dict(zip(names, joined))


@torch.no_grad()
def concat_all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """Every rank's tensor, all of one shape, one after the other along the first axis; without a gradient. Needs a
    process group.
    """
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def broadcast_from_rank0(value: Any) -> Any:
    """Rank 0's ``value``, on every rank."""
    if get_dist_info()[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def merge_results_dist(result_part: list, size: int, tmpdir=None) -> list | None:
    """Join lists that the ranks filled in turns (rank r has items r, r + world, ...), cut to ``size`` items; None on
    all ranks but the first.

    ``tmpdir`` is OpenPCDet's argument; the lists travel through the process group, no files are needed.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return result_part[:size]
    parts = [None] * world_size if rank == 0 else None
    dist.gather_object(result_part, parts, dst=0)
    if rank != 0:
        return None
    none = object()  # ranks may have one item more or less
    return [item for turn in itertools.zip_longest(*parts, fillvalue=none) for item in turn if item is not none][:size]
