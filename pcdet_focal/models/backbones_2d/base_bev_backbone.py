from __future__ import annotations

import torch
from torch import nn

from ...errors import InputError


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), nn.ReLU()]


class BaseBEVBackbone(nn.Module):
    """A pyramid of 2-D convolution blocks over the bird's-eye map; each level is brought to one resolution, then all are concatenated.

    Configuration: LAYER_NUMS, LAYER_STRIDES, NUM_FILTERS (one entry a level), UPSAMPLE_STRIDES, NUM_UPSAMPLE_FILTERS (one entry a level, or one
    more for a last upsampling of the sum; a stride below 1 reduces), USE_CONV_FOR_NO_STRIDE.
    """

    def __init__(self, model_cfg, input_channels: int):
        super().__init__()
        self.model_cfg = model_cfg
        depths, strides, widths = (list(model_cfg.get(key) or []) for key in ("LAYER_NUMS", "LAYER_STRIDES", "NUM_FILTERS"))
        up_strides, up_widths = (list(model_cfg.get(key) or []) for key in ("UPSAMPLE_STRIDES", "NUM_UPSAMPLE_FILTERS"))
        if not len(depths) == len(strides) == len(widths):
            raise InputError("MODEL.BACKBONE_2D: LAYER_NUMS, LAYER_STRIDES and NUM_FILTERS must have one entry a level each")
        if len(up_strides) != len(up_widths) or (up_strides and len(up_strides) < len(depths)):
            raise InputError("MODEL.BACKBONE_2D: UPSAMPLE_STRIDES and NUM_UPSAMPLE_FILTERS must have one entry a level each")

        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        for level, (depth, stride, width) in enumerate(zip(depths, strides, widths)):
            channels = input_channels if level == 0 else widths[level - 1]
            layers = [nn.ZeroPad2d(1), nn.Conv2d(channels, width, 3, stride=stride, bias=False), *_norm_relu(width)]
            for _ in range(depth):
                layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), *_norm_relu(width)]
            self.blocks.append(nn.Sequential(*layers))
            if up_strides:
                self.deblocks.append(self._to_common_resolution(width, up_widths[level], up_strides[level]))
        self.num_bev_features = sum(up_widths) if up_strides else sum(widths)
        if len(up_strides) > len(depths):
            total = self.num_bev_features
            self.deblocks.append(nn.Sequential(nn.ConvTranspose2d(total, total, up_strides[-1], stride=up_strides[-1], bias=False), *_norm_relu(total)))

    def _to_common_resolution(self, width: int, up_width: int, stride: float) -> nn.Sequential:
        if stride > 1 or (stride == 1 and not self.model_cfg.get("USE_CONV_FOR_NO_STRIDE", False)):
            conv = nn.ConvTranspose2d(width, up_width, int(stride), stride=int(stride), bias=False)
        else:
            down = round(1 / stride)
            conv = nn.Conv2d(width, up_width, down, stride=down, bias=False)
        return nn.Sequential(conv, *_norm_relu(up_width))

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
