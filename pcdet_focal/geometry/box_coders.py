"""Box coders: boxes as regression targets relative to anchors (or points), and back. torch only.

YAML files name these classes (``BOX_CODER: ResidualCoder``), so the names, the constructor's arguments and
``code_size`` are those of OpenPCDet's ``box_coder_utils``. All keep the type of their inputs, work on any device, are
differentiable and change no input.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import InputError

SMALLEST = 1e-5  # metres: sizes are taken as at least this before their logarithm


class ResidualCoder:
    """The SECOND coder: offsets in units of the anchor, logarithms of sizes, difference of headings.

    With the anchor's d = sqrt(dxa^2 + dya^2): ``((x - xa) / d, (y - ya) / d, (z - za) / dza, log(dx / dxa), log(dy /
    dya), log(dz / dza), heading - headinga, rest - resta)``; with ``encode_angle_by_sincos`` the heading becomes two
    codes, cos - cosa and sin - sina.

    Args:
        code_size: columns of a box, 7 or more. The attribute ``code_size`` is the columns of a code: one more with
            ``encode_angle_by_sincos``.
        encode_angle_by_sincos: see above.
        kwargs: further entries of BOX_CODER_CONFIG, which this coder has no use for.

    Source: Yan et al., SECOND, Sensors 2018, section 3.2; OpenPCDet ``ResidualCoder``.
    """

    def __init__(self, code_size: int = 7, encode_angle_by_sincos: bool = False, **kwargs: Any) -> None:
        self.encode_angle_by_sincos = encode_angle_by_sincos
        self.code_size = code_size + 1 if encode_angle_by_sincos else code_size

    def encode_torch(self, boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Boxes (..., 7 + C) and anchors (..., 7 + C) -> codes (..., 7 + C), or (..., 8 + C) with sin and cos. Sizes
        below 1e-5 m count as that.
        """
        sizes, anchor_sizes = boxes[..., 3:6].clamp_min(SMALLEST), anchors[..., 3:6].clamp_min(SMALLEST)
        offsets = (boxes[..., 0:3] - anchors[..., 0:3]) / _offset_scale(anchor_sizes)
        heading, anchor_heading = boxes[..., 6:7], anchors[..., 6:7]
        if self.encode_angle_by_sincos:
            turns = [torch.cos(heading) - torch.cos(anchor_heading), torch.sin(heading) - torch.sin(anchor_heading)]
        else:
            turns = [heading - anchor_heading]
        return torch.cat((offsets, torch.log(sizes / anchor_sizes), *turns, *_rest(boxes, 7, anchors, -1)), dim=-1)

    def decode_torch(self, box_encodings: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Codes and anchors (..., 7 + C) -> boxes (..., 7 + C): the inverse of ``encode_torch``. Leading dimensions
        broadcast.
        """
        anchor_heading = anchors[..., 6:7]
        if self.encode_angle_by_sincos:
            cos = box_encodings[..., 6:7] + torch.cos(anchor_heading)
            sin = box_encodings[..., 7:8] + torch.sin(anchor_heading)
            heading, used = torch.atan2(sin, cos), 8
        else:
            heading, used = box_encodings[..., 6:7] + anchor_heading, 7
        centre, sizes = _decode_centre(box_encodings, anchors), torch.exp(box_encodings[..., 3:6]) * anchors[..., 3:6]
        return torch.cat((centre, sizes, heading, *_rest(box_encodings, used, anchors, +1)), dim=-1)


class PreviousResidualDecoder:
    """Decoder for models trained before OpenPCDet 0.3: as ``ResidualCoder``, but codes have the sizes in the order w,
    l, h (dy, dx, dz).

    Args:
        code_size: columns of a code. kwargs: ignored, as above.
    """

    def __init__(self, code_size: int = 7, **kwargs: Any) -> None:
        self.code_size = code_size

    @staticmethod
    def decode_torch(box_encodings: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Codes (..., 7 + C) x, y, z, w, l, h, r, rest and anchors (..., 7 + C) -> boxes (..., 7 + C)."""
        return _decode_previous(box_encodings, anchors, box_encodings[..., 6:7] + anchors[..., 6:7])


class PreviousResidualRoIDecoder:
    """As ``PreviousResidualDecoder`` for the second stage, where the heading turns the other way: heading = headinga -
    r.
    """

    def __init__(self, code_size: int = 7, **kwargs: Any) -> None:
        self.code_size = code_size

    @staticmethod
    def decode_torch(box_encodings: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Codes (..., 7 + C) x, y, z, w, l, h, r, rest and anchors (..., 7 + C) -> boxes (..., 7 + C)."""
        return _decode_previous(box_encodings, anchors, anchors[..., 6:7] - box_encodings[..., 6:7])


class PointResidualCoder:
    """The point heads' coder: offsets from a point, logarithms of sizes, cos and sin of the heading.

    With the mean size of the class as the anchor's, as in ``ResidualCoder``; without it offsets are metres and sizes
    log(metres).

    Args:
        code_size: columns of a code.
        use_mean_size: see above.
        mean_size: (num_class, 3) dx, dy, dz of each class, metres, all positive; needed with ``use_mean_size``.

    Raises:
        InputError: ``mean_size`` is missing, has not three columns or is not positive.

    Source: Shi et al., PointRCNN, CVPR 2019; OpenPCDet ``PointResidualCoder``.
    """

    def __init__(self, code_size: int = 8, use_mean_size: bool = True, mean_size: Any = None, **kwargs: Any) -> None:
        self.code_size = code_size
        self.use_mean_size = use_mean_size
        if use_mean_size:
            if mean_size is None:
                raise InputError(
                    "BOX_CODER_CONFIG of PointResidualCoder needs mean_size (one [dx, dy, dz] a class) where "
                    "use_mean_size is True."
                )
            # (num_class, 3), follows the inputs' device
            self.mean_size = torch.as_tensor(mean_size, dtype=torch.float32).detach()
            if self.mean_size.ndim != 2 or self.mean_size.shape[1] != 3 or not bool((self.mean_size > 0).all()):
                raise InputError(
                    "BOX_CODER_CONFIG.mean_size must be one [dx, dy, dz] of positive metres a class, got "
                    f"{self.mean_size.tolist()}."
                )

    def encode_torch(
        self, gt_boxes: torch.Tensor, points: torch.Tensor, gt_classes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Boxes to codes.

        Args:
            gt_boxes: (N, 7 + C).
            points: (N, 3), the point that each box is told from.
            gt_classes: (N,) integers 1..num_class, needed with ``use_mean_size``.

        Returns:
            (N, 8 + C) x, y, z, dx, dy, dz, cos, sin, rest.
        """
        sizes, heading, offsets = gt_boxes[:, 3:6].clamp_min(SMALLEST), gt_boxes[:, 6:7], gt_boxes[:, 0:3] - points
        if self.use_mean_size:
            mean_sizes = self._mean_sizes(gt_classes, sizes)
            offsets, sizes = offsets / _offset_scale(mean_sizes), sizes / mean_sizes
        return torch.cat((offsets, torch.log(sizes), torch.cos(heading), torch.sin(heading), gt_boxes[:, 7:]), dim=-1)

    def decode_torch(
        self, box_encodings: torch.Tensor, points: torch.Tensor, pred_classes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Codes (N, 8 + C), points (N, 3) and classes (N,) -> boxes (N, 7 + C): the inverse of ``encode_torch``,
        headings in (-pi, pi].
        """
        offsets, sizes = box_encodings[..., 0:3], torch.exp(box_encodings[..., 3:6])
        if self.use_mean_size:
            mean_sizes = self._mean_sizes(pred_classes, sizes)
            offsets, sizes = offsets * _offset_scale(mean_sizes), sizes * mean_sizes
        heading = torch.atan2(box_encodings[..., 7:8], box_encodings[..., 6:7])
        return torch.cat((offsets + points, sizes, heading, box_encodings[..., 8:]), dim=-1)

    def _mean_sizes(self, classes: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """(N, 3) mean sizes of classes 1..num_class. A class beyond is an IndexError; asking for the largest first
        would wait for the device.
        """
        if classes is None:
            raise ValueError("PointResidualCoder with use_mean_size needs the class of every box.")
        if self.mean_size.device != like.device:
            self.mean_size = self.mean_size.to(like.device)
        return self.mean_size[classes - 1]


def _offset_scale(sizes: torch.Tensor) -> torch.Tensor:
    """(..., 3) the units of x, y, z offsets: the diagonal of the base twice, and the height."""
    diagonal = torch.sqrt(sizes[..., 0:1] ** 2 + sizes[..., 1:2] ** 2)
    return torch.cat((diagonal, diagonal, sizes[..., 2:3]), dim=-1)


def _decode_centre(box_encodings: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    return box_encodings[..., 0:3] * _offset_scale(anchors[..., 3:6]) + anchors[..., 0:3]


def _decode_previous(box_encodings: torch.Tensor, anchors: torch.Tensor, heading: torch.Tensor) -> torch.Tensor:
    dx_dy_dz = torch.cat((box_encodings[..., 4:5], box_encodings[..., 3:4], box_encodings[..., 5:6]), dim=-1)
    sizes = torch.exp(dx_dy_dz) * anchors[..., 3:6]
    return torch.cat(
        (_decode_centre(box_encodings, anchors), sizes, heading, *_rest(box_encodings, 7, anchors, +1)), dim=-1
    )


def _rest(first: torch.Tensor, used: int, anchors: torch.Tensor, sign: int) -> list[torch.Tensor]:
    """The columns after the heading, plus or minus the anchors'; as many as both have, as in OpenPCDet (none for
    7-column anchors).
    """
    columns = min(first.shape[-1] - used, anchors.shape[-1] - 7)
    if columns <= 0:
        return []
    box_rest, anchor_rest = first[..., used : used + columns], anchors[..., 7 : 7 + columns]
    return [box_rest + anchor_rest if sign > 0 else box_rest - anchor_rest]
