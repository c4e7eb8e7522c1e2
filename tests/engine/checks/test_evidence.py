"""What points say about a box, on points laid by hand."""

import numpy as np
import pytest

from pcdet_focal.engine.checks.collect import Boxes
from pcdet_focal.engine.checks.evidence import FRAMES, Evidence, box_evidence, flattest_axis
from pcdet_focal.engine.checks.frames import check_frame
from pcdet_focal.engine.checks.headings import check_headings

BOX = np.array([10.0, 5.0, -0.9, 4.0, 1.6, 1.6, 0.6])  # stands at z = -1.7


def ground(step: float = 0.25) -> np.ndarray:
    x, y = np.meshgrid(np.arange(0, 20, step), np.arange(-5, 15, step))
    return np.column_stack([x.ravel(), y.ravel(), np.full(x.size, -1.7)])


def shell(box: np.ndarray) -> np.ndarray:
    """Points on the four walls of a box, every 0.1 m, from 0.25 m above its underside to 1 cm below its top."""
    along, across = np.arange(-box[3] / 2, box[3] / 2 + 1e-6, 0.1), np.arange(-box[4] / 2, box[4] / 2 + 1e-6, 0.1)
    walls = [(u, side * box[4] / 2) for u in along for side in (-1, 1)] + [
        (side * box[3] / 2, v) for v in across for side in (-1, 1)
    ]
    heights = np.linspace(0.25, box[5] - 0.01, 15) - box[5] / 2
    own = np.array([(u, v, z) for u, v in walls for z in heights])
    cos, sin = np.cos(box[6]), np.sin(box[6])
    return np.column_stack([own[:, 0] * cos - own[:, 1] * sin, own[:, 0] * sin + own[:, 1] * cos, own[:, 2]]) + box[:3]


def test_headings_are_converted_as_the_axes_are():
    for name, frame in FRAMES.items():
        sign, offset = frame.heading
        for heading in (0.0, 0.3, 2.0, -1.1):
            if name == "camera":  # KITTI's rotation_y: from x about y, which points down
                front = [np.cos(heading), 0, -np.sin(heading)]
            elif frame.axes[2, 2] == 1:
                front = [np.cos(heading), np.sin(heading), 0]
            else:
                continue  # such files have no usual heading
            x, y, z = frame.axes @ front
            assert z == 0 and np.isclose(np.exp(1j * (sign * heading + offset)), x + 1j * y, atol=1e-12), name


@pytest.mark.parametrize(
    "own, other, told",
    [
        (0, 4, False),  # fewer than five boxes would hold an object
        (0, 5, True),
        (4, 9, False),  # neither half of them nor three times as many
        (3, 9, True),
        (4, 11, True),  # most would, and far fewer do
        (5, 10, False),
        (10, 20, False),  # half of them do as they are
    ],
)
def test_labels_are_in_a_wrong_frame_where_far_more_boxes_would_hold_objects_in_another(own, other, told):
    boxes = Boxes(np.array(["7"] * 20), np.tile(BOX, (20, 1)), np.array(["Car"] * 20))
    nothing, by_frame = np.zeros(20, int), np.zeros((20, len(FRAMES), 2), int)
    by_frame[:other, list(FRAMES).index("y ahead"), 0] = 5
    in_body = np.where(np.arange(20) < own, 5, 0)
    evidence = Evidence(nothing, np.zeros(20), np.ones(20), nothing, np.zeros((20, 4), int), in_body, by_frame)
    assert [finding.check for finding in check_frame(boxes, evidence)] == ["wrong frame"] * told


def test_a_box_on_a_flat_ground():
    walls = shell(BOX)
    points = np.concatenate([ground(), walls])
    found = box_evidence(points, BOX[None])
    assert found.ground[0] == -1.7 and found.around[0] == len(walls)
    for size, inside in ((0.98, len(walls)), (1.02, 0)):  # just inside and just outside the walls
        assert box_evidence(BOX[:3] + size * (walls - BOX[:3]), BOX[None]).inside[0] == inside
    assert abs(found.top[0] - (-0.1)) < 0.1  # the 95th percentile of what reaches up to -0.1
    assert found.by_heading[0, 0] == len(walls)
    # a wall point stays in the footprint turned by 90 degrees where it is within 0.85 m of the middle along the box
    inside = np.abs((walls[:, :2] - BOX[:2]) @ [np.cos(0.6), np.sin(0.6)]) <= 0.85
    assert found.by_heading[0, 2] == inside.sum() < len(walls) / 2
    assert found.by_heading[0, 1] < 0.8 * len(walls) and found.by_heading[0, 3] < 0.8 * len(walls)


def test_a_tree_over_a_car_is_not_its_top_and_a_scan_without_ground_says_so():
    tree = BOX[:3] + np.random.RandomState(0).uniform([-1, -1, 2.6], [1, 1, 5], (2000, 3))
    found = box_evidence(np.concatenate([ground(), shell(BOX), tree]), BOX[None])
    assert abs(found.top[0] - (-0.1)) < 0.1
    # what hangs over the ground around the box is not ground, up to one and a half heights above its middle
    roof = ground() + [0, 0, 1.7 + BOX[2] + 1.4 * BOX[5]]
    assert box_evidence(np.concatenate([roof, shell(BOX)]), BOX[None]).ground[0] == pytest.approx(roof[0, 2])
    higher = roof + [0, 0, 0.2 * BOX[5]]
    assert np.isnan(box_evidence(np.concatenate([higher, shell(BOX)]), BOX[None]).ground[0])
    alone = box_evidence(shell(BOX), BOX[None])
    assert np.isnan(alone.ground[0]) and np.isfinite(alone.top[0])
    empty = box_evidence(np.zeros((0, 3)), BOX[None])
    assert empty.inside[0] == empty.around[0] == 0 and np.isnan(empty.top[0])


def test_each_frame_brings_a_box_back_to_its_object():
    points = np.concatenate([ground(), shell(BOX)])
    for place, (name, frame) in enumerate(FRAMES.items()):
        assert abs(abs(np.linalg.det(frame.axes)) - 1) < 1e-12, name
        for bottom in (0, 1):
            box = BOX.copy()
            box[:3] = np.linalg.inv(frame.axes) @ (BOX[:3] - [0, 0, bottom * BOX[5] / 2])
            found = box_evidence(points, box[None])
            assert found.by_frame[0, place, bottom] == box_evidence(points, BOX[None]).in_body[0] > 100, name


def test_evidence_of_frames_is_joined_in_their_order():
    points = np.concatenate([ground(), shell(BOX)])
    one, none = box_evidence(points, BOX[None]), box_evidence(points, np.zeros((0, 7)))
    both = Evidence.joined([none, one, one])
    assert both.by_frame.shape == (2, len(FRAMES), 2) and both.around.tolist() == [one.around[0]] * 2


def test_the_flat_direction_of_a_scene():
    random = np.random.RandomState(0)
    scan = random.uniform([-40, -40, -2], [40, 40, 2], (5000, 3))
    for axis, order in ((2, [0, 1, 2]), (0, [2, 0, 1]), (1, [0, 2, 1])):
        flat, spreads = flattest_axis([scan[:, order]] * 3)
        assert flat == axis
        np.testing.assert_allclose(sorted(spreads), [3.6, 72, 72], rtol=0.05)  # the middle 90 % of uniform numbers


@pytest.mark.parametrize("more, told", [(9, False), (10, True)])
def test_a_heading_is_better_by_a_tenth_of_the_objects_points(more, told):
    boxes = Boxes(np.array(["a"] * 6), np.tile(BOX, (6, 1)), np.array(["Car"] * 6))
    nothing = np.zeros(6)
    by_heading = np.tile(np.array([50, 50 + more, 50, 50]), (6, 1))
    evidence = Evidence(
        nothing, nothing, nothing, np.full(6, 100), by_heading, nothing, np.zeros((6, len(FRAMES), 2), int)
    )
    assert [finding.check for finding in check_headings(boxes, evidence)] == ["heading sign"] * told
