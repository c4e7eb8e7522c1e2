"""Box coders against OpenPCDet's recorded numbers, against their inverse, and against what the formula says for one
box.
"""

import math

import numpy as np
import pytest
import torch
from golden_data import cases

from pcdet_focal.errors import InputError
from pcdet_focal.geometry.box_coders import (
    PointResidualCoder,
    PreviousResidualDecoder,
    PreviousResidualRoIDecoder,
    ResidualCoder,
)

RECORDED = cases("03_geometry/box_coders.npz")
CLOSE = dict(rtol=1e-5, atol=1e-5)
MEAN_SIZE = [[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]]
RESIDUAL = {
    "residual": (dict(), 7),
    "residual_sincos": (dict(encode_angle_by_sincos=True), 8),
    "residual_code9": (dict(code_size=9), 9),
    "residual_sincos_code9": (dict(code_size=9, encode_angle_by_sincos=True), 10),
}
POINT = {"point_mean": dict(use_mean_size=True, mean_size=MEAN_SIZE), "point_nomean": dict(use_mean_size=False)}


def tensors(case, *names, dtype=None):
    return [
        torch.from_numpy(RECORDED[case][name]).to(dtype) if dtype else torch.from_numpy(RECORDED[case][name])
        for name in names
    ]


def some_boxes(n, columns=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(n, columns, generator=generator, dtype=torch.float64) * 6 - 3
    boxes[:, 3:6] = boxes[:, 3:6].abs() + 0.2
    return boxes


@pytest.mark.parametrize("case", RESIDUAL)
def test_residual_coder_recorded(case):
    arguments, code_size = RESIDUAL[case]
    coder = ResidualCoder(**arguments)
    assert coder.code_size == code_size
    boxes, anchors, codes, decoded, codes_bn, anchors_bn, decoded_bn = tensors(
        case, "boxes", "anchors", "codes", "decoded", "codes_bn", "anchors_bn", "decoded_bn"
    )
    before = boxes.clone(), anchors.clone()
    out = coder.encode_torch(boxes, anchors)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out, codes, **CLOSE)
    np.testing.assert_allclose(coder.decode_torch(codes, anchors), decoded, **CLOSE)
    np.testing.assert_allclose(coder.decode_torch(codes_bn, anchors_bn), decoded_bn, **CLOSE)
    assert torch.equal(boxes, before[0]) and torch.equal(anchors, before[1])


@pytest.mark.parametrize("coder", [PreviousResidualDecoder, PreviousResidualRoIDecoder])
def test_previous_decoders_recorded(coder):
    codes, anchors, decoded = tensors(coder.__name__, "codes", "anchors", "decoded")
    assert coder().code_size == 7
    np.testing.assert_allclose(coder.decode_torch(codes, anchors), decoded, **CLOSE)
    np.testing.assert_allclose(coder(code_size=9).decode_torch(codes[None], anchors[None])[0], decoded, **CLOSE)


@pytest.mark.parametrize("case", POINT)
def test_point_coder_recorded(case):
    coder = PointResidualCoder(**POINT[case])
    assert coder.code_size == 8
    boxes, points, classes, codes, decoded = tensors(case, "boxes", "points", "classes", "codes", "decoded")
    before = boxes.clone()
    np.testing.assert_allclose(coder.encode_torch(boxes, points, classes), codes, **CLOSE)
    np.testing.assert_allclose(coder.decode_torch(codes, points, classes), decoded, **CLOSE)
    assert torch.equal(boxes, before)


def test_residual_codes_of_one_box():
    anchor = torch.tensor([[10.0, 5, -1, 3, 4, 2, 0.5]], dtype=torch.float64)
    box = torch.tensor([[12.0, 4, 0, 6, 2, 1, 1.25]], dtype=torch.float64)
    expected = [2 / 5, -1 / 5, 1 / 2, math.log(2), math.log(0.5), math.log(0.5)]
    np.testing.assert_allclose(ResidualCoder().encode_torch(box, anchor), [expected + [0.75]], rtol=1e-15)
    turns = [math.cos(1.25) - math.cos(0.5), math.sin(1.25) - math.sin(0.5)]
    np.testing.assert_allclose(
        ResidualCoder(encode_angle_by_sincos=True).encode_torch(box, anchor), [expected + turns], rtol=1e-14
    )


@pytest.mark.parametrize("sincos", [False, True])
@pytest.mark.parametrize("columns", [7, 9])
def test_residual_round_trip_in_float64(sincos, columns):
    coder = ResidualCoder(code_size=columns, encode_angle_by_sincos=sincos)
    boxes, anchors = some_boxes(50, columns, 1), some_boxes(50, columns, 2)
    codes = coder.encode_torch(boxes, anchors)
    assert codes.dtype == torch.float64 and codes.shape[-1] == coder.code_size
    np.testing.assert_allclose(coder.decode_torch(codes, anchors), boxes, atol=1e-12)
    # one set of anchors serves a batch of codes
    np.testing.assert_allclose(coder.decode_torch(codes.repeat(3, 1, 1), anchors), boxes.repeat(3, 1, 1), atol=1e-12)


@pytest.mark.parametrize("arguments", POINT.values(), ids=POINT)
def test_point_round_trip_in_float64(arguments):
    coder = PointResidualCoder(**arguments)
    boxes, points = some_boxes(60, 9, 3), some_boxes(60, 7, 4)[:, :3]
    classes = torch.arange(60) % 3 + 1
    codes = coder.encode_torch(boxes, points, classes)
    assert codes.dtype == torch.float64 and codes.shape == (60, 10)
    np.testing.assert_allclose(coder.decode_torch(codes, points, classes), boxes, atol=1e-12)


def test_previous_decoders_of_one_code():
    anchor = torch.tensor([[10.0, 5, -1, 3, 4, 2, 0.5]], dtype=torch.float64)
    # w, l, h
    code = torch.tensor([[0.4, -0.2, 0.5, math.log(0.5), math.log(2), math.log(3), 0.25]], dtype=torch.float64)
    np.testing.assert_allclose(
        PreviousResidualDecoder.decode_torch(code, anchor), [[12, 4, 0, 6, 2, 6, 0.75]], atol=1e-14
    )
    np.testing.assert_allclose(
        PreviousResidualRoIDecoder.decode_torch(code, anchor), [[12, 4, 0, 6, 2, 6, 0.25]], atol=1e-14
    )


def test_sizes_of_nothing_give_finite_codes_and_stay_as_they_are():
    boxes, anchors = some_boxes(2), some_boxes(2, seed=5)
    boxes[0, 3:6] = 0
    anchors[1, 3:6] = -1
    before = boxes.clone(), anchors.clone()
    codes = ResidualCoder().encode_torch(boxes, anchors)
    assert codes.isfinite().all()
    np.testing.assert_allclose(codes[0, 3:6], torch.log(1e-5 / anchors[0, 3:6]), rtol=1e-12)
    assert PointResidualCoder(use_mean_size=False).encode_torch(boxes, anchors[:, :3]).isfinite().all()
    assert torch.equal(boxes, before[0]) and torch.equal(anchors, before[1])


def test_gradients():
    coder = ResidualCoder(code_size=9, encode_angle_by_sincos=True)
    boxes, anchors = some_boxes(4, 9, 6).requires_grad_(), some_boxes(4, 9, 7).requires_grad_()
    # leaves that need a gradient, which OpenPCDet refuses
    assert torch.autograd.gradcheck(coder.encode_torch, (boxes, anchors))
    codes = coder.encode_torch(boxes, anchors).detach().requires_grad_()
    assert torch.autograd.gradcheck(coder.decode_torch, (codes, anchors))
    point = PointResidualCoder(mean_size=MEAN_SIZE)
    assert torch.autograd.gradcheck(
        lambda b, p: point.encode_torch(b, p, torch.tensor([1, 2, 3, 1])), (boxes, anchors[:, :3])
    )


def test_anchors_with_fewer_columns_drop_the_rest():
    codes, anchors = some_boxes(3, 9), some_boxes(3)
    assert ResidualCoder(code_size=9).decode_torch(codes, anchors).shape == (3, 7)


def test_no_boxes():
    none, classes = torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64)
    assert ResidualCoder().encode_torch(none, none).shape == (0, 7)
    point = PointResidualCoder(mean_size=MEAN_SIZE)
    assert point.encode_torch(none, none[:, :3], classes).shape == (0, 8)
    assert point.decode_torch(torch.zeros(0, 8), none[:, :3], classes).shape == (0, 7)


@pytest.mark.parametrize("mean_size", [None, [[3.9, 1.6]], [[3.9, 1.6, 0.0]], [3.9, 1.6, 1.56]])
def test_point_coder_says_what_is_wrong_with_the_mean_size(mean_size):
    with pytest.raises(InputError, match="BOX_CODER_CONFIG.*mean_size"):
        PointResidualCoder(mean_size=mean_size)


def test_point_coder_needs_known_classes():
    coder = PointResidualCoder(mean_size=np.array(MEAN_SIZE))
    boxes = some_boxes(2)
    with pytest.raises(ValueError):
        coder.encode_torch(boxes, boxes[:, :3])
    with pytest.raises(IndexError):
        coder.encode_torch(boxes, boxes[:, :3], torch.tensor([1, 4]))
