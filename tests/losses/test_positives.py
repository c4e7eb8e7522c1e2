"""Positives only: rows and weights by hand, gathering with its gradient, and the anchor head's gathered losses against
its dense ones.
"""

import numpy as np
import pytest
import torch
from easydict import EasyDict
from golden_data import cases
from model_data import load_cfg

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    SigmoidFocalClassificationLoss,
    WeightedCrossEntropyLoss,
    WeightedL1Loss,
    WeightedSmoothL1Loss,
    anchor_weights_from_labels,
    gather_rows_once,
    positive_rows,
    sigmoid_focal_loss_from_labels,
)
from pcdet_focal.models.dense_heads import AnchorHeadSingle


def test_rows_and_weights():
    labels = torch.tensor([[0, 1, -1, 3], [0, 0, 0, -1], [2, 0, 0, 0]], dtype=torch.int32)
    rows, weights = positive_rows(labels)
    assert rows.tolist() == [1, 3, 8] and weights.tolist() == [0.5, 0.5, 1.0]
    assert torch.equal(anchor_weights_from_labels(labels)[1].view(-1)[rows], weights)
    rows, weights = positive_rows(torch.zeros(2, 3, dtype=torch.int32), dtype=torch.float64)
    assert rows.numel() == weights.numel() == 0 and weights.dtype == torch.float64
    assert positive_rows(torch.zeros(2, 0, dtype=torch.int32))[0].numel() == 0
    with pytest.raises(InputError, match=r"\(3,\)"):
        positive_rows(torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_gathering(dtype):
    dense = torch.arange(12.0).view(4, 3).to(dtype).requires_grad_()
    gather_rows_once(dense, torch.tensor([3, 1])).square().sum().backward()
    assert dense.grad.dtype == dtype and dense.grad.tolist() == [[0] * 3, [6, 8, 10], [0] * 3, [18, 20, 22]]
    assert gather_rows_once(dense, torch.tensor([], dtype=torch.int64)).shape == (0, 3)


def test_gathering_twice_differentiable():
    dense, rows = torch.randn(5, 2, dtype=torch.float64, requires_grad=True), torch.tensor([4, 0, 2])
    assert torch.autograd.gradcheck(lambda x: gather_rows_once(x, rows).pow(3), dense)
    assert torch.autograd.gradgradcheck(lambda x: gather_rows_once(x, rows).pow(3), dense)


def with_own_forward(base):
    """A class of the user's whose overridden ``forward`` gets dense targets and weights."""
    return type(base.__name__, (base,), {"forward": lambda self, *args, **kw: base.forward(self, *args, **kw)})


Focal, Direction = with_own_forward(SigmoidFocalClassificationLoss), with_own_forward(WeightedCrossEntropyLoss)
SmoothL1, L1 = with_own_forward(WeightedSmoothL1Loss), with_own_forward(WeightedL1Loss)
CODE_WEIGHTS = [1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 0.25]


def make_head(**changes):
    cfg = load_cfg("second").MODEL.DENSE_HEAD
    cfg.LOSS_CONFIG.LOSS_WEIGHTS = EasyDict(cls_weight=1.5, loc_weight=0.7, dir_weight=0.3, code_weights=CODE_WEIGHTS)
    cfg.LOSS_CONFIG.update({k: v for k, v in changes.items() if k == "REG_LOSS_TYPE"})
    cfg.update({k: v for k, v in changes.items() if k != "REG_LOSS_TYPE"})
    names = ["Car", "Pedestrian", "Cyclist"]
    point_cloud_range = np.array([0, -40, -3, 70.4, 40, 1], np.float32)
    return AnchorHeadSingle(
        cfg, 8, 3, names, np.array([64, 48, 40]), point_cloud_range, predict_boxes_when_training=False
    )


def head_inputs(positives, dtype, bins=2):
    """8 x 6 cells with 6 anchors each, two samples; a velocity-like unknown target; predictions (B, H, W, ..)."""
    torch.manual_seed(0)
    cls, box, direction = (
        torch.randn(2, 6, 8, 18, dtype=dtype),
        torch.randn(2, 6, 8, 42, dtype=dtype),
        torch.randn(2, 6, 8, 6 * bins, dtype=dtype),
    )
    labels = torch.zeros(2, 288, dtype=torch.int32)
    labels[:, ::7] = -1
    targets = torch.zeros(2, 288, 7, dtype=dtype)
    if positives:
        labels[0, 3::50], labels[1, 5] = 2, 1
        targets[labels > 0] = torch.randn(int((labels > 0).sum()), 7, dtype=dtype)
        targets[1, 5, 2] = float("nan")
    return {"cls_preds": cls, "box_preds": box, "dir_cls_preds": direction}, {
        "box_cls_labels": labels,
        "box_reg_targets": targets,
    }


def run(head, predictions, targets):
    leaves = {key: value.clone().requires_grad_() for key, value in predictions.items()}
    head.forward_ret_dict = {**leaves, **targets}
    loss, logged = head.get_loss()
    return loss, logged, torch.autograd.grad(loss, list(leaves.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positives", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{}, {"REG_LOSS_TYPE": "WeightedL1Loss"}, {"USE_MULTIHEAD": True}, {"NUM_DIR_BINS": 3, "DIR_OFFSET": 0.0}],
)
def test_the_head_gives_the_same_with_classes_of_the_user(changes, positives, dtype):
    head = make_head(**changes).to(dtype)
    predictions, targets = head_inputs(positives, dtype, changes.get("NUM_DIR_BINS", 2))
    loss, logged, gradients = run(head, predictions, targets)
    regression = L1 if "REG_LOSS_TYPE" in changes else SmoothL1
    head.cls_loss_func, head.reg_loss_func, head.dir_loss_func = (
        Focal(alpha=0.25, gamma=2.0),
        regression(code_weights=CODE_WEIGHTS),
        Direction(),
    )
    assert not head._takes_positives_only(True)
    dense, dense_logged, dense_gradients = run(head, predictions, targets)
    rel = 1e-6 if dtype == torch.float32 else 1e-7  # the weights of the dense path are float32, as OpenPCDet's
    assert torch.isfinite(loss) and loss.dtype == dtype
    torch.testing.assert_close(loss, dense, rtol=rel, atol=0)
    for key, value in dense_logged.items():
        torch.testing.assert_close(logged[key], value, rtol=rel, atol=0)
        assert not logged[key].requires_grad
    for got, expected in zip(gradients, dense_gradients):
        torch.testing.assert_close(got, expected, rtol=10 * rel, atol=1e-9)
    if positives:
        assert all((g != 0).any() for g in gradients)


def test_the_heads_focal_parameters_reach_the_fused_loss():
    head = make_head()
    predictions, targets = head_inputs(True, torch.float32)
    head.cls_loss_func = SigmoidFocalClassificationLoss(alpha=0.6, gamma=1.5)
    fused = run(head, predictions, targets)
    head.cls_loss_func = Focal(alpha=0.6, gamma=1.5)
    torch.testing.assert_close(run(head, predictions, targets)[0], fused[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_recorded_classification_loss_and_gradient(backend, monkeypatch):
    """OpenPCDet's recorded numbers at float32's own precision, not at the tolerance of the whole head."""
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", backend)
    checked = 0
    for name, case in cases("02_anchor_head_loss/anchor_head_single_loss.npz").items():
        if "cls_loss" not in case or not np.isfinite(case["cls_loss"]):
            continue
        labels = torch.from_numpy(case["box_cls_labels"])
        x = torch.from_numpy(case["cls_preds"]).requires_grad_()
        weight = 2.0 if name == "code_weights" else 1.0
        loss = sigmoid_focal_loss_from_labels(x.view(*labels.shape, -1), labels, loss_weight=weight)
        loss.backward()
        assert loss.item() == pytest.approx(float(case["cls_loss"]), rel=2e-6)
        np.testing.assert_allclose(x.grad.numpy(), case["grad_cls"], rtol=2e-5, atol=1e-8, err_msg=name)
        checked += 1
    assert checked >= 5
