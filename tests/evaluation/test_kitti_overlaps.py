"""Overlaps inside a frame against shapely and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcdet_focal.evaluation.kitti.annotations import flatten_detections, flatten_ground_truth
from pcdet_focal.evaluation.kitti.overlaps import compute_overlaps

shapely = pytest.importorskip("shapely")


def random_frame(rng, count, spread):
    corner = rng.uniform(0, 200, (count, 2))
    return {
        "name": rng.choice(["Car", "Pedestrian", "DontCare"], count),
        "truncated": np.zeros(count),
        "occluded": np.zeros(count),
        "alpha": np.zeros(count),
        "bbox": np.concatenate([corner, corner + rng.uniform(1, 120, (count, 2))], axis=1),
        "dimensions": rng.uniform(0.3, 5, (count, 3)),
        "location": rng.uniform(-1, 1, (count, 3)) * [spread, 1, spread] + [0, 1, 50],
        "rotation_y": rng.uniform(-7, 7, count),
        "score": rng.uniform(0, 1, count),
    }


def ground_polygon(location, dimensions, rotation_y):
    """Footprint in the camera's x-z plane, turned about y, by the corner formula of KITTI's development kit."""
    length, _, width = dimensions
    c, s = np.cos(rotation_y), np.sin(rotation_y)
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    corners = np.array([[length, 0, width], [length, 0, -width], [-length, 0, -width], [-length, 0, width]]) / 2
    return shapely.Polygon((corners @ turn.T + location)[:, [0, 2]])


@given(seed=st.integers(0, 10**6), spread=st.sampled_from([0.5, 3.0, 20.0]))
@settings(max_examples=25, deadline=None)
def test_all_pairs_match_shapely(seed, spread):
    rng = np.random.default_rng(seed)
    gts = [random_frame(rng, int(rng.integers(0, 6)), spread) for _ in range(3)]
    dts = [random_frame(rng, int(rng.integers(0, 6)), spread) for _ in range(3)]
    gt, dt = flatten_ground_truth(gts), flatten_detections(dts)
    wanted = gt.class_ids >= 0
    overlaps = compute_overlaps(gt, dt, wanted)
    dense = {metric: np.zeros((len(gt), len(dt))) for metric in ("bbox", "bev", "3d")}
    for g in range(len(gt)):
        row = slice(overlaps.first[g], overlaps.first[g + 1])
        assert np.all(np.diff(overlaps.pair_dt[row]) > 0)
        for metric in dense:
            dense[metric][g, overlaps.pair_dt[row]] = overlaps.values[metric][row]
    cover = np.zeros(len(dt))
    for f in range(3):
        for i in range(len(gts[f]["name"])):
            a, g = {key: value[i] for key, value in gts[f].items()}, gt.starts[f] + i
            for j in range(len(dts[f]["name"])):
                b, d = {key: value[j] for key, value in dts[f].items()}, dt.starts[f] + j
                image_a, image_b = shapely.box(*a["bbox"]), shapely.box(*b["bbox"])
                if a["name"] == "DontCare":
                    cover[d] = max(cover[d], image_a.intersection(image_b).area / image_b.area)
                    continue
                plane_a, plane_b = (ground_polygon(o["location"], o["dimensions"], o["rotation_y"]) for o in (a, b))
                shared = plane_a.intersection(plane_b).area
                tall = max(
                    0,
                    min(a["location"][1], b["location"][1])
                    - max(a["location"][1] - a["dimensions"][1], b["location"][1] - b["dimensions"][1]),
                )
                volumes = np.prod(a["dimensions"]) + np.prod(b["dimensions"])
                for metric, value in (
                    ("bbox", image_a.intersection(image_b).area / image_a.union(image_b).area),
                    ("bev", shared / (plane_a.area + plane_b.area - shared)),
                    ("3d", shared * tall / (volumes - shared * tall)),
                ):
                    assert dense[metric][g, d] == pytest.approx(value, abs=1e-9), metric
                    dense[metric][g, d] = 0
    np.testing.assert_allclose(overlaps.unlabelled, cover, atol=1e-12)
    # what is left would be a pair across frames or with a region
    assert not any(values.any() for values in dense.values())


def test_identical_boxes_overlap_wholly():
    rng = np.random.default_rng(3)
    frame = random_frame(rng, 40, 100.0)
    frame["name"][:] = "Car"
    gt, dt = flatten_ground_truth([frame]), flatten_detections([frame])
    overlaps = compute_overlaps(gt, dt, np.ones(40, dtype=bool))
    for g in range(40):
        row = slice(overlaps.first[g], overlaps.first[g + 1])
        for values in overlaps.values.values():
            assert values[row][overlaps.pair_dt[row] == g] == pytest.approx(1.0, abs=1e-12)


def test_far_pairs_are_left_out():
    rng = np.random.default_rng(4)
    frame = random_frame(rng, 5, 1.0)
    frame["name"][:] = "Car"
    away = {key: value.copy() for key, value in frame.items()}
    away["location"] += [100, 0, 0]
    away["bbox"] += 1000
    overlaps = compute_overlaps(flatten_ground_truth([frame]), flatten_detections([away]), np.ones(5, dtype=bool))
    assert overlaps.first[-1] == 0 and len(overlaps.pair_dt) == 0
