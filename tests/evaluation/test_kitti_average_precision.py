"""KITTI average precision against recorded numbers of two other evaluators, and against cases that a pencil can do."""

import json
import math
import tarfile

import numpy as np
import pytest
from golden_data import record

from pcdet_focal.errors import InputError
from pcdet_focal.evaluation.kitti import CLASS_NAMES, evaluate_kitti, get_label_annos

SCENARIOS = ("main60", "ties20", "some_empty10")
# with this many ground truths, all found at different scores, every one of the 41 recall points has a threshold
EVERY_POINT = 41


def objects(count, name="Car", spacing=20.0, height=60.0):
    """``count`` objects of one frame, far apart in the image and on the ground: 4 m long, 2 m wide, 1.5 m high, along
    the x axis.
    """
    where = np.arange(count) * spacing
    left = np.arange(count) * 100.0
    return {
        "name": np.array([name] * count, dtype="U16"),
        "truncated": np.zeros(count),
        "occluded": np.zeros(count, dtype=np.int64),
        "alpha": np.full(count, 0.3),
        "bbox": np.stack([left, np.full(count, 100.0), left + 80.0, np.full(count, 100.0 + height)], axis=1),
        "dimensions": np.tile([4.0, 1.5, 2.0], (count, 1)),
        "location": np.stack([where, np.full(count, 1.6), np.full(count, 30.0)], axis=1),
        "rotation_y": np.zeros(count),
    }


def detections(anno, scores=None):
    found = {key: value.copy() for key, value in anno.items()}
    count = len(found["name"])
    found["score"] = np.linspace(0.9, 0.1, count) if scores is None else np.asarray(scores, dtype=np.float64)
    return found


def joined(*annos):
    return {key: np.concatenate([anno[key] for anno in annos]) for key in annos[0]}


def moved(anno, x=0.0, y=0.0, right=0.0):
    """The same objects shifted by metres in the camera frame and by pixels in the image."""
    shifted = {key: value.copy() for key, value in anno.items()}
    shifted["location"] += [x, y, 0.0]
    shifted["bbox"] += [right, 0.0, right, 0.0]
    return shifted


def r40(gt, dt, name="Car", metric="3d", overlaps="strict"):
    return evaluate_kitti([gt], [dt], name).ap[name][metric][overlaps]["R40"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    def load(scenario):
        folder = tmp_path_factory.mktemp(scenario)
        with tarfile.open(record(f"06_kitti_ap/{scenario}_labels.tar.gz")) as tar:
            tar.extractall(folder, filter="data")
        numbers = json.loads(record(f"06_kitti_ap/{scenario}_ap.json").read_text())
        return get_label_annos(folder / "gt"), get_label_annos(folder / "det"), numbers

    return load


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_numbers_and_text_are_the_recorded_ones(recorded, scenario):
    gt, dt, numbers = recorded(scenario)
    result = evaluate_kitti(gt, dt, ["Car", "Pedestrian", "Cyclist"])
    assert list(result.as_dict()) == list(numbers["python_ret_dict"])
    for key, value in numbers["python_ret_dict"].items():
        assert result.as_dict()[key] == pytest.approx(value, abs=1e-9), key
    assert result.table() == numbers["python_result_text"]
    for source, ap_tolerance, curve_tolerance in (("python_openpcdet", 1e-9, 1e-6), ("cpp_prclibo", 2e-3, 2e-6)):
        assert numbers[source]
        for path, values in numbers[source].items():
            name, metric, overlaps = path.split("/")
            for kind, ap in result.ap[name][metric][overlaps].items():
                np.testing.assert_allclose(
                    ap, values[kind], atol=ap_tolerance, rtol=0, err_msg=f"{source} {path} {kind}"
                )
            np.testing.assert_allclose(
                result.precision[name][metric][overlaps],
                values["precision41"],
                atol=curve_tolerance,
                rtol=0,
                err_msg=f"{source} {path}",
            )


@pytest.mark.parametrize("count, expected", [(41, 100.0), (200, 100.0), (40, 97.5), (20, 47.5), (1, 0.0)])
def test_perfect_detections(count, expected):
    """Below 41 ground truths a perfect detector runs out of thresholds: the benchmark's own property, not a mistake."""
    gt = objects(count)
    result = evaluate_kitti([gt], [detections(gt)], "Car")
    for metric in ("bbox", "bev", "3d", "aos"):
        np.testing.assert_allclose(result.ap["Car"][metric]["strict"]["R40"], expected, atol=1e-9)
    reached = min(count, 41)
    np.testing.assert_array_equal(result.precision["Car"]["3d"]["strict"][0], [1.0] * reached + [0.0] * (41 - reached))
    np.testing.assert_allclose(result.recall["Car"]["3d"]["strict"][0, :reached][-1], 1.0)
    steps = np.arange(41) / 40 if count > 40 else np.arange(1, count + 1) / count  # as near to k / 40 as objects allow
    np.testing.assert_allclose(result.recall["Car"]["3d"]["strict"][0, :reached], steps[:reached], atol=1 / count)
    assert (np.diff(result.recall["Car"]["3d"]["strict"][0, :reached]) > 0).all()
    np.testing.assert_allclose(result.ap["Car"]["3d"]["strict"]["R11"], len(range(0, reached, 4)) / 11 * 100)


def test_overlap_just_above_and_below_the_minimum():
    gt = objects(EVERY_POINT)
    shift = 4 * 0.3 / 1.7  # (4 - s) / (4 + s) = 0.7
    for metric in ("bev", "3d"):
        np.testing.assert_allclose(r40(gt, detections(moved(gt, x=shift - 1e-6)), metric=metric), 100.0)
        np.testing.assert_allclose(r40(gt, detections(moved(gt, x=shift + 1e-6)), metric=metric), 0.0)
        np.testing.assert_allclose(
            r40(gt, detections(moved(gt, x=shift + 1e-6)), metric=metric, overlaps="loose"), 100.0
        )
    rise = 1.5 * 0.3 / 1.7
    np.testing.assert_allclose(r40(gt, detections(moved(gt, y=rise - 1e-6))), 100.0)
    np.testing.assert_allclose(r40(gt, detections(moved(gt, y=rise + 1e-6))), 0.0)
    np.testing.assert_allclose(r40(gt, detections(moved(gt, y=rise + 1e-6)), metric="bev"), 100.0)
    slide = 80 * 0.3 / 1.7
    np.testing.assert_allclose(r40(gt, detections(moved(gt, right=slide - 1e-4)), metric="bbox"), 100.0)
    np.testing.assert_allclose(r40(gt, detections(moved(gt, right=slide + 1e-4)), metric="bbox"), 0.0)
    np.testing.assert_allclose(r40(gt, detections(moved(gt, right=slide + 1e-4)), metric="bbox", overlaps="loose"), 0.0)


def test_overlap_equal_to_the_minimum_is_a_miss():
    gt = objects(EVERY_POINT)
    half = joined(gt)
    half["dimensions"] = half["dimensions"] * [1.0, 0.5, 1.0]  # half as high, on the same ground: IoU exactly 0.5
    result = evaluate_kitti([gt], [detections(half)], "Car")
    assert result.found["Car"]["3d"]["loose"].tolist() == [0, 0, 0]
    assert result.found["Car"]["bev"]["loose"].tolist() == [41, 41, 41]


@pytest.mark.parametrize("hits_before", [0, 1, 17, 41])
def test_one_false_positive(hits_before):
    gt = objects(EVERY_POINT + 1)
    gt = {key: value[:EVERY_POINT] for key, value in gt.items()}
    wrong = {key: value[-1:] for key, value in objects(EVERY_POINT + 1).items()}
    scores = np.linspace(0.9, 0.1, EVERY_POINT)
    dt = joined(detections(gt, scores), detections(wrong, [scores[hits_before - 1] - 1e-3 if hits_before else 0.95]))
    expected = (max(hits_before - 1, 0) + (41 - max(hits_before, 1)) * 41 / 42) / 40 * 100
    for metric in ("bbox", "bev", "3d"):
        np.testing.assert_allclose(r40(gt, dt, metric=metric), expected)


def test_a_second_detection_of_the_same_object_is_a_false_positive():
    gt = objects(EVERY_POINT)
    scores = 0.9 - np.arange(EVERY_POINT) / 100
    dt = joined(detections(gt, scores), detections(moved(gt, x=0.1), scores - 0.005))
    expected = np.mean([(k + 1) / (2 * k + 1) for k in range(1, 41)]) * 100
    np.testing.assert_allclose(r40(gt, dt), expected)


def test_detections_in_unlabelled_regions_are_excused_in_the_image_only():
    cars = objects(EVERY_POINT + 1)
    gt = {key: value.copy() for key, value in cars.items()}
    gt["name"][-1] = "DontCare"
    gt["location"][-1] = -1000
    gt["dimensions"][-1] = -1
    dt = detections(cars, [*np.linspace(0.9, 0.1, EVERY_POINT), 0.95])
    np.testing.assert_allclose(r40(gt, dt, metric="bbox"), 100.0)
    np.testing.assert_allclose(r40(gt, dt, metric="bev"), 4100 / 42)
    # the share of the detection counts, not the IoU: a detection of a quarter of the region's width lies wholly inside
    dt["bbox"][-1, 2] = dt["bbox"][-1, 0] + 20
    np.testing.assert_allclose(r40(gt, dt, metric="bbox"), 100.0)
    # and at a share below 0.7 it is a false positive again
    dt["bbox"][-1] += [-10, 0, -10, 0]
    np.testing.assert_allclose(r40(gt, dt, metric="bbox"), 4100 / 42)


@pytest.mark.parametrize(
    "name, other, expected",
    [
        ("Car", "Van", 100.0),
        ("Car", "Truck", 4100 / 42),
        ("Pedestrian", "Person_sitting", 100.0),
        ("Pedestrian", "Cyclist", 4100 / 42),
        ("Van", "Car", 4100 / 42),
        ("Truck", "Van", 4100 / 42),
        ("Cyclist", "Pedestrian", 4100 / 42),
    ],
)
def test_neighbour_classes_are_neither_right_nor_wrong(name, other, expected):
    everything = objects(EVERY_POINT + 1, name)
    gt = {key: value.copy() for key, value in everything.items()}
    gt["name"] = np.array([name] * EVERY_POINT + [other])
    dt = detections(everything, [*np.linspace(0.9, 0.1, EVERY_POINT), 0.95])
    np.testing.assert_allclose(r40(gt, dt, name), expected)


def test_difficulties():
    count = 50
    gt = objects(count)
    gt["bbox"][:2, 3] = gt["bbox"][:2, 1] + 40.0  # exactly the minimum of easy: ignored there
    gt["bbox"][2:5, 3] = gt["bbox"][2:5, 1] + 25.0  # exactly the minimum of the others: ignored everywhere
    gt["occluded"][5:9] = [1, 2, 3, 3]
    gt["truncated"][9:15] = [0.15, 0.16, 0.3, 0.31, 0.5, 0.51]
    dt = detections(gt)
    counts = evaluate_kitti([gt], [dt], "Car").counts["Car"]
    assert counts.gt_counted.tolist() == [count - 14, count - 9, count - 6]
    assert counts.gt_ignored.tolist() == [14, 9, 6]
    assert counts.dt_counted.tolist() == [count - 3, count, count]  # a detection exactly as high as the minimum counts
    assert counts.dt_ignored.tolist() == [3, 0, 0]
    assert (counts.dt_total, counts.dt_above_zero) == (count, count)
    # finding an ignored object is no false positive
    for metric in ("bbox", "bev", "3d"):
        np.testing.assert_allclose(r40(gt, dt, metric=metric)[1:], 100.0)


def test_orientation_similarity():
    gt = objects(EVERY_POINT)
    for turn, expected in (
        (0.0, 100.0),
        (math.pi / 2, 50.0),
        (math.pi / 3, 75.0),
        (math.pi, 0.0),
        (2 * math.pi, 100.0),
    ):
        dt = detections(gt)
        dt["alpha"] += turn
        np.testing.assert_allclose(r40(gt, dt, metric="aos"), expected, atol=1e-9)
        np.testing.assert_allclose(r40(gt, dt, metric="bbox"), 100.0)


def test_no_orientation_without_alpha():
    gt = objects(EVERY_POINT)
    dt = detections(gt)
    dt["alpha"][:] = -10
    result = evaluate_kitti([gt], [dt], ["Car"])
    assert not result.has_aos and "aos" not in result.ap["Car"] and not any("aos" in key for key in result.as_dict())
    assert "aos" not in result.text()


@pytest.mark.parametrize("places, expected", [([1.0, -1.0], 1), ([-1.0, 1.0], 2)])
def test_of_equal_scores_the_first_detection_is_taken(places, expected):
    """The first car overlaps both detections (IoU 3 / 5), the second one only that between them; which is free depends
    on the order.
    """
    two = objects(2)
    gt = joined(two)
    gt["location"][:, 0] = [0.0, 2.0]
    dt = detections(two, [0.5, 0.5])
    dt["location"][:, 0] = places
    result = evaluate_kitti([gt], [dt], "Car", overlap_sets={"low": {"Car": (0.3, 0.3, 0.3)}})
    assert result.found["Car"]["bev"]["low"].tolist() == [expected] * 3


def test_overlaps_of_turned_boxes():
    """A 4 x 2 m box and itself turned by a right angle share 2 x 2 m: IoU 4 / 12. By half a turn they are the same."""
    gt = objects(EVERY_POINT, "Cyclist")
    for turn, strict, loose in ((math.pi, 100.0, 100.0), (math.pi / 2, 0.0, 100.0)):
        dt = detections(gt)
        dt["rotation_y"] += turn
        np.testing.assert_allclose(r40(gt, dt, "Cyclist"), strict)
        np.testing.assert_allclose(r40(gt, dt, "Cyclist", overlaps="loose"), loose)


def test_pairs_stay_inside_their_frame():
    gt = objects(EVERY_POINT)
    nothing = {key: value[:0] for key, value in gt.items()}
    empty = {key: value[:0] for key, value in detections(gt).items()}
    np.testing.assert_allclose(
        evaluate_kitti([gt, nothing], [empty, detections(gt)], "Car").ap["Car"]["3d"]["strict"]["R40"], 0.0
    )
    np.testing.assert_allclose(
        evaluate_kitti([gt, nothing], [detections(gt), empty], "Car").ap["Car"]["3d"]["strict"]["R40"], 100.0
    )


def test_empty_frames_and_absent_classes():
    gt = objects(3)
    empty = {
        "name": np.zeros(0),
        "alpha": np.zeros(0),
        "bbox": np.zeros((0, 4)),
        "dimensions": np.zeros((0, 3)),
        "location": np.zeros((0, 3)),
        "rotation_y": np.zeros(0),
        "score": np.zeros(0),
    }
    result = evaluate_kitti([gt], [empty], CLASS_NAMES)
    assert len(result.as_dict()) == 6 * 9 and set(result.as_dict().values()) == {0.0}
    assert result.counts["Car"].gt_counted.tolist() == [3, 3, 3] and result.counts["Car"].dt_total == 0


def test_heights_are_subtracted_in_the_type_of_the_boxes():
    """Infos hold float32 boxes, and a box of 25 px must not become one of 25.0000003 px, which counts."""
    top, bottom = np.float32(0.1), np.float32(25.1)
    assert bottom - top == np.float32(25.0) and float(bottom) - float(top) > 25.0
    gt = objects(EVERY_POINT)
    gt["bbox"] = gt["bbox"].astype(np.float32)
    gt["bbox"][:, 1], gt["bbox"][:, 3] = top, bottom
    assert evaluate_kitti([gt], [detections(gt)], "Car").counts["Car"].gt_counted.tolist() == [0, 0, 0]


def test_inputs_are_not_changed():
    gt, dt = objects(5), detections(objects(5), [0.1, 0.9, 0.5, 0.7, 0.3])
    before = {key: value.copy() for key, value in (*gt.items(), ("score", dt["score"]))}
    evaluate_kitti([gt], [dt], "Car")
    for key, value in before.items():
        np.testing.assert_array_equal(value, {**gt, "score": dt["score"]}[key])


def test_boxes_that_are_not_finite_find_nothing():
    gt = objects(EVERY_POINT)
    dt = detections(gt)
    dt["dimensions"][0] = np.inf
    dt["location"][1] = np.nan
    dt["bbox"][2, 1] = np.nan
    dt["dimensions"][3] = 1e300
    result = evaluate_kitti([gt], [dt], "Car")
    assert result.found["Car"]["3d"]["strict"].tolist() == [37] * 3
    assert result.counts["Car"].dt_not_finite == 3
    assert "3 detections have NaN or inf" in result.text()


@pytest.mark.parametrize(
    "spoil, named",
    [
        (lambda gt, dt: dt.pop(), r"2 .* 1 "),
        (lambda gt, dt: dt[1].pop("score"), r"detections \[1\] \(frame 000017\).*'score'"),
        (lambda gt, dt: gt[1].pop("truncated"), r"ground truth \[1\].*'truncated'"),
        (lambda gt, dt: dt[1].update(score=dt[1]["score"][:-1]), r"'score' .*\(2,\).*\(3,\)"),
        (
            lambda gt, dt: gt[0].update(bbox=gt[0]["bbox"][:, :3]),
            r"ground truth \[0\]: 'bbox' .*\(3, 3\).*\(3, 4\)",
        ),
        (
            lambda gt, dt: dt[1]["score"].__setitem__(2, np.nan),
            r"detections \[1\] \(frame 000017\): .*2 .*nan",
        ),
        (
            lambda gt, dt: gt[1]["location"].__setitem__(1, np.nan),
            r"ground truth \[1\]: object 1 ",
        ),
    ],
)
def test_bad_annotations(spoil, named):
    gt = [objects(3), objects(3)]
    dt = [detections(objects(3)), detections(objects(3))]
    dt[1]["frame_id"] = "000017"
    spoil(gt, dt)
    with pytest.raises(InputError, match=named):
        evaluate_kitti(gt, dt, "Car")


def test_bad_arguments():
    gt, dt = [objects(3)], [detections(objects(3))]
    with pytest.raises(InputError, match="'car'.* Car"):
        evaluate_kitti(gt, dt, ["car"])
    with pytest.raises(InputError, match=" 6"):
        evaluate_kitti(gt, dt, 6)
    with pytest.raises(InputError):
        evaluate_kitti(gt, dt, [])
    with pytest.raises(InputError):
        evaluate_kitti([], [], "Car")
    with pytest.raises(InputError, match=r"overlap_sets\['mine'\]\['Car'\]"):
        evaluate_kitti(gt, dt, "Car", overlap_sets={"mine": {"Car": (0.5, 0.5)}})
