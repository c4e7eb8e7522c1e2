"""Heat map focal loss and regression at centres: by hand, masks of any kind, predictions at exactly 0 and 1, unknown
targets.
"""

import math

import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import FocalLossCenterNet, RegLossCenterNet, neg_loss_cornernet, neg_loss_sparse
from pcdet_focal.losses.centernet import _gather_feat, _reg_loss, _transpose_and_gather_feat

NAN = float("nan")


def test_heat_map_by_hand():
    pred, gt = [0.9, 0.2, 0.6, 0.5], [1.0, 0.3, 0.0, 1.0]
    loss = (
        -(0.1**2 * math.log(0.9) + 0.7**4 * 0.2**2 * math.log(0.8) + 0.6**2 * math.log(0.4) + 0.5**2 * math.log(0.5))
        / 2
    )
    pred, gt = torch.tensor(pred).view(1, 1, 2, 2), torch.tensor(gt).view(1, 1, 2, 2)
    assert neg_loss_cornernet(pred, gt).item() == pytest.approx(loss, rel=1e-6)
    assert neg_loss_sparse(pred.flatten(2), gt.flatten(2)).item() == pytest.approx(loss, rel=1e-6)
    masked = -(0.1**2 * math.log(0.9) + 0.7**4 * 0.2**2 * math.log(0.8))
    assert neg_loss_cornernet(pred, gt, torch.tensor([[[1, 1], [0, 0]]])).item() == pytest.approx(masked, rel=1e-6)
    no_centre = -(0.7**4 * 0.2**2 * math.log(0.8) + 0.6**2 * math.log(0.4))
    assert neg_loss_cornernet(pred, gt, torch.tensor([[[False, True], [True, False]]])).item() == pytest.approx(
        no_centre, rel=1e-6
    )
    weighted = no_centre - 0.1**2 * math.log(0.9) * 0.5 - 0.5**2 * math.log(0.5) * 0.25
    assert neg_loss_cornernet(pred, gt, torch.tensor([[[0.5, 1.0], [1.0, 0.25]]])).item() == pytest.approx(
        weighted / 0.75, rel=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_predictions_at_exactly_zero_and_one_are_finite(dtype):
    """Right ones cost nothing; wrong ones cost the logarithm of the smallest normal number, and their gradient points
    the right way.
    """
    pred = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=dtype).view(1, 1, 2, 2).requires_grad_()
    loss = neg_loss_cornernet(pred, torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=dtype).view(1, 1, 2, 2))
    loss.backward()
    tiny = torch.finfo(loss.dtype).tiny
    assert loss.item() == pytest.approx(-2 * math.log(tiny) / 2, rel=1e-6)
    right, right_too, should_rise, should_fall = pred.grad.flatten().tolist()
    assert right == right_too == 0 and -math.inf < should_rise < 0 < should_fall < math.inf


def test_mask_of_another_shape():
    with pytest.raises(InputError, match=r"\(1, 1, 4, 4\).*\(1, 1, 4, 4\)"):
        FocalLossCenterNet()(torch.full((1, 1, 4, 4), 0.5), torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    with pytest.raises(InputError, match=r"\(1, 2, 4, 4\).*\(1, 1, 4, 4\)"):
        FocalLossCenterNet()(torch.full((1, 2, 4, 4), 0.5), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32, torch.uint8])
def test_regression_by_hand_with_any_mask(kind):
    regr = torch.tensor([[[1.0, 2.0], [NAN, 5.0], [4.0, 0.0]]], requires_grad=True)
    gt = torch.tensor([[[0.0, NAN], [1.0, 1.0], [2.0, 3.0]]])
    mask = torch.tensor([[1, 0, 1]]).to(kind)
    before = mask.clone()
    loss = _reg_loss(regr, gt, mask)
    loss.sum().backward()
    assert loss.tolist() == [(1 + 2) / 2, 3 / 2]
    assert regr.grad.tolist() == [[[0.5, 0], [0, 0], [0.5, -0.5]]]
    assert torch.equal(mask, before)


def test_float_mask_with_one_code_is_not_changed():
    """Where the target has one code, an expanded mask shares its memory with the caller's."""
    mask = torch.ones(1, 2)
    loss = _reg_loss(torch.ones(1, 2, 1), torch.tensor([[[NAN], [0.0]]]), mask)
    assert loss.tolist() == [0.5] and mask.tolist() == [[1, 1]]


def test_empty_mask_is_a_zero_that_can_be_differentiated():
    output = torch.full((2, 3, 4, 4), NAN, requires_grad=True)
    loss = RegLossCenterNet()(
        output, torch.zeros(2, 5), torch.zeros(2, 5, dtype=torch.long), torch.full((2, 5, 3), NAN)
    )
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 0] and output.grad.abs().sum().item() == 0


def test_gathering_counts_cells_row_by_row():
    code_map = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    ind = torch.tensor([[7, 0], [19, 19]])
    rows = _transpose_and_gather_feat(code_map, ind)
    assert rows[0, 0].tolist() == code_map[0, :, 1, 2].tolist() and rows[1, 1].tolist() == code_map[1, :, 3, 4].tolist()
    flat = code_map.flatten(2).transpose(1, 2)
    picked = _gather_feat(flat, ind, torch.tensor([[1, 0], [0, 1]]))
    assert picked.tolist() == [code_map[0, :, 1, 2].tolist(), code_map[1, :, 3, 4].tolist()]


def test_mistakes():
    output, ind = torch.zeros(1, 8, 4, 4), torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(InputError, match="target"):
        RegLossCenterNet()(output, torch.ones(1, 2), ind)
    with pytest.raises(InputError, match=r"\(1, 2, 8\).*\(1, 2, 7\)"):
        RegLossCenterNet()(output, torch.ones(1, 2), ind, torch.zeros(1, 2, 7))
    with pytest.raises(InputError, match=r"\(1, 3\).*\(1, 2, 8\)"):
        RegLossCenterNet()(output, torch.ones(1, 3), ind, torch.zeros(1, 2, 8))
