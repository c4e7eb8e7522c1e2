"""IoU, GIoU and DIoU of paired rotated boxes, seen from above or in 3-D, with gradients that are finite everywhere.

The overlap of two rectangles A and B changes only at its border, and its border is made of the parts of A's edges that
lie inside B and the parts of B's edges that lie inside A. When A changes, a point r of its edge moves with the velocity
v, and with the edge's outward normal n

    d area(A ∩ B) = ∮ (v · n) ds        along the part of A's border that lies inside B.

Per edge this needs two numbers: the length L of the part inside, and its first moment M about the edge's middle, M = ∫
s ds along the edge anticlockwise. With the outward normals n of the four edges

    moving A:                  sum of L n
    growing dx (or dy) of A:   (L of one side + L of the opposite side) / 2
    turning A by its heading:  - sum of M          (the normal velocity of a point at s is -s)

and the same for B with the roles exchanged. These are lengths and moments of clipped segments: bounded, without a
division that could overflow, for boxes that are identical, touching, nested, apart or without size. Differentiating a
polygon-clipping routine or the formula of ``reference`` instead goes through quotients that grow without bound where
edges become parallel.

An edge that runs along the other rectangle's border, inside or outside, counts half: the mean of the derivatives from
the two sides. The gradient of the IoU of two identical boxes, where it has its maximum, is then exactly 0.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from ...errors import InputError
from ..backend import choose_backend
from .reference import overlap_of_pairs

KINDS = ("iou", "giou", "diou")
SPACES = ("bev", "3d")
_PARALLEL = 1e-9  # sine of the angle below which edges count as parallel; relative distance below which they coincide
# square and cube of a tenth of a millimetre: what a union is divided by at least
_SMALLEST = {"bev": 1e-8, "3d": 1e-12}
_LARGEST = 1e30  # metres; products of three sizes and their squares stay far from overflow


def paired_iou(boxes_a: torch.Tensor, boxes_b: torch.Tensor, kind: str = "iou", space: str = "3d") -> torch.Tensor:
    """Differentiable overlap measure of box i of ``boxes_a`` with box i of ``boxes_b``::

        iou    I / U                                intersection over union, 0..1
        giou   I / U - (C - U) / C                  -1..1; Rezatofighi et al. 2019, arXiv:1902.09630
        diou   I / U - |centre - centre'|^2 / D^2   -1..1; Zheng et al. 2020, arXiv:1911.08287

    with C the area (volume) and D the diagonal of the enclosing box.

    The enclosing box is parallel to one of the two boxes, whichever gives the smaller one: it turns with the scene,
    does not depend on the order of the boxes, and is the usual axis-aligned one where both headings agree. In 3-D it
    spans both heights.

    The IoU is that of ``boxes_aligned_iou_bev`` and ``boxes_aligned_iou3d``, computed in float64. Its gradient is exact
    for every column of both boxes, and finite everywhere (see the head of this file); it is 0 for boxes that are apart,
    where giou and diou still pull. A size below 0 counts as 0. Divisors are held at (0.1 mm)^2 or (0.1 mm)^3, so that
    two boxes without size have IoU 0. A box with a number that is not finite, or beyond 1e30, gets the smallest value
    (0, -1, -1) and gradient 0. A heading and its opposite are the same box. The result can be differentiated once.

    Args:
        boxes_a: (N, 7+) floating point: x, y, z, dx, dy, dz, heading[, ...], metres and radians; further columns are
            ignored.
        boxes_b: (N, 7+).
        kind: 'iou', 'giou' or 'diou'.
        space: 'bev' (rectangles seen from above; z and dz get no gradient) or '3d'.
    Returns:
        (N,) in float32 or better.
    Raises:
        InputError: shapes or dtypes that do not fit, tensors on two devices, an unknown kind or space.

    >>> box = torch.tensor([[10.0, 5.0, -1.0, 4.0, 2.0, 1.5, 0.3]])
    >>> # half a height above: I = 6, U = 18, C = 18
    >>> ahead = box + torch.tensor([[0.0, 0.0, 0.75, 0.0, 0.0, 0.0, 0.0]])
    >>> paired_iou(box, ahead, "iou", "3d"), paired_iou(box, ahead, "iou", "bev"), paired_iou(box, ahead, "giou", "3d")
    (tensor([0.3333]), tensor([1.]), tensor([0.3333]))
    """
    if kind not in KINDS:
        raise InputError(f"paired_iou: kind={kind!r} is not allowed: 'iou', 'giou' or 'diou'.")
    if space not in SPACES:
        raise InputError(f"paired_iou: space={space!r} is not allowed: 'bev' or '3d'.")
    _check_boxes(boxes_a, boxes_b)
    dtype = torch.promote_types(torch.promote_types(boxes_a.dtype, boxes_b.dtype), torch.float32)
    a, b = boxes_a[:, :7].double(), boxes_b[:, :7].double()
    columns = slice(0, 7) if space == "3d" else [0, 1, 3, 4, 6]
    usable = ((a[:, columns].abs() < _LARGEST) & (b[:, columns].abs() < _LARGEST)).all(1)  # (N,); not NaN, not infinite
    a, b = (torch.where(usable[:, None], boxes, 1.0) for boxes in (a, b))
    size_a, size_b = a[:, 3:6].clamp(min=0), b[:, 3:6].clamp(min=0)
    shift = a[:, :3] - b[:, :3]  # (N, 3); everything is relative to box b, so that large coordinates lose no digits

    intersection = _overlap_from_above(shift, size_a, a[:, 6], size_b, b[:, 6])
    content_a, content_b = size_a[:, :2].prod(1), size_b[:, :2].prod(1)
    if space == "3d":
        top = torch.minimum(shift[:, 2] + size_a[:, 2] / 2, size_b[:, 2] / 2)
        bottom = torch.maximum(shift[:, 2] - size_a[:, 2] / 2, -size_b[:, 2] / 2)
        intersection = intersection * (top - bottom).clamp(min=0)
        content_a, content_b = content_a * size_a[:, 2], content_b * size_b[:, 2]
    union = content_a + content_b - intersection
    value = intersection / union.clamp(min=_SMALLEST[space])
    if kind == "giou":
        enclosing = _smaller_enclosing(shift, size_a, size_b, a[:, 6], b[:, 6], space, "content").clamp(
            min=_SMALLEST[space]
        )
        value = value - (enclosing - union) / enclosing
    elif kind == "diou":
        used = shift if space == "3d" else shift[:, :2]
        diagonal = _smaller_enclosing(shift, size_a, size_b, a[:, 6], b[:, 6], space, "squared diagonal")
        value = value - (used**2).sum(1) / diagonal.clamp(min=_SMALLEST["bev"])  # a squared length in both spaces
    return torch.where(usable, value, 0.0 if kind == "iou" else -1.0).to(dtype)


def _overlap_from_above(
    shift: torch.Tensor, size_a: torch.Tensor, heading_a: torch.Tensor, size_b: torch.Tensor, heading_b: torch.Tensor
) -> torch.Tensor:
    """Shared area (N,) of two rectangles whose centres are ``shift`` (N, 2+) apart."""
    return _Overlap.apply(
        torch.cat([shift[:, :2], size_a[:, :2], heading_a[:, None], size_b[:, :2], heading_b[:, None]], dim=1)
    )


class _Overlap(torch.autograd.Function):
    """(N, 8): x and y of A relative to B, dx, dy, heading of A, dx, dy, heading of B -> shared area (N,)."""

    @staticmethod
    def forward(ctx, pairs: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling() and choose_backend(pairs.device, "rotated_iou", has_cuda=True) == "cuda":
            from . import cuda

            # one kernel for both: the time is that of its launch
            area, derivative = cuda.overlap_with_derivative(pairs)
            ctx.save_for_backward(derivative)
            ctx.derivative_is_known = True
            return area
        ctx.save_for_backward(pairs)
        ctx.derivative_is_known = False
        zero = torch.zeros_like(pairs[:, :1])
        a = torch.cat([pairs[:, :2], zero, pairs[:, 2:4], zero, pairs[:, 4:5]], dim=1)
        b = torch.cat([zero, zero, zero, pairs[:, 5:7], zero, pairs[:, 7:8]], dim=1)
        return torch.minimum(
            overlap_of_pairs(a, b), torch.minimum(pairs[:, 2] * pairs[:, 3], pairs[:, 5] * pairs[:, 6])
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        (saved,) = ctx.saved_tensors
        return (saved if ctx.derivative_is_known else overlap_derivative(saved)) * grad[:, None]


def overlap_derivative(pairs: torch.Tensor) -> torch.Tensor:
    """Derivative (N, 8) of the shared area of ``pairs`` (N, 8), as in ``_Overlap``, by each of their columns."""
    length_a, moment_a, normals_a = _border_inside(pairs[:, :2], pairs[:, 2:4], pairs[:, 4], pairs[:, 5:7], pairs[:, 7])
    length_b, moment_b, _ = _border_inside(-pairs[:, :2], pairs[:, 5:7], pairs[:, 7], pairs[:, 2:4], pairs[:, 4])
    return torch.cat(
        [
            (length_a[:, :, None] * normals_a).sum(1),
            (length_a[:, :2] + length_a[:, 2:]) / 2,
            -moment_a.sum(1, keepdim=True),
            (length_b[:, :2] + length_b[:, 2:]) / 2,
            -moment_b.sum(1, keepdim=True),
        ],
        dim=1,
    )


def _border_inside(
    centre: torch.Tensor,
    size: torch.Tensor,
    heading: torch.Tensor,
    other_size: torch.Tensor,
    other_heading: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What of the border of one rectangle lies inside another one whose centre is the origin.

    Args:
        centre, size: (N, 2); heading: (N,). other_size: (N, 2); other_heading: (N,).
    Returns:
        length (N, 4), first moment about the edge's middle (N, 4), outward normal (N, 4, 2) of the edges +x, +y, -x, -y
        of the rectangle.
    """
    axis_x = torch.stack([heading.cos(), heading.sin()], dim=1)  # (N, 2)
    axis_y = torch.stack([-axis_x[:, 1], axis_x[:, 0]], dim=1)
    normals = torch.stack([axis_x, axis_y, -axis_x, -axis_y], dim=1)  # (N, 4, 2)
    half = size / 2
    # in the other rectangle's frame: middle of the edge, and its direction anticlockwise (the next edge's normal)
    turn = heading - other_heading
    cos, sin = turn.cos(), turn.sin()
    out = torch.stack(
        [
            torch.stack([cos, sin], 1),
            torch.stack([-sin, cos], 1),
            torch.stack([-cos, -sin], 1),
            torch.stack([sin, -cos], 1),
        ],
        dim=1,
    )
    direction = out.roll(-1, dims=1)
    cos, sin = other_heading.cos(), other_heading.sin()
    # (N, 1, 2)
    middle = torch.stack([centre[:, 0] * cos + centre[:, 1] * sin, centre[:, 1] * cos - centre[:, 0] * sin], dim=1)[
        :, None
    ]
    middle = middle + half.repeat(1, 2)[:, :, None] * out  # (N, 4, 2)
    half_length = half.flip(1).repeat(1, 2)[:, :, None]  # (N, 4, 1)
    limit = other_size[:, None] / 2  # (N, 1, 2)

    # the part of s in [-half_length, half_length] with |middle + s direction| <= limit, along both axes of the other
    # rectangle
    parallel = direction.abs() < _PARALLEL
    steep = torch.where(parallel, 1.0, direction)
    one, other = (-limit - middle) / steep, (limit - middle) / steep
    low = torch.where(parallel, -half_length, torch.minimum(one, other)).amax(2)
    high = torch.where(parallel, half_length, torch.maximum(one, other)).amin(2)
    half_length = half_length[:, :, 0]
    low, high = torch.maximum(low, -half_length), torch.minimum(high, half_length)
    # an edge parallel to the other's side is inside or outside as a whole, or runs along it
    beyond = middle.abs() - limit
    scale = _PARALLEL * (half.amax(1) + other_size.amax(1))[:, None, None]
    share = torch.where(beyond.abs() <= scale, 0.5, (beyond < 0).to(beyond.dtype))
    share = torch.where(parallel, share, 1.0).prod(2)  # (N, 4)
    length = (high - low).clamp(min=0) * share
    return length, length * (low + high) / 2, normals


def _smaller_enclosing(
    shift: torch.Tensor,
    size_a: torch.Tensor,
    size_b: torch.Tensor,
    heading_a: torch.Tensor,
    heading_b: torch.Tensor,
    space: str,
    what: str,
) -> torch.Tensor:
    """Content or squared diagonal (N,) of the smaller one of the two boxes around A and B that are parallel to A and to
    B.
    """
    turn = heading_a - heading_b
    # next to a right angle 0: the kink of |sin| has slope 0 there, as of exactly parallel boxes, and not the sign of a
    # rounding error
    # (N, 1)
    along, sideways = (
        torch.where(part.abs() < _PARALLEL, 0.0, part.abs())[:, None] for part in (turn.cos(), turn.sin())
    )
    results = []
    for size, other_size, heading in ((size_a, size_b, heading_a), (size_b, size_a, heading_b)):
        # in the frame of the box with ``size``: its own half sizes, and those that the other one needs
        cos, sin = heading.cos(), heading.sin()
        # (N, 2)
        distance = torch.stack(
            [shift[:, 0] * cos + shift[:, 1] * sin, shift[:, 1] * cos - shift[:, 0] * sin], dim=1
        ).abs()
        across = (along * other_size[:, :2] + sideways * other_size[:, :2].flip(1)) / 2
        extent = _extent(distance, size[:, :2] / 2, across)
        if space == "3d":
            extent = torch.cat([extent, _extent(shift[:, 2:].abs(), size[:, 2:] / 2, other_size[:, 2:] / 2)], dim=1)
        results.append(extent.prod(1) if what == "content" else (extent**2).sum(1))
    return torch.minimum(*results)


def _extent(distance: torch.Tensor, half: torch.Tensor, other_half: torch.Tensor) -> torch.Tensor:
    """Length of the shortest interval that holds [-half, half] and [distance - other_half, distance + other_half]."""
    return torch.maximum(half, distance + other_half) + torch.maximum(half, other_half - distance)


def _check_boxes(boxes_a: torch.Tensor, boxes_b: torch.Tensor) -> None:
    for name, boxes in (("boxes_a", boxes_a), ("boxes_b", boxes_b)):
        if not isinstance(boxes, torch.Tensor):
            raise InputError(f"paired_iou: {name} needs to be a torch tensor, not {type(boxes).__name__}.")
        if boxes.dim() != 2 or boxes.shape[1] < 7:
            raise InputError(
                f"paired_iou: {name} must have shape (N, 7 or more): x, y, z, dx, dy, dz, heading, not "
                f"{tuple(boxes.shape)}."
            )
        if not boxes.is_floating_point():
            raise InputError(f"paired_iou: {name} must be floating point, not {boxes.dtype}.")
    if len(boxes_a) != len(boxes_b):
        raise InputError(
            f"paired_iou: boxes_a and boxes_b are compared row by row, but they have {len(boxes_a)} and "
            f"{len(boxes_b)} rows."
        )
    if boxes_a.device != boxes_b.device:
        raise InputError(f"paired_iou: boxes_a is on {boxes_a.device}, but boxes_b on {boxes_b.device}.")
