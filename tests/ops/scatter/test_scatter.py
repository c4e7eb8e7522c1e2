"""Mean and maximum of groups of rows: by hand, against a loop, gradients in float64."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcdet_focal.ops.scatter as room
from pcdet_focal.errors import InputError
from pcdet_focal.ops.scatter import scatter_max, scatter_mean


def test_examples():
    assert doctest.testmod(room, extraglobs={"torch": torch}).failed == 0


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_against_a_loop(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    src = torch.randn(200, *shape, generator=generator, dtype=torch.float64).to(dtype)
    index = torch.randint(-1, 12, (200,), generator=generator)
    index[index == 7] = 8  # a group without rows
    before = src.clone(), index.clone()
    for function, plain in (
        (scatter_mean, lambda rows: rows.mean(axis=0)),
        (scatter_max, lambda rows: rows.max(axis=0)),
    ):
        result = function(src, index, 13)
        assert result.shape == (13, *shape) and result.dtype == (
            torch.float64 if dtype == torch.float64 else torch.float32
        )
        for g in range(13):
            rows = src.double().numpy()[index.numpy() == g]
            np.testing.assert_allclose(result[g], plain(rows) if len(rows) else np.zeros(shape), rtol=1e-6, atol=1e-6)
        assert torch.equal(function(src, index.int(), 13), result)
    assert torch.equal(src, before[0]) and torch.equal(index, before[1])


@pytest.mark.parametrize("function", [scatter_mean, scatter_max])
def test_gradients(function):
    src = torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    index = torch.arange(30) % 7 - 1
    assert torch.autograd.gradcheck(lambda x: function(x, index, 9), src)
    assert not torch.autograd.grad(function(src, index, 9).sum(), src)[0][index < 0].any()


@pytest.mark.parametrize("largest", [2.0, 0.0])
def test_rows_that_share_the_maximum_share_its_gradient(largest):
    src = torch.tensor([[largest], [largest], [-1.0], [-3.0]], requires_grad=True)
    assert torch.autograd.grad(scatter_max(src, torch.tensor([0, 0, 0, 1]), 2).sum(), src)[0].flatten().tolist() == [
        0.5,
        0.5,
        0,
        1,
    ]


@given(groups=st.lists(st.integers(-1, 5), max_size=40), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_order_does_not_matter_and_the_mean_is_between_the_extremes(groups, seed):
    rng = np.random.default_rng(seed)
    src, index = torch.from_numpy(rng.normal(0, 1, (len(groups), 3))), torch.tensor(groups, dtype=torch.int64)
    order = torch.from_numpy(rng.permutation(len(groups)))
    mean, largest, smallest = scatter_mean(src, index, 6), scatter_max(src, index, 6), -scatter_max(-src, index, 6)
    torch.testing.assert_close(scatter_mean(src[order], index[order], 6), mean, rtol=1e-12, atol=1e-12)
    assert torch.equal(scatter_max(src[order], index[order], 6), largest)
    assert (mean <= largest + 1e-12).all() and (mean >= smallest - 1e-12).all()


def test_nothing():
    for function in (scatter_mean, scatter_max):
        assert function(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 3).tolist() == [[0.0] * 4] * 3
        assert function(torch.zeros(2, 4), torch.tensor([-1, -1]), 0).shape == (0, 4)


def test_mistakes():
    src = torch.zeros(3, 2)
    with pytest.raises(InputError, match=r"src .*\(3, 2\) torch.int64"):
        scatter_mean(src.long(), torch.zeros(3, dtype=torch.int64), 2)
    with pytest.raises(InputError, match=r"index .*\(3,\).*\(2,\)"):
        scatter_max(src, torch.zeros(2, dtype=torch.int64), 2)
    with pytest.raises(InputError, match="index"):
        scatter_max(src, torch.zeros(3), 2)
    with pytest.raises(InputError, match="index .*num_groups 2.* 2"):
        scatter_mean(src, torch.tensor([0, 1, 2]), 2)
