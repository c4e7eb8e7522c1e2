"""Angles about the vertical axis: wrapping them, and turning points by them."""

from __future__ import annotations

import numpy as np
import torch

from ..arrays import Array, as_floating, numpy_or_torch


def limit_period(val: Array | float, offset: float = 0.5, period: float = np.pi) -> Array | float:
    """Shift angles by whole periods into ``[-offset * period, (1 - offset) * period)``.

    ``val - floor(val / period + offset) * period``, so ``offset=0.5, period=2 * pi`` gives [-pi, pi) and ``offset=0``
    gives [0, period). A value within rounding of the border may come out at either end.

    Args:
        val: angles of any shape, radians; numpy, torch or a plain number.
        offset: which part of the period lies below zero.
        period: length of the period, radians.

    Returns:
        Same shape, kind, device and (for float32 and float64) type as ``val``. Source: OpenPCDet
        ``common_utils.limit_period``.
    """
    period = float(period)  # a numpy float64 scalar would turn float32 arrays into float64
    offset = float(offset)
    if isinstance(val, torch.Tensor):
        return val - torch.floor(val / period + offset) * period
    if isinstance(val, np.ndarray):
        val = as_floating(val)
    return val - np.floor(val / period + offset) * period


@numpy_or_torch
def rotate_points_along_z(points: Array, angle: Array) -> Array:
    """Turn points about the z axis, each sample by its own angle; +x turns towards +y.

    Args:
        points: (B, N, 3 + C); the columns after x, y, z are carried over.
        angle: (B,), radians.

    Returns:
        (B, N, 3 + C), kind, device and type of ``points``. Written out by hand rather than as a matrix product, because
        autocast and TF32 would round the coordinates (8 or 11 bits: 70 m to decimetres or centimetres). Source:
        OpenPCDet ``common_utils.rotate_points_along_z``.
    """
    cos = torch.cos(angle).to(points.dtype)[:, None, None]  # (B, 1, 1)
    sin = torch.sin(angle).to(points.dtype)[:, None, None]
    x, y = points[..., 0:1], points[..., 1:2]
    return torch.cat((x * cos - y * sin, x * sin + y * cos, points[..., 2:]), dim=-1)


@numpy_or_torch
def angle2matrix(angle: Array) -> Array:
    """Rotation matrix about z for column vectors: ``angle2matrix(a) @ p`` turns p by a, +x towards +y.

    Args:
        angle: (...), radians; a 0-d tensor is the usual case.

    Returns:
        (..., 3, 3) of the type and on the device of ``angle``, differentiable. Source: OpenPCDet
        ``common_utils.angle2matrix``.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    return torch.stack((cos, -sin, zero, sin, cos, zero, zero, zero, one), dim=-1).reshape(*angle.shape, 3, 3)
