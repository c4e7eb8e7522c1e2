"""L1 and smooth L1 of box codes: closed form, unknown targets, code and anchor weights, state dict, mistakes."""

import copy

import numpy as np
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import L1Loss, WeightedL1Loss, WeightedSmoothL1Loss, code_difference, smooth_l1

NAN = float("nan")
BOTH = pytest.mark.parametrize("loss_class", [WeightedSmoothL1Loss, WeightedL1Loss])


def test_closed_form():
    diff = torch.tensor([-2.0, -0.05, 0.0, 0.1, 1 / 9, 3.0], dtype=torch.float64)
    assert smooth_l1(diff).tolist() == pytest.approx(
        [2 - 1 / 18, 0.05**2 * 4.5, 0, 0.045, 1 / 18, 3 - 1 / 18], rel=1e-12
    )
    assert smooth_l1(diff, beta=0.0).tolist() == diff.abs().tolist()
    assert (
        smooth_l1(diff, beta=1.0).tolist()
        == torch.nn.functional.smooth_l1_loss(diff, torch.zeros_like(diff), reduction="none").tolist()
    )


def test_code_weights_scale_the_difference_and_anchor_weights_the_loss():
    loss_func = WeightedSmoothL1Loss(beta=1.0, code_weights=[0.5, 2.0])
    loss = loss_func(torch.tensor([[[1.0, 1.0]]]), torch.zeros(1, 1, 2), torch.tensor([[3.0]]))
    assert loss.tolist() == [[[3 * 0.5 * 0.5**2, 3 * (2 - 0.5)]]]


@BOTH
def test_without_code_weights_every_code_weighs_one(loss_class):
    x, target, weights = torch.randn(2, 5, 7), torch.randn(2, 5, 7), torch.rand(2, 5)
    torch.testing.assert_close(loss_class()(x, target, weights), loss_class(code_weights=[1.0] * 7)(x, target, weights))
    torch.testing.assert_close(loss_class()(x, target), loss_class()(x, target, torch.ones(2, 5)))


@BOTH
def test_nan_targets_are_ignored(loss_class):
    x = torch.tensor([[[1.0, 2.0, float("inf")]]], requires_grad=True)
    loss = loss_class()(x, torch.tensor([[[0.0, NAN, NAN]]]), torch.ones(1, 1))
    loss.sum().backward()
    assert loss[0, 0, 1:].tolist() == [0, 0] and loss[0, 0, 0] > 0
    assert x.grad.tolist() == [[[1, 0, 0]]]


@BOTH
def test_half_precision_is_computed_in_float32(loss_class):
    """Difference 1200 with code weight 100 is beyond half precision's 65504."""
    x = torch.tensor([[[600.0]]], dtype=torch.float16, requires_grad=True)
    loss = loss_class(code_weights=[100.0])(
        x, torch.tensor([[[-600.0]]], dtype=torch.float16), torch.ones(1, 1, dtype=torch.float16)
    )
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(120000, abs=0.06)
    loss.sum().backward()
    assert x.grad.tolist() == [[[100.0]]]


@BOTH
def test_code_weights_are_not_in_the_state_dict_but_follow_the_module(loss_class):
    loss_func = loss_class(code_weights=np.array([1.0, 0.2]))
    assert list(loss_func.state_dict()) == [] and list(loss_func.parameters()) == []
    assert "0.2" in repr(loss_func)
    double = copy.deepcopy(loss_func).double()
    assert double.code_weights.dtype == torch.float64
    x = torch.randn(1, 3, 2, dtype=torch.float64)
    assert loss_func(x, torch.zeros_like(x)).dtype == torch.float64
    torch.testing.assert_close(loss_func(x, torch.zeros_like(x)), double(x, torch.zeros_like(x)))
    assert loss_class().to(torch.float64).code_weights is None


@BOTH
def test_rows_without_a_batch_axis(loss_class):
    x, target = torch.randn(5, 7), torch.randn(5, 7)
    loss_func = loss_class(code_weights=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    torch.testing.assert_close(
        loss_func(x, target, torch.ones(5)), loss_func(x[None], target[None], torch.ones(1, 5))[0]
    )


@BOTH
def test_mistakes(loss_class):
    x = torch.zeros(2, 5, 7)
    with pytest.raises(InputError, match=r"\(2, 5, 7\).*\(2, 5, 8\)"):
        loss_class()(x, torch.zeros(2, 5, 8))
    with pytest.raises(InputError, match=r"\(5, 2\).*\(2, 5, 7\)"):
        loss_class()(x, x, torch.zeros(5, 2))
    with pytest.raises(InputError, match="3 .*code_weights.*7"):
        loss_class(code_weights=[1.0, 1.0, 1.0])(x, x)
    for wrong in ("abc", [[1.0, 2.0]], 1.0, [1.0, NAN]):
        with pytest.raises(InputError, match="code_weights"):
            loss_class(code_weights=wrong)


def test_code_difference_leaves_gradients_of_both_sides():
    x, target = torch.tensor([[3.0, 1.0]], requires_grad=True), torch.tensor([[1.0, NAN]], requires_grad=True)
    code_difference(x, target, torch.tensor([2.0, 5.0])).sum().backward()
    assert x.grad.tolist() == [[2, 0]] and target.grad.tolist() == [[-2, 0]]


def test_l1():
    x = torch.tensor([[1.0, -2.5]], requires_grad=True)
    loss = L1Loss()(x, torch.tensor([[3.0, 0.0]]))
    assert loss.tolist() == [[2.0, 2.5]]
    with pytest.raises(InputError, match=r"\(1, 2\).*\(2,\)"):
        L1Loss()(x, torch.zeros(2))


def test_l1_of_nothing_is_a_zero_that_can_be_differentiated():
    x = torch.tensor([[NAN, 1.0]], requires_grad=True)
    loss = L1Loss()(x, torch.zeros(0, 2))
    loss.backward()
    assert loss.shape == () and loss.item() == 0 and x.grad.tolist() == [[0, 0]]
