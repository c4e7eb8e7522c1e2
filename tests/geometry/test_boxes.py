"""Boxes in the LiDAR frame against OpenPCDet's recorded numbers, closed forms and shapely."""

import numpy as np
import pytest
import torch
from golden_data import cases

from pcdet_focal.geometry.boxes import (
    bbox3d_overlaps_diou,
    boxes3d_lidar_to_aligned_bev_boxes,
    boxes3d_nearest_bev_iou,
    boxes_iou_normal,
    boxes_to_corners_3d,
    center_to_corner2d,
    enlarge_box3d,
    mask_boxes_outside_range_numpy,
    pairwise_iou,
    remove_points_in_boxes3d,
)

RECORDED = cases("03_geometry/box_utils.npz")
CLOSE = dict(rtol=1e-5, atol=1e-5)


def some_boxes(n, seed=0, dtype=np.float64, columns=7):
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [
            rng.uniform(-40, 40, (n, 2)),
            rng.uniform(-2, 1, (n, 1)),
            rng.uniform(0.4, 6, (n, 3)),
            rng.uniform(-7, 7, (n, columns - 6)),
        ],
        axis=1,
    ).astype(dtype)


# name -> the arguments after which its recorded case is named, and the name of the recorded result
RECORDED_CALLS = [
    ("boxes_to_corners_3d", boxes_to_corners_3d, ["boxes"], "corners"),
    ("boxes3d_nearest_bev_iou", boxes3d_nearest_bev_iou, ["a", "b"], "iou"),
    ("aligned_bev_boxes", boxes3d_lidar_to_aligned_bev_boxes, ["boxes"], "out"),
    ("boxes_iou_normal", boxes_iou_normal, ["a", "b"], "iou"),
    ("pairwise_iou", pairwise_iou, ["a", "b"], "iou"),
    ("bbox3d_overlaps_diou", bbox3d_overlaps_diou, ["pred", "gt"], "diou"),
    ("enlarge_box3d", lambda boxes: enlarge_box3d(boxes, (0.2, 0.4, 0.6)), ["boxes"], "out"),
]


@pytest.mark.parametrize("name, function, arguments, result", RECORDED_CALLS, ids=[call[0] for call in RECORDED_CALLS])
def test_recorded(name, function, arguments, result):
    given = [RECORDED[name][argument] for argument in arguments]
    before = [array.copy() for array in given]
    out = function(*given)
    assert isinstance(out, np.ndarray) and out.dtype == np.float32
    np.testing.assert_allclose(out, RECORDED[name][result], **CLOSE)
    by_torch = function(*map(torch.from_numpy, given))
    assert by_torch.dtype == torch.float32
    np.testing.assert_array_equal(by_torch.numpy(), out)
    in_float64 = function(*(array.astype(np.float64) for array in given))
    assert in_float64.dtype == np.float64
    np.testing.assert_allclose(in_float64, RECORDED[name][result], rtol=1e-4, atol=1e-4)
    for array, original in zip(given, before):
        np.testing.assert_array_equal(array, original)


def test_aligned_bev_boxes_recorded_at_the_switch():
    case = RECORDED["aligned_bev_boxes_edges"]
    out = boxes3d_lidar_to_aligned_bev_boxes(case["boxes"])
    eighths = np.round(case["boxes"][:, 6] / (np.pi / 8)).astype(int)
    on_switch = eighths % 4 == 2  # odd multiples of 45 degrees may go either way
    assert 0 < on_switch.sum() < len(on_switch) / 2
    np.testing.assert_allclose(out[~on_switch], case["out"][~on_switch], **CLOSE)
    other_way = case["boxes"][:, [0, 1, 0, 1]] + case["boxes"][:, [4, 3, 4, 3]] / 2 * [-1, -1, 1, 1]
    as_is = case["boxes"][:, [0, 1, 0, 1]] + case["boxes"][:, [3, 4, 3, 4]] / 2 * [-1, -1, 1, 1]
    gap = np.minimum(np.abs(out - other_way).max(axis=1), np.abs(out - as_is).max(axis=1))
    assert gap.max() < 1e-5


@pytest.mark.parametrize(
    "case", ["mask_outside_corners1", "mask_outside_corners4", "mask_outside_corners8", "mask_outside_center"]
)
@pytest.mark.parametrize("as_list", [False, True])
def test_mask_boxes_recorded(case, as_list):
    recorded = RECORDED[case]
    by_centre = case.endswith("center")
    corners = 1 if by_centre else int(case[-1])
    limits = recorded["range"].tolist() if as_list else recorded["range"]
    mask = mask_boxes_outside_range_numpy(
        recorded["boxes"], limits, min_num_corners=corners, use_center_to_filter=by_centre
    )
    np.testing.assert_array_equal(mask, recorded["mask"])
    with_velocity = np.concatenate([recorded["boxes"], np.full((len(mask), 2), 1e6, np.float32)], axis=1)
    np.testing.assert_array_equal(
        mask_boxes_outside_range_numpy(with_velocity, limits, corners, by_centre), recorded["mask"]
    )


def test_remove_points_recorded():
    case = RECORDED["remove_points_in_boxes3d"]
    before = case["points"].copy()
    np.testing.assert_array_equal(remove_points_in_boxes3d(case["points"], case["boxes"]), case["out"])
    np.testing.assert_array_equal(
        remove_points_in_boxes3d(case["points"], torch.from_numpy(case["boxes"])), case["out"]
    )
    by_torch = remove_points_in_boxes3d(torch.from_numpy(case["points"]), torch.from_numpy(case["boxes"]))
    np.testing.assert_array_equal(by_torch.numpy(), case["out"])
    np.testing.assert_array_equal(case["points"], before)


def test_corners_closed_form():
    corners = boxes_to_corners_3d(np.array([[1.0, 2, 3, 4, 2, 1, np.pi / 2]]))[0]
    # turned by 90 degrees the front (+x) looks along +y and the left side (+y) along -x
    bottom = np.array([[0.0, 4], [2, 4], [2, 0], [0, 0]])
    np.testing.assert_allclose(corners[:4, :2], bottom, atol=1e-12)
    np.testing.assert_allclose(corners[4:, :2], bottom, atol=1e-12)
    np.testing.assert_allclose(corners[:, 2], [2.5] * 4 + [3.5] * 4)


def test_corners_gradient_and_leading_dimensions():
    boxes = torch.from_numpy(some_boxes(6)).reshape(2, 3, 7).requires_grad_()
    assert torch.autograd.gradcheck(boxes_to_corners_3d, (boxes,))
    np.testing.assert_array_equal(
        boxes_to_corners_3d(boxes)[1].detach().numpy(), boxes_to_corners_3d(boxes.detach().numpy()[1])
    )


def test_mask_boxes_borders_belong():
    limits = [0, -40, -3, 70.4, 40, 1]
    boxes = np.zeros((4, 7), dtype=np.float32)
    boxes[:, 0:3] = [[0, -40, -3], [70.4, 40, 1], [70.5, 0, 0], [10, 0, 1.1]]
    assert mask_boxes_outside_range_numpy(boxes, limits).tolist() == [True, True, False, False]
    boxes[:, 3:6] = 2
    assert mask_boxes_outside_range_numpy(boxes, limits, 1, use_center_to_filter=False).tolist() == [
        True,
        True,
        True,
        True,
    ]
    one_corner = np.array([[71.0, 41, 0, 2, 2, 2, 0]])  # (70, 40) alone is in the range
    assert mask_boxes_outside_range_numpy(one_corner, limits, use_center_to_filter=False).tolist() == [True]
    assert mask_boxes_outside_range_numpy(one_corner, limits, 3, use_center_to_filter=False).tolist() == [False]
    assert mask_boxes_outside_range_numpy(boxes, limits, 5, use_center_to_filter=False).tolist() == [
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_remove_points_is_the_cpu_rule(dtype):
    boxes = some_boxes(12, seed=5, dtype=dtype, columns=9)
    rng = np.random.default_rng(6)
    around = boxes[rng.integers(0, 12, 3000)]
    points = np.concatenate(
        [around[:, 0:3] + rng.uniform(-2, 2, (3000, 3)), rng.uniform(0, 1, (3000, 1))], axis=1
    ).astype(dtype)
    inside, near_face = np.zeros(3000, dtype=bool), np.zeros(3000, dtype=bool)
    for box in boxes.astype(np.float64):
        turned = (points[:, 0] - box[0] + 1j * (points[:, 1] - box[1])) * np.exp(-1j * box[6])
        sides = np.abs(np.stack([turned.real, turned.imag, points[:, 2] - box[2]]))
        beyond = sides - box[3:6, None] / 2 - np.array([[0.01], [0.01], [0]])
        inside |= (beyond < 0).all(axis=0)
        near_face |= (np.abs(beyond) < 1e-4).any(axis=0)
    out = remove_points_in_boxes3d(points[~near_face], boxes)
    assert out.dtype == dtype and inside.sum() > 500
    np.testing.assert_array_equal(out, points[~near_face & ~inside])


def test_remove_points_margin():
    box = np.array([[0.0, 0, 0, 2, 2, 2, 0]])
    points = np.array([[1.009, 0, 0], [1.011, 0, 0], [0, 1.009, 0], [0, 1.011, 0], [0, 0, 1.0], [0, 0, 1.001]])
    assert remove_points_in_boxes3d(points, box).tolist() == points[[1, 3, 5]].tolist()


def test_enlarge_takes_arrays_and_keeps_further_columns():
    boxes = some_boxes(3, columns=9)
    out = enlarge_box3d(boxes, extra_width=np.array([0.5, 0.25, 0.125], dtype=np.float32))
    np.testing.assert_array_equal(out[:, 3:6] - boxes[:, 3:6] > 0.1, True)
    np.testing.assert_allclose(out[:, 3:6], boxes[:, 3:6] + [0.5, 0.25, 0.125], rtol=1e-15)
    np.testing.assert_array_equal(out[:, [0, 1, 2, 6, 7, 8]], boxes[:, [0, 1, 2, 6, 7, 8]])


def test_iou_against_shapely():
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(7)
    a, b = (
        np.concatenate([low, low + rng.uniform(0.1, 3, low.shape)], axis=1)
        for low in (rng.uniform(0, 4, (9, 2)), rng.uniform(0, 4, (7, 2)))
    )
    expected = [
        [(lambda p, q: p.intersection(q).area / p.union(q).area)(shapely.box(*p), shapely.box(*q)) for q in b]
        for p in a
    ]
    np.testing.assert_allclose(boxes_iou_normal(a, b), expected, atol=1e-12)
    np.testing.assert_allclose(pairwise_iou(a, b), expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"\(9, 3\)"):
        boxes_iou_normal(a[:, :3], b)


def test_nearest_bev_iou_of_axis_aligned_boxes_is_their_iou():
    a, b = some_boxes(8, 8), some_boxes(9, 9)
    a[:, 0:2] /= 20
    b[:, 0:2] /= 20
    a[:, 6] = np.pi * np.arange(8) + 0.3  # within 45 degrees of the axis: the heading does not matter
    b[:, 6] = np.pi / 2 + np.pi * np.arange(9) - 0.7  # nearest to the y axis: dx and dy change places
    rectangles_a = a[:, [0, 1, 0, 1]] + a[:, [3, 4, 3, 4]] / 2 * [-1, -1, 1, 1]
    rectangles_b = b[:, [0, 1, 0, 1]] + b[:, [4, 3, 4, 3]] / 2 * [-1, -1, 1, 1]
    out = boxes3d_nearest_bev_iou(a, b)
    assert out.max() > 0.2
    np.testing.assert_allclose(out, boxes_iou_normal(rectangles_a, rectangles_b), atol=1e-12)


def test_iou_of_rectangles_without_an_area_is_zero():
    points = np.array([[1.0, 1, 1, 1], [2, 2, 2, 2]])
    np.testing.assert_array_equal(boxes_iou_normal(points, points), np.zeros((2, 2)))
    small = np.array([[0.0, 0, 1e-4, 1e-4]])  # a union of 1e-8 counts as 1e-6 here, not in pairwise_iou
    np.testing.assert_allclose(boxes_iou_normal(small, small), [[0.01]])
    np.testing.assert_allclose(pairwise_iou(small, small), [[1.0]])


def test_pairwise_iou_gradient_is_finite_without_an_area():
    boxes = torch.tensor([[0.0, 0, 0, 0], [1, 1, 3, 3]], requires_grad=True)
    out = pairwise_iou(boxes, boxes)
    assert out.tolist() == [[0, 0], [0, 1]]
    out.sum().backward()
    assert boxes.grad.isfinite().all()


def test_diou_closed_form():
    box = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0.4]], dtype=torch.float64)
    moved = box + torch.tensor([1.0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)
    assert bbox3d_overlaps_diou(box, box).item() == 1
    # half of each is shared: IoU 1/3; the centres are 1 apart, the enclosing box is 3 x 2 x 2
    assert bbox3d_overlaps_diou(box, moved).item() == pytest.approx(1 / 3 - 1 / 17, abs=1e-15)
    far = box + torch.tensor([1e6, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    assert bbox3d_overlaps_diou(box, far).item() == pytest.approx(-1, abs=1e-5)
    with pytest.raises(ValueError, match="1 and 2"):
        bbox3d_overlaps_diou(box, box.repeat(2, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_diou_of_boxes_without_volume_is_finite(dtype):
    boxes = torch.zeros(2, 7, dtype=dtype, requires_grad=True)
    other = torch.zeros(2, 7, dtype=dtype)
    other[1, 0] = 1.0
    out = bbox3d_overlaps_diou(boxes, other)
    assert out.tolist() == [0, -1]
    out.sum().backward()
    assert boxes.grad.isfinite().all()


def test_diou_gradient():
    a, b = (torch.from_numpy(some_boxes(5, seed) / 8) for seed in (10, 11))
    a[:, 3:6] += 3
    b[:, 3:6] += 3
    assert torch.autograd.gradcheck(bbox3d_overlaps_diou, (a.requires_grad_(), b.requires_grad_()))


def test_center_to_corner2d():
    assert center_to_corner2d(np.array([[1.0, 2]]), np.array([[2.0, 4]])).tolist() == [[[0, 0], [0, 4], [2, 4], [2, 0]]]


@pytest.mark.parametrize(
    "call, shape",
    [
        (lambda none, some: boxes_to_corners_3d(none), (0, 8, 3)),
        (lambda none, some: boxes3d_nearest_bev_iou(none, some), (0, 3)),
        (lambda none, some: boxes3d_nearest_bev_iou(some, none), (3, 0)),
        (lambda none, some: pairwise_iou(some[:, :4], none[:, :4]), (3, 0)),
        (lambda none, some: bbox3d_overlaps_diou(none, none), (0,)),
        (lambda none, some: enlarge_box3d(none, (1, 1, 1)), (0, 7)),
        (lambda none, some: mask_boxes_outside_range_numpy(none, [0] * 6, 1, False), (0,)),
        (lambda none, some: remove_points_in_boxes3d(none[:, :4], some), (0, 4)),
        (lambda none, some: remove_points_in_boxes3d(some[:, :4], none), (3, 4)),
    ],
)
def test_no_boxes(call, shape):
    assert call(np.zeros((0, 7)), some_boxes(3)).shape == shape
