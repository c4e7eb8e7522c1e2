"""Values and gradients that OpenPCDet's own loss_utils computed, every case with finite numbers; tolerances of the
recording.
"""

import json

import numpy as np
import pytest
import torch
from golden_data import cases, record

from pcdet_focal.errors import InputError
from pcdet_focal.losses import sigmoid_focal_loss
from pcdet_focal.utils import loss_utils

TORCHVISION = record("11_loss_zoo/torchvision_sigmoid_focal.npz")


def tensor(array, grad=False):
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def table(name, keep=lambda case: True):
    return [
        pytest.param(arrays, id=case)
        for case, arrays in cases(f"01_loss_utils/{name}.npz").items()
        if "output" in arrays and keep(case)
    ]


def check(loss, leaf, case, rtol, atol, suffix=""):
    """The loss and, where recorded, the gradient of its sum; what was not finite there must be finite here. Recorded
    shape (1,) is a scalar here.
    """
    output = case["output" + suffix]
    assert loss.dtype == (torch.float64 if case["output"].dtype == np.float64 else torch.float32)
    assert torch.isfinite(loss).all()
    got = loss.detach().numpy().reshape(output.shape) if output.size == 1 else loss.detach().numpy()
    finite = np.isfinite(output)
    np.testing.assert_allclose(got[finite], output[finite], rtol=rtol, atol=atol)
    assert got.shape == output.shape
    loss.sum().backward()
    assert torch.isfinite(leaf.grad).all()
    if "grad" + suffix in case:
        grad = case["grad" + suffix]
        finite = np.isfinite(grad)
        np.testing.assert_allclose(leaf.grad.numpy()[finite], grad[finite], rtol=rtol, atol=atol)


@pytest.mark.parametrize("case", table("SigmoidFocalClassificationLoss"))
def test_sigmoid_focal(case):
    x, target = tensor(case["input"], True), tensor(case["target"])
    if "gamma" not in case:
        check(
            loss_utils.SigmoidFocalClassificationLoss.sigmoid_cross_entropy_with_logits(x, target), x, case, 1e-5, 1e-6
        )
        return
    loss_func = loss_utils.SigmoidFocalClassificationLoss(gamma=float(case["gamma"]), alpha=float(case["alpha"]))
    double = case["output"].dtype == np.float64
    rtol, atol = (1e-10, 1e-13) if double else (1e-4, 1e-6)
    for suffix in ("",) if double else ("", "64"):
        x.grad = None
        check(loss_func(x, target, tensor(case["weights"])), x, case, rtol, atol, suffix)


@pytest.mark.parametrize(
    "case", table("SigmoidFocalClassificationLoss", lambda case: not case.startswith(("static", "float64")))
)
def test_sigmoid_focal_in_float64_from_the_same_float32_numbers(case):
    x = tensor(case["input"], True)
    loss_func = loss_utils.SigmoidFocalClassificationLoss(gamma=float(case["gamma"]), alpha=float(case["alpha"]))
    loss = loss_func(x.double(), tensor(case["target"]).double(), tensor(case["weights"]).double())
    np.testing.assert_allclose(loss.detach().numpy(), case["output64"], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["WeightedSmoothL1Loss", "WeightedL1Loss"])
def test_box_code_losses(name):
    checked = 0
    for label, case in cases(f"01_loss_utils/{name}.npz").items():
        if "output" not in case:
            continue
        checked += 1
        loss_class = getattr(loss_utils, name)
        if label.startswith("static"):
            diff = tensor(case["diff"], True)
            check(loss_class.smooth_l1_loss(diff, beta=float(label[-1])), diff, case, 1e-5, 1e-7)
            continue
        arguments = {"beta": float(case["beta"])} if "beta" in case else {}
        x = tensor(case["input"], True)
        weights = tensor(case["weights"]) if "weights" in case else None
        check(
            loss_class(code_weights=case["code_weights"].tolist(), **arguments)(x, tensor(case["target"]), weights),
            x,
            case,
            1e-5,
            1e-7,
        )
    assert checked >= 6


@pytest.mark.parametrize("case", table("WeightedCrossEntropyLoss"))
def test_cross_entropy(case):
    x = tensor(case["input"], True)
    check(
        loss_utils.WeightedCrossEntropyLoss()(x, tensor(case["target"]), tensor(case["weights"])), x, case, 1e-5, 1e-7
    )


@pytest.mark.parametrize("case", table("L1Loss"))
def test_l1(case):
    x = tensor(case["input"], True)
    check(loss_utils.L1Loss()(x, tensor(case["target"])), x, case, 1e-6, 0)


@pytest.mark.parametrize("case", table("get_corner_loss_lidar"))
def test_corner(case):
    x = tensor(case["pred"], True)
    check(loss_utils.get_corner_loss_lidar(x, tensor(case["gt"])), x, case, 1e-4, 1e-5)


@pytest.mark.parametrize("case", table("compute_fg_mask"))
def test_foreground_mask(case):
    boxes = tensor(case["gt_boxes2d_in"])
    mask = loss_utils.compute_fg_mask(boxes, tuple(case["shape"].tolist()), int(case["downsample_factor"]))
    np.testing.assert_array_equal(mask.numpy(), case["output"])
    np.testing.assert_array_equal(boxes.numpy(), case["gt_boxes2d_in"])


@pytest.mark.parametrize("name", ["neg_loss_cornernet", "FocalLossCenterNet", "neg_loss_sparse", "FocalLossSparse"])
def test_heat_map_focal(name):
    recorded = cases(f"01_loss_utils/{name}.npz")
    assert recorded
    for case in recorded.values():
        loss_func = getattr(loss_utils, name)() if name.startswith("Focal") else getattr(loss_utils, name)
        mask = {"mask": tensor(case["mask"])} if "mask" in case else {}
        x = tensor(case["pred"], True)
        check(loss_func(x, tensor(case["gt"]), **mask), x, case, 1e-5, 1e-6)


@pytest.mark.parametrize("case", table("RegLossCenterNet", lambda case: not case.startswith("nan_target")))
def test_center_regression(case):
    x = tensor(case["input"], True)
    ind = tensor(case["ind"]) if "ind" in case else None
    check(loss_utils.RegLossCenterNet()(x, tensor(case["mask"]), ind, tensor(case["target"])), x, case, 1e-5, 1e-6)


@pytest.mark.parametrize("case", table("RegLossCenterNet", lambda case: case.startswith("nan_target")))
def test_center_regression_ignores_unknown_targets(case):
    x, target = tensor(case["input"], True), tensor(case["target"])
    check(loss_utils.RegLossCenterNet()(x, tensor(case["mask"]), tensor(case["ind"]), target), x, case, 1e-5, 1e-6)
    rows = torch.stack([x[b].flatten(1)[:, i] for b, i in enumerate(tensor(case["ind"]))]).transpose(1, 2)  # (B, M, D)
    expected = [
        sum(
            abs(rows[b, m, d].item() - target[b, m, d].item())
            for b, m in np.argwhere(case["mask"])
            if not torch.isnan(target[b, m, d])
        )
        for d in range(target.shape[2])
    ]
    loss = loss_utils.RegLossCenterNet()(x, tensor(case["mask"]), tensor(case["ind"]), target)
    np.testing.assert_allclose(loss.detach(), np.array(expected) / case["mask"].sum(), rtol=1e-5)
    assert np.isnan(case["output"]).any()


@pytest.mark.parametrize("case", table("RegLossSparse"))
def test_sparse_regression(case):
    x = tensor(case["input"], True)
    loss_func = loss_utils.RegLossSparse()
    check(
        loss_func(x, tensor(case["mask"]), tensor(case["ind"]), tensor(case["target"]), tensor(case["batch_index"])),
        x,
        case,
        1e-5,
        1e-6,
    )


@pytest.mark.parametrize("case", table("GaussianFocalLoss"))
def test_gaussian_focal(case):
    x = tensor(case["pred"], True)
    loss_func = loss_utils.GaussianFocalLoss(alpha=float(case["alpha"]), gamma=float(case["gamma"]))
    check(loss_func(x, tensor(case["target"])), x, case, 1e-5, 1e-7)


@pytest.mark.parametrize("case", table("IouLossSparse"))
def test_sparse_iou(case):
    x = tensor(case["iou_pred"], True)
    boxes = [tensor(case[name]) for name in ("box_gt0", "box_gt1") if name in case]
    loss = loss_utils.IouLossSparse()(
        x, tensor(case["mask"]), tensor(case["ind"]), tensor(case["box_pred"]), boxes, tensor(case["batch_index"])
    )
    assert loss.dim() == 0
    check(loss, x, case, 1e-3, 2e-3)  # the recording widens every box by 1e-2 m


@pytest.mark.parametrize("case", table("IouRegLossSparse"))
def test_sparse_distance_iou(case):
    if "pred" in case:
        x = tensor(case["pred"], True)
        check(loss_utils.IouRegLossSparse().bbox3d_iou_func(x, tensor(case["gt"])), x, case, 1e-4, 1e-5)
        return
    x = tensor(case["box_pred"], True)
    boxes = [tensor(case[name]) for name in ("box_gt0", "box_gt1") if name in case]
    loss = loss_utils.IouRegLossSparse()(
        x, tensor(case["mask"]), tensor(case["ind"]), boxes, tensor(case["batch_index"])
    )
    assert loss.dim() == 0
    check(loss, x, case, 1e-4, 1e-5)


@pytest.mark.parametrize("case", table("calculate_iou_loss_centerhead"))
def test_center_iou(case):
    x = tensor(case["iou_preds"], True)
    rest = [tensor(case[name]) for name in ("batch_box_preds", "mask", "ind", "gt_boxes")]
    loss = loss_utils.calculate_iou_loss_centerhead(x, *rest)
    assert loss.dim() == 0
    check(loss, x, case, 1e-3, 2e-3)  # the recording widens every box by 1e-2 m


@pytest.mark.parametrize("case", table("calculate_iou_reg_loss_centerhead"))
def test_center_distance_iou(case):
    x = tensor(case["batch_box_preds"], True)
    loss = loss_utils.calculate_iou_reg_loss_centerhead(
        x, *[tensor(case[name]) for name in ("mask", "ind", "gt_boxes")]
    )
    assert loss.dim() == 0
    check(loss, x, case, 1e-4, 1e-5)


def torchvision_calls():
    if not TORCHVISION.exists():
        return []
    with np.load(TORCHVISION) as data:
        return [pytest.param(record, id=record["case"]) for record in json.loads(data["index"].item())]


@pytest.fixture(scope="module")
def data():
    with np.load(TORCHVISION) as data:
        return {key: data[key] for key in data.files if key != "index"}


@pytest.mark.parametrize("record", torchvision_calls())
def test_function_has_torchvisions_arguments_and_results(record, data):
    x, targets = tensor(data[record["args"]["inputs"]["array"]], True), tensor(data[record["args"]["targets"]["array"]])
    if "raises" in record:
        with pytest.raises(InputError):
            sigmoid_focal_loss(x, targets, **record["kwargs"])
        return
    loss = sigmoid_focal_loss(x, targets, **record["kwargs"])
    output, tolerance = data[record["out"]["out"]], record["tol"]
    assert loss.shape == output.shape
    np.testing.assert_allclose(loss.detach().numpy(), output, rtol=tolerance["rtol"], atol=tolerance["atol"])
    if record.get("grad"):
        grad = data[record["grad"]]
        loss.sum().backward()
        finite = np.isfinite(grad)
        np.testing.assert_allclose(
            x.grad.numpy()[finite],
            grad[finite],
            rtol=tolerance["rtol"],
            atol=tolerance.get("atol_grad", tolerance["atol"]),
        )
        if np.isfinite(output).all() and torch.isfinite(x).all():
            assert torch.isfinite(x.grad).all()
