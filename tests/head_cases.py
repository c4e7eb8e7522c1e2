"""A small anchor head with a batch whose targets come from real assignment, for tests of its losses."""

import numpy as np
import torch
from easydict import EasyDict
from model_data import load_cfg

from pcdet_focal.models.dense_heads import AnchorHeadSingle

NAMES = ["Car", "Pedestrian", "Cyclist"]
GT = torch.tensor(
    [
        [
            [3.1, 0.3, -1.0, 3.9, 1.6, 1.5, 0.1, 1],
            [6.6, -2.2, -0.6, 0.8, 0.6, 1.7, 1.4, 2],
            [9.5, 3.0, -0.6, 1.8, 0.6, 1.7, -1.5, 3],
        ],
        [[10.2, 1.1, -1.0, 4.1, 1.7, 1.6, 2.9, 1], [0.0] * 8, [0.0] * 8],
    ]
)
HEIGHT, WIDTH = 10, 14


def small_head(num_class=3, **loss_config):
    """The head of a 14 x 10 map with 0.8 m cells, 8 input channels; keyword arguments go into LOSS_CONFIG."""
    cfg = load_cfg("second").MODEL.DENSE_HEAD
    cfg.ANCHOR_GENERATOR_CONFIG = cfg.ANCHOR_GENERATOR_CONFIG[:num_class]
    cfg.LOSS_CONFIG.update(EasyDict(loss_config))
    torch.manual_seed(0)
    limits = np.array([0, -4, -3, 0.8 * WIDTH, 4, 1], np.float32)
    grid_size = np.array([WIDTH * 8, HEIGHT * 8, 40])
    return AnchorHeadSingle(
        cfg, 8, num_class, NAMES[:num_class], grid_size, limits, predict_boxes_when_training=False
    ).train()


def features(seed=0):
    return torch.randn(2, 8, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def with_predictions(head, gt_boxes=GT, scale=0.3, seed=1):
    """The head with random predictions that want a gradient, as after a forward pass."""
    generator = torch.Generator().manual_seed(seed)
    targets = head.assign_targets(gt_boxes)
    count = targets["box_cls_labels"].shape[1] // (HEIGHT * WIDTH)
    widths = {"cls_preds": count * head.num_class, "box_preds": count * 7, "dir_cls_preds": count * 2}
    predictions = {
        key: (scale * torch.randn(2, HEIGHT, WIDTH, n, generator=generator)).requires_grad_()
        for key, n in widths.items()
    }
    head.forward_ret_dict = {**predictions, **targets}
    return predictions
