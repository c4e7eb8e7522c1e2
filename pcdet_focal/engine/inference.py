"""A detector made quick for evaluation on a CPU: batch norm folded into convolutions, channels last, bfloat16."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from ..errors import InputError
from ..models.backbones_2d.base_bev_backbone import BasicBlock
from ..models.dense_heads.anchor_head_template import AnchorHeadTemplate

PRECISIONS = ("float32", "bfloat16", "auto")
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def prepare_for_inference(model: nn.Module, precision: str = "float32") -> nn.Module:
    """A copy of a detector for evaluation. On another device than the CPU it is the model itself.

    Batch norm is folded into the convolution before it; the 2-D backbone and the dense head run with channels last.
    Anchor heads decode only boxes above the least score of POST_PROCESSING. Modules of other packages stay as they are,
    and what comes after the dense head sees float32.

    Args:
        model: a detector with its weights.
        precision: "float32": boxes are the model's to 1e-4. "bfloat16": so does the 2-D part compute; heads give
            float32 again, before boxes are decoded. "auto": bfloat16 where the processor has instructions for it.

    Raises:
        InputError: another precision, or bfloat16 for a model whose second stage reads maps of the 2-D part.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}; it can be {', '.join(PRECISIONS)}")
    if next(model.parameters()).device.type != "cpu":
        return model.eval()
    dense = [name for name in ("backbone_2d", "dense_head") if _is_ours(type(getattr(model, name, None)))]
    last = (getattr(model, "module_list", None) or [None])[-1]
    can_be_short = dense == ["backbone_2d", "dense_head"] and last is model.dense_head
    if precision == "bfloat16" and not can_be_short:
        raise InputError("precision bfloat16 needs a BACKBONE_2D and DENSE_HEAD of this package as the last stages")
    short = precision == "bfloat16" or (precision == "auto" and can_be_short and has_bfloat16())
    # the data set and the configuration are not copied, nor is what a head kept of its last training step
    memo: dict[int, Any] = {id(value): value for value in (getattr(model, n, None) for n in ("dataset", "model_cfg"))}
    memo |= {id(head.forward_ret_dict): {} for head in model.modules() if hasattr(head, "forward_ret_dict")}
    try:
        prepared = copy.deepcopy(model, memo).eval()
    except RuntimeError as error:  # a module of another package keeps tensors that cannot be copied
        if precision == "bfloat16":
            raise InputError(f"precision bfloat16: the model cannot be copied ({error})") from error
        return model.eval()
    for name in dense:
        module = getattr(prepared, name)
        fold_batch_norm(module)
        _use_channels_last(module, torch.bfloat16 if short else None)
    # a detector of another package may read boxes of all anchors
    if can_be_short and isinstance(prepared.dense_head, AnchorHeadTemplate) and _is_ours(type(model).post_processing):
        prepared.dense_head.decode_above = _least_score(prepared.model_cfg.POST_PROCESSING.SCORE_THRESH)
    return prepared


def _least_score(thresholds: float | Sequence[float] | None) -> float | None:
    """The least score that post-processing keeps; None where that excludes no box, or every box."""
    least = min(map(float, thresholds if isinstance(thresholds, (list, tuple)) else [thresholds or 0.0]))
    return least if 0 < least < 1 else None


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices (AVX-512 BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fold_batch_norm(module: nn.Module) -> None:
    """Fold each batch norm below ``module`` into the convolution right before it, in place; evaluation mode only."""
    for parent in list(module.modules()):
        for conv_name, norm_name in _pairs(parent):
            conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
            if isinstance(conv, _CONVOLUTIONS) and isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
                fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
                setattr(parent, conv_name, fused)
                setattr(parent, norm_name, nn.Identity())


def _pairs(parent: nn.Module) -> Iterator[tuple[str, str]]:
    if isinstance(parent, nn.Sequential):
        names = list(parent._modules)
        yield from zip(names, names[1:])
    elif isinstance(parent, BasicBlock):
        yield from (("conv1", "bn1"), ("conv2", "bn2"))


def _is_ours(made: Any) -> bool:
    """Whether a class or function is of this package."""
    return made.__module__.startswith("pcdet_focal.")


def _use_channels_last(module: nn.Module, dtype: torch.dtype | None) -> None:
    """Bring every map to the layout, and the type, of the convolution that reads it."""

    def arrive(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0].to(dtype or arguments[0].dtype, memory_format=torch.channels_last),)

    for child in module.modules():
        if isinstance(child, _CONVOLUTIONS):
            child.to(dtype=dtype, memory_format=torch.channels_last)
            child.register_forward_pre_hook(arrive)
