"""Gaussian focal loss: closed form and extremes."""

import math

import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import GaussianFocalLoss, gaussian_focal_loss


@pytest.mark.parametrize("alpha, gamma", [(2.0, 4.0), (1.0, 2.0), (0.5, 3.5)])
def test_closed_form(alpha, gamma):
    pred, target = [0.9, 0.2, 0.6], [1.0, 0.3, 0.0]
    expected = [
        -(0.1**alpha) * math.log(0.9),
        -(0.7**gamma) * 0.2**alpha * math.log(0.8),
        -(0.6**alpha) * math.log(0.4),
    ]
    loss = GaussianFocalLoss(alpha, gamma)(
        torch.tensor(pred, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    )
    assert loss.tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_finite_at_exactly_zero_and_one(dtype, alpha):
    pred = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=dtype, requires_grad=True)
    loss = gaussian_focal_loss(pred, torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=dtype), alpha=alpha)
    # the first one's slope, 1 / eps = 1e12, is right but too steep for half precision
    (gradient,) = torch.autograd.grad(loss[1:].sum(), pred)
    assert loss.tolist() == pytest.approx([-math.log(1e-12), 0, 0, -math.log(1e-12)], rel=1e-4, abs=1e-10)
    assert torch.isfinite(gradient[:3]).all()


def test_other_shapes():
    with pytest.raises(InputError, match=r"\(2, 3\).*\(3,\)"):
        GaussianFocalLoss()(torch.zeros(2, 3), torch.zeros(3))
