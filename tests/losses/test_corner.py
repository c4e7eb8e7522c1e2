"""Corner loss: geometry by hand."""

import math

import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import get_corner_loss_lidar

BOX = torch.tensor([[10.0, 2.0, -1.0, 4.0, 2.0, 1.5, 0.3]], dtype=torch.float64)


@pytest.mark.parametrize("shift, expected", [(0.5, 0.5 * 0.5**2), (3.0, 3.0 - 0.5)])
def test_a_shift_moves_every_corner_alike(shift, expected):
    moved = BOX + torch.tensor([0.0, 0.0, shift, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert get_corner_loss_lidar(moved, BOX).item() == pytest.approx(expected, rel=1e-12)


def test_half_a_turn_costs_nothing():
    turned = BOX.clone()
    turned[:, 6] += math.pi
    assert get_corner_loss_lidar(turned, BOX).item() == pytest.approx(0, abs=1e-20)


def test_a_quarter_turn_of_a_square_moves_every_corner_along_a_side():
    """Each corner goes to a neighbour's place, 2 m away, whether or not the truth is turned by pi."""
    square = BOX.clone()
    square[:, 3:5] = 2.0
    turned = square.clone()
    turned[:, 6] += math.pi / 2
    assert get_corner_loss_lidar(turned, square).item() == pytest.approx(2 - 0.5, rel=1e-12)


def test_identical_boxes_have_a_finite_gradient():
    pred = BOX.clone().requires_grad_()
    get_corner_loss_lidar(pred, BOX).sum().backward()
    assert pred.grad.tolist() == [[0.0] * 7]


def test_no_boxes():
    assert get_corner_loss_lidar(torch.zeros(0, 7), torch.zeros(0, 7)).shape == (0,)


@pytest.mark.parametrize("pred, gt", [((3, 7), (2, 7)), ((3, 8), (3, 8)), ((1, 3, 7), (1, 3, 7))])
def test_mistakes(pred, gt):
    with pytest.raises(InputError, match=r"\(N, 7\)"):
        get_corner_loss_lidar(torch.zeros(pred), torch.zeros(gt))
