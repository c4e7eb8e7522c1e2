"""Sparse 3-D encoders that bring a voxel grid down by 8: the plain one (SECOND's) and the residual one.

Module names, and with them the keys of ``state_dict``, are OpenPCDet's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import nn

from ...errors import InputError
from ...ops import sparse_conv as spconv
from ...ops.sparse_conv import SparseConvTensor

_NORM = partial(nn.BatchNorm1d, eps=1e-3, momentum=0.01)


def post_act_block(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    indice_key: str | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    conv_type: str = "subm",
    norm_fn: Callable[[int], nn.Module] = nn.BatchNorm1d,
    ndim: int = 3,
) -> spconv.SparseSequential:
    """Sparse convolution without bias, normalisation, ReLU.

    Args:
        conv_type: ``"subm"`` (stride and padding have no effect), ``"spconv"``, or ``"inverseconv"``, which goes back
            to the voxels before the "spconv" block with the same indice_key.
        ndim: 3 for voxels, 2 for pillars.

    Raises:
        InputError: an unknown conv_type.
    """
    names = {"subm": "SubMConv", "spconv": "SparseConv", "inverseconv": "SparseInverseConv"}
    if conv_type not in names:
        raise InputError(f"post_act_block: conv_type {conv_type!r} is unknown; it must be subm, spconv or inverseconv")
    grid = {"stride": stride, "padding": padding} if conv_type == "spconv" else {}
    conv = getattr(spconv, f"{names[conv_type]}{ndim}d")(
        in_channels, out_channels, kernel_size, bias=False, indice_key=indice_key, **grid
    )
    return spconv.SparseSequential(conv, norm_fn(out_channels), nn.ReLU())


def _on_features(x: SparseConvTensor, *modules: nn.Module) -> SparseConvTensor:
    """Modules applied to the features; a tensor without voxels passes unchanged, because batch normalisation refuses
    it.
    """
    if len(x.indices) == 0:
        return x
    features = x.features
    for module in modules:
        features = module(features)
    return x.replace_feature(features)


class SparseBasicBlock(spconv.SparseModule):
    """ResNet's basic block of two submanifold convolutions: relu(x + bn2(conv2(relu(bn1(conv1(x))))))."""

    expansion = 1
    conv = spconv.SubMConv3d

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        bias: bool | None = None,
        norm_fn: Callable[[int], nn.Module] = nn.BatchNorm1d,
        downsample: nn.Module | None = None,
        indice_key: str | None = None,
    ):
        super().__init__()
        # OpenPCDet's rule: a bias before the normalisation, unless the configuration says no
        bias = True if bias is None else bias
        self.conv1 = self.conv(
            inplanes, planes, kernel_size=3, stride=stride, padding=1, bias=bias, indice_key=indice_key
        )
        self.bn1 = norm_fn(planes)
        self.relu = nn.ReLU()
        self.conv2 = self.conv(
            planes, planes, kernel_size=3, stride=stride, padding=1, bias=bias, indice_key=indice_key
        )
        self.bn2 = norm_fn(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        out = _on_features(self.conv1(x), self.bn1, self.relu)
        out = _on_features(self.conv2(out), self.bn2)
        identity = x if self.downsample is None else self.downsample(x)
        return out.replace_feature(self.relu(out.features + identity.features))


class _Encoder8x(nn.Module):
    """Input convolution, four stages of which three halve the grid, and an output convolution that halves the height
    once more.

    Attributes:
        num_point_features: channels of the encoded tensor. backbone_channels: channels of each stage.
    """

    def __init__(
        self,
        model_cfg,
        input_channels: int,
        grid_size: Sequence[int],
        channels: Sequence[int],
        layers: Callable[[int, int], list[nn.Module]],
    ):
        """``layers(stage, channels)`` makes the modules of a stage that come after its strided convolution."""
        super().__init__()
        self.model_cfg = model_cfg
        # one layer more than the grid in z: 41 layers come down to 21, 11 and 5
        self.sparse_shape = (np.asarray(grid_size)[::-1] + [1, 0, 0]).tolist()
        self.conv_input = spconv.SparseSequential(
            spconv.SubMConv3d(input_channels, 16, 3, padding=1, bias=False, indice_key="subm1"), _NORM(16), nn.ReLU()
        )
        self.conv1 = spconv.SparseSequential(*layers(1, channels[0]))
        for stage, padding in ((2, 1), (3, 1), (4, (0, 1, 1))):
            down = post_act_block(
                channels[stage - 2],
                channels[stage - 1],
                3,
                norm_fn=_NORM,
                stride=2,
                padding=padding,
                indice_key=f"spconv{stage}",
                conv_type="spconv",
            )
            setattr(self, f"conv{stage}", spconv.SparseSequential(down, *layers(stage, channels[stage - 1])))
        self.conv_out = spconv.SparseSequential(
            spconv.SparseConv3d(
                channels[3],
                128,
                (3, 1, 1),
                stride=(2, 1, 1),
                padding=model_cfg.get("last_pad", 0),
                bias=False,
                indice_key="spconv_down2",
            ),
            _NORM(128),
            nn.ReLU(),
        )
        self.num_point_features = 128
        self.backbone_channels = {f"x_conv{i + 1}": c for i, c in enumerate(channels)}

    def forward(self, batch_dict: dict) -> dict:
        """Encode the voxels of a batch.

        Args:
            batch_dict: ``voxel_features`` (M, input_channels), ``voxel_coords`` (M, 4) as (batch, z, y, x), each voxel
                once, and ``batch_size``.

        Returns:
            batch_dict with ``encoded_spconv_tensor`` (128 channels; a height of 2 for a grid of 40 layers) and its
            stride 8, and the four stages' tensors in ``multi_scale_3d_features`` with ``multi_scale_3d_strides``.
        """
        x = spconv.SparseConvTensor(
            batch_dict["voxel_features"], batch_dict["voxel_coords"].int(), self.sparse_shape, batch_dict["batch_size"]
        )
        x_conv1 = self.conv1(self.conv_input(x))
        x_conv2 = self.conv2(x_conv1)
        x_conv3 = self.conv3(x_conv2)
        x_conv4 = self.conv4(x_conv3)
        batch_dict["encoded_spconv_tensor"] = self.conv_out(x_conv4)
        batch_dict["encoded_spconv_tensor_stride"] = 8
        batch_dict["multi_scale_3d_features"] = {
            "x_conv1": x_conv1,
            "x_conv2": x_conv2,
            "x_conv3": x_conv3,
            "x_conv4": x_conv4,
        }
        batch_dict["multi_scale_3d_strides"] = {"x_conv1": 1, "x_conv2": 2, "x_conv3": 4, "x_conv4": 8}
        return batch_dict


class VoxelBackBone8x(_Encoder8x):
    """SECOND's encoder: two submanifold convolutions after each strided one, with 16, 32, 64 and 64 channels."""

    def __init__(self, model_cfg, input_channels: int, grid_size: Sequence[int], **kwargs):
        def layers(stage: int, channels: int) -> list[nn.Module]:
            return [
                post_act_block(channels, channels, 3, norm_fn=_NORM, padding=1, indice_key=f"subm{stage}")
                for _ in range(1 if stage == 1 else 2)
            ]

        super().__init__(model_cfg, input_channels, grid_size, (16, 32, 64, 64), layers)


class VoxelResBackBone8x(_Encoder8x):
    """The encoder with two residual blocks a stage, and 16, 32, 64 and 128 channels. MODEL.BACKBONE_3D.USE_BIAS: False
    drops the blocks' biases.
    """

    def __init__(self, model_cfg, input_channels: int, grid_size: Sequence[int], **kwargs):
        def layers(stage: int, channels: int) -> list[nn.Module]:
            bias = model_cfg.get("USE_BIAS", None)
            return [
                SparseBasicBlock(channels, channels, bias=bias, norm_fn=_NORM, indice_key=f"res{stage}")
                for _ in range(2)
            ]

        super().__init__(model_cfg, input_channels, grid_size, (16, 32, 64, 128), layers)
