"""IoU losses of a centre head by hand."""

import pytest
import torch

from pcdet_focal.losses import calculate_iou_loss_centerhead, calculate_iou_reg_loss_centerhead

MASK = torch.tensor([[1, 0], [1, 1]])
IND = torch.tensor([[5, 0], [11, 2]])


def maps(columns=7):
    """(2, columns, 3, 4): at every cell a 2 x 2 x 2 m box of heading 0 centred at x = 10 * cell."""
    boxes = torch.zeros(2, columns, 12)
    boxes[:, 0] = 10 * torch.arange(12.0)
    boxes[:, 3:6] = 2
    return boxes.view(2, columns, 3, 4)


def truth(shift, columns=7):
    boxes = torch.zeros(2, 2, columns)
    boxes[..., 0] = 10.0 * IND + shift
    boxes[..., 3:6] = 2
    return boxes


@pytest.mark.parametrize("columns", [7, 9])
@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_iou_loss(columns, kind):
    iou_preds, box_map = torch.zeros(2, 1, 3, 4, requires_grad=True), maps(columns).requires_grad_()
    loss = calculate_iou_loss_centerhead(iou_preds, box_map, MASK.to(kind), IND, truth(1.0, columns))
    loss.backward()
    assert loss.item() == pytest.approx(1 / 3, rel=1e-5)  # |0 - (2/3 - 1)|
    assert iou_preds.grad.flatten(1).nonzero().tolist() == [[0, 5], [1, 2], [1, 11]]
    assert iou_preds.grad.sum().item() == pytest.approx(1.0)
    assert box_map.grad is None


@pytest.mark.parametrize("columns", [7, 9])
def test_distance_iou_loss(columns):
    box_map = maps(columns).requires_grad_()
    loss = calculate_iou_reg_loss_centerhead(box_map, MASK, IND, truth(1.0, columns))
    loss.backward()
    assert loss.item() == pytest.approx(1 - 1 / 3 + 1 / 17, rel=1e-5)
    assert box_map.grad.flatten(2)[:, 0].nonzero().tolist() == [[0, 5], [1, 2], [1, 11]]


def test_without_objects_a_zero_that_can_be_differentiated():
    iou_preds, box_map = torch.zeros(2, 1, 3, 4, requires_grad=True), maps().requires_grad_()
    for loss, leaf in (
        (calculate_iou_loss_centerhead(iou_preds, box_map, 0 * MASK, IND, truth(0.0)), iou_preds),
        (calculate_iou_reg_loss_centerhead(box_map, 0 * MASK, IND, truth(0.0)), box_map),
    ):
        loss.backward()
        assert loss.shape == () and loss.item() == 0 and leaf.grad.abs().sum().item() == 0
