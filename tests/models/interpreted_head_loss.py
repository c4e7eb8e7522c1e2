"""The whole loss of an anchor head on the Triton kernels, in Triton's interpreter: the same numbers, and nothing that
would wait for a device.

``tests/ops/test_triton_losses.py`` runs this file with TRITON_INTERPRET=1 and PCDET_FOCAL_BACKEND=cuda, which sends CPU
tensors to the kernels. What would make the host wait for a GPU cannot be seen on the CPU as a wait, but as the
operation that it is: a number or a count that is read, a list of unknown length, a tensor that is made from numbers of
the host, a copy to another device.
"""

import pytest
import torch
from head_cases import small_head, with_predictions
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from triton.runtime import interpreter

from pcdet_focal.models.dense_heads import anchor_head_template
from pcdet_focal.ops.focal_loss import backend_of

assert backend_of(torch.zeros(1)) == "cuda"
WAITS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::nonzero",
    "aten::masked_select",
    "aten::unique_consecutive",
    "aten::_unique2",
    "aten::repeat_interleave",
    "aten::lift_fresh",
    "aten::is_nonzero",
    "aten::equal",
}


class NoWaiting(TorchDispatchMode):
    """Refuses operations that a CUDA device and the host would have to wait for each other in."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        masked = name == "aten::index" and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        moved = name == "aten::_to_copy" and (kwargs or {}).get("device") is not None
        assert name not in WAITS and not masked and not moved, f"{name} waits for the device"
        self.seen.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def kernels_are_opaque(monkeypatch):
    """The interpreter itself reads numbers; a launch on a GPU does not."""
    launch = interpreter.GridExecutor.__call__

    def without_mode(self, *args, **kwargs):
        with _disable_current_modes():
            return launch(self, *args, **kwargs)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", without_mode)


def step(head):
    loss, logged = head.get_loss()
    return (
        loss,
        logged,
        torch.autograd.grad(loss, [head.forward_ret_dict[key] for key in ("cls_preds", "box_preds", "dir_cls_preds")]),
    )


CONFIGS = [
    {},
    {"NORMALIZER": "batch"},
    {"NORMALIZER": "ema"},
    {"NORMALIZER": "none"},
    {"REG_LOSS": "WeightedL1Loss"},
    {"CLS_LOSS": {"NAME": "FocalLoss", "ALPHA": [0.2, 0.3, 0.4], "GAMMA": [2.0, 1.0, 0.5]}},
    {"CLS_LOSS": "QualityFocalLoss"},
    {"CLS_LOSS": "VarifocalLoss", "NORMALIZER": "batch"},
]


@pytest.mark.filterwarnings("ignore:pcdet_focal.ops.rotated_iou has no cuda backend")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_no_step_waits_and_the_numbers_are_the_references(config, monkeypatch):
    head, other = small_head(**config), small_head(**config)
    with_predictions(head), with_predictions(other)
    # as with labels on a CUDA device
    monkeypatch.setattr(anchor_head_template, "_can_list_positives", lambda labels: False)
    assert head._has_box_kernel()
    step(head)  # what is made once, such as numbers for each class on the device
    other.load_state_dict(head.state_dict())
    with NoWaiting() as mode:
        loss, logged, gradients = step(head)
    assert len(mode.seen) > 10
    monkeypatch.undo()
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", "reference")
    expected, parts, expected_gradients = step(other)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for key, value in parts.items():
        torch.testing.assert_close(logged[key], value, rtol=1e-6, atol=0)
    for got, wanted in zip(gradients, expected_gradients):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x * torch.tensor([1.0, 2.0]),
        lambda x: x if x.sum() > 0 else -x,
    ],
)
def test_the_watchman_sees(waiting):
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        waiting(torch.ones(2))
