"""One small case for an anchor head of OpenPCDet's shape, whoever wrote it: predictions and labels in, loss and
gradients out.
"""

import torch
from easydict import EasyDict

CONFIG = EasyDict(
    LOSS_CONFIG=dict(
        LOSS_WEIGHTS=dict(
            cls_weight=1.5, loc_weight=2.0, dir_weight=0.2, code_weights=[1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 2.0]
        )
    ),
    DIR_OFFSET=0.78539,
    NUM_DIR_BINS=2,
    USE_DIRECTION_CLASSIFIER=True,
)


def predictions():
    """Two samples of 3 x 4 cells and 2 anchors: the second has no positive anchor."""
    generator = torch.Generator().manual_seed(4)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    labels = torch.randint(-1, 4, (2, 24), generator=generator)
    labels[1].clamp_(max=0)
    anchors = draw(1, 3, 4, 1, 2, 7).abs()
    ret = dict(
        cls_preds=draw(2, 3, 4, 6),
        box_preds=draw(2, 3, 4, 14),
        dir_cls_preds=draw(2, 3, 4, 4),
        box_cls_labels=labels,
        box_reg_targets=draw(2, 24, 7),
    )
    return [anchors], {key: value.requires_grad_() if key.endswith("preds") else value for key, value in ret.items()}


def outcome(head):
    """The loss, its parts, and the gradients of every prediction."""
    anchors, head.forward_ret_dict = predictions()
    loss, parts = head.get_loss()
    loss.backward()
    numbers = [loss.detach(), *(parts[key] for key in ("rpn_loss_cls", "rpn_loss_loc", "rpn_loss_dir"))]
    grads = [value.grad.flatten() for key, value in head.forward_ret_dict.items() if key.endswith("preds")]
    return torch.cat([torch.tensor([float(number) for number in numbers]), *grads])
