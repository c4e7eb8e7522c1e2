"""Losses of sparse heads: reading rows, regression, IoU and DIoU by hand."""

import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import IouLossSparse, IouRegLossSparse, RegLossSparse
from pcdet_focal.losses.sparse import gather_rows

BATCH_INDEX = torch.tensor([1, 0, 1, 0, 0, 2])  # rows of three samples, mixed
MASK = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
IND = torch.tensor([[2, 9, 0], [0, 1, 0], [5, 5, 5]])  # slots with mask 0 may point anywhere


def boxes(n=6):
    """Boxes far from each other, all of heading 0: 2 x 2 x 2 m at x = 0, 10, 20, …"""
    result = torch.zeros(n, 7)
    result[:, 0] = 10 * torch.arange(n)
    result[:, 3:6] = 2
    return result


def truth(shift):
    """The boxes that MASK and IND choose (rows 4 and 1 for sample 0, row 2 for sample 1), moved along x."""
    moved = boxes() + torch.tensor([shift, 0, 0, 0, 0, 0, 0])
    return [moved[[4, 1]], moved[[2]], moved[:0]]


def test_rows_of_mixed_samples():
    rows = gather_rows(torch.arange(6.0)[:, None], MASK, IND, BATCH_INDEX)
    assert rows[..., 0].tolist() == [[4, 0, 1], [0, 2, 0], [0, 0, 0]]
    assert gather_rows(torch.zeros(0, 2), torch.zeros(3, 3), IND, BATCH_INDEX[:0]).shape == (3, 3, 2)


@pytest.mark.parametrize("wrong", [3, -1])
def test_a_slot_beyond_its_samples_rows_does_not_read_the_next_sample(wrong):
    with pytest.raises(IndexError):
        gather_rows(torch.zeros(6, 1), torch.ones(3, 1), torch.tensor([[wrong], [0], [0]]), BATCH_INDEX)


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_regression_by_hand(kind):
    output = torch.arange(6.0)[:, None].requires_grad_()
    mask = MASK.to(kind)
    loss = RegLossSparse()(
        output, mask, IND, torch.tensor([[0.0, 7, 7], [7, 2.5, 7], [7, 7, 7]])[..., None], BATCH_INDEX
    )
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([(4 + 6 + 0.5) / 3])
    assert output.grad.flatten().tolist() == pytest.approx([0, -1 / 3, -1 / 3, 0, 1 / 3, 0])
    assert torch.equal(mask, MASK.to(kind))


def test_regression_without_its_arguments():
    with pytest.raises(InputError, match="ind.*target.*batch_index"):
        RegLossSparse()(torch.zeros(6, 1), MASK)


@pytest.mark.parametrize("with_gap", [False, True])
def test_iou_loss_by_hand(with_gap):
    """A shift of 1 m of 2 m leaves IoU 1/3, so the target is -1/3."""
    iou_pred = torch.full((6, 1), 0.5, requires_grad=True)
    box_pred = boxes().requires_grad_()
    gt = truth(1.0)
    if with_gap:  # one ground-truth row per slot, the unused slot's included
        gt[0] = torch.stack([gt[0][0], torch.full((7,), 99.0), gt[0][1]])
    loss = IouLossSparse()(iou_pred, MASK, IND, box_pred, gt, BATCH_INDEX)
    loss.backward()
    assert loss.item() == pytest.approx(3 * (0.5 + 1 / 3) / 3.0001, rel=1e-5)
    assert iou_pred.grad.flatten().tolist() == pytest.approx([0, 1 / 3.0001, 1 / 3.0001, 0, 1 / 3.0001, 0])
    assert box_pred.grad is None  # the IoU is a target


def test_distance_iou_loss_by_hand():
    """A shift of 1 m along x: IoU 1/3, centre distance^2 1, enclosing diagonal^2 9 + 4 + 4."""
    box_pred = boxes().requires_grad_()
    loss = IouRegLossSparse()(box_pred, MASK, IND, truth(1.0), BATCH_INDEX)
    loss.backward()
    assert loss.item() == pytest.approx(3 * (1 - 1 / 3 + 1 / 17) / 3.0001, rel=1e-5)
    assert (box_pred.grad[[1, 2, 4], 0] < 0).all() and box_pred.grad[[0, 3, 5]].abs().sum().item() == 0


@pytest.mark.parametrize("gt", [[], [torch.zeros(0, 7)] * 3])
def test_without_objects_a_zero_that_can_be_differentiated(gt):
    iou_pred, box_pred = torch.zeros(6, 1, requires_grad=True), boxes().requires_grad_()
    for loss, leaf in (
        (IouLossSparse()(iou_pred, 0 * MASK, IND, box_pred, gt, BATCH_INDEX), iou_pred),
        (IouRegLossSparse()(box_pred, 0 * MASK, IND, gt, BATCH_INDEX), box_pred),
    ):
        loss.backward()
        assert loss.shape == () and loss.item() == 0 and leaf.grad.abs().sum().item() == 0


def test_mistakes():
    with pytest.raises(InputError, match="sample 1 .*1 .*4 "):
        IouRegLossSparse()(boxes(), MASK, IND, [boxes(2), boxes(4), boxes(0)], BATCH_INDEX)
    with pytest.raises(InputError, match="box_gt .*1 .*mask .*3"):
        IouRegLossSparse()(boxes(), MASK, IND, [boxes(2)], BATCH_INDEX)
    with pytest.raises(InputError, match="'GIoU'"):
        IouRegLossSparse(type="GIoU")
