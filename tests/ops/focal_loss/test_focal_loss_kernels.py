"""The CPU kernels against float64 plain torch and against the C library: random and nasty logits, every branch of the
block loop, forks, bits.
"""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    SigmoidFocalClassificationLoss,
    one_hot_from_labels,
    quality_focal_loss_from_labels,
    sigmoid_focal_loss,
    sigmoid_focal_loss_from_labels,
)
from pcdet_focal.ops.focal_loss import backend_of, cpu, reference

EPS = 2.0**-24  # half a unit in the last place, relatively


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    monkeypatch.delenv("PCDET_FOCAL_BACKEND", raising=False)


@pytest.mark.parametrize(
    "function, values, exact",
    [
        (
            cpu._exp_of_minus,
            np.concatenate([np.linspace(0, 87, 40001), np.geomspace(1e-30, 1, 2001)]),
            lambda v: math.exp(-v),
        ),
        (
            lambda e: cpu._log1p(e, e * (np.float32(1) / (np.float32(1) + e))),
            np.concatenate([np.linspace(0, 1, 40001), np.geomspace(1e-37, 1, 2001)]),
            math.log1p,
        ),
    ],
    ids=["exp", "log1p"],
)
def test_polynomials_are_within_two_units_of_the_c_library(function, values, exact):
    for value in values.astype(np.float32):
        assert abs(float(function(value)) - exact(float(value))) <= 4 * EPS * exact(float(value)) + 1e-45, value


def test_sigmoid_and_softplus_keep_their_digits_on_both_sides():
    for value in np.concatenate([np.linspace(-86, 86, 20001), -np.geomspace(1e-30, 1, 501)]).astype(np.float32):
        p, q, softplus, softplus_minus = (float(v) for v in cpu._terms(value))
        x = float(value)
        log_term = math.log1p(math.exp(-abs(x)))
        expected = 1 / (1 + math.exp(-x)), 1 / (1 + math.exp(x)), max(x, 0) + log_term, max(-x, 0) + log_term
        assert (p, q, softplus, softplus_minus) == pytest.approx(expected, rel=8 * EPS, abs=0), x


@pytest.mark.parametrize("x", [1e3, 1e30, math.inf, -1e3, -1e30, -math.inf])
def test_beyond_the_range_of_exp(x):
    p, q, softplus, softplus_minus = (float(v) for v in cpu._terms(cpu._bounded(np.float32(x))))
    assert (p, q) == pytest.approx((1, 0) if x > 0 else (0, 1), abs=1e-37)
    assert (softplus, softplus_minus) == pytest.approx(
        (min(x, 2**64), 0) if x > 0 else (0, min(-x, 2**64)), rel=1e-6, abs=1e-37
    )


def random_case(shape=(2, 3000, 3), seed=0, positives=20, ignored=50, label_dtype=torch.int32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * 4 - 2
    labels = torch.zeros(shape[:2], dtype=label_dtype)
    for count, low, high in ((ignored, -1, 0), (positives, 1, shape[2] + 1)):
        at = torch.randint(0, shape[1], (shape[0], count), generator=generator)
        labels.scatter_(1, at, torch.randint(low, high, at.shape, generator=generator).to(label_dtype))
    return logits, labels


def both(logits, labels, **arguments):
    """(loss, gradient) of the kernels and of the definition in float64."""
    x, x64 = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss, exact = (sigmoid_focal_loss_from_labels(v, labels, **arguments) for v in (x, x64))
    return loss, torch.autograd.grad(loss, x)[0], exact, torch.autograd.grad(exact, x64)[0]


SHAPES = [
    (1, 1, 1),
    (2, 1, 3),
    (3, 682, 3),
    (2, 683, 3),
    (1, 5456, 3),
    (2, 5457, 3),
    (2, 20000, 1),
    (2, 700, 10),
    (1, 40, 3000),
]


@pytest.mark.parametrize("gamma", [2.0, 0.0, 0.5, 1.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_definition(shape, gamma):
    logits, labels = random_case(shape)
    loss, gradient, exact, exact_gradient = both(logits, labels, gamma=gamma, loss_weight=1.7)
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6 if gamma == 1.5 else 3e-7)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=3e-6, atol=1e-12)


def test_a_million_entries_do_not_drift():
    logits, labels = random_case((1, 350000, 3))
    loss, _, exact, _ = both(logits, labels)
    assert loss.item() == pytest.approx(exact.item(), rel=2e-7)


def test_the_definition_is_the_formula_of_sigmoid_focal_loss_with_one_hot_targets_and_weights():
    logits, labels = random_case((2, 50, 3))
    positives = (labels > 0).sum(1, keepdim=True)
    weights = (labels >= 0).double() / positives.clamp(min=1) / 2
    expected = (
        sigmoid_focal_loss(logits.double(), one_hot_from_labels(labels, 3), 0.3, 1.3) * weights[..., None]
    ).sum()
    got = sigmoid_focal_loss_from_labels(logits.double(), labels, alpha=0.3, gamma=1.3)
    assert got.item() == pytest.approx(expected.item(), rel=1e-13)


@pytest.mark.parametrize(
    "alpha, gamma", [([0.1, 0.5, 0.9], 2.0), (0.25, [0.0, 1.0, 3.0]), ([0.1, 0.5, 0.9], [2.0, 1.5, 0.5])]
)
def test_an_alpha_and_a_gamma_for_each_class(alpha, gamma):
    logits, labels = random_case()
    loss, gradient, exact, exact_gradient = both(logits, labels, alpha=alpha, gamma=gamma)
    assert loss.item() == pytest.approx(exact.item(), rel=3e-7)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=3e-6, atol=1e-12)
    one_class = labels.clone()
    one_class[labels > 0] = 2
    of = [v if isinstance(v, float) else v[1] for v in (alpha, gamma)]
    first, second = (
        sigmoid_focal_loss_from_labels(logits[..., 1:2], one_class, alpha=a, gamma=g)
        for a, g in (of, [[of[0]], [of[1]]])
    )
    assert first == second


NASTY = [
    0.0,
    -0.0,
    1e-45,
    -1e-40,
    1e-30,
    17.0,
    50.0,
    87.0,
    88.0,
    100.0,
    104.0,
    745.0,
    1e4,
    1e10,
    1e18,
    1.8e19,
    1e20,
    1e30,
    3e38,
]


@pytest.mark.parametrize("gamma", [2.0, 0.0, 0.5])
@pytest.mark.parametrize("label", [0, 1])
def test_extreme_logits(label, gamma):
    values = torch.tensor([s * v for v in NASTY for s in (1, -1)])
    logits, labels = values[None, :, None], torch.full((1, len(values)), label)
    exact_x = logits.double().clamp(-(2.0**64), 2.0**64).requires_grad_()
    exact = sigmoid_focal_loss_from_labels(exact_x, labels, gamma=gamma)
    (expected,) = torch.autograd.grad(exact, exact_x)
    expected[logits.abs() > 2.0**64] = 0
    loss, gradient, _, _ = both(logits, labels, gamma=gamma)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    torch.testing.assert_close(gradient.double(), expected, rtol=3e-6, atol=1e-36)


def test_infinite_logits():
    infinity = math.inf
    right, right_labels = (
        torch.tensor([[[infinity, -infinity], [-infinity, -infinity], [infinity, infinity]]]),
        torch.tensor([[1, 0, -1]]),
    )
    loss, gradient, _, _ = both(right, right_labels)
    assert loss == 0 and gradient.abs().sum() == 0
    wrong = torch.tensor([[[-infinity, -infinity], [infinity, -1.0]]])
    loss, gradient, _, _ = both(wrong, torch.tensor([[1, 0]]))
    assert loss.item() == pytest.approx((0.25 + 0.75) * 2.0**64, rel=1e-6)
    assert gradient[0, 0].tolist() == [0, 0] and gradient[0, 1, 0] == 0 and gradient[0, 1, 1] > 0
    unweighted = sigmoid_focal_loss_from_labels(torch.full((1, 1, 1), infinity), torch.tensor([[0]]), alpha=1.0)
    assert unweighted == 0


NANS = [0x7FC00000, 0xFFC00000, 0x7FC001FF, 0xFF800123]  # as torch makes it, of either sign, with a payload, signalling


@pytest.mark.parametrize("bits", NANS, ids=hex)
def test_nan_is_seen_in_its_own_place_and_not_in_an_ignored_anchor(bits):
    nan = torch.from_numpy(np.array(bits, dtype=np.uint32).view(np.float32))
    logits, labels = random_case()
    labels[0, 10], labels[0, 20] = -1, 0
    _, clean, _, _ = both(logits, labels)
    logits[0, 10] = nan
    loss, gradient, exact, exact_gradient = both(logits, labels)
    assert torch.isfinite(loss) and torch.equal(gradient, clean) and torch.isfinite(exact_gradient).all()
    for label in (0, 2):
        labels[0, 20], logits[0, 20, 1] = label, nan
        loss, gradient, exact, exact_gradient = both(logits, labels)
        assert torch.isnan(loss) and torch.isnan(exact)
        assert (
            torch.isnan(gradient).nonzero().tolist() == torch.isnan(exact_gradient).nonzero().tolist() == [[0, 20, 1]]
        )


@pytest.mark.parametrize("dtype, bound", [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision(dtype, bound):
    logits, labels = random_case()
    x = torch.where(logits > 3, 100, logits).to(dtype).requires_grad_()
    loss = sigmoid_focal_loss_from_labels(x, labels)
    exact = both(x.detach().float(), labels)
    assert loss.dtype == torch.float32 and loss == exact[0]
    loss.backward()
    assert x.grad.dtype == dtype
    torch.testing.assert_close(x.grad.double(), exact[3], rtol=bound, atol=1e-6)


def test_same_bits_each_time_and_on_any_number_of_threads():
    logits, labels = random_case((3, 30000, 3))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 1, 2):
            torch.set_num_threads(count)
            results.append(both(logits, labels)[:2])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(loss, results[0][0]) and torch.equal(gradient, results[0][1]) for loss, gradient in results)


def test_fewer_logits_kept_than_the_gradient_and_a_megabyte():
    """What torch and numpy allocate for one step at 0.6 million entries; nothing of the size of the logits but the
    gradient.
    """
    import tracemalloc

    logits, labels = random_case((2, 100000, 3))
    x = logits.requires_grad_()
    sigmoid_focal_loss_from_labels(x, labels).backward()
    x.grad = None
    tracemalloc.start()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        sigmoid_focal_loss_from_labels(x, labels).backward()
        peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    allocated = sum(
        event.nbytes()
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.nbytes() > 0
    )
    size = x.numel() * x.element_size()
    assert size <= allocated < size + 1e6 and peak < 1e6


def test_gradient_of_a_leaf_is_the_buffer_of_the_forward_pass_and_later_ones_are_their_own():
    logits, labels = random_case()
    x = logits.requires_grad_()
    loss = sigmoid_focal_loss_from_labels(x, labels)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(3 * loss, x, retain_graph=True)
    (third,) = torch.autograd.grad(loss, x)
    assert torch.equal(first, kept) and torch.equal(third, kept)
    torch.testing.assert_close(second, 3 * kept, rtol=1e-6, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_changed_input_is_noticed():
    logits, labels = random_case()
    x = logits.requires_grad_()
    y = x * 1
    loss = sigmoid_focal_loss_from_labels(y, labels)
    y.add_(1)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda x: sigmoid_focal_loss_from_labels(x, torch.tensor([[0, 1, -1]])),
        lambda x: quality_focal_loss_from_labels(x, torch.tensor([[0, 1, -1]]), torch.tensor([[0.0, 0.7, 0.0]])),
        lambda x: SigmoidFocalClassificationLoss()(x, torch.eye(3)[None], torch.ones(1, 3)).sum(),
    ],
)
def test_second_derivative_is_refused_and_available_in_float64(loss_of, monkeypatch):
    x = torch.randn(1, 3, 3, requires_grad=True)
    loss = loss_of(x)
    for _ in range(2):  # the first takes the gradient of the forward pass, where there is one
        # a first derivative, with the graph kept, is no mistake
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(InputError, match="no second derivative.*float64.*reference"):
            gradient.square().sum().backward(retain_graph=True)
    x64 = x.detach().double().requires_grad_()
    assert torch.autograd.gradgradcheck(loss_of, x64, atol=1e-6)
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", "reference")
    (gradient,) = torch.autograd.grad(loss_of(x), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("gamma", [2.0, 0.5])
def test_gradcheck_of_the_definition(gamma):
    labels = torch.tensor([[0, 1, 2, -1, 0], [0, 0, -1, 0, 0]])
    for normalizer in ("per_sample", "none"):
        assert torch.autograd.gradcheck(
            lambda x: sigmoid_focal_loss_from_labels(x, labels, gamma=gamma, normalizer=normalizer),
            torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True),
        )


def test_tensors_that_the_kernels_leave_to_plain_torch():
    x = torch.zeros(2, 3)
    assert backend_of(x) == backend_of(torch.nn.Parameter(x), x.half()) == "cpu"
    assert {backend_of(other) for other in (x.double(), x[:0], x.to("meta"), x.to_sparse())} == {"reference"}


@pytest.mark.parametrize(
    "shape, target_view",
    [
        ((3000, 3), "whole"),
        ((2, 2500, 3), "one-hot slice"),
        ((2, 700, 5), "one-hot slice"),
        ((2, 3, 40, 3), "transposed"),
        ((7,), "whole"),
    ],
)
@pytest.mark.parametrize("weights", [None, "anchor", "shared", "element"])
def test_elementwise_kernel_with_soft_targets(shape, target_view, weights):
    torch.manual_seed(1)
    logits = torch.randn(shape) * 6
    targets = torch.rand(shape).round(decimals=1)
    if target_view == "one-hot slice":
        spread = torch.full((*shape[:-1], shape[-1] + 1), 7.0)
        spread[..., 1:] = targets
        targets = spread[..., 1:]
    elif target_view == "transposed":
        targets = targets.transpose(1, 2).contiguous().transpose(1, 2)
    given = {
        None: None,
        "anchor": torch.rand(shape[:-1]),
        "shared": torch.rand((1,) * (len(shape) - 1)),
        "element": torch.rand(shape),
    }[weights]
    if weights is not None and given.dim() == 0:
        given = given.reshape(1)
    incoming = torch.randn(shape)
    x, x64 = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss_func = SigmoidFocalClassificationLoss(alpha=0.3)
    loss, exact = loss_func(x, targets, given), loss_func(x64, targets, given)
    assert loss.grad_fn.name() == "ElementwiseBackward" and exact.grad_fn.name() != "ElementwiseBackward"
    torch.testing.assert_close(loss.double(), exact, rtol=2e-6, atol=1e-10)
    for direction in (incoming, torch.tensor(0.3).expand(shape)):
        (got,) = torch.autograd.grad(loss, x, direction, retain_graph=True)
        (expected,) = torch.autograd.grad(exact, x64, direction.double(), retain_graph=True)
        torch.testing.assert_close(got.double(), expected, rtol=5e-6, atol=2e-7)


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_elementwise_kernel_with_extreme_logits(target):
    nans = np.array(NANS, dtype=np.uint32).view(np.float32)
    x = torch.cat(
        [torch.tensor([s * v for v in [*NASTY[2:], math.inf] for s in (1, -1)]), torch.from_numpy(nans)]
    ).requires_grad_()
    x64 = x.detach().double().clamp(-(2.0**64), 2.0**64).requires_grad_()
    loss, exact = (SigmoidFocalClassificationLoss()(v[:, None], torch.full((len(v), 1), target)) for v in (x, x64))
    torch.testing.assert_close(loss.double(), exact, rtol=3e-6, atol=1e-36, equal_nan=True)
    (expected,) = torch.autograd.grad(exact.sum(), x64)
    expected[x.abs() > 2.0**64] = 0
    torch.testing.assert_close(
        torch.autograd.grad(loss.sum(), x)[0].double(), expected, rtol=5e-6, atol=1e-36, equal_nan=True
    )
    assert loss.isnan().sum() == len(nans)


def test_elementwise_gradient_at_a_logit_of_zero_is_openpcdets():
    """The derivative of clamp(x, 0) - x t + log1p(exp(-|x|)) is taken as 1 - t there; times alpha_t / 4, plus the focal
    factor's own part.
    """
    x = torch.zeros(1, 2, requires_grad=True)
    SigmoidFocalClassificationLoss(alpha=0.25)(x, torch.tensor([[0.0, 1.0]])).sum().backward()
    factor = 2 * 0.5 * 0.25 * math.log(2)
    assert x.grad[0].tolist() == pytest.approx([0.75 * (factor + 0.25), 0.25 * -factor], rel=1e-6)


def test_gradients_of_targets_and_weights_are_not_lost():
    x, targets, weights = torch.randn(4, 3), torch.rand(4, 3, requires_grad=True), torch.rand(4, requires_grad=True)
    SigmoidFocalClassificationLoss()(x, targets, weights).sum().backward()
    assert targets.grad.abs().sum() > 0 and weights.grad.abs().sum() > 0


def test_data_loader_workers_after_the_kernels_ran_on_two_threads():
    """In a process of its own, which a deadlocked worker cannot hang: kernel on two threads, workers that fork and run
    kernels, kernel again.
    """
    script = """
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from pcdet_focal.losses import sigmoid_focal_loss_from_labels
from pcdet_focal.ops import threads

# torch's own loops stay serial in the workers, as DataLoader wants it: its OpenMP threads do not survive a fork
def loss(count):
    torch.set_num_threads(count)
    x = torch.from_numpy(np.full((2, 20000, 3), -1.0, np.float32)).requires_grad_()
    return sigmoid_focal_loss_from_labels(x, torch.from_numpy(np.zeros((2, 20000), np.int32))).item()

class Frames(Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, i):
        assert threads._start_team is None
        return loss(2)

if __name__ == "__main__":
    before = loss(2)
    values = list(DataLoader(Frames(), num_workers=2, multiprocessing_context="fork", timeout=60))
    print(len(values), all(v.item() == before for v in values), loss(2) == before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["6", "True", "True"], done.stderr[-2000:]


def test_reference_sums_in_float64():
    logits = torch.full((1, 4096, 64), -3.0)
    labels, one = torch.zeros(1, 4096, dtype=torch.int64), torch.ones(64)
    got = reference.from_labels(logits, labels, one, one, one, torch.ones(1, dtype=torch.float64))
    p = 1 / (1 + math.exp(3))
    assert got.item() == pytest.approx(4096 * 64 * p * -math.log1p(-p), rel=2e-7)
