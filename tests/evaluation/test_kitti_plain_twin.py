"""The evaluator against a slow twin written straight from the benchmark's rules: frames one by one, dense overlaps by
shapely, no shortcuts.
"""

import numpy as np
import pytest

from pcdet_focal.evaluation.kitti import CLASS_NAMES, LOOSE_OVERLAPS, STRICT_OVERLAPS, evaluate_kitti

shapely = pytest.importorskip("shapely")

ALL_NAMES = (*CLASS_NAMES, "Misc", "DontCare")
LIMITS = ((40, 0, 0.15), (25, 1, 0.3), (25, 2, 0.5))


def random_objects(rng, count):
    corner = rng.uniform([0, 0], [300, 150], (count, 2)).round(1)
    size = np.stack([rng.uniform(20, 120, count), rng.choice([24.0, 25, 26, 40, 41, 60, 100], count)], axis=1)
    return {
        "name": rng.choice(ALL_NAMES, count, p=[0.3, 0.15, 0.15, 0.1, 0.1, 0.05, 0.05, 0.1]),
        "truncated": rng.choice([0, 0.15, 0.2, 0.3, 0.5, 0.6], count, p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]),
        "occluded": rng.choice([0, 1, 2, 3], count, p=[0.6, 0.2, 0.1, 0.1]),
        "alpha": rng.uniform(-3, 3, count),
        "bbox": np.concatenate([corner, corner + size], axis=1),
        "dimensions": rng.uniform([1, 1, 0.5], [4, 2, 2], (count, 3)),
        "location": rng.uniform([-8, 1.5, 5], [8, 1.8, 20], (count, 3)),
        "rotation_y": rng.uniform(-3, 3, count),
    }


def random_frames(seed, frames):
    """Ground truth, and detections that are noisy copies (some twice, some of another class) among wrong ones; few
    distinct scores.
    """
    rng = np.random.default_rng(seed)
    gts, dts = [], []
    for _ in range(frames):
        gt = random_objects(rng, int(rng.integers(0, 12)))
        copied = rng.permutation(np.repeat(np.arange(len(gt["name"])), rng.integers(0, 3, len(gt["name"]))))
        dt = {key: value[copied] for key, value in gt.items()}
        noise = rng.choice([0.02, 0.05, 0.2])
        dt["location"] = dt["location"] + rng.normal(0, noise, dt["location"].shape)
        dt["bbox"] = dt["bbox"] + rng.normal(0, 10 * noise, dt["bbox"].shape)
        dt["alpha"] = dt["alpha"] + rng.normal(0, 0.4, len(copied))
        dt["name"] = np.where(rng.random(len(copied)) < 0.15, rng.choice(CLASS_NAMES, len(copied)), dt["name"])
        wrong = random_objects(rng, int(rng.integers(0, 5)))
        dt = {key: np.concatenate([dt[key], wrong[key]]) for key in dt}
        dt["score"] = rng.normal(0.4, 0.3, len(dt["name"])).round(2)
        gts.append(gt)
        dts.append(dt)
    return gts, dts


def rectangle(anno, i):
    (x, _, z), (length, _, width), angle = anno["location"][i], anno["dimensions"][i], anno["rotation_y"][i]
    c, s = np.cos(angle), np.sin(angle)
    return shapely.Polygon(
        [
            (x + c * u + s * v, z - s * u + c * v)
            for u, v in (
                (length / 2, width / 2),
                (length / 2, -width / 2),
                (-length / 2, -width / 2),
                (-length / 2, width / 2),
            )
        ]
    )


def overlap(metric, gt, i, dt, j):
    if metric == "bbox":
        a, b = shapely.box(*gt["bbox"][i]), shapely.box(*dt["bbox"][j])
        return a.intersection(b).area / a.union(b).area
    a, b = rectangle(gt, i), rectangle(dt, j)
    shared, size_a, size_b = a.intersection(b).area, a.area, b.area
    if metric == "3d":
        bottoms, tops = zip(
            *(
                (anno["location"][k][1], anno["location"][k][1] - anno["dimensions"][k][1])
                for anno, k in ((gt, i), (dt, j))
            )
        )
        shared *= max(0.0, min(bottoms) - max(tops))
        size_a *= gt["dimensions"][i][1]
        size_b *= dt["dimensions"][j][1]
    return shared / (size_a + size_b - shared)


def sort_frame(gt, dt, name, level):
    """States by the rules: 0 counts, 1 ignored, None of no interest."""
    height, occlusion, truncation = LIMITS[level]
    neighbour = {"Car": "Van", "Pedestrian": "Person_sitting"}.get(name)
    gt_states = []
    for i, other in enumerate(gt["name"]):
        hard = (
            gt["bbox"][i, 3] - gt["bbox"][i, 1] <= height
            or gt["occluded"][i] > occlusion
            or gt["truncated"][i] > truncation
        )
        gt_states.append((1 if hard else 0) if other == name else 1 if other == neighbour else None)
    dt_states = [
        1 if dt["bbox"][j, 3] - dt["bbox"][j, 1] < height else 0 if other == name else None
        for j, other in enumerate(dt["name"])
    ]
    return gt_states, dt_states


def twin(gts, dts, name, level, metric, minimum, tables):
    states = [sort_frame(gt, dt, name, level) for gt, dt in zip(gts, dts)]
    found, total = [], sum(s.count(0) for s, _ in states)
    for f, (gt_states, dt_states) in enumerate(states):
        taken = set()
        for i, state in enumerate(gt_states):
            fits = [
                j
                for j, other in enumerate(dt_states)
                if state is not None and other is not None and j not in taken and tables[metric][f][i, j] > minimum
            ]
            if fits:
                best = max(fits, key=lambda j: (dts[f]["score"][j], -j))
                taken.add(best)
                if state == 0 and dt_states[best] == 0:
                    found.append(dts[f]["score"][best])
    thresholds, recall = [], 0.0
    found.sort(reverse=True)
    for k, score in enumerate(found):
        left, right = (k + 1) / total, (k + 2) / total
        if k < len(found) - 1 and right - recall < recall - left:
            continue
        thresholds.append(score)
        recall += 1 / 40
    precision, orientation, reached = np.zeros(41), np.zeros(41), np.zeros(41)
    for t, threshold in enumerate(thresholds):
        hits, false, missed, similarity = 0, 0, 0, 0.0
        for f, (gt_states, dt_states) in enumerate(states):
            taken, table = set(), tables[metric][f]
            for i, state in enumerate(gt_states):
                fits = [
                    j
                    for j, other in enumerate(dt_states)
                    if state is not None
                    and other is not None
                    and j not in taken
                    and dts[f]["score"][j] >= threshold
                    and table[i, j] > minimum
                ]
                counted = [j for j in fits if dt_states[j] == 0]
                if not fits:
                    missed += state == 0
                    continue
                best = max(counted, key=lambda j: (table[i, j], -j)) if counted else fits[0]
                taken.add(best)
                if state == 0 and dt_states[best] == 0:
                    hits += 1
                    similarity += (1 + np.cos(gts[f]["alpha"][i] - dts[f]["alpha"][best])) / 2
            for j, state in enumerate(dt_states):
                if state == 0 and j not in taken and dts[f]["score"][j] >= threshold:
                    box = shapely.box(*dts[f]["bbox"][j])
                    regions = [
                        shapely.box(*gts[f]["bbox"][i]) for i, other in enumerate(gts[f]["name"]) if other == "DontCare"
                    ]
                    false += not (
                        metric == "bbox"
                        and any(region.intersection(box).area / box.area > minimum for region in regions)
                    )
        if hits:
            precision[t], orientation[t], reached[t] = (
                hits / (hits + false),
                similarity / (hits + false),
                hits / (hits + missed),
            )
    return [*(np.array([max(curve[k:]) for k in range(41)]) for curve in (precision, orientation)), reached], len(found)


@pytest.mark.parametrize("seed", range(4))
def test_curves_are_the_twins(seed):
    gts, dts = random_frames(seed, 30)
    result = evaluate_kitti(gts, dts, CLASS_NAMES)
    tables = {
        metric: [
            np.array(
                [
                    [
                        overlap(metric, gt, i, dt, j) if gt["name"][i] != "DontCare" else 0.0
                        for j in range(len(dt["name"]))
                    ]
                    for i in range(len(gt["name"]))
                ]
            ).reshape(len(gt["name"]), len(dt["name"]))
            for gt, dt in zip(gts, dts)
        ]
        for metric in ("bbox", "bev", "3d")
    }
    compared = 0
    for name in CLASS_NAMES:
        for key, sets in (("strict", STRICT_OVERLAPS), ("loose", LOOSE_OVERLAPS)):
            for metric, minimum in zip(("bbox", "bev", "3d"), sets[name]):
                for level in range(3):
                    (precision, orientation, reached), found = twin(gts, dts, name, level, metric, minimum, tables)
                    where = f"{name} {metric} {key} {level}"
                    np.testing.assert_allclose(
                        result.precision[name][metric][key][level], precision, atol=1e-12, err_msg=where
                    )
                    np.testing.assert_allclose(
                        result.recall[name][metric][key][level], reached, atol=1e-12, err_msg=where
                    )
                    assert result.found[name][metric][key][level] == found, where
                    if metric == "bbox":
                        np.testing.assert_allclose(
                            result.precision[name]["aos"][key][level], orientation, atol=1e-12, err_msg=where
                        )
                    compared += int((precision > 0).sum())
    assert compared > 300


def test_order_of_frames_and_threads_do_not_matter():
    gts, dts = random_frames(11, 30)
    order = np.random.default_rng(0).permutation(30)
    result = evaluate_kitti(gts, dts, CLASS_NAMES).as_dict()
    assert max(result.values()) > 10
    shuffled = evaluate_kitti([gts[i] for i in order], [dts[i] for i in order], CLASS_NAMES)
    for other in (shuffled, evaluate_kitti(gts, dts, CLASS_NAMES, num_threads=1)):
        assert other.as_dict() == pytest.approx(result, abs=1e-9)


def test_detections_of_one_class_do_not_depend_on_which_classes_are_evaluated():
    gts, dts = random_frames(12, 20)
    together = evaluate_kitti(gts, dts, CLASS_NAMES).as_dict()
    for name in CLASS_NAMES:
        alone = evaluate_kitti(gts, dts, name).as_dict()
        assert alone == {
            key: value
            for key, value in together.items()
            if key.startswith(f"{name}_") and key.count("_") == name.count("_") + 2
        }
