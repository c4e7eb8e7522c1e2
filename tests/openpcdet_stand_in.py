"""A small package ``pcdet`` with OpenPCDet's names, to be patched: its losses and the head that calls them."""

from pathlib import Path

from pcdet_focal.utils import loss_utils

# The formulas of the papers in their plainest form; class and function names are what an OpenPCDet has.
LOSSES = """
import torch
from torch import nn
from torch.nn import functional as F


class SigmoidFocalClassificationLoss(nn.Module):
    def __init__(self, gamma=2.0, alpha=0.25):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, input, target, weights):
        p = input.sigmoid()
        p_t = target * p + (1 - target) * (1 - p)
        alpha_t = target * self.alpha + (1 - target) * (1 - self.alpha)
        return alpha_t * (1 - p_t) ** self.gamma * F.binary_cross_entropy_with_logits(input, target, reduction="none") * weights[..., None]


class WeightedSmoothL1Loss(nn.Module):
    def __init__(self, beta=1.0 / 9.0, code_weights=None):
        super().__init__()
        self.beta, self.code_weights = beta, torch.tensor(code_weights)

    def forward(self, input, target, weights=None):
        return F.smooth_l1_loss(input * self.code_weights, target * self.code_weights, beta=self.beta, reduction="none") * weights[..., None]


class WeightedCrossEntropyLoss(nn.Module):
    def forward(self, input, target, weights):
        return F.cross_entropy(input.transpose(1, 2), target.argmax(-1), reduction="none") * weights
"""
HEAD = """
import torch
from torch import nn
from torch.nn import functional as F

from ...utils import loss_utils


class AnchorHeadTemplate(nn.Module):
    def __init__(self, model_cfg, num_class, anchors, box_coder):
        super().__init__()
        self.model_cfg, self.num_class, self.anchors, self.box_coder, self.use_multihead = model_cfg, num_class, anchors, box_coder, False
        self.build_losses(model_cfg.LOSS_CONFIG)

    def build_losses(self, losses_cfg):
        self.cls_loss_func = loss_utils.SigmoidFocalClassificationLoss(alpha=0.25, gamma=2.0)
        self.reg_loss_func = loss_utils.WeightedSmoothL1Loss(code_weights=losses_cfg.LOSS_WEIGHTS["code_weights"])
        self.dir_loss_func = loss_utils.WeightedCrossEntropyLoss()

    def _unused(self):
        raise AssertionError

    @staticmethod
    def add_sin_difference(a, b):
        first, second = a.clone(), b.clone()
        first[..., 6], second[..., 6] = a[..., 6].sin() * b[..., 6].cos(), a[..., 6].cos() * b[..., 6].sin()
        return first, second

    def get_cls_layer_loss(self):
        labels = self.forward_ret_dict["box_cls_labels"]
        logits = self.forward_ret_dict["cls_preds"].view(len(labels), -1, self.num_class)
        weights = (labels >= 0) / (labels > 0).sum(1, keepdim=True).clamp(min=1)
        one_hot = F.one_hot(labels.clamp(min=0).long(), self.num_class + 1)[..., 1:].to(logits.dtype)
        loss = self.cls_loss_func(logits, one_hot, weights=weights).sum() / len(labels)
        loss = loss * self.model_cfg.LOSS_CONFIG.LOSS_WEIGHTS["cls_weight"]
        return loss, {"rpn_loss_cls": loss.item()}

    def get_box_reg_layer_loss(self):
        ret, given = self.forward_ret_dict, self.model_cfg.LOSS_CONFIG.LOSS_WEIGHTS
        labels, targets = ret["box_cls_labels"], ret["box_reg_targets"]
        weights = (labels > 0) / (labels > 0).sum(1, keepdim=True).clamp(min=1)
        compared = self.add_sin_difference(ret["box_preds"].view(targets.shape), targets)
        box_loss = self.reg_loss_func(*compared, weights=weights).sum() / len(labels) * given["loc_weight"]
        anchors = torch.cat(self.anchors, dim=-3).view(1, -1, 7)
        turn = torch.remainder(targets[..., 6] + anchors[..., 6] - self.model_cfg.DIR_OFFSET, 2 * torch.pi)
        bins = F.one_hot((turn >= torch.pi).long(), 2).to(targets.dtype)
        dir_loss = self.dir_loss_func(ret["dir_cls_preds"].view(len(labels), -1, 2), bins, weights=weights).sum() / len(labels) * given["dir_weight"]
        return box_loss + dir_loss, {"rpn_loss_loc": box_loss.item(), "rpn_loss_dir": dir_loss.item()}

    def get_loss(self):
        parts = [self.get_cls_layer_loss(), self.get_box_reg_layer_loss()]
        return parts[0][0] + parts[1][0], {**parts[0][1], **parts[1][1]}
"""
PLAIN = [name for name in loss_utils.__all__ if f"class {name}" not in LOSSES]


def write_stand_in(folder: Path) -> Path:
    """Write the package to ``folder/pcdet``."""
    files = {
        "__init__.py": "",
        "utils/__init__.py": "",
        "models/__init__.py": "",
        "models/dense_heads/__init__.py": "",
        "utils/loss_utils.py": LOSSES + "".join(f"\n\n{name} = object()\n" for name in PLAIN),
        "models/dense_heads/anchor_head_template.py": HEAD,
    }
    for name, text in files.items():
        path = folder / "pcdet" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "pcdet"
