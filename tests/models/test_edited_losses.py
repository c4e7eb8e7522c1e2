"""What stands in a loss class is what a head trains with: an edited formula, a subclass, a foreign module, and
LOSS_CONFIG.FUSED.
"""

import importlib

import pytest
import torch
from head_cases import small_head, with_predictions
from torch import nn

from pcdet_focal import losses
from pcdet_focal.errors import InputError
from pcdet_focal.losses import sigmoid_focal

CONFIGS = [
    {},
    {"CLS_LOSS": "FocalLoss"},
    {"CLS_LOSS": {"NAME": "SigmoidFocalClassificationLoss", "NORMALIZER": "batch"}},
    {"CLS_LOSS": "QualityFocalLoss"},
    {"CLS_LOSS": "VarifocalLoss", "REG_LOSS": "WeightedL1Loss", "DIR_LOSS": "WeightedCrossEntropyLoss"},
]


def results(head):
    predictions = with_predictions(head)
    loss, parts = head.get_loss()
    loss.backward()
    return loss.detach(), parts, {key: value.grad for key, value in predictions.items()}


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_fused_false_gives_the_same_numbers_without_a_kernel(config, monkeypatch):
    wanted, _, gradients = results(small_head(**config))

    def refuse(*_, **__):
        raise AssertionError("a kernel was used")

    head = small_head(**config, FUSED=False)
    for name in ("FromLabels", "Elementwise"):
        monkeypatch.setattr(f"pcdet_focal.ops.focal_loss.{name}.apply", refuse)
    monkeypatch.setattr("pcdet_focal.models.dense_heads.anchor_head_template.box_and_direction_sums", refuse)
    found, _, plain_gradients = results(head)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    for key, gradient in gradients.items():
        torch.testing.assert_close(plain_gradients[key], gradient, rtol=1e-4, atol=1e-8, msg=key)
    with pytest.raises(AssertionError, match="kernel"):  # they are used without the key
        results(small_head(**config))


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[1], CONFIGS[2]], ids=str)
def test_an_edited_formula_is_what_trains(config, monkeypatch):
    before, parts, gradients = results(small_head(**config))
    original = sigmoid_focal.focal_formula
    monkeypatch.setattr(sigmoid_focal, "focal_formula", lambda *arguments: 3 * original(*arguments))
    _, edited_parts, edited = results(small_head(**config))
    torch.testing.assert_close(edited_parts["rpn_loss_cls"], 3 * parts["rpn_loss_cls"])
    torch.testing.assert_close(edited["cls_preds"], 3 * gradients["cls_preds"], rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(edited["box_preds"], gradients["box_preds"])


@pytest.mark.parametrize(
    "config, module, formula, part",
    [
        ({}, "smooth_l1", "smooth_l1", "loc"),
        ({"REG_LOSS_TYPE": "WeightedL1Loss"}, "smooth_l1", "code_difference", "loc"),
        ({"REG_LOSS": "WeightedSmoothL1Loss", "DIR_LOSS": "WeightedCrossEntropyLoss"}, "smooth_l1", "smooth_l1", "loc"),
        ({}, "cross_entropy", "one_hot_cross_entropy", "dir"),
        ({"CLS_LOSS": "QualityFocalLoss"}, "quality_focal", "quality_focal_loss", "cls"),
        ({"CLS_LOSS": "VarifocalLoss"}, "varifocal", "varifocal_loss", "cls"),
    ],
)
def test_an_edited_box_direction_or_quality_formula_is_what_trains(config, module, formula, part, monkeypatch):
    _, parts, gradients = results(small_head(**config))
    module = importlib.import_module(f"pcdet_focal.losses.{module}")
    original = getattr(module, formula)
    monkeypatch.setattr(module, formula, lambda *arguments: 3 * original(*arguments))
    _, edited, edited_gradients = results(small_head(**config))
    for name in ("cls", "loc", "dir"):
        factor = 3 if name == part else 1
        expected = factor * parts[f"rpn_loss_{name}"]
        torch.testing.assert_close(edited[f"rpn_loss_{name}"], expected, rtol=1e-5, atol=0)
    key = {"cls": "cls_preds", "loc": "box_preds", "dir": "dir_cls_preds"}[part]
    torch.testing.assert_close(edited_gradients[key], 3 * gradients[key], rtol=1e-4, atol=1e-8)


def test_an_edit_of_the_gradient_alone_is_what_trains(monkeypatch):
    parts, gradients = results(small_head())[1:]
    factor = sigmoid_focal.focal_factor
    monkeypatch.setattr(sigmoid_focal, "focal_formula", lambda x, t, a, g, bce: factor(x, t, a, g).detach() * bce(x, t))
    edited_parts, edited = results(small_head())[1:]
    torch.testing.assert_close(edited_parts["rpn_loss_cls"], parts["rpn_loss_cls"])
    assert not torch.allclose(edited["cls_preds"], gradients["cls_preds"], rtol=1e-2)


@pytest.mark.parametrize("name", ["QualityFocalLoss", "VarifocalLoss", "FocalLoss"])
@pytest.mark.parametrize("method", ["forward", "elementwise"])
def test_a_subclass_of_a_loss_with_mmdetections_call_is_what_trains(name, method):
    head = small_head(CLS_LOSS=name)
    _, parts, _ = results(head)
    base = type(head.cls_loss_func.loss)
    doubled = type(base.__name__, (base,), {method: lambda *args, **kw: 2 * getattr(base, method)(*args, **kw)})
    head.cls_loss_func.loss = doubled()
    _, changed, _ = results(head)
    torch.testing.assert_close(changed["rpn_loss_cls"], 2 * parts["rpn_loss_cls"], rtol=1e-5, atol=0)


def test_a_subclass_of_each_loss_is_what_trains():
    class Focal(losses.SigmoidFocalClassificationLoss):
        def forward(self, input, target, weights=None):
            return 2 * super().forward(input, target, weights)

    class Box(losses.WeightedSmoothL1Loss):
        def forward(self, input, target, weights=None):
            return 3 * super().forward(input, target, weights)

    class Direction(losses.WeightedCrossEntropyLoss):
        def forward(self, input, target, weights=None):
            return 4 * super().forward(input, target, weights)

    _, parts, _ = results(small_head())
    head = small_head()
    head.cls_loss_func, head.dir_loss_func = Focal(alpha=0.25, gamma=2.0), Direction()
    head.reg_loss_func = Box(code_weights=head.model_cfg.LOSS_CONFIG.LOSS_WEIGHTS["code_weights"])
    _, changed, _ = results(head)
    for key, factor in (("rpn_loss_cls", 2), ("rpn_loss_loc", 3), ("rpn_loss_dir", 4)):
        torch.testing.assert_close(changed[key], factor * parts[key], msg=key)


def test_a_module_without_from_labels_gets_targets_and_weights():
    class Squared(nn.Module):
        def forward(self, input, target, weights):
            return (input.sigmoid() - target).square() * weights.unsqueeze(-1)

    head = small_head()
    head.cls_loss_func = Squared()
    _, parts, _ = results(head)
    logits, labels = head.forward_ret_dict["cls_preds"].detach().view(2, -1, 3), head.forward_ret_dict["box_cls_labels"]
    one_hot = nn.functional.one_hot(labels.clamp(min=0).long(), 4)[..., 1:]
    each = ((logits.sigmoid() - one_hot).square() * (labels >= 0).unsqueeze(-1)).sum(dim=(1, 2)) / (labels > 0).sum(
        dim=1
    ).clamp(min=1)
    torch.testing.assert_close(parts["rpn_loss_cls"], each.mean())


def test_from_labels_of_the_base_class_is_the_fused_form():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 30, 3), torch.randint(-1, 4, (2, 30))
    fused, plain = losses.SigmoidFocalClassificationLoss(gamma=1.5), losses.SigmoidFocalClassificationLoss(gamma=1.5)
    plain.fused = False
    for normalizer in ("per_sample", "none"):
        found, wanted = (
            loss.from_labels(logits, labels, normalizer=normalizer, loss_weight=0.7) for loss in (fused, plain)
        )
        torch.testing.assert_close(found, wanted)
    with pytest.raises(InputError, match="normalizer"):
        plain.from_labels(logits, labels, normalizer="batch")
