"""Greedy NMS of any boxes is a greedy pass over shapely's overlaps."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pcdet_focal.ops.nms import nms_rotated

shapely = pytest.importorskip("shapely")


@pytest.fixture(params=["reference", "cpu"])
def backend(request, monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", request.param)
    return request.param


def random_boxes(rng, n, extent=30.0):
    sizes = np.array([[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]])[rng.integers(0, 3, n)] * rng.uniform(
        0.8, 1.2, (n, 3)
    )
    return np.concatenate(
        [rng.uniform(-extent, extent, (n, 2)), rng.uniform(-1, 1, (n, 1)), sizes, rng.uniform(-4, 4, (n, 1))], axis=1
    )


def shapely_ious(boxes):
    """(N, N): the IoU of every pair of boxes (N, 7) seen from above."""
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
    shared, sizes = shapely.area(shapely.intersection(shapes[:, None], shapes[None, :])), shapely.area(shapes)
    return shared / (sizes[:, None] + sizes[None, :] - shared)


def greedy(ious, scores, thresh):
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if not kept or ious[i, kept].max() <= thresh:
            kept.append(i)
    return kept


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 40),
    extent=st.sampled_from([0.5, 4.0, 60.0]),
    largest=st.sampled_from([1.0, 3.0, 100.0]),
    thresh=st.sampled_from([0.01, 0.1, 0.5, 0.7]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mixture_of_sizes_in_any_place(backend, seed, count, extent, largest, thresh):
    """Dense and spread, with boxes up to a hundred times as large as others (then they share few cells); moving all
    alike changes nothing.
    """
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, count, extent)
    boxes[:, 3:6] *= np.where(rng.random((count, 1)) < 0.2, largest, 1.0)
    ious, scores = shapely_ious(boxes), rng.permutation(count) / count
    assume(np.abs(ious[~np.eye(count, dtype=bool)] - thresh).min(initial=1.0) > 1e-9)
    kept = greedy(ious, scores, thresh)
    np.testing.assert_array_equal(nms_rotated(boxes, scores, thresh), kept)
    np.testing.assert_array_equal(nms_rotated(boxes + [300.0, -200.0, 5.0, 0, 0, 0, 0], scores, thresh), kept)
