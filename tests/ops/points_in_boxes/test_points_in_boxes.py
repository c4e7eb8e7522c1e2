"""Points in boxes against recorded numbers, counts on real frames, and points placed by hand around the faces."""

import json
import math

import numpy as np
import pytest
import torch
from golden_data import GOLDEN, KITTI_SAMPLE, cases, needs_golden, needs_kitti_sample
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_triton import BACKENDS, INTERPRETED

from pcdet_focal.errors import InputError
from pcdet_focal.ops.points_in_boxes import count_points_in_boxes, points_in_boxes_index, points_in_boxes_mask
from pcdet_focal.ops.roiaware_pool3d.roiaware_pool3d_utils import points_in_boxes_cpu, points_in_boxes_gpu


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", request.param)
    return request.param


def test_recorded_mask(backend):
    c = cases("03_geometry/box_utils.npz")["points_in_boxes_cpu"]
    mask = points_in_boxes_mask(c["points"], c["boxes"])
    assert mask.dtype == np.int32 and mask.sum() > 200
    np.testing.assert_array_equal(mask, c["out"])
    np.testing.assert_array_equal(
        points_in_boxes_cpu(torch.from_numpy(c["points"]), torch.from_numpy(c["boxes"])).numpy(), c["out"]
    )
    np.testing.assert_array_equal(count_points_in_boxes(c["points"], c["boxes"]), c["out"].sum(axis=1))
    index = points_in_boxes_index(c["points"], c["boxes"], margin=1e-2)
    np.testing.assert_array_equal(index, np.where(c["out"].any(axis=0), c["out"].argmax(axis=0), -1))


@needs_golden
@needs_kitti_sample
@pytest.mark.parametrize("frame", ["000007", "000010", "000142"])
def test_counts_on_a_real_scan(frame, backend):
    """What OpenPCDet stored for each object when it made its ground-truth database of this frame."""
    database = json.loads((GOLDEN / "10_infos" / "dbinfos.json").read_text())["dbinfos"]
    objects = [entry for entries in database.values() for entry in entries if entry["image_idx"] == frame]
    assert objects
    points = np.fromfile(KITTI_SAMPLE / "training" / "velodyne" / f"{frame}.bin", dtype=np.float32).reshape(-1, 4)
    boxes = np.array([entry["box3d_lidar"] for entry in objects])
    expected = [entry["num_points_in_gt"] for entry in objects]
    np.testing.assert_allclose(count_points_in_boxes(points.astype(np.float64), boxes), expected, atol=2)
    mask = points_in_boxes_mask(points, boxes.astype(np.float32))
    first = [points[m > 0][0, :3] - b[:3] for m, b, n in zip(mask, boxes, expected) if n]
    np.testing.assert_allclose(
        first, [entry["first_points"][0][:3] for entry, n in zip(objects, expected) if n], atol=1e-4
    )


def test_faces_and_margins(backend):
    box = torch.tensor([[10.0, -5.0, 1.0, 4.0, 2.0, 1.5, 0.0]])
    outside = 2.005  # half a length of 2 and 5 mm
    points = torch.tensor(
        [
            [10, -5, 1],
            [10 + outside, -5, 1],
            [10 - outside, -5, 1],
            [10, -5 + 1.005, 1],
            [10, -5 - 1.005, 1],
            [10 + 2.011, -5, 1],
            [10, -5 + 1.011, 1],
            [10, -5, 1.75],
            [10, -5, 0.25],
            [10, -5, 1.7501],
            [10, -5, 0.2499],
        ]
    )
    assert points_in_boxes_mask(points, box)[0].tolist() == [1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0]
    assert points_in_boxes_mask(points, box, margin=1e-5)[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0]
    assert points_in_boxes_index(points, box).tolist() == [0, -1, -1, -1, -1, -1, -1, 0, 0, -1, -1]
    assert points_in_boxes_index(points, box, margin=1e-2).tolist() == [0, 0, 0, 0, 0, -1, -1, 0, 0, -1, -1]
    assert count_points_in_boxes(points, box).tolist() == [7] and count_points_in_boxes(
        points, box, margin=0.5
    ).tolist() == [9]


@pytest.mark.parametrize("heading", [0.0, 0.6, math.pi / 2, -2.5, 31.0])
def test_heading_turns_anticlockwise(heading, backend):
    cos, sin = math.cos(heading), math.sin(heading)
    box = np.array([[3, 4, 0, 6, 1, 2, heading]])
    ahead, left, diagonal = np.array([[2.9, 0], [0, 2.9], [2.9, 0.45]]) @ np.array([[cos, sin], [-sin, cos]]) + [3, 4]
    points = np.concatenate([[ahead, left, diagonal], np.zeros((3, 1))], axis=1)
    assert points_in_boxes_mask(points, box).tolist() == [[1, 0, 1]]


def test_first_box_wins_and_batches(backend):
    boxes = np.array(
        [[[0, 0, 0, 2, 2, 2, 0], [0.5, 0, 0, 2, 2, 2, 0], [0, 0, 0, 0, 0, 0, 0]], [[9, 9, 0, 2, 2, 2, 0]] * 3],
        dtype=np.float32,
    )
    points = np.array(
        [[[0.8, 0, 0], [1.2, 0, 0], [0, 0, 0], [5, 5, 5]], [[9, 9, 0], [8.5, 9.5, 0.5], [0, 0, 0], [9, 9, 3]]],
        dtype=np.float32,
    )
    expected = [[0, 1, 0, -1], [0, 0, -1, -1]]
    index = points_in_boxes_index(points, boxes)
    assert index.dtype == np.int32 and index.tolist() == expected
    index = points_in_boxes_gpu(torch.from_numpy(points), torch.from_numpy(boxes))
    assert index.dtype == torch.int32 and index.tolist() == expected
    # from the back; the padding row of zeros comes first then, and holds a point exactly at the origin, as in OpenPCDet
    assert points_in_boxes_index(points[0], boxes[0, ::-1]).tolist() == [1, 1, 0, -1]


def test_what_is_not_a_number_is_in_no_box(backend):
    box = np.array([[0, 0, 0, 2, 2, 2, 0.3]], dtype=np.float32)
    for column in range(3):
        for value in (np.nan, np.inf, -np.inf):
            point = np.zeros((1, 3), dtype=np.float32)
            point[0, column] = value
            assert count_points_in_boxes(point, box).tolist() == [0] and points_in_boxes_index(point, box).tolist() == [
                -1
            ]
    for column in range(7):
        bad = box.copy()
        bad[0, column] = np.nan
        assert count_points_in_boxes(np.zeros((1, 3), dtype=np.float32), bad).tolist() == [0]


def test_empty_shapes(backend):
    points, boxes = torch.zeros(5, 4), torch.zeros(3, 9)
    assert points_in_boxes_mask(points[:0], boxes).shape == (3, 0) and points_in_boxes_mask(
        points, boxes[:0]
    ).shape == (0, 5)
    assert points_in_boxes_index(points, boxes[:0]).tolist() == [-1] * 5 and points_in_boxes_index(
        points[:0], boxes
    ).shape == (0,)
    assert count_points_in_boxes(points[:0], boxes).tolist() == [0] * 3 and count_points_in_boxes(
        points, boxes[:0]
    ).shape == (0,)
    assert points_in_boxes_index(torch.zeros(0, 5, 3), torch.zeros(0, 2, 7)).shape == (0, 5)
    assert points_in_boxes_index(torch.zeros(2, 0, 3), torch.zeros(2, 2, 7)).shape == (2, 0)


def test_backends_agree_to_the_bit(monkeypatch):
    rng = np.random.default_rng(1)
    points = rng.normal(0, 6, (4000, 4)).astype(np.float32)
    boxes = np.concatenate(
        [rng.normal(0, 5, (40, 3)), rng.uniform(0, 6, (40, 3)), rng.uniform(-10, 10, (40, 1))], axis=1
    ).astype(np.float32)
    # on corners of the unturned boxes
    points[:400, :3] = boxes[np.arange(400) % 40, :3] + boxes[np.arange(400) % 40, 3:6] / 2
    boxes[:10, 6] = 0
    answers = {}
    for backend in ("reference", "cpu"):
        monkeypatch.setenv("PCDET_FOCAL_BACKEND", backend)
        answers[backend] = (
            points_in_boxes_mask(points, boxes),
            points_in_boxes_index(points, boxes),
            count_points_in_boxes(points, boxes),
        )
    assert answers["cpu"][2].sum() > 500
    for reference, fast in zip(answers["reference"], answers["cpu"]):
        np.testing.assert_array_equal(reference, fast)
        assert reference.dtype == fast.dtype


@pytest.mark.parametrize("count", [1, 255, 257, 300])
def test_batch_of_more_than_a_block(count, backend, monkeypatch):
    """Points of a sample must see that sample's boxes only, with further columns on both."""
    rng = np.random.default_rng(count)
    points, boxes = rng.normal(0, 4, (2, count, 5)).astype(np.float32), np.zeros((2, 6, 9), dtype=np.float32)
    boxes[..., :3], boxes[..., 3:6], boxes[..., 6] = (
        rng.normal(0, 3, (2, 6, 3)),
        rng.uniform(2, 8, (2, 6, 3)),
        rng.uniform(-4, 4, (2, 6)),
    )
    index = points_in_boxes_index(points, boxes)
    counts = [count_points_in_boxes(points[b], boxes[b]).tolist() for b in range(2)]
    mask = points_in_boxes_mask(points[0], boxes[0])
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", "reference")
    np.testing.assert_array_equal(index, [points_in_boxes_index(p, b) for p, b in zip(points, boxes)])
    assert counts == [points_in_boxes_mask(p, b).sum(1).tolist() for p, b in zip(points, boxes)]
    np.testing.assert_array_equal(mask, points_in_boxes_mask(points[0], boxes[0]))


NUMBER = st.floats(-20, 20, width=32)


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=8 if INTERPRETED else 100, deadline=None)
@given(
    point=st.tuples(NUMBER, NUMBER, NUMBER),
    centre=st.tuples(NUMBER, NUMBER, NUMBER),
    size=st.tuples(*[st.floats(0, 30)] * 3),
    heading=st.floats(-10, 10),
    shift=st.tuples(NUMBER, NUMBER),
    turn=st.floats(-10, 10),
)
def test_inside_is_the_distance_to_the_axes_and_moves_with_the_scene(name, point, centre, size, heading, shift, turn):
    """In float64 the point's place along the box's axes tells; then point and box move together."""
    along, across = math.cos(heading), math.sin(heading)
    dx, dy, dz = (p - c for p, c in zip(point, centre))
    room = [
        size[0] / 2 + 1e-2 - abs(dx * along + dy * across),
        size[1] / 2 + 1e-2 - abs(dy * along - dx * across),
        size[2] / 2 - abs(dz),
    ]
    if min(abs(r) for r in room) < 1e-3:
        return  # on a face: float32 decides
    cos, sin = math.cos(turn), math.sin(turn)
    moved = [(x * cos - y * sin + shift[0], x * sin + y * cos + shift[1], z) for x, y, z in (point, centre)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCDET_FOCAL_BACKEND", name)
        for p, c, angle in ((point, centre, heading), (*moved, heading + turn)):
            points, boxes = np.array([p], dtype=np.float32), np.array([[*c, *size, angle]], dtype=np.float32)
            assert points_in_boxes_mask(points, boxes).tolist() == [[int(min(room) > 0)]]
            assert points_in_boxes_index(points, boxes, margin=1e-2).tolist() == [0 if min(room) > 0 else -1]
            assert count_points_in_boxes(points, boxes).tolist() == [int(min(room) > 0)]


def test_mistakes():
    with pytest.raises(InputError, match=r"points .*\(5, 2\)"):
        points_in_boxes_mask(np.zeros((5, 2)), np.zeros((1, 7)))
    with pytest.raises(InputError, match=r"boxes .*\(7,\)"):
        count_points_in_boxes(np.zeros((5, 3)), np.zeros(7))
    with pytest.raises(InputError, match=r"boxes .*\(3, 1, 7\)"):
        points_in_boxes_index(np.zeros((2, 5, 3)), np.zeros((3, 1, 7)))
