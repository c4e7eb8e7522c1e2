"""2-D backbones over the bird's-eye map: the pyramid of SECOND and PointPillars, a residual one, and PillarNet's
neck.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...errors import InputError


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _plain_block(in_channels: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """A convolution with ``stride``, then ``depth`` more; each with normalisation and ReLU."""
    # OpenPCDet pads in a layer of its own, which copies the map; the Identity keeps the parameters' names.
    layers = [
        nn.Identity(),
        nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False),
        _norm(width),
        nn.ReLU(inplace=True),
    ]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), _norm(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _residual_block(in_channels: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """The same of ResNet's basic blocks."""
    return nn.Sequential(
        BasicBlock(in_channels, width, stride, downsample=True), *(BasicBlock(width, width) for _ in range(depth))
    )


def _resampling(width: int, up_width: int, stride: float, conv_for_one: bool = False) -> nn.Sequential:
    """Bring a map to ``stride`` times its resolution; a stride below 1 reduces. ``conv_for_one``: an ordinary
    convolution where stride is 1.
    """
    if stride > 1 or (stride == 1 and not conv_for_one):
        conv = nn.ConvTranspose2d(width, up_width, int(stride), stride=int(stride), bias=False)
    else:
        down = round(1 / stride)
        conv = nn.Conv2d(width, up_width, down, stride=down, bias=False)
    return nn.Sequential(conv, _norm(up_width), nn.ReLU(inplace=True))


class _Pyramid(nn.Module):
    """Blocks one after another; each one's output is brought to one resolution, then all are concatenated."""

    def __init__(
        self,
        model_cfg,
        input_channels: int,
        block: Callable[[int, int, int, int], nn.Sequential],
        conv_for_one: bool = False,
    ):
        """``block(in_channels, width, depth, stride)`` makes the layers of a level; ``conv_for_one`` as in
        ``_resampling``.
        """
        super().__init__()
        self.model_cfg = model_cfg
        depths, strides, widths = (
            list(model_cfg.get(key) or []) for key in ("LAYER_NUMS", "LAYER_STRIDES", "NUM_FILTERS")
        )
        up_strides, up_widths = (list(model_cfg.get(key) or []) for key in ("UPSAMPLE_STRIDES", "NUM_UPSAMPLE_FILTERS"))
        if not len(depths) == len(strides) == len(widths):
            raise InputError(
                "MODEL.BACKBONE_2D: LAYER_NUMS, LAYER_STRIDES and NUM_FILTERS must have one entry a level each"
            )
        if len(up_strides) != len(up_widths) or (up_strides and len(up_strides) < len(depths)):
            raise InputError(
                "MODEL.BACKBONE_2D: UPSAMPLE_STRIDES and NUM_UPSAMPLE_FILTERS must have one entry a level each"
            )

        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        for level, (depth, stride, width) in enumerate(zip(depths, strides, widths)):
            self.blocks.append(block(input_channels if level == 0 else widths[level - 1], width, depth, stride))
            if up_strides:
                self.deblocks.append(_resampling(width, up_widths[level], up_strides[level], conv_for_one))
        self.num_bev_features = sum(up_widths) if up_strides else sum(widths)
        if len(up_strides) > len(depths):
            self.deblocks.append(_resampling(self.num_bev_features, self.num_bev_features, up_strides[-1]))

    def forward(self, data_dict: dict) -> dict:
        """Reads ``spatial_features`` (B, C, H, W); adds ``spatial_features_2d`` (B, num_bev_features, H', W')."""
        x = data_dict["spatial_features"]
        levels = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            levels.append(self.deblocks[i](x) if len(self.deblocks) else x)
        if levels:
            x = torch.cat(levels, dim=1) if len(levels) > 1 else levels[0]
        if len(self.deblocks) > len(self.blocks):
            x = self.deblocks[-1](x)
        data_dict["spatial_features_2d"] = x
        return data_dict


class BaseBEVBackbone(_Pyramid):
    """A pyramid of 2-D convolution blocks over the bird's-eye map.

    Configuration: LAYER_NUMS, LAYER_STRIDES, NUM_FILTERS (one entry a level), UPSAMPLE_STRIDES, NUM_UPSAMPLE_FILTERS
    (one entry a level, or one more for a last upsampling of the sum; a stride below 1 reduces), USE_CONV_FOR_NO_STRIDE.
    """

    def __init__(self, model_cfg, input_channels: int):
        super().__init__(
            model_cfg, input_channels, _plain_block, conv_for_one=model_cfg.get("USE_CONV_FOR_NO_STRIDE", False)
        )


class BaseBEVResBackbone(_Pyramid):
    """The pyramid with residual blocks; the same configuration but for USE_CONV_FOR_NO_STRIDE."""

    def __init__(self, model_cfg, input_channels: int):
        super().__init__(model_cfg, input_channels, _residual_block)


class BasicBlock(nn.Module):
    """ResNet's basic block without biases: relu(x + norm(conv(relu(norm(conv(x)))))), x through a 1 x 1 convolution
    with ``downsample``.
    """

    expansion: int = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, padding: int = 1, downsample: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride=stride, padding=padding, bias=False)
        self.bn1 = _norm(planes)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = _norm(planes)
        self.relu2 = nn.ReLU(inplace=True)
        self.downsample = downsample
        if downsample:
            self.downsample_layer = nn.Sequential(
                nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False), _norm(planes)
            )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + (self.downsample_layer(x) if self.downsample else x))


class BaseBEVBackboneV1(nn.Module):
    """PillarNet's neck: joins the encoder's maps of stride 8 and 16 at stride 8.

    Configuration: LAYER_NUMS, NUM_FILTERS, UPSAMPLE_STRIDES, NUM_UPSAMPLE_FILTERS, two entries each, for stride 8 and
    16. NUM_FILTERS are the
    channels of the encoder's maps, and the first one also of the result.
    """

    def __init__(self, model_cfg, **kwargs):
        super().__init__()
        self.model_cfg = model_cfg
        keys = ("LAYER_NUMS", "NUM_FILTERS", "UPSAMPLE_STRIDES", "NUM_UPSAMPLE_FILTERS")
        depths, widths, up_strides, up_widths = (list(model_cfg[key]) for key in keys)
        if not len(depths) == len(widths) == len(up_strides) == len(up_widths) == 2:
            raise InputError(f"MODEL.BACKBONE_2D: BaseBEVBackboneV1 needs two entries in each of {', '.join(keys)}")
        if sum(up_widths) != widths[0]:
            raise InputError(
                f"MODEL.BACKBONE_2D: NUM_UPSAMPLE_FILTERS {up_widths} must add up to NUM_FILTERS[0], {widths[0]}"
            )
        self.blocks = nn.ModuleList(_plain_block(width, width, depth, stride=1) for width, depth in zip(widths, depths))
        self.deblocks = nn.ModuleList(_resampling(*level) for level in zip(widths, up_widths, up_strides))
        self.num_bev_features = sum(up_widths)

    def forward(self, data_dict: dict) -> dict:
        """Reads ``x_conv4`` and ``x_conv5``, dense, of ``multi_scale_2d_features``; adds ``spatial_features_2d`` (B,
        num_bev_features, H, W).
        """
        maps = data_dict["multi_scale_2d_features"]
        levels = [self.deblocks[0](maps["x_conv4"]), self.deblocks[1](self.blocks[1](maps["x_conv5"]))]
        data_dict["spatial_features_2d"] = self.blocks[0](torch.cat(levels, dim=1))
        return data_dict
