"""Foreground mask against a loop over pixels."""

import math

import numpy as np
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import compute_fg_mask


def by_loop(boxes, shape, factor):
    mask = np.zeros(shape, dtype=bool)
    for b, rows in enumerate(boxes):
        for u1, v1, u2, v2 in rows:
            for v in range(shape[1]):
                for u in range(shape[2]):
                    inside = math.floor(u1 / factor) <= u < math.ceil(u2 / factor) and math.floor(
                        v1 / factor
                    ) <= v < math.ceil(v2 / factor)
                    mask[b, v, u] |= inside
    return mask


@pytest.mark.parametrize("factor", [1, 4, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_random_boxes_also_beyond_the_borders(factor, dtype):
    rng = np.random.default_rng(0)
    low = rng.uniform(-15, 30, (2, 5, 2))
    boxes = torch.from_numpy(np.concatenate([low, low + rng.uniform(2, 15, (2, 5, 2))], axis=2)).to(dtype)
    boxes[1, 3:] = 0  # padding
    before = boxes.clone()
    mask = compute_fg_mask(boxes, (2, 30, 40), factor)
    assert mask.dtype == torch.bool and mask.any() and not mask.all()
    np.testing.assert_array_equal(mask.numpy(), by_loop(boxes.tolist(), (2, 30, 40), factor))
    assert torch.equal(boxes, before)


def test_a_box_across_the_left_and_top_border_is_clipped():
    mask = compute_fg_mask(torch.tensor([[[-5.0, -5.0, 2.0, 1.0]]]), (1, 3, 4))
    assert mask.int().tolist() == [[[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]


def test_no_boxes_and_unknown_boxes_cover_nothing():
    assert not compute_fg_mask(torch.zeros(2, 0, 4), torch.Size([2, 3, 4])).any()
    assert not compute_fg_mask(torch.full((2, 1, 4), float("nan")), (2, 3, 4)).any()


@pytest.mark.parametrize(
    "boxes, shape", [((2, 5, 4), (3, 8, 8)), ((2, 5, 5), (2, 8, 8)), ((2, 5, 4), (8, 8)), ((5, 4), (1, 8, 8))]
)
def test_mistakes(boxes, shape):
    with pytest.raises(InputError, match=r"\(B, N, 4\).*\(B, H, W\)"):
        compute_fg_mask(torch.zeros(boxes), shape)
