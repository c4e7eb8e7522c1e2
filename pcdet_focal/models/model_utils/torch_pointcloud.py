"""Names of weights in torch-pointcloud, which publishes OpenPCDet's models on the Hugging Face hub.

Tensors and layouts are OpenPCDet's. A layer with its norm is one module there, ``3.conv`` and ``3.norm`` of a pyramid's
block for example, where here they are elements 7 and 8 of a list that also has the activations.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from ...ops.sparse_conv import convert_spconv_kernel

_TENSOR = r"(weight|bias|running_mean|running_var|num_batches_tracked)$"
_PARTS = ("conv", "norm")


def with_own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under this package's names; unchanged where they are not torch-pointcloud's."""
    if not any(name.startswith("backbone.blocks.") for name in state):
        return dict(state)
    return {own_name(name): value for name, value in state.items()}


def with_names_there(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under torch-pointcloud's names, without the count of training steps, which it does not have. Its loader
    refuses a file that lacks anything else, counters of norms and class numbers of heads among it.

    Sparse kernels are in spconv 2's layout then: one in another keeps its random values there, without a word.
    """
    there = names_there(state)
    layout = _kernel_layout(state)
    return {
        there[name]: convert_spconv_kernel(value, layout) if value.dim() == 5 else value
        for name, value in state.items()
        if name != "global_step"
    }


def _kernel_layout(state: Mapping[str, Tensor]) -> str:
    """The layout of a file's sparse kernels (``ops.sparse_conv.layouts``), by the first one: its number of output
    channels, which is that of its norm, is not that of its input.
    """
    kernel, norm = (state.get(f"backbone_3d.conv_input.{index}.weight") for index in (0, 1))
    if kernel is None or norm is None or kernel.shape[0] == len(norm):
        return "KRSC"
    return "RSCK" if kernel.shape[-1] == len(norm) else "RSKC"


def own_name(name: str) -> str:
    """This package's name of a tensor of torch-pointcloud.

    >>> own_name("backbone.blocks.0.3.norm.bias"), own_name("head.rpn_heads.1.conv_cls.1.weight")
    ('backbone_2d.blocks.0.8.bias', 'dense_head.rpn_heads.1.conv_cls.3.weight')
    """
    name = re.sub(r"^(vfe\.pfn_layers\.\d+)\.mlp\.lins\.0\.", r"\1.linear.", name)
    name = re.sub(r"^(vfe\.pfn_layers\.\d+)\.mlp\.norms\.0\.module\.", r"\1.norm.", name)
    name = re.sub(r"^(backbone_3d\..*)\.norm(\d)\.module\.", r"\1.bn\2.", name)
    name = re.sub(r"^(backbone_3d\..*\.1)\.module\.", r"\1.", name)
    name = re.sub(
        r"^backbone\.(blocks\.\d+)\.(\d+)\.(conv|norm)\.",
        lambda m: f"backbone_2d.{m[1]}.{3 * int(m[2]) - 2 + _PARTS.index(m[3])}.",
        name,
    )
    name = re.sub(
        r"^backbone\.(deblocks\.\d+)\.(conv|norm)\.", lambda m: f"backbone_2d.{m[1]}.{_PARTS.index(m[2])}.", name
    )
    name = re.sub(r"^head\.shared_conv\.(conv|norm)\.", lambda m: f"head.shared_conv.{_PARTS.index(m[1])}.", name)
    name = re.sub(
        rf"^(head\.rpn_heads\..*)\.(\d+)\.(?:(conv|norm)\.)?{_TENSOR}",
        lambda m: f"{m[1]}.{3 * int(m[2]) + (m[3] == 'norm')}.{m[4]}",
        name,
    )
    return re.sub(r"^head\.", "dense_head.", name)


def names_there(names: Iterable[str]) -> dict[str, str]:
    """{name in this package: name in torch-pointcloud} for the tensors of a model."""
    names = set(names)
    return {name: _name_there(name, names) for name in names}


def _name_there(name: str, names: Collection[str]) -> str:
    name = re.sub(r"^(vfe\.pfn_layers\.\d+)\.linear\.", r"\1.mlp.lins.0.", name)
    name = re.sub(r"^(vfe\.pfn_layers\.\d+)\.norm\.", r"\1.mlp.norms.0.module.", name)
    name = re.sub(r"^(backbone_3d\..*)\.bn(\d)\.", r"\1.norm\2.module.", name)
    name = re.sub(rf"^(backbone_3d\..*\.1)\.{_TENSOR}", r"\1.module.\2", name)
    name = re.sub(
        r"^backbone_2d\.(blocks\.\d+)\.(\d+)\.",
        lambda m: f"backbone.{m[1]}.{(int(m[2]) + 2) // 3}.{_PARTS[(int(m[2]) + 2) % 3]}.",
        name,
    )
    name = re.sub(r"^backbone_2d\.(deblocks\.\d+)\.(\d)\.", lambda m: f"backbone.{m[1]}.{_PARTS[int(m[2])]}.", name)
    name = re.sub(r"^dense_head\.shared_conv\.(\d)\.", lambda m: f"dense_head.shared_conv.{_PARTS[int(m[1])]}.", name)

    def layer(m: re.Match) -> str:
        index = int(m[2])
        last = index % 3 == 0 and f"{m[1]}.{index + 1}.weight" not in names  # no norm follows
        return f"{m[1]}.{index // 3}.{'' if last else _PARTS[index % 3] + '.'}{m[3]}"

    name = re.sub(rf"^(dense_head\.rpn_heads\..*)\.(\d+)\.{_TENSOR}", layer, name)
    return re.sub(r"^dense_head\.", "head.", name)
