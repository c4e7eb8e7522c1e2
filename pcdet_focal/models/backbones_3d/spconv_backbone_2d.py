"""PillarNet's encoders: sparse 2-D convolutions over pillars down to an eighth of the grid, then dense ones to a
sixteenth.

Module names, and with them the keys of ``state_dict``, are OpenPCDet's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from ...ops import sparse_conv as spconv
from ...ops.sparse_conv import SparseConvTensor
from . import spconv_backbone

_CHANNELS = (32, 64, 128, 256, 256)  # of the five stages
_NORM, _NORM_2D = (partial(norm, eps=1e-3, momentum=0.01) for norm in (nn.BatchNorm1d, nn.BatchNorm2d))

post_act_block = partial(spconv_backbone.post_act_block, ndim=2)


def post_act_block_dense(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    norm_fn: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """Dense 2-D convolution without bias, normalisation, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, norm_fn(out_channels), nn.ReLU())


class SparseBasicBlock(spconv_backbone.SparseBasicBlock):
    """The residual block of ``spconv_backbone`` over pillars."""

    conv = spconv.SubMConv2d


class BasicBlock(nn.Module):
    """ResNet's basic block of two dense convolutions with a bias: relu(x + bn2(conv2(relu(bn1(conv1(x))))))."""

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        norm_fn: Callable[[int], nn.Module] = nn.BatchNorm2d,
        downsample: nn.Module | None = None,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride=stride, padding=1, bias=True)
        self.bn1 = norm_fn(planes)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=True)
        self.bn2 = norm_fn(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class _PillarEncoder(nn.Module):
    """Four sparse stages, of which three halve the grid, and a dense one that halves it once more.

    Attributes:
        num_point_features: channels of the last stage. backbone_channels: channels of each stage.
    """

    def __init__(
        self,
        model_cfg,
        input_channels: int,
        grid_size: Sequence[int],
        sparse_layer: Callable[[int, str], nn.Module],
        dense_layer: Callable[[int], nn.Module],
    ):
        """``sparse_layer(channels, stage)`` and ``dense_layer(channels)`` make one of the two layers that come after a
        stage's strided one.
        """
        super().__init__()
        self.model_cfg = model_cfg
        self.sparse_shape = [int(grid_size[1]), int(grid_size[0])]
        self.conv1 = spconv.SparseSequential(*(sparse_layer(_CHANNELS[0], "1") for _ in range(2)))
        for stage in (2, 3, 4):
            channels = _CHANNELS[stage - 1]
            down = post_act_block(
                _CHANNELS[stage - 2],
                channels,
                3,
                norm_fn=_NORM,
                stride=2,
                padding=1,
                indice_key=f"spconv{stage}",
                conv_type="spconv",
            )
            setattr(
                self,
                f"conv{stage}",
                spconv.SparseSequential(down, *(sparse_layer(channels, str(stage)) for _ in range(2))),
            )
        down = post_act_block_dense(_CHANNELS[3], _CHANNELS[4], 3, norm_fn=_NORM_2D, stride=2, padding=1)
        self.conv5 = nn.Sequential(down, *(dense_layer(_CHANNELS[4]) for _ in range(2)))
        self.num_point_features = _CHANNELS[4]
        self.backbone_channels = {f"x_conv{i + 1}": c for i, c in enumerate(_CHANNELS)}

    def forward(self, batch_dict: dict) -> dict:
        """Encode the pillars of a batch.

        Args:
            batch_dict: ``pillar_features`` (M, 32), ``pillar_coords`` (M, 3) as (batch, y, x), each pillar once, and
                ``batch_size``.

        Returns:
            batch_dict with the five stages' maps in ``multi_scale_2d_features`` (``x_conv1`` to ``x_conv3`` sparse;
            ``x_conv4`` and ``x_conv5`` dense, (B, 256, H, W)) and their strides 1, 2, 4, 8, 16 in
            ``multi_scale_2d_strides``.
        """
        x = SparseConvTensor(
            batch_dict["pillar_features"],
            batch_dict["pillar_coords"].int(),
            self.sparse_shape,
            batch_dict["batch_size"],
        )
        x_conv1 = self.conv1(x)
        x_conv2 = self.conv2(x_conv1)
        x_conv3 = self.conv3(x_conv2)
        x_conv4 = self.conv4(x_conv3).dense()
        stages = (x_conv1, x_conv2, x_conv3, x_conv4, self.conv5(x_conv4))
        batch_dict["multi_scale_2d_features"] = {f"x_conv{i + 1}": stage for i, stage in enumerate(stages)}
        batch_dict["multi_scale_2d_strides"] = {f"x_conv{i + 1}": 2**i for i in range(len(stages))}
        return batch_dict


class PillarBackBone8x(_PillarEncoder):
    """The plain encoder: two submanifold convolutions after each strided one."""

    def __init__(self, model_cfg, input_channels: int, grid_size: Sequence[int], **kwargs):
        def sparse_layer(channels: int, stage: str) -> nn.Module:
            return post_act_block(channels, channels, 3, norm_fn=_NORM, padding=1, indice_key=f"subm{stage}")

        def dense_layer(channels: int) -> nn.Module:
            return post_act_block_dense(channels, channels, 3, norm_fn=_NORM_2D, padding=1)

        super().__init__(model_cfg, input_channels, grid_size, sparse_layer, dense_layer)


class PillarRes18BackBone8x(_PillarEncoder):
    """The encoder with two residual blocks a stage."""

    def __init__(self, model_cfg, input_channels: int, grid_size: Sequence[int], **kwargs):
        def sparse_layer(channels: int, stage: str) -> nn.Module:
            return SparseBasicBlock(channels, channels, norm_fn=_NORM, indice_key=f"res{stage}")

        super().__init__(
            model_cfg,
            input_channels,
            grid_size,
            sparse_layer,
            lambda channels: BasicBlock(channels, channels, norm_fn=_NORM_2D),
        )
