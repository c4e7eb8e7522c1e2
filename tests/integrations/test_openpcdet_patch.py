"""This package's losses inside an OpenPCDet: a small stand-in with its names and formulas, and the real one where a checkout is at hand."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_kitti
import torch
from anchor_head_case import CONFIG, outcome, predictions
from openpcdet import needs_openpcdet, peer_folder

from pcdet_focal.errors import InputError
from pcdet_focal.integrations import openpcdet
from pcdet_focal.utils import loss_utils

# The formulas of the papers in their plainest form; class and function names are what an OpenPCDet has.
LOSSES = '''
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
'''
HEAD = '''
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
'''
PLAIN = [name for name in loss_utils.__all__ if f"class {name}" not in LOSSES]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package ``pcdet`` that can be imported; it is forgotten afterwards."""
    files = {
        "__init__.py": "", "utils/__init__.py": "", "models/__init__.py": "", "models/dense_heads/__init__.py": "",
        "utils/loss_utils.py": LOSSES + "".join(f"\n\n{name} = object()\n" for name in PLAIN), "models/dense_heads/anchor_head_template.py": HEAD,
    }
    for name, text in files.items():
        path = tmp_path / "pcdet" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "pcdet"
    openpcdet.unpatch()
    for name in [name for name in sys.modules if name == "pcdet" or name.startswith("pcdet.")]:
        del sys.modules[name]


def new_head():
    from types import SimpleNamespace

    from pcdet.models.dense_heads.anchor_head_template import AnchorHeadTemplate

    return AnchorHeadTemplate(CONFIG, 3, predictions()[0], SimpleNamespace(code_size=7))


def test_the_heads_loss_is_the_same_number_before_and_after(stand_in):
    before = new_head()
    plain = outcome(before)
    names = openpcdet.patch()
    assert "pcdet.utils.loss_utils.SigmoidFocalClassificationLoss" in names
    assert "pcdet.models.dense_heads.anchor_head_template.get_cls_layer_loss" in names and len(names) == len(loss_utils.__all__) + 3
    after = new_head()
    assert type(after.cls_loss_func) is loss_utils.SigmoidFocalClassificationLoss and type(after.reg_loss_func) is loss_utils.WeightedSmoothL1Loss
    for head in (after, before):  # ``before`` has the stand-in's own loss modules, and goes the way of one-hot targets
        torch.testing.assert_close(outcome(head), plain, rtol=1e-5, atol=1e-7)
    _, parts = after.get_loss()
    assert all(torch.is_tensor(part) and not part.requires_grad for part in parts.values())
    openpcdet.unpatch()
    torch.testing.assert_close(outcome(after), plain, rtol=1e-5, atol=1e-7)  # built while patched


def test_a_patched_head_reads_this_packages_loss_entries(stand_in):
    with openpcdet.patched():
        CONFIG.LOSS_CONFIG.CLS_LOSS = {"NAME": "GHMC"}
        try:
            head = new_head()
            head.forward_ret_dict = predictions()[1]
            assert type(head.cls_loss_func).__name__ == "HeadClassificationLoss" and head.get_loss()[0].isfinite()
        finally:
            CONFIG.LOSS_CONFIG.pop("CLS_LOSS")


def test_everything_comes_back_and_twice_is_once(stand_in):
    from pcdet.models.dense_heads.anchor_head_template import AnchorHeadTemplate
    from pcdet.utils import loss_utils as theirs

    before, class_before = dict(vars(theirs)), dict(vars(AnchorHeadTemplate))
    openpcdet.unpatch()  # nothing to undo
    assert openpcdet.patch() == openpcdet.patch()
    assert theirs.SigmoidFocalClassificationLoss is loss_utils.SigmoidFocalClassificationLoss
    with openpcdet.patched():
        pass
    assert theirs.L1Loss is loss_utils.L1Loss  # was patched before the block
    openpcdet.unpatch()
    assert dict(vars(theirs)) == before and dict(vars(AnchorHeadTemplate)) == class_before
    with pytest.raises(ZeroDivisionError), openpcdet.patched():
        assert theirs.L1Loss is loss_utils.L1Loss
        1 / 0
    assert dict(vars(theirs)) == before and dict(vars(AnchorHeadTemplate)) == class_before


def test_without_an_openpcdet_or_with_another_version_nothing_is_changed(stand_in):
    path = stand_in / "utils/loss_utils.py"
    path.write_text(path.read_text().replace("L1Loss", "SmoothedLoss"))
    with pytest.raises(InputError, match=r"written for OpenPCDet 0\.6; .*lacks pcdet\.utils\.loss_utils\.L1Loss, pcdet\.utils\.loss_utils\.WeightedL1Loss"):
        openpcdet.patch()
    from pcdet.utils import loss_utils as theirs

    assert theirs.SigmoidFocalClassificationLoss is not loss_utils.SigmoidFocalClassificationLoss
    for name in [name for name in sys.modules if name.split(".")[0] == "pcdet"]:
        del sys.modules[name]
    (stand_in / "utils/loss_utils.py").unlink()
    with pytest.raises(InputError, match=r"patch\(\) changes an installed OpenPCDet, and pcdet\.utils\.loss_utils cannot be imported: No module named"):
        openpcdet.patch()


def test_pcdet_that_is_this_package_is_refused(tmp_path):
    script = "from pcdet_focal.integrations.openpcdet import alias, patch\nalias()\npatch()\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=tiny_kitti.REPOSITORY, capture_output=True, text=True)
    assert "InputError: patch(): pcdet is pcdet_focal itself in this process" in done.stderr


@needs_openpcdet
def test_the_real_heads_loss_is_the_same_number_before_and_after():
    script = Path(__file__).with_name("real_openpcdet.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, peer_folder() / "tools"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tiny_kitti.REPOSITORY), str(tiny_kitti.REPOSITORY / "tests"), str(peer_folder())])},
    )
    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout.splitlines()[-1])) < 1e-5
