"""Shapes of targets and weights: broadcast is explicit and checked, a mistake gives one message with both shapes.

OpenPCDet lets torch broadcast whatever fits, so that weights of shape (B, A, C) silently turn a (B, A, C) loss into (B,
A, C, C).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import InputError


def require_same_shape(loss_name: str, **tensors: torch.Tensor) -> None:
    """Raise InputError unless all the named tensors have one shape; the message gives every shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    first, *others = shapes.values()
    if any(shape != first for shape in others):  # not as a set: the numbers are tensors inside torch.jit.trace
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(f"{loss_name}: {' and '.join(shapes)} need the same shape, but they are {given}.")


def expand_anchor_weights(weights: torch.Tensor, loss_shape: Sequence[int], loss_name: str = "loss") -> torch.Tensor:
    """View weights so that they multiply a loss whose last axis holds classes or box codes.

    Args:
        weights: one weight per anchor, shape ``loss_shape[:-1]``, or one per element, shape ``loss_shape``; any axis
            may be 1.
        loss_shape: (B, A, C), or (N, C), or any other with at least one axis.
        loss_name: for the message.
    Returns:
        A view with ``len(loss_shape)`` axes.
    Raises:
        InputError: any other shape; the message gives both shapes and what is allowed.

    >>> expand_anchor_weights(torch.ones(2, 6), (2, 6, 3)).shape
    torch.Size([2, 6, 1])
    """
    loss_shape = tuple(loss_shape)
    viewed = weights.unsqueeze(-1) if weights.dim() == len(loss_shape) - 1 else weights
    if viewed.dim() != len(loss_shape) or any(w not in (1, n) for w, n in zip(viewed.shape, loss_shape)):
        raise InputError(
            f"{loss_name}: weights of shape {tuple(weights.shape)} do not fit an input of shape {loss_shape}: "
            f"{loss_shape[:-1]} (one per anchor) or {loss_shape} (one per element) are allowed, each axis possibly 1."
        )
    return viewed


def check_elementwise_weights(
    weights: torch.Tensor, loss_shape: Sequence[int], loss_name: str = "loss"
) -> torch.Tensor:
    """Return weights unchanged where they have the loss's own shape (any axis may be 1), else raise InputError with
    both shapes.
    """
    loss_shape = tuple(loss_shape)
    if weights.dim() != len(loss_shape) or any(w not in (1, n) for w, n in zip(weights.shape, loss_shape)):
        raise InputError(
            f"{loss_name}: weights of shape {tuple(weights.shape)} do not fit a loss of shape {loss_shape}: "
            f"{loss_shape} (one per anchor) is allowed, each axis possibly 1."
        )
    return weights
