"""Anchor targets against recorded runs, a case worked out by hand, a twin in numpy, and the two backends against each
other to the last bit.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
from golden_data import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from model_data import load_cfg
from ops_triton import BACKENDS, HAS_TRITON, INTERPRETED

from pcdet_focal.errors import InputError
from pcdet_focal.geometry.box_coders import ResidualCoder
from pcdet_focal.models.dense_heads.target_assigner.anchor_generator import AnchorGenerator
from pcdet_focal.models.dense_heads.target_assigner.axis_aligned_target_assigner import AxisAlignedTargetAssigner
from pcdet_focal.ops.anchor_targets import AssignmentRules, assign_anchor_targets, cpu, reference

if HAS_TRITON:
    from pcdet_focal.ops.anchor_targets import cuda

SIZES = [[[3.9, 1.6, 1.56]], [[0.8, 0.6, 1.73], [1.0, 1.0, 1.0]], [[1.76, 0.6, 1.73]]]
ROTATIONS = [[0, 1.57], [0.0, math.pi / 4, 1.0], [0]]
HEIGHTS = [[-1.78, 0.5], [-0.6, 1.0], [-0.6, 0.0]]


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", request.param)
    if request.param != "reference":
        monkeypatch.setattr(reference, "assign", None)  # nothing may be left to it
    if request.param == "cuda":
        monkeypatch.setattr(cuda, "_match_dense", None)
        # for the interpreter an operation costs the same whatever its size
        monkeypatch.setattr(cuda, "_TILE_ROWS", 256)
        monkeypatch.setattr(cuda, "_TILE_COLUMNS", 256)


def grid_anchors(xs, ys, heights, sizes, rotations, dtype=torch.float32, columns=7):
    xs, ys, heights, rotations = (torch.as_tensor(v, dtype=dtype) for v in (xs, ys, heights, rotations))
    sizes = torch.as_tensor(sizes, dtype=dtype)
    anchors = torch.zeros(len(heights), len(ys), len(xs), len(sizes), len(rotations), columns, dtype=dtype)
    anchors[..., 0] = xs.view(1, 1, -1, 1, 1)
    anchors[..., 1] = ys.view(1, -1, 1, 1, 1)
    anchors[..., 2] = heights.view(-1, 1, 1, 1, 1)
    anchors[..., 3:6] = sizes.view(1, 1, 1, -1, 1, 3)
    anchors[..., 6] = rotations
    return anchors


def three_classes(dtype=torch.float32, nx=23, ny=19, columns=7):
    xs, ys = torch.arange(nx) * 0.4 + 0.137, torch.arange(ny) * 0.4 - 3.71
    return [grid_anchors(xs, ys, h, s, r, dtype, columns) for h, s, r in zip(HEIGHTS, SIZES, ROTATIONS)]


def make_rules(**changes):
    rules = AssignmentRules(
        class_ids=(1, 2, 3), matched=(0.6, 0.5, 0.5), unmatched=(0.45, 0.35, 0.35), box_coder=ResidualCoder()
    )
    return dataclasses.replace(rules, **changes)


def scene(seed, batch=3, most=25, dtype=torch.float32, extra=0):
    """Boxes on the grid, beyond its edges, far away, on top of each other, tiny, of no size and huge; a sample without
    any; padding.
    """
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 5, (batch, most))  # class 4 has no anchors
    sizes = np.array([[1, 1, 1], [3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73], [2, 2, 2]])[classes]
    boxes = np.zeros((batch, most, 8 + extra))
    boxes[..., 0], boxes[..., 1], boxes[..., 2] = (
        rng.uniform(-3, 12, (batch, most)),
        rng.uniform(-6, 6, (batch, most)),
        -1,
    )
    boxes[..., 3:6] = sizes * rng.uniform(0.7, 1.4, (batch, most, 3))
    boxes[..., 6:-1], boxes[..., -1] = rng.uniform(-7, 7, (batch, most, 1 + extra)), classes
    boxes[:, 3] = boxes[:, 2]
    boxes[:, 4, 0] = 1e4
    boxes[:, 5, 3:6] = 0
    boxes[:, 6, 3:6] = 1e-3
    boxes[:, 7, 3:6] = 500
    boxes[:, 8, 3:5] *= -1
    boxes[:, 9:12, :2] = np.round(boxes[:, 9:12, :2] / 0.4) * 0.4 + [0.137 + 0.2, -3.71]  # halfway between two anchors
    boxes[batch - 1] = 0
    return torch.from_numpy(boxes).to(dtype)


def assert_equal(got, want):
    assert got.keys() == want.keys()
    for key in want:
        assert got[key].dtype == want[key].dtype and got[key].shape == want[key].shape, key
        np.testing.assert_array_equal(got[key].numpy(), want[key].numpy(), err_msg=key)


def assert_fast_is_dense(anchors, boxes, rules):
    before = boxes.clone()
    got = cpu.assign(anchors, boxes, rules)
    assert got is not None, "left to the reference"
    assert_equal(got, reference.assign(anchors, boxes, rules))
    assert torch.equal(boxes, before)
    return got


@pytest.mark.parametrize("name", ["random_b4", "identical_gts", "one_empty_image"])
def test_recorded_targets(name, backend):
    case, grid = cases("03_targets/axis_aligned_target_assigner.npz")[name], cases("03_geometry/anchors.npz")["second"]
    cfg = load_cfg("second").MODEL.DENSE_HEAD
    anchors, _ = AnchorGenerator(grid["range"], cfg.ANCHOR_GENERATOR_CONFIG).generate_anchors(
        [grid["grid_size"][:2] // 8] * 3
    )
    assigner = AxisAlignedTargetAssigner(cfg, ["Car", "Pedestrian", "Cyclist"], ResidualCoder())
    out = assigner.assign_targets(anchors, torch.from_numpy(case["gt_boxes"]))
    labels = out["box_cls_labels"].numpy()
    positive = np.nonzero(labels > 0)
    np.testing.assert_array_equal(np.stack(positive), [case["pos_b"], case["pos_idx"]])
    np.testing.assert_array_equal(labels[positive], case["pos_label"])
    np.testing.assert_array_equal(np.stack(np.nonzero(labels < 0)), [case["ign_b"], case["ign_idx"]])
    np.testing.assert_allclose(out["box_reg_targets"].numpy()[positive], case["pos_reg_targets"], rtol=1e-5, atol=1e-5)
    assert np.count_nonzero(out["box_reg_targets"].numpy().any(-1)[labels <= 0]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_worked_by_hand(backend, dtype):
    """Squares of 2 m every metre along x. The overlaps of the box at 0.5 are 3 / 5 (twice), 1 / 7; of that at 6 they
    are 1, 2 / 6 (twice), 0.
    """
    anchors = grid_anchors(range(8), [5.0], [0.0], [[2, 2, 4]], [0.0], dtype)
    boxes = torch.tensor(
        [[[0.5, 5, 1, 2, 2, 4, 0.1, 3], [6, 5, 0, 2, 2, 2, 0, 3], [40, 5, 0, 2, 2, 2, 0, 3], [3, 5, 0, 2, 2, 2, 0, 0]]],
        dtype=dtype,
    )
    out = assign_anchor_targets([anchors], boxes, AssignmentRules((3,), (0.7,), (0.3,), ResidualCoder()))
    # 0 and 1 tie for the first box, none reaches 0.7
    assert out["box_cls_labels"].tolist() == [[3, 3, 0, 0, 0, -1, 3, -1]]
    assert out["reg_weights"].tolist() == [[1, 1, 0, 0, 0, 0, 1, 0]] and out["reg_weights"].dtype == dtype
    want = torch.zeros(1, 8, 7, dtype=dtype)
    want[0, 0] = torch.tensor([0.5 / 8**0.5, 0, 0.25, 0, 0, 0, 0.1])
    want[0, 1] = torch.tensor([-0.5 / 8**0.5, 0, 0.25, 0, 0, 0, 0.1])
    want[0, 6, 5] = math.log(0.5)
    torch.testing.assert_close(out["box_reg_targets"], want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_borders_of_the_thresholds(backend, dtype):
    """Squares of 2 m every metre: the overlaps of a box at 3 are 1 / 3, 1, 1 / 3. Reaching ``matched`` is enough;
    ``unmatched`` is not below.
    """
    anchors = grid_anchors(range(6), [0.0], [0.0], [[2, 2, 4]], [0.0], dtype)
    boxes = torch.tensor([[[3, 0, 0, 2, 2, 4, 0, 1]]], dtype=dtype)
    labels = [
        assign_anchor_targets([anchors], boxes, AssignmentRules((1,), (matched,), (unmatched,), ResidualCoder()))[
            "box_cls_labels"
        ].tolist()
        for matched, unmatched in ((1 / 3, 0.2), (0.5, 1 / 3), (0.5, 0.34))
    ]
    assert labels == [[[0, 0, 1, 1, 1, 0]], [[0, 0, -1, 1, -1, 0]], [[0, 0, 0, 1, 0, 0]]]


def test_of_equal_boxes_the_first(backend):
    anchors = grid_anchors(range(6), [0.0], [0.0], [[2, 2, 4]], [0.0])
    boxes = torch.tensor([[[3, 0, 0.8, 2, 2, 4, 0, 1], [3, 0, 0, 2, 2, 4, 0, 1]]])
    targets = assign_anchor_targets([anchors], boxes, AssignmentRules((1,), (0.5,), (0.4,), ResidualCoder()))[
        "box_reg_targets"
    ]
    assert targets[0, :, 2].tolist() == pytest.approx([0, 0, 0, 0.2, 0, 0])


def test_tiny_unions_count_as_a_millionth(backend):
    """Squares of 0.5 mm shifted by 0.1 mm share 2e-7 m2: an overlap of 0.2, not of 2 / 3."""
    anchors = grid_anchors([0, 1e-4], [0.0], [0.0], [[5e-4, 5e-4, 1]], [0.0])
    boxes = torch.tensor([[[0, 0, 0, 5e-4, 5e-4, 1, 0, 1]]])
    labels = assign_anchor_targets([anchors], boxes, AssignmentRules((1,), (0.6,), (0.19,), ResidualCoder()))[
        "box_cls_labels"
    ]
    assert labels.tolist() == [[1, -1]]


def numpy_labels(anchors, boxes, class_id, matched, unmatched):
    """The definition once more, in float64 and one anchor at a time: anchors (N, 7), boxes (T, 8)."""

    def borders(box):
        turned = abs((box[6] + math.pi / 2) % math.pi - math.pi / 2) >= math.pi / 4
        dx, dy = (box[4], box[3]) if turned else (box[3], box[4])
        return box[0] - dx / 2, box[1] - dy / 2, box[0] + dx / 2, box[1] + dy / 2

    def iou(a, b):
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(width, 0) * max(height, 0)
        return shared / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared, 1e-6)

    own = [borders(box) for box in boxes if box[7] == class_id]
    overlap = np.array([[iou(borders(a), b) for b in own] for a in anchors]).reshape(len(anchors), len(own))
    if not own:
        return np.zeros(len(anchors))
    best = overlap.max(1)
    claimed = ((np.abs(overlap - overlap.max(0)) < 1e-12) & (overlap > 0)).any(1)
    return np.where(claimed | (best >= matched), class_id, np.where(best < unmatched, 0, -1))


def test_labels_against_numpy():
    anchors, rules = three_classes(torch.float64), make_rules(class_major=True)
    boxes = scene(5, batch=2, dtype=torch.float64)
    boxes[:, 7:12, 7] = 4  # the huge box and those halfway: their ties are equal but for rounding
    labels = assert_fast_is_dense(anchors, boxes, rules)["box_cls_labels"]
    start = 0
    for i, own in enumerate(anchors):
        flat = own.permute(3, 4, 0, 1, 2, 5).reshape(-1, 7).numpy()
        want = numpy_labels(flat, boxes[0].numpy(), rules.class_ids[i], rules.matched[i], rules.unmatched[i])
        np.testing.assert_array_equal(labels[0, start : start + len(flat)].numpy(), want)
        start += len(flat)
    assert set(labels[0].tolist()) == {-1, 0, 1, 2, 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("class_major", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_random_scenes(seed, class_major, dtype):
    out = assert_fast_is_dense(three_classes(dtype), scene(seed, dtype=dtype), make_rules(class_major=class_major))
    assert {-1, 0, 1, 2, 3} == set(out["box_cls_labels"].unique().tolist())
    assert not out["box_cls_labels"][-1].any()


def test_class_major_grids_may_differ():
    anchors = [own[:, : 19 - 4 * i, : 23 - 5 * i] for i, own in enumerate(three_classes())]
    assert_fast_is_dense(anchors, scene(1), make_rules(class_major=True))


coordinate = st.integers(-4, 16).map(lambda i: i / 2)
size = st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 2.0, 3.0, 50.0, 1e6, -1.0, 1e-4])
heading = st.one_of(
    st.sampled_from([0.0, math.pi / 2, math.pi, -math.pi / 4, math.pi / 4, 0.78, 0.79, 100.0]),
    st.floats(-1e3, 1e3, width=32),
)
box = st.tuples(coordinate, coordinate, st.just(0.0), size, size, size, heading, st.integers(0, 3).map(float))


@given(
    boxes=st.lists(box, max_size=8),
    shift=st.sampled_from([0.0, 0.25, 0.1, -20.0, 1e5]),
    double=st.booleans(),
    class_major=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_ties_and_touching(boxes, shift, double, class_major):
    """Everything on one raster, so that overlaps tie, boxes coincide and borders touch; and shifts that round."""
    dtype = torch.float64 if double else torch.float32
    kinds = [
        ([0.0, 1.0], [[1, 2, 1], [2, 2, 2]], [0.0, 1.57]),
        ([0.0, 1.0], [[2, 1, 1]], [0.0]),
        ([0.0, 1.0], [[1, 1, 1]], [0.0, 0.785]),
    ]
    positions = torch.arange(9, dtype=torch.float64)
    anchors = [grid_anchors(positions + shift, positions[:7] + shift, *kind, dtype=dtype) for kind in kinds]
    boxes = torch.tensor(boxes, dtype=dtype).reshape(1, -1, 8).clone()
    boxes[..., :2] += shift
    assert_fast_is_dense(anchors, boxes, make_rules(class_major=class_major))


@given(
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=12),
    start=st.floats(-30, 30),
    rotation=st.floats(-10, 10),
    boxes=st.lists(
        st.tuples(*[st.floats(-30, 30)] * 2, st.just(0.0), *[st.floats(0, 20)] * 3, st.floats(-9, 9), st.just(1.0)),
        max_size=6,
    ),
)
@settings(max_examples=100, deadline=None)
def test_any_increasing_positions_are_a_grid(steps, start, rotation, boxes):
    xs = start + np.cumsum(steps)
    anchors = [grid_anchors(xs, xs[::2] - 7, [0.0], [[3.9, 1.6, 1.5]], [rotation])]
    rules = make_rules(class_ids=(1,), matched=(0.6,), unmatched=(0.45,))
    assert_fast_is_dense(anchors, torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 8), rules)


def test_no_boxes():
    anchors = three_classes()
    for boxes in (torch.zeros(2, 0, 8), torch.zeros(2, 5, 8)):
        out = assert_fast_is_dense(anchors, boxes, make_rules())
        assert out["box_cls_labels"].shape == (2, sum(a[..., 0].numel() for a in anchors))
        assert out.pop("label_weights").all() and not any(value.any() for value in out.values())


def test_more_positives_than_expected():
    """Anchors far denser than the boxes: thousands reach the threshold."""
    anchors = [grid_anchors(torch.arange(60) * 0.01, torch.arange(50) * 0.01, [0.0], [[3.9, 1.6, 1.5]], [0.0, 3.1])]
    boxes = torch.tensor([[[0.3, 0.2, 0, 3.9, 1.6, 1.5, 0, 1]]])
    out = assert_fast_is_dense(anchors, boxes, make_rules(class_ids=(1,), matched=(0.5,), unmatched=(0.4,)))
    assert (out["box_cls_labels"] > 0).all()


@pytest.mark.parametrize(
    "coder, extra, columns", [(ResidualCoder(encode_angle_by_sincos=True), 0, 7), (ResidualCoder(code_size=9), 2, 9)]
)
def test_other_codes(coder, extra, columns):
    out = assert_fast_is_dense(three_classes(columns=columns), scene(2, extra=extra), make_rules(box_coder=coder))
    assert out["box_reg_targets"].shape[-1] == coder.code_size and out["box_reg_targets"][..., -1].any()


@pytest.mark.parametrize("class_major", [False, True])
@pytest.mark.parametrize("normed", [False, True])
def test_sampling_and_weights(class_major, normed):
    rules = make_rules(class_major=class_major, pos_fraction=0.1, sample_size=60, norm_by_num_examples=normed)
    boxes = scene(3)
    torch.manual_seed(4)
    got = cpu.assign(three_classes(), boxes, rules)
    torch.manual_seed(4)
    assert_equal(got, reference.assign(three_classes(), boxes, rules))
    for label in (1, 2, 3):  # 6 positives at most of each class, and 60 anchors in all
        assert ((got["box_cls_labels"] == label).sum(1) <= 6).all()
    assert ((got["box_cls_labels"][:2] >= 0).sum(1) == 180).all()
    positive = got["box_cls_labels"] > 0
    torch.testing.assert_close(got["reg_weights"], positive / 60.0 if normed else positive.float())
    assert torch.equal(got["box_reg_targets"].any(-1), positive)


def test_weights_by_number_of_examples():
    assert_fast_is_dense(three_classes(), scene(3), make_rules(norm_by_num_examples=True))


class TestLeftToTheReference:
    def check(self, anchors, boxes, rules):
        assert cpu.assign(anchors, boxes, rules) is None
        out = assign_anchor_targets(anchors, boxes, rules)
        del out["bbox_weights"]
        assert_equal(out, reference.assign(anchors, boxes, rules))

    def test_height_counts(self):
        self.check(three_classes(), scene(0), make_rules(match_height=True))

    def test_everything_is_positive_or_ignored(self):
        self.check(three_classes(), scene(0), make_rules(matched=(0.0, 0.5, 0.5)))
        self.check(three_classes(), scene(0), make_rules(unmatched=(0.0, 0.3, 0.3)))

    @pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
    def test_numbers_out_of_reach(self, value):
        boxes = scene(0)
        boxes[0, torch.nonzero(boxes[0, :, -1] == 1)[0, 0], 3:5] = value
        self.check(three_classes(), boxes, make_rules())

    def test_no_grid(self):
        for change in ("shifted", "wider", "backwards", "jumbled"):
            anchors = three_classes()
            if change == "shifted":
                anchors[1][0, 3, 4, 0, 0, 0] += 1e-3
            elif change == "wider":
                anchors[1][0, 3, 4, 0, 0, 4] += 1e-3
            elif change == "backwards":
                anchors[2] = anchors[2].flip(2)
            else:
                anchors[0] = anchors[0].transpose(1, 2).reshape(anchors[0].shape)
            self.check(anchors, scene(0), make_rules())

    def test_two_types(self):
        anchors = three_classes(torch.float64)
        self.check(anchors, scene(0), make_rules())


def small_scene(seed, dtype):
    boxes = scene(seed, batch=2, most=13, dtype=dtype)
    boxes[1] = scene(seed + 50, batch=2, most=13, dtype=dtype)[0]
    boxes[0, 0, 0], boxes[0, 12, 3:5] = math.nan, math.inf
    return boxes


@pytest.mark.skipif(not INTERPRETED, reason="needs Triton's interpreter")
@pytest.mark.parametrize("dtype, class_major", [(torch.float32, False), (torch.float64, True)])
def test_cuda_kernels_on_tiles(dtype, class_major, monkeypatch):
    """Grids that the tiles do not divide, of unlike classes; thresholds of 0; boxes with numbers that are not
    finite.
    """
    kinds = [([0.0], [[3.9, 1.6, 1.5]], [0.0, 1.57]), ([0.0], [[1.0, 0.8, 1.7]], [0.0])]
    xs, heights = torch.arange(37) * 0.4 - 1, (9, 12 if class_major else 9)
    anchors = [grid_anchors(xs, torch.arange(ny) * 0.8 - 4, *kind, dtype) for ny, kind in zip(heights, kinds)]
    monkeypatch.setattr(cuda, "_match_dense", None)
    for seed, thresholds in (
        (0, dict(matched=(0.6, 0.5), unmatched=(0.45, 0.35))),
        (1, dict(matched=(0.0, 0.5), unmatched=(0.0, 0.0))),
    ):
        rules, boxes = make_rules(class_ids=(1, 2), class_major=class_major, **thresholds), small_scene(seed, dtype)
        want = reference.assign(anchors, boxes, rules)
        assert_equal(cuda.assign(anchors, boxes, rules), want)
        assert {-1, 1, 2} <= set(want["box_cls_labels"].unique().tolist())


@pytest.mark.skipif(not HAS_TRITON, reason="needs triton")
class TestDenseWayOfTheGpu:
    """Plain torch, so it can be asked on any device."""

    def check(self, anchors, boxes, rules):
        want = reference.assign(anchors, boxes, rules)
        assert_equal(cuda.assign(anchors, boxes, rules), want)
        assert (want["box_cls_labels"] > 0).any()

    @pytest.mark.parametrize("class_major", [False, True])
    def test_height_counts(self, class_major):
        self.check(
            three_classes(), scene(0), make_rules(match_height=True, class_major=class_major, norm_by_num_examples=True)
        )

    @pytest.mark.parametrize("seed", range(3))
    def test_no_grid(self, seed):
        anchors = three_classes()
        anchors[1][0, 3, 4, 0, 0, 0] += 1e-3
        boxes = scene(seed)
        boxes[0, 0, 4], boxes[1, 2, 0] = math.nan, math.inf
        self.check(anchors, boxes, make_rules(class_major=True))
        self.check(anchors, boxes, make_rules(matched=(0.0, 0.5, 0.5), unmatched=(0.0, 0.3, 0.0)))

    @pytest.mark.parametrize("class_major", [False, True])
    def test_sampling(self, class_major):
        rules = make_rules(class_major=class_major, match_height=True, pos_fraction=0.1, sample_size=60)
        whole = reference.assign(three_classes(), scene(3), make_rules(class_major=class_major, match_height=True))[
            "box_cls_labels"
        ]
        torch.manual_seed(0)
        first, second = (cuda.assign(three_classes(), scene(3), rules)["box_cls_labels"] for _ in range(2))
        assert not torch.equal(first, second)
        # other anchors, as many of each kind
        drawn = reference.assign(three_classes(), scene(3), rules)["box_cls_labels"]
        for labels in (first, second):
            assert ((labels == whole) | (labels == -1)).all() and (labels[2] == 0).all()
            for label in (1, 2, 3):  # 6 positives at most of each class, all of them where there are fewer
                assert torch.equal((labels == label).sum(1), (whole == label).sum(1).clamp(max=6))
            assert torch.equal((labels >= 0).sum(1), (drawn >= 0).sum(1)) and (labels >= 0).sum(1)[0] == 180

    def test_a_sample_at_a_time(self, monkeypatch):
        monkeypatch.setattr(cuda, "_PAIRS_AT_ONCE", 1)
        self.check(three_classes(), scene(0), make_rules(match_height=True))

    def test_no_boxes_and_no_anchors(self):
        for boxes in (torch.zeros(2, 0, 8), torch.zeros(2, 5, 8)):
            out = cuda.assign(three_classes(), boxes, make_rules(match_height=True))
            assert_equal(out, reference.assign(three_classes(), boxes, make_rules(match_height=True)))
        empty = [own[:, :0] for own in three_classes()]
        assert cuda.assign(empty, torch.ones(2, 3, 8), make_rules())["box_cls_labels"].shape == (2, 0)


@pytest.mark.parametrize(
    "rules", [make_rules(), make_rules(pos_fraction=0.1, sample_size=60, norm_by_num_examples=True)]
)
def test_weights_for_the_losses(rules, backend):
    """What mmdetection gives its losses: 0 for the ignored in classification, the positives' weight for every code of
    the box.
    """
    out = assign_anchor_targets(three_classes(nx=12, ny=9), scene(0, batch=2, most=13), rules)
    labels = out["box_cls_labels"]
    assert {-1, 0} < set(labels.unique().tolist())
    assert torch.equal(out["label_weights"], torch.where(labels < 0, 0.0, 1.0))
    assert torch.equal(out["bbox_weights"], out["reg_weights"][..., None].expand(-1, -1, 7)) and out[
        "bbox_weights"
    ].shape == (*labels.shape, 7)
    assert torch.equal(out["bbox_weights"][..., 3] > 0, labels > 0)


def test_a_change_of_the_anchors_is_noticed():
    anchors, boxes, rules = three_classes(), scene(0), make_rules()
    first = assert_fast_is_dense(anchors, boxes, rules)
    for own in anchors:
        own[..., 0] += 0.17
    second = assert_fast_is_dense(anchors, boxes, rules)
    assert not torch.equal(first["box_cls_labels"], second["box_cls_labels"])
    assert_fast_is_dense([own.double() for own in anchors], boxes.double(), rules)
    anchors[0][0, 2, 2, 0, 0, 1] += 5
    assert cpu.assign(anchors, boxes, rules) is None
    with torch.inference_mode():
        assert_fast_is_dense(three_classes(), boxes, rules)


def test_single_gives_the_labels_of_its_class():
    cfg = load_cfg("second").MODEL.DENSE_HEAD
    assigner = AxisAlignedTargetAssigner(cfg, ["Car", "Pedestrian", "Cyclist"], ResidualCoder())
    anchors, boxes = [own[:1] for own in three_classes()], scene(7, batch=2)
    out = assigner.assign_targets(anchors, boxes)
    labels = out["box_cls_labels"].view(2, -1, 9)[0]
    own = boxes[0][boxes[0, :, -1] == 2]
    single = assigner.assign_targets_single(anchors[1].reshape(-1, 7), own[:, :7], own[:, 7].int(), 0.5, 0.35)
    assert torch.equal(labels[:, 2:8].flatten(), single["box_cls_labels"]) and (single["box_cls_labels"] == 2).any()


@pytest.mark.parametrize(
    "anchors, boxes, words",
    [
        (three_classes(), torch.zeros(2, 3, 7), "gt_boxes"),
        (three_classes(), torch.zeros(3, 8), "gt_boxes"),
        (three_classes()[:2], torch.zeros(2, 3, 8), "anchors"),
        ([a.reshape(-1, 7) for a in three_classes()], torch.zeros(2, 3, 8), r"all_anchors\[0\]"),
        ([a.to("meta") for a in three_classes()], torch.zeros(2, 3, 8), "meta"),
    ],
)
def test_mistakes_are_named(anchors, boxes, words):
    with pytest.raises(InputError, match=words):
        assign_anchor_targets(anchors, boxes, make_rules())
