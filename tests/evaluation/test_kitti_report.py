"""The text and the dict that an evaluation hands out."""

import re

import numpy as np
import pytest

from pcdet_focal.evaluation.kitti import evaluate_kitti


def cars(count, name="Car"):
    left = np.arange(count) * 100.0
    return {
        "name": np.array([name] * count, dtype="U16"),
        "truncated": np.zeros(count),
        "occluded": np.zeros(count),
        "alpha": np.zeros(count),
        "bbox": np.stack([left, left * 0, left + 80, left * 0 + 60], axis=1),
        "dimensions": np.tile([4, 1.5, 1.6], (count, 1)),
        "location": np.stack([left, left * 0, left * 0 + 20], axis=1),
        "rotation_y": np.zeros(count),
        "score": np.linspace(0.9, 0.1, count),
    }


def test_table_has_the_peers_format():
    text = evaluate_kitti([cars(41)], [cars(41)], ["Car", "Cyclist"]).text()
    table, counts = text.split("\n\n")
    lines = table.split("\n")
    assert len(lines) == 2 * 2 * 2 * 5
    assert lines[:15] == [
        "Car AP@0.70, 0.70, 0.70:",
        "bbox AP:100.0000, 100.0000, 100.0000",
        "bev  AP:100.0000, 100.0000, 100.0000",
        "3d   AP:100.0000, 100.0000, 100.0000",
        "aos  AP:100.00, 100.00, 100.00",
        "Car AP_R40@0.70, 0.70, 0.70:",
        "bbox AP:100.0000, 100.0000, 100.0000",
        "bev  AP:100.0000, 100.0000, 100.0000",
        "3d   AP:100.0000, 100.0000, 100.0000",
        "aos  AP:100.00, 100.00, 100.00",
        "Car AP@0.70, 0.50, 0.50:",
        "bbox AP:100.0000, 100.0000, 100.0000",
        "bev  AP:100.0000, 100.0000, 100.0000",
        "3d   AP:100.0000, 100.0000, 100.0000",
        "aos  AP:100.00, 100.00, 100.00",
    ]
    assert lines[20] == "Cyclist AP@0.50, 0.50, 0.50:"
    # a script that looks for the table's lines finds none below it
    assert not re.search(r"AP[@:_]", counts)


def test_overlaps_of_every_class():
    """The two sets of overlaps that OpenPCDet prints; Truck is its odd one."""
    text = evaluate_kitti([cars(1)], [cars(1)], range(6)).table()
    assert re.findall(r"(\w+) AP@(.*):", text) == [
        ("Car", "0.70, 0.70, 0.70"),
        ("Car", "0.70, 0.50, 0.50"),
        ("Pedestrian", "0.50, 0.50, 0.50"),
        ("Pedestrian", "0.50, 0.25, 0.25"),
        ("Cyclist", "0.50, 0.50, 0.50"),
        ("Cyclist", "0.50, 0.25, 0.25"),
        ("Van", "0.70, 0.70, 0.70"),
        ("Van", "0.70, 0.50, 0.50"),
        ("Person_sitting", "0.50, 0.50, 0.50"),
        ("Person_sitting", "0.50, 0.25, 0.25"),
        ("Truck", "0.70, 0.70, 0.70"),
        ("Truck", "0.50, 0.50, 0.50"),
    ]


def test_counts_stand_under_the_table():
    gt, dt = cars(45), cars(45)
    gt["occluded"][:5] = [0, 1, 2, 3, 3]
    gt["name"][5:7] = "Van"
    dt["bbox"][7, 3] = 20
    dt["score"][-3:] = 0
    text = evaluate_kitti([gt], [dt], "Car").text()
    assert "Car ground truth: 39, 40, 41 count; ignored 4, 3, 2 (too low, occluded or truncated); Van 2, 2, 2\n" in text
    assert (
        "Car detections: 45 in all, 42 above score 0; 44, 44, 44 count; ignored 1, 1, 1 (lower than 40, 25, 25 px)\n"
        in text
    )
    # the low detection takes its car and makes it ignored; in the image it is too low to overlap enough
    assert (
        "Car found: bbox 38, 39, 40 (overlap > 0.70); bev 38, 39, 40 (overlap > 0.70); 3d 38, 39, 40 (overlap > 0.70)\n"
        in text
    )
    assert "note" not in text


@pytest.mark.parametrize(
    "gt, dt, reason",
    [
        (cars(50, "Truck"), cars(50), "ground truth"),
        (cars(50), cars(50, "Truck"), "detection"),
        (
            cars(50),
            {**cars(50), "location": cars(50)["location"] + 2},
            r"\(easy, moderate, hard\).*overlap",
        ),
        ({**cars(50), "occluded": np.full(50, 3)}, cars(50), r"\(easy, moderate, hard\).*ground truth"),
        ({**cars(50), "occluded": np.full(50, 1)}, cars(50), r"\(easy\).*ground truth"),
        (
            cars(50),
            {key: value[:1] for key, value in cars(50).items()},
            r"\(easy, moderate, hard\).*1/40",
        ),
    ],
)
def test_a_zero_explains_itself(gt, dt, reason):
    result = evaluate_kitti([gt], [dt], "Car")
    assert result.as_dict()["Car_3d/easy_R40"] == 0.0
    assert re.search(f"^Car note: .*{reason}", result.text(), re.M)


def test_dict_has_the_peers_keys_in_order():
    result = evaluate_kitti([cars(3)], [cars(3)], ["Car", "Pedestrian"]).as_dict()
    assert list(result) == [
        f"{name}_{metric}/{level}_R40"
        for name in ("Car", "Pedestrian")
        for metric in ("aos", "3d", "bev", "image")
        for level in ("easy", "moderate", "hard")
    ]
    assert all(type(value) is float for value in result.values())


def test_own_overlaps():
    dt = cars(41)
    dt["location"] = dt["location"] + [1.0, 0, 0]  # IoU 3 / 5
    sets = {"low": {"Car": (0.5, 0.59, 0.59)}, "high": {"Car": (0.5, 0.61, 0.61)}}
    ap = evaluate_kitti([cars(41)], [dt], 0, overlap_sets=sets).ap["Car"]["bev"]
    np.testing.assert_allclose(ap["low"]["R40"], 100.0)
    np.testing.assert_allclose(ap["high"]["R40"], 0.0)
