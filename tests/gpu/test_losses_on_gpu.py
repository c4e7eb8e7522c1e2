"""The losses on a CUDA device: the CPU's numbers, no wait for the device, CUDA graphs, torch.compile, memory. Skipped
where there is none.
"""

import copy

import pytest
import torch
from head_cases import small_head, with_predictions
from losses.test_every_loss import NAMES, losses

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    SigmoidFocalClassificationLoss,
    quality_focal_loss_from_labels,
    sigmoid_focal_loss_from_labels,
    varifocal_loss_from_labels,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICE = "cuda"
KEYS = ("cls_preds", "box_preds", "dir_cls_preds")
CLS = [
    "SigmoidFocalClassificationLoss",
    "FocalLoss",
    "QualityFocalLoss",
    "VarifocalLoss",
    "GHMC",
    "BinaryCrossEntropyLoss",
    "BCEBlurWithLogitsLoss",
    "AsymmetricLoss",
    "EqualizedFocalLoss",
    "SoftmaxFocalLoss",
    "LabelSmoothingLoss",
    "CrossEntropyLoss",
]
CODES = ["WeightedSmoothL1Loss", "WeightedL1Loss", "SmoothL1Loss", "L1Loss", "MSELoss", "BalancedL1Loss", "GHMR"]
BOXES = [
    "CornerLoss",
    {"NAME": "RotatedIoULoss", "KIND": "giou", "SPACE": "bev"},
    {"NAME": "RotatedIoULoss", "KIND": "diou"},
]
DIR = ["WeightedCrossEntropyLoss", "CrossEntropyLoss", "SoftmaxFocalLoss", "LabelSmoothingLoss"]
NORMALIZERS = ["per_sample", "batch", "global", "ema", "none"]
CONFIGS = (
    [{"CLS_LOSS": name} for name in CLS]
    + [{"REG_LOSS": entry} for entry in CODES]
    + [{"DIR_LOSS": name} for name in DIR]
    + [{"NORMALIZER": name} for name in NORMALIZERS]
)
FROM_LABELS = {
    "focal": sigmoid_focal_loss_from_labels,
    "quality focal": quality_focal_loss_from_labels,
    "varifocal": varifocal_loss_from_labels,
}


def on_device(head):
    """A copy of the head, and of what it remembers of a forward pass, on the device."""
    moved = copy.deepcopy(head).to(DEVICE)
    moved.forward_ret_dict = {
        key: value.detach().to(DEVICE).requires_grad_(value.requires_grad)
        for key, value in head.forward_ret_dict.items()
    }
    return moved


def cpu_and_device(config):
    head = small_head(**config)
    head.forward_ret_dict = {}
    moved_head = copy.deepcopy(head)
    with_predictions(head)
    moved_head.forward_ret_dict = head.forward_ret_dict
    return head, on_device(moved_head)


def step(head):
    loss, logged = head.get_loss()
    return loss, logged, torch.autograd.grad(loss, [head.forward_ret_dict[key] for key in KEYS])


@pytest.mark.parametrize("config", CONFIGS + [{"REG_LOSS": entry} for entry in BOXES], ids=str)
def test_a_head_has_the_cpus_loss(config):
    cpu, device = cpu_and_device(config)
    (loss, logged, gradients), (got, got_logged, got_gradients) = step(cpu), step(device)
    torch.testing.assert_close(got.cpu(), loss, rtol=1e-5, atol=1e-6)
    for key, value in logged.items():
        assert got_logged[key].device.type == DEVICE
        torch.testing.assert_close(got_logged[key].cpu(), value, rtol=1e-5, atol=1e-6)
    for mine, expected in zip(got_gradients, gradients):
        torch.testing.assert_close(mine.cpu(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_has_the_cpus_value(name):
    function, prediction, others = losses()[name]

    def value_and_gradient(device, dtype):
        x = prediction.to(device, dtype).requires_grad_()
        arguments = [t.to(device, dtype) if t.is_floating_point() else t.to(device) for t in others]
        loss = (function.to(device, dtype) if isinstance(function, torch.nn.Module) else function)(x, *arguments)
        return loss.detach().cpu(), torch.autograd.grad(loss.sum(), x)[0].cpu()

    if name in ("sparse_iou", "sparse_diou"):
        pytest.skip("its ground truth is a list in the host's memory")
    for dtype, rtol in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        torch.testing.assert_close(
            value_and_gradient(DEVICE, dtype), value_and_gradient("cpu", dtype), rtol=rtol, atol=10 * rtol
        )


def big_problem(dtype=torch.float32, shape=(4, 211200, 3)):
    torch.manual_seed(0)
    logits, labels = torch.randn(shape) * 2 - 4, torch.zeros(shape[:2], dtype=torch.int32)
    labels.scatter_(1, torch.randint(0, shape[1], (shape[0], 500)), -1)
    labels.scatter_(
        1,
        torch.randint(0, shape[1], (shape[0], 200)),
        torch.randint(1, shape[2] + 1, (shape[0], 200), dtype=torch.int32),
    )
    return logits.to(dtype), labels, torch.rand(shape[:2])


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 5e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("name", FROM_LABELS)
def test_losses_from_labels_at_the_size_of_second(name, dtype, rtol):
    logits, labels, quality = big_problem(dtype)
    others = (labels,) if name == "focal" else (labels, quality)
    x, y = logits.to(DEVICE).requires_grad_(), logits.clone().double().requires_grad_()
    loss = FROM_LABELS[name](x, *[t.to(DEVICE) for t in others])
    exact = FROM_LABELS[name](y, *[t.double() if t.is_floating_point() else t for t in others])
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss * 1024, x)
    (expected,) = torch.autograd.grad(exact * 1024, y)
    torch.testing.assert_close(gradient.cpu().double(), expected, rtol=rtol, atol=1e-7)
    again = FROM_LABELS[name](x, *[t.to(DEVICE) for t in others])
    assert torch.equal(again, loss)


@pytest.mark.parametrize("gamma", [2.0, 1.5, 0.5, 0.0])
def test_the_drop_in_class(gamma):
    logits, labels, weights = big_problem(shape=(2, 20000, 3))
    targets = torch.nn.functional.one_hot(labels.clamp(min=0).long(), 4).float()[..., 1:]
    x, y = logits.to(DEVICE).requires_grad_(), logits.double().requires_grad_()
    loss_func = SigmoidFocalClassificationLoss(gamma=gamma)
    loss, exact = loss_func(x, targets.to(DEVICE), weights.to(DEVICE)), loss_func(y, targets.double(), weights.double())
    assert loss.grad_fn.name() == "ElementwiseBackward"
    torch.testing.assert_close(loss.cpu().double(), exact, rtol=5e-6, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(loss.mean(), x)[0].cpu().double(),
        torch.autograd.grad(exact.mean(), y)[0],
        rtol=1e-5,
        atol=1e-11,
    )


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_no_step_waits(config):
    head = cpu_and_device(config)[1]
    for _ in range(2):  # kernels are tuned, numbers for each class are made
        step(head)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(head)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"CLS_LOSS": {"NAME": "FocalLoss", "ALPHA": [0.2, 0.3, 0.4]}},
        {"CLS_LOSS": "VarifocalLoss"},
        {"NORMALIZER": "ema"},
    ],
    ids=str,
)
def test_a_step_as_a_cuda_graph(config):
    head = cpu_and_device(config)[1]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(head)
    torch.cuda.current_stream().wait_stream(side)
    twin = on_device(head)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, _, gradients = step(head)
    for factor in (1.0, -0.5):
        with torch.no_grad():
            for ret in (head.forward_ret_dict, twin.forward_ret_dict):
                for key in KEYS:
                    ret[key].mul_(factor)
        graph.replay()
        expected, _, expected_gradients = step(twin)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
        for got, wanted in zip(gradients, expected_gradients):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"CLS_LOSS": "QualityFocalLoss"},
        {"CLS_LOSS": "VarifocalLoss", "NORMALIZER": "ema"},
        {"REG_LOSS": "BalancedL1Loss", "DIR_LOSS": "SoftmaxFocalLoss"},
    ],
    ids=str,
)
def test_a_compiled_step(config):
    torch._dynamo.reset()
    head = cpu_and_device(config)[1]
    twin = on_device(head)
    loss, _ = torch.compile(head.get_loss, fullgraph=True)()
    gradients = torch.autograd.grad(loss, [head.forward_ret_dict[key] for key in KEYS])
    expected, _, expected_gradients = step(twin)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for got, wanted in zip(gradients, expected_gradients):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)


def test_the_gradient_is_the_only_memory_of_its_size():
    logits, labels, _ = big_problem()
    x, labels = logits.to(DEVICE).requires_grad_(), labels.to(DEVICE)
    for _ in range(2):
        torch.autograd.grad(sigmoid_focal_loss_from_labels(x, labels), x)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.autograd.grad(sigmoid_focal_loss_from_labels(x, labels), x)
    assert torch.cuda.max_memory_allocated() - before < x.numel() * 4 + 1e6


def test_second_derivative_is_refused():
    x = torch.randn(1, 3, 3, device=DEVICE, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        sigmoid_focal_loss_from_labels(x, torch.tensor([[0, 1, -1]], device=DEVICE)), x, create_graph=True
    )
    with pytest.raises(InputError, match="no second derivative"):
        gradient.sum().backward()
