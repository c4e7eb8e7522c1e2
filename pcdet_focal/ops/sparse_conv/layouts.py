"""Kernel layouts of the spconv versions."""

from __future__ import annotations

import torch

from ...errors import InputError

LAYOUTS = {
    "KRSC": "(out, *kernel, in): spconv 2.x, spconv-triton and this package",
    "RSKC": "(*kernel, out, in): spconv 2.0 and 2.1 with the native algorithm",
    "RSCK": "(*kernel, in, out): spconv 1.x",
}


def convert_spconv_kernel(weight: torch.Tensor, layout: str, conv1x1: bool = False) -> torch.Tensor:
    """A kernel from a checkpoint in this package's layout (out, *kernel, in).

    The layout is declared, never guessed from the shape: with equal in and out channels the shapes of RSKC and RSCK are
    the same, and a kernel loaded untransposed gives wrong results without an error.

    Args:
        weight: the stored kernel, in ``layout``.
        layout: ``"KRSC"``, ``"RSKC"`` or ``"RSCK"`` (spconv 1.x), see ``LAYOUTS``.
        conv1x1: the layer is a one-cell, stride 1 convolution (``module.conv1x1``). All spconv versions read its memory
            as (in, out), so it keeps its memory and only its shape changes.

    Raises:
        InputError: an unknown layout, or a weight with fewer than three axes.
    """
    if layout not in LAYOUTS:
        known = ", ".join(f"{name} = {meaning}" for name, meaning in LAYOUTS.items())
        raise InputError(f"convert_spconv_kernel: layout {layout!r} is unknown; it must be one of {known}")
    if weight.dim() < 3:
        raise InputError(
            "convert_spconv_kernel: a sparse convolution's kernel has at least 3 axes, this one has shape "
            f"{tuple(weight.shape)}"
        )
    if layout == "KRSC":
        return weight
    *kernel, a, b = weight.shape
    channels_out, channels_in = (a, b) if layout == "RSKC" else (b, a)
    if conv1x1:
        return weight.contiguous().reshape(channels_out, *kernel, channels_in)
    axes = len(kernel)
    order = (axes, *range(axes), axes + 1) if layout == "RSKC" else (axes + 1, *range(axes), axes)
    return weight.permute(order).contiguous()
