"""Sparse convolution against dense convolution, against spconv's native algorithm, and by finite differences."""

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch.func import functional_call

from pcdet_focal.errors import InputError
from pcdet_focal.ops import sparse_conv as sc

BACKENDS = ["cpu", "reference"]
# kernel, stride, padding, dilation
REGULAR = {
    "k3_s2_p1": (3, 2, 1, 1),
    "k3_s2_p011": (3, 2, (0, 1, 1), 1),
    "k311_s211_p0": ((3, 1, 1), (2, 1, 1), 0, 1),
    "k2_s2": (2, 2, 0, 1),
    "k3_s1_d2": (3, 1, 2, 2),
    "k3_s3_p2": (3, 3, 2, 1),
    "k1_s2": (1, 2, 0, 1),
}


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", request.param)
    return request.param


def voxels(shape, counts, seed=0, shuffle=True):
    """(N, 1 + ndim) int32 indices with counts[b] distinct voxels in sample b."""
    rng = np.random.default_rng(seed)
    rows = []
    for b, count in enumerate(counts):
        cells = rng.permutation(int(np.prod(shape)))[:count]
        rows.append(np.concatenate([np.full((count, 1), b), np.stack(np.unravel_index(cells, shape), 1)], 1))
    rows = np.concatenate(rows).astype(np.int32)
    return torch.from_numpy(rows[rng.permutation(len(rows))] if shuffle else rows[np.lexsort(rows.T[::-1])])


def channels(n, c, dtype=torch.float64, seed=1):
    return torch.randn(n, c, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def dense_conv(x, layer):
    """The dense convolution with the layer's kernel, and the mask of the cells with an input under the kernel."""
    ndim = layer.ndim
    conv = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[ndim]
    weight = layer.weight.permute(0, ndim + 1, *range(1, ndim + 1))
    padding = [k // 2 * d for k, d in zip(layer.kernel_size, layer.dilation)] if layer.subm else layer.padding
    stride = [1] * ndim if layer.subm else layer.stride
    out = conv(x.dense(), weight, layer.bias, stride, padding, layer.dilation)
    occupied = x.replace_feature(torch.ones_like(x.features[:, :1])).dense()
    mask = (
        occupied > 0
        if layer.subm
        else conv(occupied, torch.ones_like(weight[:1, :1]), None, stride, padding, layer.dilation) > 0
    )
    return out * mask, mask


def test_the_classes_have_the_parameters_of_spconv():
    layer = sc.SubMConv3d(4, 16, 3, padding=1, indice_key="a")
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {"weight": (16, 3, 3, 3, 4), "bias": (16,)}
    assert tuple(sc.SparseConv2d(3, 5, (3, 1), bias=False).state_dict()["weight"].shape) == (5, 3, 1, 3)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("width", [(3, 5), (4, 16), (16, 32), (20, 64), (64, 72)])
def test_submanifold_is_the_dense_convolution_at_the_occupied_voxels(backend, dtype, tolerance, width):
    torch.manual_seed(0)
    indices = voxels((5, 12, 11), (200, 0, 133))
    layer = sc.SubMConv3d(*width, 3, dilation=1).to(dtype)
    x = sc.SparseConvTensor(channels(len(indices), width[0], dtype), indices, (5, 12, 11), 3)
    y = layer(x)
    want, _ = dense_conv(x, layer)
    torch.testing.assert_close(y.dense(), want, rtol=0, atol=tolerance * float(want.detach().abs().max()))
    assert torch.equal(y.indices, indices) and y.spatial_shape == [5, 12, 11]


@pytest.mark.parametrize("name", REGULAR)
@pytest.mark.parametrize("shuffle", [True, False])
def test_regular_convolution_and_its_gradients_are_the_dense_ones(backend, name, shuffle):
    torch.manual_seed(0)
    shape = (7, 9, 10)
    indices = voxels(shape, (150, 0, 61, 1), shuffle=shuffle)
    layer = sc.SparseConv3d(6, 9, *REGULAR[name]).double()
    features = channels(len(indices), 6).requires_grad_()
    x = sc.SparseConvTensor(features, indices, shape, 4)
    y = layer(x)
    want, mask = dense_conv(x, layer)
    torch.testing.assert_close(y.dense(), want, rtol=0, atol=1e-12)
    assert y.spatial_shape == list(want.shape[2:])
    assert torch.equal(y.indices, mask[:, 0].nonzero().int()), (
        "outputs are the cells that an input reaches, sorted by batch, z, y, x"
    )
    weights = channels(want.numel(), 1).view_as(want)
    parameters = (features, layer.weight, layer.bias)
    for ours, dense in zip(
        torch.autograd.grad((y.dense() * weights).sum(), parameters),
        torch.autograd.grad((want * weights).sum(), parameters),
    ):
        torch.testing.assert_close(ours, dense, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kernel,dilation", [(3, 1), ((1, 3, 5), 1), (3, (2, 1, 3)), (5, 1)])
def test_submanifold_gradients_are_the_dense_ones(backend, kernel, dilation):
    torch.manual_seed(0)
    indices = voxels((6, 8, 9), (120, 40))
    layer = sc.SubMConv3d(5, 7, kernel, dilation=dilation).double()
    features = channels(len(indices), 5).requires_grad_()
    x = sc.SparseConvTensor(features, indices, (6, 8, 9), 2)
    want, _ = dense_conv(x, layer)
    weights = channels(want.numel(), 1).view_as(want)
    parameters = (features, layer.weight, layer.bias)
    got = layer(x).dense()
    for ours, dense in zip(
        torch.autograd.grad((got * weights).sum(), parameters), torch.autograd.grad((want * weights).sum(), parameters)
    ):
        torch.testing.assert_close(ours, dense, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["subm", "regular"])
def test_two_dimensions(backend, kind):
    torch.manual_seed(0)
    indices = voxels((20, 17), (90, 30))
    layer = (sc.SubMConv2d(3, 8, 3) if kind == "subm" else sc.SparseConv2d(3, 8, 3, stride=2, padding=1)).double()
    x = sc.SparseConvTensor(channels(len(indices), 3), indices, (20, 17), 2)
    y = layer(x)
    assert y.indices.shape[1] == 3
    torch.testing.assert_close(y.dense(), dense_conv(x, layer)[0], rtol=0, atol=1e-12)


def test_inverse_convolution_is_the_transpose(backend):
    torch.manual_seed(0)
    indices = voxels((7, 9, 10), (150, 61))
    down, up = (
        sc.SparseConv3d(4, 6, 3, 2, 1, bias=False, indice_key="d").double(),
        sc.SparseInverseConv3d(6, 5, 3, "d").double(),
    )
    x = sc.SparseConvTensor(channels(len(indices), 4), indices, (7, 9, 10), 2)
    y = down(x)
    hidden = channels(len(y.indices), 6).requires_grad_()
    z = up(y.replace_feature(hidden))
    assert torch.equal(z.indices, indices) and z.spatial_shape == [7, 9, 10]
    grid = torch.nn.functional.conv_transpose3d(
        y.replace_feature(hidden).dense(), up.weight.permute(4, 0, 1, 2, 3), up.bias, 2, 1, (0, 0, 1)
    )
    want = grid.permute(0, 2, 3, 4, 1)[tuple(indices.long().T)]
    torch.testing.assert_close(z.features, want, rtol=0, atol=1e-12)
    weights = channels(len(indices), 5, seed=4)
    parameters = (hidden, up.weight)
    for ours, dense in zip(
        torch.autograd.grad((z.features * weights).sum(), parameters),
        torch.autograd.grad((want * weights).sum(), parameters),
    ):
        torch.testing.assert_close(ours, dense, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "make", [lambda: sc.SubMConv3d(2, 3, 3), lambda: sc.SparseConv3d(2, 3, 3, 2, 1)], ids=["subm", "regular"]
)
def test_gradcheck(backend, make):
    torch.manual_seed(0)
    layer, indices = make().double(), voxels((3, 4, 4), (9, 5))

    def run(features, weight, bias):
        return functional_call(
            layer, {"weight": weight, "bias": bias}, (sc.SparseConvTensor(features, indices, (3, 4, 4), 2),)
        ).features

    inputs = (channels(14, 2), layer.weight.detach(), layer.bias.detach())
    assert torch.autograd.gradcheck(run, [tensor.clone().requires_grad_() for tensor in inputs])


def test_no_voxels_at_all(backend):
    net = sc.SparseSequential(
        sc.SubMConv3d(4, 16, 3, indice_key="a"),
        torch.nn.BatchNorm1d(16),
        torch.nn.ReLU(),
        sc.SparseConv3d(16, 32, 3, 2, 1, indice_key="b"),
        torch.nn.BatchNorm1d(32),
    )
    y = net(sc.SparseConvTensor(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32), (5, 8, 8), 2))
    assert tuple(y.features.shape) == (0, 32) and tuple(y.indices.shape) == (0, 4)
    assert tuple(y.dense().shape) == (2, 32, 3, 4, 4) and not y.dense().any()
    y.dense().sum().backward()
    assert all(p.grad is not None and not p.grad.any() for m in (net[0], net[3]) for p in m.parameters())


def test_indices_that_are_not_contiguous_or_not_int32(backend):
    torch.manual_seed(0)
    indices, layer = voxels((5, 8, 8), (60, 30)), sc.SparseConv3d(4, 6, 3, 2, 1)
    features = channels(90, 4, torch.float32)
    want = layer(sc.SparseConvTensor(features, indices, (5, 8, 8), 2))
    scattered = indices.T.contiguous().T
    assert not scattered.is_contiguous()
    for other in (scattered, indices.long()):
        got = layer(sc.SparseConvTensor(features, other, np.array((5, 8, 8)), 2))
        assert torch.equal(got.features, want.features) and torch.equal(got.indices, want.indices)
    strided = features.T.contiguous().T
    assert torch.equal(layer(sc.SparseConvTensor(strided, indices, (5, 8, 8), 2)).features, want.features)


@pytest.mark.parametrize("layer", [sc.SubMConv3d(1, 1, 3), sc.SparseConv3d(1, 1, 3, 2, 1)], ids=["subm", "regular"])
def test_wrong_indices_are_named(backend, layer):
    for rows, words in [
        ([[0, 1, 1, 1], [0, 2, 2, 2], [0, 1, 1, 1]], ("rows 0 and 2", "[0, 1, 1, 1]")),
        ([[0, 0, 0, 0], [0, 4, 0, 0]], ("row 1", "[4, 4, 4]")),
        ([[1, 0, 0, 0]], ("row 0", "batch size 1")),
        ([[0, 0, -1, 0]], ("row 0", "-1")),
    ]:
        with pytest.raises(InputError) as error:
            layer(sc.SparseConvTensor(torch.ones(len(rows), 1), torch.tensor(rows), (4, 4, 4), 1))
        assert all(word in str(error.value) for word in words), str(error.value)


def test_mistakes_of_the_caller_are_named():
    x = sc.SparseConvTensor(torch.ones(3, 4), voxels((4, 4, 4), (3,)), (4, 4, 4), 1)
    with pytest.raises(InputError, match="4 .*5"):
        sc.SubMConv3d(5, 6, 3)(x)
    with pytest.raises(InputError, match="float64"):
        sc.SubMConv3d(4, 6, 3).double()(x)
    with pytest.raises(InputError, match="groups=3 must divide the 4 channels of the input and the 6"):
        sc.SubMConv3d(4, 6, 3, groups=3)
    with pytest.raises(InputError, match=r"padding \[6, 6, 6\] leaves nothing"):
        sc.SparseConvTranspose3d(4, 6, 3, padding=6)(x)
    with pytest.raises(InputError, match="smaller than the kernel"):
        sc.SparseConv3d(4, 6, 5)(x)
    with pytest.raises(InputError, match="nowhere"):
        sc.SparseInverseConv3d(4, 6, 3, "nowhere")(x)
    with pytest.raises(InputError, match=r"\(3, 4\) .*indices \(2, 4\)"):
        sc.SparseConvTensor(torch.ones(3, 4), x.indices[:2], (4, 4, 4), 1)
    y = sc.SubMConv3d(4, 4, 3, indice_key="a")(x)
    with pytest.raises(InputError, match=r"\[1, 3, 3\]"):
        sc.SubMConv3d(4, 4, (1, 3, 3), indice_key="a")(y)
    with pytest.raises(InputError, match="'a'"):
        sc.SparseConv3d(4, 4, 3, indice_key="a")(y)


def test_layers_with_one_indice_key_share_the_kernel_map(backend):
    x = sc.SparseConvTensor(torch.ones(30, 4), voxels((4, 6, 6), (30,)), (4, 6, 6), 1)
    first, second = sc.SubMConv3d(4, 4, 3, indice_key="a"), sc.SubMConv3d(4, 4, 3, indice_key="a")
    y = first(x)
    assert x.indice_dict == {} and list(y.indice_dict) == ["a"]
    assert second(y).indice_dict["a"] is y.indice_dict["a"]
    kept = y.select_by_index(torch.arange(30) < 20)
    assert len(kept.indices) == 20 and kept.indice_dict == {}


def test_results_do_not_depend_on_the_number_of_threads():
    torch.manual_seed(0)
    indices = voxels((8, 40, 40), (3000, 2000))
    layer, down = sc.SubMConv3d(16, 32, 3, bias=False), sc.SparseConv3d(16, 32, 3, 2, 1)
    features = channels(5000, 16, torch.float32).requires_grad_()
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = layer(sc.SparseConvTensor(features, indices, (8, 40, 40), 2)).features
            z = down(sc.SparseConvTensor(features, indices, (8, 40, 40), 2))
            results.append(
                (
                    y,
                    *torch.autograd.grad(y.square().sum(), (features, layer.weight)),
                    z.features,
                    z.indices,
                    *torch.autograd.grad(z.features.square().sum(), (features, down.weight)),
                )
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_autocast_and_half_precision():
    torch.manual_seed(0)
    layer, indices = sc.SubMConv3d(4, 8, 3), voxels((4, 6, 6), (40,))
    features = channels(40, 4, torch.float32)
    want = layer(sc.SparseConvTensor(features, indices, (4, 6, 6), 1)).features
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(sc.SparseConvTensor(features.bfloat16(), indices, (4, 6, 6), 1)).features
    torch.testing.assert_close(y, want, rtol=0, atol=0.03)
    y.sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    y = copy.deepcopy(layer).half()(sc.SparseConvTensor(features.half(), indices, (4, 6, 6), 1)).features
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), want, rtol=0, atol=5e-3)


def test_dense_has_both_layouts_and_a_gradient():
    indices = voxels((2, 3, 4), (5, 0, 7))
    features = channels(12, 3).requires_grad_()
    x = sc.SparseConvTensor(features, indices, (2, 3, 4), 3)
    want = torch.zeros(3, 2, 3, 4, 3, dtype=torch.float64)
    for row, where in enumerate(indices.tolist()):
        want[tuple(where)] = features[row].detach()
    assert torch.equal(x.dense(channels_first=False), want)
    assert torch.equal(x.dense(), want.permute(0, 4, 1, 2, 3)) and x.dense().is_contiguous()
    weights = channels(want.numel(), 1).view(3, 3, 2, 3, 4)
    (grad,) = torch.autograd.grad((x.dense() * weights).sum(), features)
    assert torch.equal(grad, weights.permute(0, 2, 3, 4, 1)[tuple(indices.long().T)])


def test_sequential_takes_modules_as_spconv_does():
    net = sc.SparseSequential(OrderedDict(conv=sc.SubMConv3d(4, 8, 3), relu=torch.nn.ReLU()))
    net.add(torch.nn.Linear(8, 2), name="out")
    assert (
        [name for name, _ in net.named_children()] == ["conv", "relu", "out"] and len(net) == 3 and net[-1] is net.out
    )
    with pytest.raises(InputError, match="twice"):
        sc.SparseSequential(OrderedDict(a=torch.nn.ReLU()), a=torch.nn.ReLU())
    copied = pickle.loads(pickle.dumps(net))
    x = sc.SparseConvTensor(torch.ones(6, 4), voxels((3, 3, 3), (6,)), (3, 3, 3), 1)
    assert torch.equal(copied(x).features, net(x).features)


def test_kernels_of_other_spconv_versions():
    weight = torch.arange(3 * 2 * 2 * 4 * 5.0).view(5, 3, 2, 2, 4)  # out 5, kernel (3, 2, 2), in 4
    assert sc.convert_spconv_kernel(weight, "KRSC") is weight
    assert torch.equal(sc.convert_spconv_kernel(weight.permute(1, 2, 3, 4, 0), "RSCK"), weight)
    assert torch.equal(sc.convert_spconv_kernel(weight.permute(1, 2, 3, 0, 4), "RSKC"), weight)
    square = torch.randn(3, 3, 3, 8, 8)
    assert not torch.equal(sc.convert_spconv_kernel(square, "RSCK"), sc.convert_spconv_kernel(square, "RSKC"))
    one = torch.randn(1, 1, 1, 4, 5)  # spconv 1.x: features @ weight.view(4, 5)
    layer = sc.SubMConv3d(4, 5, 1, bias=False)
    layer.load_state_dict({"weight": sc.convert_spconv_kernel(one, "RSCK", conv1x1=layer.conv1x1)})
    features = torch.randn(6, 4)
    x = sc.SparseConvTensor(features, voxels((3, 3, 3), (6,)), (3, 3, 3), 1)
    torch.testing.assert_close(layer(x).features, features @ one.view(4, 5))
    with pytest.raises(InputError, match="RSCK"):
        sc.convert_spconv_kernel(weight, "HWIO")


def test_pillar_kernels_of_other_spconv_versions():
    weight = torch.arange(3 * 2 * 4 * 5.0).view(5, 3, 2, 4)  # out 5, kernel (3, 2), in 4
    assert torch.equal(sc.convert_spconv_kernel(weight.permute(1, 2, 3, 0), "RSCK"), weight)
    assert torch.equal(sc.convert_spconv_kernel(weight.permute(1, 2, 0, 3), "RSKC"), weight)
