"""Rows of the same group become one: mean and maximum, with gradients, the same on every run.

Plain torch on every device: ``index_add`` and ``scatter_reduce`` are as fast as a kernel of our own. Sums of
floating-point numbers in an order that changes would differ in the last digits from run to run; on CUDA tensors they
are therefore made by ``index_put``, which sorts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InputError
from ..backend import records_graph

__all__ = ["scatter_mean", "scatter_max"]


def scatter_mean(src: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """Mean of the rows of each group.

    Args:
        src: (N, ...) floating point; half precision is added up, and returned, in float32.
        index: (N,) integers, the group of each row, 0 to num_groups - 1; a row with a negative one belongs to none.
        num_groups: G.

    Returns:
        (G, ...), 0 for a group without rows.

    Raises:
        InputError: shapes, dtypes or devices that do not fit; on a CPU also an index of num_groups or more.

    >>> scatter_mean(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([2, 2, 0]), 3).flatten()
    tensor([5., 0., 2.])
    """
    src, index = _checked(src, index, num_groups)
    total = _sum(src, index, num_groups)
    count = _sum(src.new_ones(src.shape[0]), index, num_groups).clamp(min=1)
    return total / count.view(-1, *[1] * (src.dim() - 1))


def scatter_max(src: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """Largest value of each group, column by column. The gradient goes to the row that has it, in equal parts where
    several do.

    Arguments, errors and result are those of ``scatter_mean``.

    >>> scatter_max(torch.tensor([[1.0], [3.0], [-5.0]]), torch.tensor([2, 2, 0]), 3).flatten()
    tensor([-5.,  0.,  3.])
    """
    src, index = _checked(src, index, num_groups)
    where = index.view(-1, *[1] * (src.dim() - 1)).expand_as(src)
    # From -inf, because torch gives the start its part of the gradient where it ties with the maximum, even with
    # include_self=False.
    best = src.new_full((num_groups + 1, *src.shape[1:]), -torch.inf).scatter_reduce(0, where, src, "amax")
    empty = index.new_ones(num_groups + 1).index_fill(0, index, 0) == 1
    return best.masked_fill(empty.view(-1, *[1] * (src.dim() - 1)), 0)[:-1]


def _checked(src: Tensor, index: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """``src`` in float32 or better, and ``index`` as int64 with ``num_groups`` for the rows of no group."""
    if not src.is_floating_point() or src.dim() < 1:
        raise InputError(f"src must be (N, ...) floating point, not {tuple(src.shape)} {src.dtype}.")
    if index.shape != src.shape[:1] or index.is_floating_point():
        raise InputError(
            f"index must have shape ({len(src)},), one integer for each row of src, not {tuple(index.shape)} "
            f"{index.dtype}."
        )
    if index.device != src.device:
        raise InputError(f"src and index must be on one device: src is on {src.device}, index on {index.device}.")
    # on a GPU looking would make the host wait
    if index.device.type == "cpu" and not records_graph() and len(index) and int(index.max()) >= num_groups:
        raise InputError(f"index must be below num_groups {num_groups}, but its largest is {int(index.max())}.")
    index = index.long()
    index = torch.where(index < 0, num_groups, index)
    return src.to(torch.promote_types(src.dtype, torch.float32)), index


def _sum(src: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """(N, ...) and (N,) in 0 .. num_groups -> (num_groups, ...)."""
    zeros = src.new_zeros(num_groups + 1, *src.shape[1:])
    if src.is_cuda:
        return zeros.index_put((index,), src, accumulate=True)[:-1]
    return zeros.index_add(0, index, src)[:-1]
