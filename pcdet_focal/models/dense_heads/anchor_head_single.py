from __future__ import annotations

import math

from torch import nn

from .anchor_head_template import AnchorHeadTemplate, joined_convolution


class AnchorHeadSingle(AnchorHeadTemplate):
    """One convolution each for class scores, boxes and direction, over all classes' anchors at every cell of the
    bird's-eye map.
    """

    def __init__(
        self,
        model_cfg,
        input_channels: int,
        num_class: int,
        class_names,
        grid_size,
        point_cloud_range,
        predict_boxes_when_training: bool = True,
        **kwargs,
    ):
        super().__init__(
            model_cfg=model_cfg,
            num_class=num_class,
            class_names=class_names,
            grid_size=grid_size,
            point_cloud_range=point_cloud_range,
            predict_boxes_when_training=predict_boxes_when_training,
        )
        self.num_anchors_per_location = sum(self.num_anchors_per_location)
        count = self.num_anchors_per_location
        self.conv_cls = nn.Conv2d(input_channels, count * num_class, kernel_size=1)
        self.conv_box = nn.Conv2d(input_channels, count * self.box_coder.code_size, kernel_size=1)
        use_direction = model_cfg.get("USE_DIRECTION_CLASSIFIER", False)
        self.conv_dir_cls = (
            nn.Conv2d(input_channels, count * model_cfg.NUM_DIR_BINS, kernel_size=1) if use_direction else None
        )
        self.init_weights()

    def init_weights(self, prior: float = 0.01) -> None:
        """Every anchor starts with the score ``prior``: the focal loss's own initialisation (Lin et al. 2017, section
        4.1).
        """
        nn.init.constant_(self.conv_cls.bias, -math.log((1 - prior) / prior))
        nn.init.normal_(self.conv_box.weight, mean=0, std=0.001)

    def forward(self, data_dict: dict) -> dict:
        """Reads ``spatial_features_2d`` (B, C, H, W) and, in training, ``gt_boxes`` (B, T, 8).

        Leaves predictions and targets in ``forward_ret_dict``; in evaluation (or with predict_boxes_when_training) adds
        ``batch_cls_preds`` (B, N, classes) logits, ``batch_box_preds`` (B, N, 7+) and ``cls_preds_normalized`` to
        ``data_dict``.
        """
        features = data_dict["spatial_features_2d"]
        convolutions = {"cls_preds": self.conv_cls, "box_preds": self.conv_box}
        if self.conv_dir_cls is not None:
            convolutions["dir_cls_preds"] = self.conv_dir_cls
        predictions = dict(zip(convolutions, joined_convolution(list(convolutions.values()), features)))
        # (B, H, W, C)
        predictions = {key: value.permute(0, 2, 3, 1).contiguous() for key, value in predictions.items()}
        self.forward_ret_dict = predictions
        if self.training:
            self.forward_ret_dict = {**predictions, **self.assign_targets(gt_boxes=data_dict["gt_boxes"])}
        if not self.training or self.predict_boxes_when_training:
            self._add_predicted_boxes(data_dict, predictions)
        return data_dict
