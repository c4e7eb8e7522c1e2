"""Our sparse convolution against spconv's native algorithm on the CPU, and spconv as a backend of our modules."""

import os
import subprocess
import sys
import warnings
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.ops import sparse_conv as sc
from pcdet_focal.ops.sparse_conv import backends

LAYERS = {
    "subm_k3": ("SubMConv3d", dict(kernel_size=3)),
    "subm_k1": ("SubMConv3d", dict(kernel_size=1)),
    "subm_k335": ("SubMConv3d", dict(kernel_size=(3, 3, 5), dilation=2)),
    "conv_k3_s2_p1": ("SparseConv3d", dict(kernel_size=3, stride=2, padding=1)),
    "conv_k3_s2_p011": ("SparseConv3d", dict(kernel_size=3, stride=2, padding=(0, 1, 1))),
    "conv_k311_s211_p0": ("SparseConv3d", dict(kernel_size=(3, 1, 1), stride=(2, 1, 1), padding=0)),
    "conv_k1_s1": ("SparseConv3d", dict(kernel_size=1)),
    "conv_k1_s2": ("SparseConv3d", dict(kernel_size=1, stride=2)),
    "subm2d_k3": ("SubMConv2d", dict(kernel_size=3, padding=1)),
    "conv2d_k3_s2_p1": ("SparseConv2d", dict(kernel_size=3, stride=2, padding=1)),
    "conv2d_k35_s12_p01": ("SparseConv2d", dict(kernel_size=(3, 5), stride=(1, 2), padding=(0, 1))),
}


@pytest.fixture(scope="module")
def spconv():
    """``spconv.pytorch``, whose import takes ten seconds; the tests that need it are skipped where it is absent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("spconv.pytorch")


def scene(n=600, batch=2, shape=(9, 30, 28), width=16, seed=0):
    rng = np.random.default_rng(seed)
    cells = rng.permutation(batch * int(np.prod(shape)))[:n]
    indices = torch.from_numpy(np.stack(np.unravel_index(cells, (batch, *shape)), 1).astype(np.int32))
    return torch.from_numpy(rng.standard_normal((n, width)).astype(np.float32)), indices, list(shape), batch


def by_place(x):
    """Features in the order of the sorted voxels."""
    return x.features[torch.from_numpy(np.lexsort(x.indices.numpy().T[::-1]).copy())]


def both(spconv, kind, arguments, width):
    """The same layer of both packages, with the same parameters."""
    torch.manual_seed(3)
    ours = getattr(sc, kind)(*width, **arguments)
    torch.manual_seed(3)
    theirs = getattr(spconv, kind)(*width, algo=spconv.ops.ConvAlgo.Native, **arguments)
    return ours, theirs


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_gradients_are_those_of_spconv(spconv, name, bias):
    kind, arguments = LAYERS[name]
    ours, theirs = both(spconv, kind, {**arguments, "bias": bias}, (16, 24))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), f"{key}: one seed must give the same initial weights"
    features, indices, shape, batch = scene() if kind.endswith("3d") else scene(shape=(30, 28))
    results = []
    for package, layer in ((sc, ours), (spconv, theirs)):
        leaf = features.clone().requires_grad_()
        y = layer(package.SparseConvTensor(leaf, indices, shape, batch))
        out = by_place(y)
        weights = torch.from_numpy(np.random.default_rng(5).standard_normal(out.shape).astype(np.float32))
        grads = torch.autograd.grad((out * weights).sum(), (leaf, *layer.parameters()))
        results.append((y, out, grads))
    (y, out, grads), (y2, out2, grads2) = results
    assert y.spatial_shape == y2.spatial_shape and sorted(map(tuple, y.indices.tolist())) == sorted(
        map(tuple, y2.indices.tolist())
    )
    torch.testing.assert_close(out, out2, rtol=0, atol=1e-5)
    for a, b in zip(grads, grads2):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()) + 1e-6)


def test_a_small_encoder_decoder_is_that_of_spconv(spconv):
    def net(package, **algo):
        torch.manual_seed(1)
        return package.SparseSequential(
            package.SubMConv3d(16, 8, 3, indice_key="a", **algo),
            torch.nn.ReLU(),
            package.SubMConv3d(8, 8, 3, indice_key="a", **algo),
            package.SparseConv3d(8, 12, 3, 2, 1, indice_key="b", **algo),
            torch.nn.ReLU(),
            package.SparseInverseConv3d(12, 4, 3, indice_key="b", **algo),
            package.SubMConv3d(4, 4, 3, indice_key="a", **algo),
        )

    features, indices, shape, batch = scene()
    ours, theirs = net(sc), net(spconv, algo=spconv.ops.ConvAlgo.Native)
    y, y2 = (n(p.SparseConvTensor(features, indices, shape, batch)) for n, p in ((ours, sc), (theirs, spconv)))
    assert torch.equal(y.indices, y2.indices)
    torch.testing.assert_close(y.features, y2.features, rtol=0, atol=1e-6)
    y.features.square().sum().backward()
    y2.features.square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-5 * float(b.grad.abs().max()) + 1e-7)


def test_spconv_can_run_behind_our_modules(spconv, monkeypatch):
    torch.manual_seed(0)
    net = sc.SparseSequential(
        sc.SubMConv3d(16, 8, 3, indice_key="a"),
        torch.nn.ReLU(),
        sc.SubMConv3d(8, 8, 3, indice_key="a"),
        sc.SparseConv3d(8, 12, 3, 2, 1, indice_key="b"),
        sc.SparseInverseConv3d(12, 4, 3, indice_key="b"),
    )
    features, indices, shape, batch = scene()

    def run():
        net.zero_grad()
        y = net(sc.SparseConvTensor(features, indices, shape, batch))
        y.features.square().sum().backward()
        return y, [p.grad.clone() for p in net.parameters()]

    keys = list(net.state_dict())
    y, grads = run()
    monkeypatch.setenv("PCDET_FOCAL_SPARSE", "spconv")
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y2, grads2 = run()
    assert torch.equal(torch.get_rng_state(), state), "changing the backend must not move torch's generator"
    assert "IndiceData" in type(y2.indice_dict["a"]).__name__ and list(net.state_dict()) == keys
    assert isinstance(y2, sc.SparseConvTensor) and torch.equal(y.indices, y2.indices)
    torch.testing.assert_close(y.features, y2.features, rtol=0, atol=1e-6)
    for a, b in zip(grads, grads2):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()) + 1e-7)


# ---- which backend


def installed(monkeypatch, **versions):
    """Pretend that these distributions (underscore for dash) are the ones installed."""
    names = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name):
        if name not in names:
            raise metadata.PackageNotFoundError(name)
        return names[name]

    monkeypatch.setattr(backends.metadata, "version", version)
    monkeypatch.delenv("PCDET_FOCAL_SPARSE", raising=False)
    backends._select.cache_clear()
    backends.load_library.cache_clear()


@pytest.fixture(autouse=True)
def forget_choices():
    yield
    backends._select.cache_clear()
    backends.load_library.cache_clear()


def test_cpu_tensors_use_our_own_code_whatever_is_installed(monkeypatch, caplog):
    installed(monkeypatch, spconv_cu126="2.3.8", spconv_triton="1.0.0")
    with caplog.at_level("INFO"):
        assert sc.select_backend("cpu") == "native" and sc.select_backend(torch.device("cpu")) == "native"
    assert caplog.text.count("sparse convolution on cpu: native") == 1


def test_cuda_tensors_use_spconv_then_spconv_triton(monkeypatch):
    asked = []
    monkeypatch.setattr(backends, "load_library", lru_cache(asked.append))
    installed(monkeypatch, spconv_cu126="2.3.8", spconv_triton="1.0.0")
    assert sc.select_backend("cuda") == "spconv"
    installed(monkeypatch, spconv_triton="1.0.0", spconv="2.3.8")
    assert sc.select_backend("cuda:1") == "spconv_triton"
    assert asked == ["spconv", "spconv_triton"]


def test_missing_and_faulty_packages_are_named(monkeypatch):
    installed(monkeypatch)
    with pytest.raises(InputError, match=r"pcdet_focal\[cu126\].*pcdet_focal\[cu120\].*pcdet_focal\[triton-sparse\]"):
        sc.select_backend("cuda")
    installed(monkeypatch, spconv="2.3.8")
    with pytest.raises(InputError, match="'spconv'"):
        sc.select_backend("cuda")
    monkeypatch.setenv("PCDET_FOCAL_SPARSE", "spconv")
    with pytest.raises(InputError, match="'spconv'"):
        sc.select_backend("cpu")
    monkeypatch.setenv("PCDET_FOCAL_SPARSE", "minkowski")
    with pytest.raises(InputError, match="native, spconv, spconv_triton"):
        sc.select_backend("cpu")


def test_the_pair_of_packages_that_can_crash_is_warned_about(monkeypatch):
    pytest.importorskip("spconv.pytorch", exc_type=ImportError)
    installed(monkeypatch, spconv_cu120="2.3.6")
    monkeypatch.setattr(backends.np, "__version__", "2.1.0")
    with pytest.warns(RuntimeWarning):
        backends.load_library("spconv")
    installed(monkeypatch, spconv_cu120="2.3.6")
    monkeypatch.setattr(backends.np, "__version__", "1.26.4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends.load_library("spconv")


def test_importing_the_package_imports_neither_spconv_nor_triton():
    code = (
        "import sys, pcdet_focal.ops.sparse_conv, pcdet_focal.utils.spconv_utils, "
        "pcdet_focal.models.backbones_3d.spconv_backbone; "
        "sys.exit(any(m in sys.modules for m in ('spconv', 'cumm', 'spconv_triton')))"
    )
    root = Path(sc.__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
