"""Nearest and most overlapping anchors: by hand, against numpy and shapely, every backend against the reference, grids
or not.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_triton import BACKENDS, INTERPRETED

from pcdet_focal.errors import InputError
from pcdet_focal.ops.anchor_search import reference, search_anchors


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", request.param)
    return request.param


def grid(xs, ys, heights=(0.0,), sizes=((4.0, 2.0, 1.5),), rotations=(0.0,), dtype=torch.float32):
    anchors = torch.zeros(len(heights), len(ys), len(xs), len(sizes), len(rotations), 7, dtype=dtype)
    anchors[..., 0] = torch.as_tensor(xs, dtype=dtype).view(1, 1, -1, 1, 1)
    anchors[..., 1] = torch.as_tensor(ys, dtype=dtype).view(1, -1, 1, 1, 1)
    anchors[..., 2] = torch.tensor(heights, dtype=dtype).view(-1, 1, 1, 1, 1)
    anchors[..., 3:6] = torch.tensor(sizes, dtype=dtype).view(1, 1, 1, -1, 1, 3)
    anchors[..., 6] = torch.tensor(rotations, dtype=dtype)
    return anchors


def random_boxes(rng, count, extent=9.0):
    """Some on the grid's raster, parallel to it, without size, far away, huge."""
    boxes = np.concatenate(
        [
            rng.uniform(-extent, extent, (count, 2)),
            rng.uniform(-1, 1, (count, 1)),
            rng.uniform(0.3, 5, (count, 3)),
            rng.uniform(-7, 7, (count, 1)),
        ],
        axis=1,
    )
    boxes[::2, :2] = np.round(boxes[::2, :2] * 2) / 2
    boxes[::3, 6] = 0
    boxes[1, 3], boxes[2, 0], boxes[3, 3:5], boxes[4, 1] = 0, 1e5, 90, -40
    return torch.from_numpy(boxes)


def every(boxes):
    return torch.ones(len(boxes), dtype=torch.bool)


def test_by_hand(backend):
    """Metre raster, two rotations. The box stands nearer to x = 3; its next neighbours in y are equally far: the lower
    row first.
    """
    anchors = grid(np.arange(5.0), np.arange(4.0), rotations=(0.0, math.pi / 2))
    boxes = torch.tensor(
        [
            [2.8, 1.0, 0.0, 4.0, 2.0, 1.5, 0.1],
            [50.0, 50.0, 0.0, 4.0, 2.0, 1.5, 0.0],
            [-0.5, 1.0, 9.0, 2.0, 4.0, 1.5, 0.0],
        ]
    )
    nearest, best = search_anchors(anchors, boxes, every(boxes), 8)
    place = [(index // 10, index // 2 % 5, index % 2) for index in nearest[0].tolist()]  # y, x, rotation
    assert place == [(1, 3, 0), (1, 3, 1), (1, 2, 0), (1, 2, 1), (0, 3, 0), (0, 3, 1), (2, 3, 0), (2, 3, 1)]
    # seen from above the height of the last does not matter
    assert best.tolist() == [1 * 10 + 3 * 2, 0, 1 * 10 + 0 * 2 + 1]
    assert search_anchors(anchors, boxes, every(boxes), 8, match_height=True)[1].tolist() == [16, 0, 0]
    assert nearest[1].tolist()[:2] == [38, 39] and nearest.dtype == best.dtype == torch.int64
    assert search_anchors(anchors, boxes, every(boxes), 1000)[0].sort(1).values.tolist() == [list(range(40))] * 3


@pytest.mark.parametrize(
    "kind",
    [
        dict(rotations=(0.0, 1.57)),
        dict(heights=(0.0, 1.0), sizes=((3.9, 1.6, 1.5), (1.0, 1.0, 1.0)), rotations=(0.0, 1.57, 0.5)),
    ],
)
@pytest.mark.parametrize("topk", [1, 9, 50])
@pytest.mark.parametrize("match_height", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_grid_search_is_the_dense_one(kind, topk, match_height, dtype, monkeypatch):
    anchors, boxes = (
        grid(np.arange(33) * 0.5 - 8, np.arange(20) * 0.5 - 5, dtype=dtype, **kind),
        random_boxes(np.random.default_rng(topk), 40),
    )
    wanted = torch.arange(40) % 5 != 2
    expected = reference.search(anchors, boxes, wanted, topk, match_height)
    monkeypatch.setattr(reference, "search", None)
    found = search_anchors(anchors, boxes, wanted, topk, match_height)
    for got, want in zip(found, expected):
        assert torch.equal(got[wanted], want[wanted]) and got.shape == want.shape
    assert (expected[1][wanted] == 0).sum() < 15


@pytest.mark.skipif(not INTERPRETED, reason="needs Triton's interpreter")
@pytest.mark.parametrize("match_height", [False, True])
def test_cuda_kernels_on_blocks(match_height):
    """More anchors than a block of either kernel; a box without an anchor near; one that is not wanted."""
    from pcdet_focal.ops.anchor_search import cuda

    anchors, boxes = (
        grid(np.arange(33) * 0.5 - 8, np.arange(20) * 0.5 - 5, rotations=(0.0, 1.57)),
        random_boxes(np.random.default_rng(1), 9),
    )
    wanted = torch.arange(9) != 6
    for got, want in zip(
        cuda.search(anchors, boxes, wanted, 9, match_height), reference.search(anchors, boxes, wanted, 9, match_height)
    ):
        assert torch.equal(got[wanted], want[wanted]) and got.shape == want.shape


def test_anchors_that_are_no_grid(backend):
    rng = np.random.default_rng(4)
    anchors = random_boxes(rng, 60).view(1, 1, 60, 1, 1, 7).float()
    boxes = random_boxes(rng, 7)
    nearest, best = search_anchors(anchors, boxes, every(boxes), 5)
    distance = np.linalg.norm(anchors.view(60, 7).double().numpy()[None, :, :3] - boxes.numpy()[:, None, :3], axis=2)
    np.testing.assert_array_equal(nearest.numpy(), np.argsort(distance, axis=1, kind="stable")[:, :5])
    anchors = grid(np.arange(5.0), np.arange(4.0))
    anchors[0, 2, 3, 0, 0, 3] = 40.0  # one longer than the others
    assert search_anchors(anchors, torch.tensor([[-9.0, 2.0, 0, 4, 2, 1, 0]]), torch.ones(1, dtype=torch.bool), 1)[
        1
    ].tolist() == [13]
    anchors[0, 2, 3, 0, 0, 3] = 4.0  # a change in place is noticed
    assert search_anchors(anchors, torch.tensor([[1.0, 2.0, 0, 4, 2, 1, 0]]), torch.ones(1, dtype=torch.bool), 1)[
        1
    ].tolist() == [11]


def test_best_against_shapely(backend):
    shapely = pytest.importorskip("shapely")
    anchors, boxes = (
        grid(np.arange(7.0), np.arange(6.0), rotations=(0.3, 1.2)),
        random_boxes(np.random.default_rng(8), 12, extent=5)[5:],
    )
    boxes[:, :2] += 3

    def shapes(some):
        corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2 * some[:, None, 3:5]
        cos, sin = np.cos(some[:, 6])[:, None], np.sin(some[:, 6])[:, None]
        return shapely.polygons(
            np.stack(
                [
                    corners[..., 0] * cos - corners[..., 1] * sin + some[:, None, 0],
                    corners[..., 0] * sin + corners[..., 1] * cos + some[:, None, 1],
                ],
                axis=-1,
            )
        )

    a, b = shapes(anchors.view(-1, 7).double().numpy()), shapes(boxes.numpy())
    iou = shapely.area(shapely.intersection(a[:, None], b)) / shapely.area(shapely.union(a[:, None], b))  # (84, 7)
    best = search_anchors(anchors, boxes, every(boxes), 1)[1].numpy()
    np.testing.assert_allclose(iou[best, np.arange(len(best))], iou.max(axis=0), rtol=1e-6)


STEP = st.sampled_from([0.25, 0.5, 1.0])


@settings(max_examples=60, deadline=None)
@given(
    steps=st.tuples(STEP, STEP),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    topk=st.integers(1, 12),
    box=st.tuples(
        *[st.integers(-12, 12).map(lambda i: i / 4)] * 3,
        *[st.sampled_from([0.5, 1.0, 2.0, 20.0])] * 3,
        st.sampled_from([0, math.pi / 2, 0.3]),
    ),
)
def test_ties_of_a_raster(steps, shape, topk, box):
    anchors = grid(
        np.arange(shape[0]) * steps[0] - 1,
        np.arange(shape[1]) * steps[1],
        (0.0, 0.5),
        ((2.0, 1.0, 1.0),),
        (0.0, math.pi / 2),
    )
    boxes = torch.tensor([box], dtype=torch.float64)
    for match_height in (False, True):
        found, expected = (
            f(anchors, boxes, every(boxes), topk, match_height) for f in (search_anchors, reference.search)
        )
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_a_few_boxes_at_a_time(monkeypatch):
    anchors, boxes = grid(np.arange(9.0), np.arange(8.0)), random_boxes(np.random.default_rng(2), 20)
    whole = reference.search(anchors, boxes, every(boxes), 4, False)
    monkeypatch.setattr(reference, "_PAIRS_AT_ONCE", 200)
    for got, want in zip(reference.search(anchors, boxes, every(boxes), 4, False), whole):
        assert torch.equal(got, want)


def test_not_finite_and_nothing(backend):
    anchors = grid(np.arange(3.0), np.arange(3.0))
    boxes = torch.tensor([[math.nan, 0, 0, 1, 1, 1, 0], [1.0, 1.0, 0, 4, 2, 1, 0], [1.0, 1.0, 0, math.inf, 2, 1, 0]])
    nearest, best = search_anchors(anchors, boxes, every(boxes), 2)
    assert best.tolist() == [0, 4, 0] and nearest[1].tolist() == [4, 1] and nearest[2].tolist() == [4, 1]
    nearest, best = search_anchors(anchors, boxes[:0], every(boxes)[:0], 2)
    assert nearest.shape == (0, 2) and best.shape == (0,)


def test_mistakes():
    anchors, boxes = grid(np.arange(3.0), np.arange(3.0)), torch.zeros(2, 7)
    for arguments, words in [
        ((anchors.view(-1, 7), boxes, every(boxes), 1), "anchors"),
        ((anchors[:, :0], boxes, every(boxes), 1), "anchors"),
        ((anchors, boxes[:, :6], every(boxes), 1), r"boxes .*selected"),
        ((anchors, boxes, every(boxes)[:1], 1), "selected"),
        ((anchors, boxes, every(boxes), 0), "topk .*0"),
        ((anchors.to("meta"), boxes, every(boxes), 1), "meta"),
    ]:
        with pytest.raises(InputError, match=words):
            search_anchors(*arguments)
