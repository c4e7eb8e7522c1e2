"""spconv's other classes: 1-D to 4-D, transposed, even and grouped convolutions, pooling; against dense formulas."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pcdet_focal.errors import InputError
from pcdet_focal.ops import sparse_conv as sc

SHAPES = {1: (23,), 2: (9, 11), 3: (5, 6, 7), 4: (3, 4, 3, 4)}
DTYPE = torch.float64


@pytest.fixture(params=["cpu", "reference"], autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", request.param)


def tensor(ndim: int, channels: int, batch: int = 2, seed: int = 0) -> sc.SparseConvTensor:
    """A third of the cells, in any order, with features that need a gradient."""
    rng = np.random.default_rng(seed)
    shape = SHAPES[ndim]
    cells = rng.permutation(batch * math.prod(shape))[: batch * math.prod(shape) // 3]
    indices = np.stack(np.unravel_index(cells, (batch, *shape)), 1).astype(np.int32)
    features = torch.from_numpy(rng.normal(size=(len(cells), channels))).requires_grad_()
    return sc.SparseConvTensor(features, torch.from_numpy(indices), shape, batch)


def at_voxels(dense: torch.Tensor, x: sc.SparseConvTensor) -> torch.Tensor:
    """(B, C, *shape) -> (N, C)."""
    return dense.movedim(1, -1)[tuple(x.indices.long().unbind(1))]


def assert_same(y: sc.SparseConvTensor, dense: torch.Tensor, inputs) -> None:
    """Values and gradients at y's voxels."""
    want = at_voxels(dense, y)
    torch.testing.assert_close(y.features, want, rtol=1e-10, atol=1e-10)
    factor = torch.randn(want.shape, dtype=DTYPE, generator=torch.Generator().manual_seed(5))
    for got, expected in zip(
        torch.autograd.grad((y.features * factor).sum(), inputs), torch.autograd.grad((want * factor).sum(), inputs)
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def kernel_of(layer) -> torch.Tensor:
    """(out, in, *kernel), as torch has it."""
    return layer.weight.movedim(-1, 1)


def parameters(layer, x):
    return [x.features, layer.weight, layer.bias]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 0, 2)]
)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_regular_and_transposed(ndim, kernel, stride, padding, dilation):
    torch.manual_seed(0)
    x = tensor(ndim, 4)
    layer = getattr(sc, f"SparseConv{ndim}d")(4, 6, kernel, stride, padding, dilation).double()
    conv = getattr(F, f"conv{ndim}d")
    assert_same(
        layer(x), conv(x.dense(), kernel_of(layer), layer.bias, stride, padding, dilation), parameters(layer, x)
    )

    layer = getattr(sc, f"SparseConvTranspose{ndim}d")(4, 6, kernel, stride, padding, dilation).double()
    transposed = getattr(F, f"conv_transpose{ndim}d")
    settings = dict(stride=stride, padding=padding, dilation=dilation)
    y = layer(x)
    dense = transposed(x.dense(), kernel_of(layer).transpose(0, 1), layer.bias, **settings)
    assert y.spatial_shape == list(dense.shape[2:])
    assert_same(y, dense, parameters(layer, x))
    occupied = x.replace_feature(torch.ones_like(x.features[:, :1])).dense()
    reached = transposed(occupied, torch.ones_like(kernel_of(layer)[:1, :1]), **settings) > 0.5
    assert torch.equal(y.indices.long(), reached[:, 0].nonzero())  # all of them, sorted


@pytest.mark.parametrize("kernel", [2, 4, (3, 2, 4), (1, 2, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_even_submanifold_kernels(kernel, dilation):
    x = tensor(3, 4)
    layer = sc.SubMConv3d(4, 5, kernel, dilation=dilation).double()
    left = [k // 2 * dilation for k in layer.kernel_size]
    right = [(k - 1) * dilation - before for k, before in zip(layer.kernel_size, left)]
    padded = F.pad(x.dense(), [n for pair in zip(reversed(left), reversed(right)) for n in pair])
    assert_same(layer(x), F.conv3d(padded, kernel_of(layer), layer.bias, dilation=dilation), parameters(layer, x))


@pytest.mark.parametrize("kernel", [1, 3, 2])
@pytest.mark.parametrize("groups", [2, 4])
def test_groups(kernel, groups):
    x = tensor(2, 8)
    layer = sc.SparseConv2d(8, 4, kernel, padding=kernel // 2 if kernel > 1 else 0, groups=groups).double()
    assert layer.weight.shape[-1] == 8 // groups
    dense = F.conv2d(x.dense(), kernel_of(layer), layer.bias, padding=layer.padding, groups=groups)
    assert_same(layer(x), dense, parameters(layer, x))
    layer = sc.SubMConv2d(8, 4, 3, groups=groups).double()
    dense = F.conv2d(x.dense(), kernel_of(layer), layer.bias, padding=1, groups=groups)
    assert_same(layer(x), dense, parameters(layer, x))


def four_dimensional(x: sc.SparseConvTensor, layer, outputs: torch.Tensor, transposed: bool = False) -> torch.Tensor:
    """The definition, voxel by voxel: features at ``outputs`` (M, 5)."""
    rows = {tuple(index): row for row, index in enumerate(x.indices.tolist())}
    centre = [k // 2 * d for k, d in zip(layer.kernel_size, layer.dilation)]
    padding, stride = (centre, [1] * 4) if layer.subm else (layer.padding, layer.stride)
    out = []
    for b, *position in outputs.tolist():
        total = layer.bias
        for offset in itertools.product(*map(range, layer.kernel_size)):
            if transposed:  # output = input * stride - padding + offset
                steps = [p + q - o for p, q, o in zip(position, padding, offset)]
                if any(n % s for n, s in zip(steps, stride)):
                    continue
                source = [n // s for n, s in zip(steps, stride)]
            else:
                source = [p * s - q + o for p, s, q, o in zip(position, stride, padding, offset)]
            row = rows.get((b, *source))
            if row is not None:
                total = total + layer.weight[(slice(None), *offset)] @ x.features[row]
        out.append(total)
    return torch.stack(out)


@pytest.mark.parametrize("kind", ["SubMConv4d", "SparseConv4d", "SparseConvTranspose4d"])
def test_four_dimensions(kind):
    x = tensor(4, 3)
    layer = getattr(sc, kind)(3, 2, 3 if kind == "SubMConv4d" else 2, 1 if kind == "SubMConv4d" else 2).double()
    y = layer(x)
    want = four_dimensional(x, layer, y.indices, transposed="Transpose" in kind)
    torch.testing.assert_close(y.features, want)
    for got, expected in zip(
        torch.autograd.grad(y.features.sin().sum(), parameters(layer, x)),
        torch.autograd.grad(want.sin().sum(), parameters(layer, x)),
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_inverse_gives_the_input_voxels_back(ndim):
    x = tensor(ndim, 3)
    down = getattr(sc, f"SparseConv{ndim}d")(3, 4, 2, 2, indice_key="down").double()
    up = getattr(sc, f"SparseInverseConv{ndim}d")(4, 2, 2, "down").double()
    y = down(x)
    z = up(y)
    assert torch.equal(z.indices, x.indices) and z.spatial_shape == x.spatial_shape
    # <up(y), g> = <y, down'(g)>, where down' has up's kernel
    back = getattr(sc, f"SparseConv{ndim}d")(2, 4, 2, 2, bias=False).double()
    back.weight = torch.nn.Parameter(up.weight.movedim(-1, 0).movedim(1, -1))
    g = torch.randn(z.features.shape, dtype=DTYPE)
    left = ((z.features - up.bias) * g).sum()
    torch.testing.assert_close(left, (y.features * back(x.replace_feature(g)).features).sum())


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, None, 0), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_max_pooling(ndim, kernel, stride, padding):
    x = tensor(ndim, 4)
    y = getattr(sc, f"SparseMaxPool{ndim}d")(kernel, stride, padding)(x)
    occupied = x.replace_feature(torch.ones_like(x.features)).dense() > 0
    dense = torch.where(occupied, x.dense(), -torch.inf)
    pooled = getattr(F, f"max_pool{ndim}d")(dense, kernel, stride, padding)
    assert torch.equal(y.indices.long(), (pooled[:, 0] > -torch.inf).nonzero())
    assert_same(y, pooled, [x.features])


def test_max_pooling_in_four_dimensions_and_its_inverse():
    x = tensor(4, 3)
    y = sc.SparseMaxPool4d(2, indice_key="pool")(x)
    for row, index in enumerate(y.indices.tolist()):
        under = [i for i, other in enumerate(x.indices.tolist()) if [other[0], *(p // 2 for p in other[1:])] == index]
        assert torch.equal(y.features[row], x.features[under].amax(0))
    z = sc.SparseInverseConv4d(3, 2, 2, "pool").double()(y)
    assert torch.equal(z.indices, x.indices)


def test_global_max_pooling():
    x = tensor(3, 4, batch=3)
    keep = x.indices[:, 0] != 1  # a sample without voxels
    x = x.select_by_index(keep)
    y = sc.SparseGlobalMaxPool()(x)
    assert y.shape == (3, 4) and not y[1].any()
    for b in (0, 2):
        assert torch.equal(y[b], x.features[x.indices[:, 0] == b].amax(0))


def test_the_gradient_of_pooling_goes_to_the_largest_in_equal_parts_at_zero_too():
    x = tensor(3, 4)
    x = x.replace_feature(torch.zeros_like(x.features).requires_grad_())
    for pooled in (sc.SparseGlobalMaxPool()(x), sc.SparseMaxPool3d(2, 2)(x).features):
        (gradient,) = torch.autograd.grad(pooled.sum(), x.features)
        torch.testing.assert_close(gradient.sum(), torch.tensor(float(pooled.numel()), dtype=gradient.dtype))


def test_tensors_from_and_to_dense():
    x = tensor(3, 4)
    dense = sc.ToDense()(x)
    assert torch.equal(dense, x.dense()) and x.spatial_size == 5 * 6 * 7
    back = sc.SparseConvTensor.from_dense(dense.movedim(1, -1))
    assert back.batch_size == 2 and back.spatial_shape == x.spatial_shape and len(back.indices) == len(x.indices)
    assert torch.equal(back.dense(), dense)
    torch.autograd.grad(back.features.sum(), x.features)


def test_arguments_of_spconv_are_taken():
    grid = torch.zeros(3)
    x = tensor(2, 4)
    x = sc.SparseConvTensor(x.features, x.indices, x.spatial_shape, 2, grid=grid, voxel_num=None, benchmark=False)
    assert x.grid is grid and x.replace_feature(x.features).grid is grid
    net = sc.SparseSequential(
        sc.SubMConv2d(4, 4, 3, indice_key="a", algo=sc.ConvAlgo.Native, fp32_accum=True),
        sc.SparseConv2d(4, 8, 3, 2, 1, algo=sc.ConvAlgo.MaskImplicitGemm, indice_key="b", large_kernel_fast_algo=True),
        sc.SparseInverseConv2d(8, 4, 3, indice_key="b", algo=sc.ConvAlgo.Native),
        sc.SparseMaxPool2d(2, 2, algo=sc.ConvAlgo.Native, record_voxel_count=True),
        sc.SparseConvTranspose2d(4, 2, 2, 2, algo=None),
        sc.ToDense(),
    ).double()
    assert net(x).shape == (2, 2, 8, 10)
    with pytest.raises(InputError, match=r"kernel_size=\(3, 3\) needs one value, or one for each of the 3 axes"):
        sc.SparseConvTranspose3d(4, 4, (3, 3))
