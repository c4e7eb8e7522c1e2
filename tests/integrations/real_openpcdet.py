"""OpenPCDet's own anchor head, of its pointpillar.yaml, before, under and after patch(), in a process of its own;
prints relative differences.
"""

import json
import os
import sys

import numpy as np
import peer_on_cpu  # noqa: F401  (before pcdet)
import torch
from easydict import EasyDict
from pcdet.config import cfg_from_yaml_file
from pcdet.models.dense_heads import AnchorHeadSingle
from pcdet.utils import loss_utils as theirs

from pcdet_focal.integrations.openpcdet import patch, unpatch
from pcdet_focal.utils import loss_utils as ours

os.chdir(sys.argv[1])  # its base files are named relative to its tools folder
CFG = cfg_from_yaml_file("cfgs/kitti_models/pointpillar.yaml", EasyDict())
AREA = np.array([0, -10.24, -3, 20.48, 10.24, 1], np.float32)
BOXES = torch.tensor(
    [
        [[8.0, 2.0, -1.0, 3.9, 1.6, 1.5, 0.3, 1], [15.0, -5.0, -0.6, 0.8, 0.6, 1.7, -2.0, 2]],
        [[5.0, 5.0, -0.6, 1.8, 0.6, 1.7, 1.2, 3], [0, 0, 0, 0, 0, 0, 0, 0]],
    ]
)


def new_head():
    torch.manual_seed(0)
    return AnchorHeadSingle(
        model_cfg=CFG.MODEL.DENSE_HEAD,
        input_channels=8,
        num_class=3,
        class_names=CFG.CLASS_NAMES,
        grid_size=np.array([128, 128, 1]),
        point_cloud_range=AREA,
        predict_boxes_when_training=False,
    ).train()


def outcome(head) -> torch.Tensor:
    """The loss, its parts and every weight's gradient."""
    head.zero_grad()
    features = torch.randn(2, 8, 64, 64, generator=torch.Generator().manual_seed(1))
    head({"spatial_features_2d": features, "gt_boxes": BOXES, "batch_size": 2})
    loss, parts = head.get_loss()
    loss.backward()
    assert int((head.forward_ret_dict["box_cls_labels"] > 0).sum()) > 5
    numbers = [loss.detach(), *(parts[key] for key in ("rpn_loss_cls", "rpn_loss_loc", "rpn_loss_dir", "rpn_loss"))]
    return torch.cat(
        [torch.tensor([float(number) for number in numbers]), *(p.grad.flatten() for p in head.parameters())]
    )


def difference(values: torch.Tensor, plain: torch.Tensor) -> float:
    return max(
        float((values[:5] / plain[:5] - 1).abs().max()),
        float((values[5:] - plain[5:]).abs().max() / plain[5:].abs().max()),
    )


original = theirs.SigmoidFocalClassificationLoss
old = new_head()
plain = outcome(old)
patch()
new = new_head()
assert type(new.cls_loss_func) is ours.SigmoidFocalClassificationLoss and type(old.cls_loss_func) is original
found = [difference(outcome(new), plain), difference(outcome(old), plain)]
unpatch()
assert theirs.SigmoidFocalClassificationLoss is original and type(new_head().cls_loss_func) is original
found.append(difference(outcome(new), plain))
print(json.dumps(found))
