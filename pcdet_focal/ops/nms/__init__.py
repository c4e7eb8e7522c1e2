"""Greedy non-maximum suppression of boxes in the bird's-eye view, of one set of boxes or of many groups at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...arrays import Array, as_tensors, check_columns, like_input
from ...errors import InputError
from ..backend import choose_backend, records_graph
from . import operators

__all__ = ["nms_rotated", "nms_axis_aligned"]

Limit = int | Sequence[int | None] | None
_NO_LIMIT = 2**31 - 1


def nms_rotated(
    boxes: Array,
    scores: Array,
    thresh: float | Sequence[float],
    pre_maxsize: Limit = None,
    post_maxsize: Limit = None,
    groups: Array | None = None,
) -> Array:
    """Boxes that no better box overlaps too much.

    In descending order of the scores (equal scores: the lower index first), a box stays unless its exact rotated IoU
    with one that stayed is above ``thresh``; an IoU of exactly ``thresh`` does not suppress. With ``groups``, boxes of
    different groups do not see each other; the groups are classes, or samples, or both, and on a GPU all are served by
    the same two launches.

    Args:
        boxes: (N, 7+) floating point: x, y, z, dx, dy, dz, heading; metres, radians; seen from above, so z and dz do
            not matter.
        scores: (N,).
        thresh: IoU, 0 or more. With ``groups`` a sequence, one for each group.
        pre_maxsize: look at this many best scores only; None for all. With ``groups`` of each group: one number, or a
            sequence.
        post_maxsize: keep this many at most, in the same form.
        groups: (N,) integers, 0 to len(thresh) - 1. A box with another number (-1, say) takes no part.

    Returns:
        (K,) int64 indices into ``boxes``, scores descending (group by group), on the device of ``boxes``; numpy for
        numpy input.

    Raises:
        InputError: wrong shapes, integer boxes, a negative threshold or limit.
    """
    return _nms(boxes, scores, thresh, pre_maxsize, post_maxsize, groups, axis_aligned=False)


def nms_axis_aligned(
    boxes: Array,
    scores: Array,
    thresh: float | Sequence[float],
    pre_maxsize: Limit = None,
    post_maxsize: Limit = None,
    groups: Array | None = None,
) -> Array:
    """The same for boxes taken as parallel to the axes: dx along x and dy along y whatever the heading (OpenPCDet's
    ``nms_normal_gpu``).
    """
    return _nms(boxes, scores, thresh, pre_maxsize, post_maxsize, groups, axis_aligned=True)


def _nms(
    boxes: Array,
    scores: Array,
    thresh,
    pre_maxsize: Limit,
    post_maxsize: Limit,
    groups: Array | None,
    axis_aligned: bool,
) -> Array:
    given = (
        {"boxes": boxes, "scores": scores} if groups is None else {"boxes": boxes, "scores": scores, "groups": groups}
    )
    (boxes, scores, *groups), was_numpy = as_tensors(**given)
    check_columns("boxes", boxes, 7)
    for name, values in (("scores", scores), *(("groups", values) for values in groups)):
        if values.shape != boxes.shape[:1]:
            raise InputError(f"{name} must have shape ({len(boxes)},), one for each box, not {tuple(values.shape)}.")
    thresholds = _thresholds(thresh, grouped=bool(groups))
    pre, post = (
        _limits(name, limit, len(thresholds))
        for name, limit in (("pre_maxsize", pre_maxsize), ("post_maxsize", post_maxsize))
    )

    order = descending(scores)
    if not groups:
        order = order[: pre[0]]
    group = groups[0].long()[order] if groups else None
    ranked = boxes[order, :7].double()
    if axis_aligned:
        ranked[:, 6] = 0
    find = operators.nms if records_graph() else _positions
    return like_input(order[find(ranked, group, thresholds, pre, post)], was_numpy)


def descending(scores: torch.Tensor) -> torch.Tensor:
    """Indices (N,) of the scores (N,) from high to low, of equal ones the lower first.

    In a graph by two sorts that are not stable, because few exporters know a stable one.
    """
    if not records_graph():
        return torch.sort(scores, descending=True, stable=True).indices
    ranked, order = torch.sort(scores, descending=True)
    rank = torch.cat([torch.zeros_like(order[:1]), (ranked[1:] != ranked[:-1]).long()]).cumsum(
        0
    )  # one for equal scores
    return order[torch.sort(rank * scores.shape[0] + order).indices]


def _positions(
    ranked: torch.Tensor, group: torch.Tensor | None, thresholds: list[float], pre: list[int], post: list[int]
) -> torch.Tensor:
    """Positions that stay, group by group, of boxes (N, 7) in the order of their scores. ``group`` None: all in the one
    group that there is.
    """
    backend = choose_backend(ranked.device, "nms", has_cuda=True)
    if backend == "cuda":
        from . import cuda

        return cuda.nms_rotated(ranked, group, thresholds, pre, post)
    if group is None:
        return _one_group(ranked[: pre[0]], thresholds[0], backend)[: post[0]]
    kept = [torch.zeros(0, dtype=torch.int64, device=ranked.device)]
    for g, (thresh, pre_max, post_max) in enumerate(zip(thresholds, pre, post)):
        of_group = (group == g).nonzero().view(-1)[:pre_max]
        kept.append(of_group[_one_group(ranked[of_group], thresh, backend)[:post_max]])
    return torch.cat(kept)


def _one_group(ranked: torch.Tensor, thresh: float, backend: str) -> torch.Tensor:
    """Positions that stay of boxes (N, 7) in the order of their scores."""
    if backend == "cpu":
        from . import cpu

        return torch.from_numpy(cpu.nms_rotated(ranked.cpu().numpy(), thresh)).to(ranked.device)
    from . import reference

    return reference.nms_rotated(ranked, thresh)


def _thresholds(thresh: float | Sequence[float], grouped: bool) -> list[float]:
    """One for each group."""
    is_sequence = isinstance(thresh, (list, tuple))
    if is_sequence != grouped:
        raise InputError(
            "thresh must be "
            f"{'a list of one IoU for each group' if grouped else 'one IoU where there are no groups'}, not {thresh}."
        )
    thresholds = [float(value) for value in thresh] if is_sequence else [float(thresh)]
    if not all(value >= 0 for value in thresholds):
        raise InputError(f"thresh must be an IoU of 0 or more, not {thresh}.")
    return thresholds


def _limits(name: str, limit: Limit, groups: int) -> list[int]:
    """One for each group."""
    limits = list(limit) if isinstance(limit, (list, tuple)) else [limit] * groups
    if len(limits) != groups:
        raise InputError(f"{name} must be one number or one for each of the {groups} groups, not {limit}.")
    if not all(value is None or value >= 0 for value in limits):
        raise InputError(f"{name} must be None or at least 0, not {limit}.")
    return [_NO_LIMIT if value is None else int(value) for value in limits]
