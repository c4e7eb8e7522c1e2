"""Greedy NMS against recorded keep lists, a brute-force twin on shapely's overlaps, and cases worked out by
hand.
"""

import numpy as np
import pytest
import torch
from golden_data import cases, needs_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_triton import BACKENDS, INTERPRETED

from pcdet_focal.errors import InputError
from pcdet_focal.ops.nms import nms_axis_aligned, nms_rotated
from pcdet_focal.ops.rotated_iou import boxes_iou_bev


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", request.param)
    return request.param


def row(x=0.0, y=0.0, dx=2.0, dy=2.0, heading=0.0):
    return [x, y, 0.0, dx, dy, 1.0, heading]


def random_boxes(rng, n, extent=30.0):
    sizes = np.array([[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]])[rng.integers(0, 3, n)] * rng.uniform(
        0.8, 1.2, (n, 3)
    )
    return np.concatenate(
        [rng.uniform(-extent, extent, (n, 2)), rng.uniform(-1, 1, (n, 1)), sizes, rng.uniform(-4, 4, (n, 1))], axis=1
    )


@pytest.mark.parametrize("case", [name for name, c in cases("03_geometry/nms.npz").items() if "keep" in c])
def test_recorded_keep_lists(case, backend):
    c = cases("03_geometry/nms.npz")[case]
    boxes, scores, thresh = torch.from_numpy(c["boxes"]), torch.from_numpy(c["scores"]), float(c["thresh"])
    keep = nms_rotated(boxes, scores, thresh)
    assert keep.dtype == torch.int64
    np.testing.assert_array_equal(keep.numpy(), c["keep_exact"])
    np.testing.assert_array_equal(keep.numpy(), c["keep"])
    np.testing.assert_array_equal(nms_axis_aligned(boxes, scores, thresh).numpy(), c["keep_normal"])


@needs_golden
@pytest.mark.parametrize("model", ["second", "pointpillar"])
@pytest.mark.parametrize("image", [0, 1])
def test_candidates_of_a_real_forward_pass(model, image, backend):
    """Thousands of overlapping candidates of a network with random weights, threshold 0.01, as the KITTI configs have
    it.
    """
    c = cases(f"05_forward/{model}_eval.npz")["b2_000000_000001"]
    if backend == "reference" and len(c[f"cand{image}_boxes"]) > 5000:
        pytest.skip("a dense cluster: seconds in the reference, and the other three images show the same")
    expected = cases(f"05_forward/{model}_post_nms.npz")[f"img{image}"]["order_exact"]
    boxes = torch.from_numpy(c[f"cand{image}_boxes"])
    scores = torch.from_numpy(c[f"cand{image}_logits"]).sigmoid().max(dim=1).values.numpy()
    # Saturated scores are equal, and topk (which made the recording) leaves the order of equal scores open. Among
    # equals, the recorded survivors go first in their order; that changes nothing in a greedy NMS that agrees.
    place = np.full(len(scores), len(scores))
    place[expected] = np.arange(len(expected))
    ranked = np.lexsort((place, -scores))
    falling = torch.arange(len(ranked), 0, -1, dtype=torch.float64)
    keep = nms_rotated(boxes[torch.from_numpy(ranked)], falling, 0.01, pre_maxsize=4096)[:500]
    np.testing.assert_array_equal(ranked[keep.numpy()], expected)


@pytest.mark.parametrize("thresh", [0.0, 0.1, 0.5])
def test_brute_force_on_shapely_overlaps(thresh, backend):
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(5)
    boxes, scores = random_boxes(rng, 150, extent=6.0), rng.permutation(150) / 150
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2 * boxes[:, None, 3:5]
    cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    shapes = shapely.polygons(
        np.stack(
            [
                corners[..., 0] * cos - corners[..., 1] * sin + boxes[:, None, 0],
                corners[..., 0] * sin + corners[..., 1] * cos + boxes[:, None, 1],
            ],
            axis=-1,
        )
    )
    kept = []
    for i in np.argsort(-scores):
        ious = [
            shapely.area(shapely.intersection(shapes[i], shapes[k])) / shapely.area(shapely.union(shapes[i], shapes[k]))
            for k in kept
        ]
        if not ious or max(ious) <= thresh:
            kept.append(i)
    assert 10 < len(kept) < 150
    np.testing.assert_array_equal(nms_rotated(boxes, scores, thresh), kept)


def test_only_survivors_suppress(backend):
    boxes = torch.tensor([row(0), row(1), row(2)])  # neighbours overlap by 1/3, the outer two touch
    assert nms_rotated(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.2).tolist() == [0, 2]
    assert nms_rotated(boxes, torch.tensor([0.8, 0.9, 0.7]), 0.2).tolist() == [1]
    assert nms_rotated(boxes, torch.tensor([0.7, 0.8, 0.9]), 0.4).tolist() == [2, 1, 0]


def test_equal_to_the_threshold_stays(backend):
    boxes = torch.tensor([row(dx=2, dy=2), row(x=0.5, dx=1, dy=2)])  # IoU 1/2 without rounding
    scores = torch.tensor([0.5, 0.4])
    assert nms_rotated(boxes, scores, 0.5).tolist() == [0, 1] and nms_axis_aligned(boxes, scores, 0.5).tolist() == [
        0,
        1,
    ]
    assert nms_rotated(boxes, scores, 0.499).tolist() == [0] and nms_axis_aligned(boxes, scores, 0.499).tolist() == [0]


def test_touching_boxes_stay_at_threshold_zero(backend):
    boxes = torch.tensor([row(0), row(2), row(2, 2), row(3.9)])
    assert nms_rotated(boxes, torch.tensor([4.0, 3, 2, 1]), 0.0).tolist() == [0, 1, 2]


def test_equal_scores_go_by_index(backend):
    boxes = torch.tensor([row(10.0 * (i // 2)) for i in range(40)])  # twenty pairs of identical boxes
    assert nms_rotated(boxes, torch.full((40,), 0.5), 0.1).tolist() == list(range(0, 40, 2))
    assert nms_rotated(boxes, torch.tensor([0.5, 0.7] * 20), 0.1).tolist() == list(range(1, 40, 2))


def test_axis_aligned_ignores_the_heading(backend):
    boxes = torch.tensor([row(0, 0, 4, 1, 1.5707963), row(0, 1.2, 4, 1, 1.5707963)])
    assert nms_axis_aligned(boxes, torch.tensor([0.2, 0.1]), 0.1).tolist() == [0, 1]
    assert nms_rotated(boxes, torch.tensor([0.2, 0.1]), 0.1).tolist() == [0]


def test_pre_maxsize_takes_the_best_scores_first(backend):
    boxes = torch.tensor([row(10.0 * i) for i in range(5)])
    scores = torch.tensor([0.1, 0.5, 0.3, 0.4, 0.2])
    assert nms_rotated(boxes, scores, 0.1, pre_maxsize=3).tolist() == [1, 3, 2]
    assert nms_rotated(boxes, scores, 0.1, pre_maxsize=9).tolist() == [1, 3, 2, 4, 0]
    assert nms_rotated(boxes, scores, 0.1, pre_maxsize=0).tolist() == []


@pytest.mark.parametrize("column", [0, 1, 3, 4, 6])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_neither_suppresses_nor_is_suppressed(column, value, backend):
    boxes = torch.tensor([row(0), row(0.5), row(0.2), row(40)])
    boxes[0, column] = value
    assert nms_rotated(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.1).tolist() == [0, 1, 3]
    boxes[1:, column] = value
    assert nms_rotated(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "kind", ["scene", "one giant", "two far clusters", "one line", "one place", "zero sizes", "huge numbers"]
)
@pytest.mark.parametrize("thresh", [0.0, 0.01, 0.3, 0.7])
def test_backends_agree(kind, thresh, monkeypatch):
    """Where the grid of the fast search has much or nothing to do."""
    rng = np.random.default_rng(11)
    boxes, scores = random_boxes(rng, 400, extent=12.0), rng.integers(0, 50, 400) / 50
    if kind == "one giant":
        boxes[:20, 3:5] *= 100
    elif kind == "two far clusters":
        boxes[:200, 0] += 1e6
    elif kind == "one line":
        boxes[:, 1] = 3.0
    elif kind == "one place":
        boxes[:, :2] = 1.0
    elif kind == "zero sizes":
        boxes[::3, 3] = 0
        boxes[::7, 4] = -1
    elif kind == "huge numbers":
        boxes[::5, 0] = 1e300
        boxes[1::5, 3] = 1e6
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", "reference")
    expected = nms_rotated(boxes, scores, thresh), nms_axis_aligned(boxes, scores, thresh)
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", "cpu")
    np.testing.assert_array_equal(nms_rotated(boxes, scores, thresh), expected[0])
    np.testing.assert_array_equal(nms_axis_aligned(boxes, scores, thresh), expected[1])
    assert 0 < len(expected[0]) <= 400


def test_post_maxsize_ends_the_search(backend):
    boxes = torch.tensor([row(10.0 * i) for i in range(5)] + [row(10.5)])
    scores = torch.tensor([0.1, 0.5, 0.3, 0.4, 0.2, 0.45])  # the last is suppressed by the best
    assert nms_rotated(boxes, scores, 0.1, post_maxsize=2).tolist() == [1, 3]
    assert nms_rotated(boxes, scores, 0.1, post_maxsize=9).tolist() == [1, 3, 2, 4, 0]
    assert nms_rotated(boxes, scores, 0.1, pre_maxsize=2, post_maxsize=2).tolist() == [1]
    assert nms_axis_aligned(boxes, scores, 0.1, post_maxsize=0).tolist() == []


def test_groups_by_hand(backend):
    """One place, so that every box of a group suppresses the rest of it: thresholds, limits and boxes that take no
    part.
    """
    # rows half a metre apart overlap by 1.5 / 2.5 = 0.6
    boxes = torch.tensor([row(0), row(0.5), row(0), row(0.5), row(0), row(0), row(9)])
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.5])
    groups = torch.tensor([0, 0, 1, 1, -1, 2, 1])
    assert nms_rotated(boxes, scores, [0.5, 0.5, 0.5], groups=groups).tolist() == [1, 6, 3, 5]
    assert nms_rotated(boxes, scores, [0.7, 0.5, 0.5], groups=groups).tolist() == [1, 0, 6, 3, 5]
    assert nms_rotated(boxes, scores, [0.7, 0.5, 0.5], pre_maxsize=[1, None, 0], groups=groups).tolist() == [1, 6, 3]
    assert nms_rotated(boxes, scores, [0.7, 0.5, 0.5], post_maxsize=1, groups=groups).tolist() == [1, 6, 5]
    assert nms_axis_aligned(boxes, scores, [0.7, 0.5], post_maxsize=[None, 1], groups=groups.int()).tolist() == [
        1,
        0,
        6,
    ]
    assert nms_rotated(boxes, scores, [], groups=groups).tolist() == []
    assert nms_rotated(boxes.numpy(), scores.numpy(), [0.5], groups=np.full(7, 5)).tolist() == []


@pytest.mark.parametrize("count", [63, 64, 65, 130])
def test_groups_are_as_one_call_each(count, backend):
    """Around the size of a tile; ties; unlike limits; groups that are empty."""
    rng = np.random.default_rng(count)
    boxes, scores = random_boxes(rng, count, extent=4.0), rng.integers(0, 9, count) / 9
    groups = rng.choice([-1, 0, 2, 3], count, p=[0.1, 0.6, 0.2, 0.1])
    thresh, pre, post = [0.1, 0.2, 0.0, 0.5], [None, 7, 11, 200], [20, 1, None, 3]
    expected = []
    for g in range(4):
        own = np.nonzero(groups == g)[0]
        expected += own[nms_rotated(boxes[own], scores[own], thresh[g], pre[g])[: post[g]]].tolist()
    assert nms_rotated(boxes, scores, thresh, pre, post, groups).tolist() == expected and len(expected) > 10


# sizes and places from a raster, so that boxes coincide, touch and nest; scores that tie
BOX = st.tuples(
    *[st.integers(-4, 4).map(lambda i: i / 2)] * 2,
    st.just(0.0),
    *[st.sampled_from([0.5, 1.0, 2.0, 3.0])] * 3,
    st.one_of(st.sampled_from([0.0, np.pi / 2, np.pi / 4]), st.floats(-10, 10)),
)
SCORED = st.lists(st.tuples(BOX, st.integers(0, 5).map(lambda i: i / 5)), min_size=1, max_size=24)


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=6 if INTERPRETED else 100, deadline=None)
@given(scored=SCORED, thresh=st.sampled_from([0.0, 0.1, 0.5, 0.9]))
def test_survivors_do_not_overlap_and_the_rest_has_a_better_one_that_does(name, scored, thresh):
    boxes, scores = np.array([box for box, _ in scored]), np.array([score for _, score in scored])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCDET_FOCAL_BACKEND", name)
        kept = nms_rotated(boxes, scores, thresh)
        turned = boxes.copy()  # the whole scene turned and shifted
        turned[:, 0], turned[:, 1], turned[:, 6] = 30 - boxes[:, 1], boxes[:, 0] - 7, boxes[:, 6] + np.pi / 2
        kept_turned = nms_rotated(turned, scores, thresh)
    iou = boxes_iou_bev(boxes, boxes)
    assert len(set(kept)) == len(kept) and (np.diff(scores[kept]) <= 0).all()
    among = iou[np.ix_(kept, kept)]
    assert (among[~np.eye(len(kept), dtype=bool)] <= thresh).all()
    for i in set(range(len(boxes))) - set(kept):
        assert (
            (iou[i, kept] > thresh) & ((scores[kept] > scores[i]) | ((scores[kept] == scores[i]) & (kept < i)))
        ).any()
    if (np.abs(iou - thresh) > 1e-9).all() and (thresh > 0 or ((iou == 0) | (iou > 1e-9)).all()):
        np.testing.assert_array_equal(kept_turned, kept)


def test_empty_numpy_and_further_columns(backend):
    assert nms_rotated(torch.zeros(0, 7), torch.zeros(0), 0.1).shape == (0,)
    boxes = np.array([row(0) + [np.nan], row(0.1) + [np.nan]], dtype=np.float32)
    before = boxes.copy()
    keep = nms_rotated(boxes, np.array([0.1, 0.2]), 0.1)
    assert isinstance(keep, np.ndarray) and keep.dtype == np.int64 and keep.tolist() == [1]
    nms_axis_aligned(boxes, np.array([0.1, 0.2]), 0.1)
    np.testing.assert_array_equal(boxes, before)


def test_mistakes():
    boxes = torch.zeros(3, 7)
    with pytest.raises(InputError, match=r"scores .*\(3,\).*\(3, 1\)"):
        nms_rotated(boxes, torch.zeros(3, 1), 0.1)
    with pytest.raises(InputError, match="thresh .*-0.1"):
        nms_rotated(boxes, torch.zeros(3), -0.1)
    with pytest.raises(InputError, match="pre_maxsize .*-1"):
        nms_rotated(boxes, torch.zeros(3), 0.1, -1)
    with pytest.raises(InputError, match=r"post_maxsize .*2 .*\[1, 2, 3\]"):
        nms_rotated(boxes, torch.zeros(3), [0.1, 0.1], None, [1, 2, 3], torch.zeros(3))
    with pytest.raises(InputError, match="thresh .*0.1"):
        nms_rotated(boxes, torch.zeros(3), 0.1, groups=torch.zeros(3))
    with pytest.raises(InputError, match="thresh .*groups"):
        nms_rotated(boxes, torch.zeros(3), [0.1])
    with pytest.raises(InputError, match=r"groups .*\(3,\).*\(2,\)"):
        nms_rotated(boxes, torch.zeros(3), [0.1], groups=torch.zeros(2))
    with pytest.raises(InputError, match=r"boxes .*\(3, 5\)"):
        nms_rotated(boxes[:, :5], torch.zeros(3), 0.1)
