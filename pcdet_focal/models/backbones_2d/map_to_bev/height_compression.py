from __future__ import annotations

from torch import nn


class HeightCompression(nn.Module):
    """Folds the height of a sparse 3-D feature map into its channels: a dense bird's-eye map."""

    def __init__(self, model_cfg, **kwargs):
        super().__init__()
        self.model_cfg = model_cfg
        self.num_bev_features = model_cfg.NUM_BEV_FEATURES

    def forward(self, batch_dict: dict) -> dict:
        """Reads ``encoded_spconv_tensor`` (a sparse tensor) and its stride; adds ``spatial_features`` (B, C * D, H,
        W).
        """
        dense = batch_dict["encoded_spconv_tensor"].dense()  # (B, C, D, H, W)
        batch_dict["spatial_features"] = dense.flatten(1, 2)
        batch_dict["spatial_features_stride"] = batch_dict["encoded_spconv_tensor_stride"]
        return batch_dict
