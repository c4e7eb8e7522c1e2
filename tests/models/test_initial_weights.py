"""How an untrained head starts: the prior of its scores, the spread of its weights; and the settings of every batch
norm, which a recorded forward pass with other weights and statistics does not show.
"""

import math

import center_cases
import numpy as np
import pytest
import torch
from head_cases import small_head
from tiny_models import load_cfg, tiny_batch, tiny_dataset
from torch import nn

from pcdet_focal.models import build_network
from pcdet_focal.models.dense_heads import CenterHead

PRIOR_LOGIT = -math.log((1 - 0.01) / 0.01)  # a score of 0.01 (Lin et al. 2017, section 4.1)


def tiny_network(name: str):
    torch.manual_seed(0)
    cfg = load_cfg(name)
    dataset = tiny_dataset(cfg)
    return build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset), lambda: tiny_batch(name, cfg, dataset)


def test_an_anchor_head_starts_at_its_prior_with_small_box_codes():
    head = small_head()
    torch.testing.assert_close(head.conv_cls.bias.detach(), torch.full((18,), PRIOR_LOGIT), rtol=1e-6, atol=0)
    weight = head.conv_box.weight.detach()  # 336 numbers
    assert weight.std().item() == pytest.approx(0.001, rel=0.1) and abs(weight.mean().item()) < 2e-4
    head.init_weights(prior=0.2)
    torch.testing.assert_close(head.conv_cls.bias.detach().sigmoid(), torch.full((18,), 0.2))


@pytest.mark.parametrize("name", ["kitti_models/second_multihead", "nuscenes_models/cbgs_second_multihead"])
def test_each_of_several_heads_starts_at_its_prior(name):
    network, _ = tiny_network(name)
    spread = []
    for head in network.dense_head.rpn_heads:
        last = head.conv_cls[-1] if isinstance(head.conv_cls, nn.Sequential) else head.conv_cls
        torch.testing.assert_close(last.bias.detach(), torch.full_like(last.bias, PRIOR_LOGIT), rtol=1e-6, atol=0)
        for conv in head.conv_box.modules() if isinstance(head.conv_box, nn.ModuleDict) else ():
            if isinstance(conv, nn.Conv2d):  # Kaiming's normal weights by fan-out, and no bias
                spread.append(conv.weight.detach().flatten() * math.sqrt(9 * conv.out_channels / 2))
                assert conv.bias is None or not conv.bias.any()
    assert bool(spread) == name.startswith("nuscenes")
    for weights in spread:
        assert weights.std().item() == pytest.approx(1, rel=0.1)


def center_head(**changes):
    torch.manual_seed(0)
    names, grid = center_cases.NAMES, np.array([80, 64, 20])
    cfg = center_cases.head_cfg(**changes)
    return CenterHead(cfg, 4, len(names), names, grid, center_cases.RANGE, center_cases.VOXEL)


def test_a_center_head_starts_with_a_tenth_everywhere_and_kaimings_weights():
    for branches in center_head().heads_list:
        assert (branches.hm[-1].bias == -2.19).all()
        others = [branches.get_submodule(name) for name in branches.sep_head_dict if name != "hm"]
        convs = [module for part in others for module in part.modules() if isinstance(module, nn.Conv2d)]
        assert len(convs) == 10 and not any(conv.bias.any() for conv in convs)
        weights = torch.cat([conv.weight.detach().flatten() for conv in convs]) * math.sqrt(9 * 8 / 2)  # by fan-in
        assert weights.std().item() == pytest.approx(1, rel=0.05)


def test_a_center_heads_configuration_sets_its_batch_norms():
    norms = [m for m in center_head(BN_EPS=2e-3, BN_MOM=0.03).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1 + 3 * 6 and {(norm.eps, norm.momentum) for norm in norms} == {(2e-3, 0.03)}


HERE, TORCHS = (1e-3, 0.01), (1e-5, 0.1)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("kitti_models/second", {"backbone_3d": HERE, "backbone_2d": HERE}),
        ("kitti_models/pointpillar", {"vfe": HERE, "backbone_2d": HERE}),
        ("kitti_models/pillarnet", {"vfe": HERE, "backbone_3d": HERE, "backbone_2d": HERE}),
        ("waymo_models/centerpoint", {"backbone_3d": HERE, "backbone_2d": HERE, "dense_head": TORCHS}),
        ("nuscenes_models/cbgs_dyn_pp_centerpoint", {"vfe": HERE, "backbone_2d": HERE, "dense_head": TORCHS}),
        ("kitti_models/second_multihead", {"backbone_3d": HERE, "backbone_2d": HERE, "dense_head.shared_conv": HERE}),
        ("nuscenes_models/cbgs_second_multihead", {"dense_head.shared_conv": HERE, "dense_head.rpn_heads": TORCHS}),
    ],
)
def test_every_batch_norm_has_openpcdets_settings_and_keeps_running_statistics(name, settings):
    network, make_batch = tiny_network(name)
    network = network.double()
    found = {}
    for key, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            prefix = next((p for p in settings if key.startswith(p)), key.split(".")[0])
            found.setdefault(prefix, set()).add((module.eps, module.momentum))
    assert {key: found[key] for key in settings} == {key: {value} for key, value in settings.items()}

    seen = {}

    def remember(module, inputs, output):
        seen[module] = inputs[0].detach().transpose(0, 1).flatten(1), output.detach().transpose(0, 1).flatten(1)

    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_hook(remember)
    network.train()(make_batch())
    assert len(seen) > 5
    for module, (x, _) in seen.items():  # from mean 0 and variance 1
        share = module.momentum
        torch.testing.assert_close(module.running_mean, share * x.mean(1), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(module.running_var, 1 - share + share * x.var(1), rtol=1e-9, atol=1e-12)
    before = {key: value.clone() for key, value in network.named_buffers()}
    seen.clear()
    with torch.no_grad():
        network.eval()(make_batch())
    for module, (x, y) in seen.items():
        centred = (x - module.running_mean[:, None]) / (module.running_var[:, None] + module.eps).sqrt()
        torch.testing.assert_close(y, centred * module.weight[:, None] + module.bias[:, None], rtol=1e-7, atol=1e-9)
    for key, value in network.named_buffers():
        assert key.endswith("global_step") or torch.equal(value, before[key]), key
