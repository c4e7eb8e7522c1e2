"""The picture of precision over recall: its lines are the evaluation's numbers."""

import numpy as np
import pytest

from pcdet_focal.errors import InputError
from pcdet_focal.evaluation.kitti import evaluate_kitti
from pcdet_focal.visualization import draw_precision_recall


def frames(seed, count=60):
    """Cars and pedestrians in a row, 9 in 10 found, one false alarm a frame: ground truth and detections."""
    random = np.random.default_rng(seed)
    gts, dts = [], []
    for _ in range(count):
        names = np.array(["Car", "Car", "Pedestrian"])
        x = np.arange(3.0) * 8
        frame = {
            "name": names,
            "truncated": np.zeros(3),
            "occluded": np.zeros(3),
            "alpha": np.zeros(3),
            "bbox": np.column_stack([x * 40, np.full(3, 100), x * 40 + 80, np.full(3, 160)]),
            "dimensions": np.tile([4.0, 1.5, 2.0], (3, 1)),
            "location": np.column_stack([x, np.full(3, 1.6), np.full(3, 30.0)]),
            "rotation_y": np.zeros(3),
        }
        kept = np.r_[random.random(3) < 0.9, True]
        found = {
            key: np.concatenate([value, value[:1]])[kept]
            for key, value in frame.items()
            if key not in ("truncated", "occluded")
        }
        found["location"] = found["location"].copy()
        found["location"][-1] += 40
        found["score"] = np.r_[random.random(3), random.random() * 0.8][kept]
        gts.append(frame)
        dts.append(found)
    return gts, dts


def test_lines_are_the_curves_up_to_where_the_detector_gets(tmp_path):
    result = evaluate_kitti(*frames(0), ["Car", "Pedestrian", "Cyclist"])
    figure = draw_precision_recall(result, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Car", "Pedestrian", "Cyclist"]
    car = figure.axes[0]
    assert len(car.lines) == 6  # three difficulties, two overlaps
    for line, level in zip(car.lines[:3], range(3)):
        recall, precision = line.get_data()
        assert 30 < len(recall) < 41 and recall[0] == 0
        np.testing.assert_allclose(recall, np.arange(len(recall)) / 40)
        np.testing.assert_array_equal(precision, result.precision["Car"]["3d"]["strict"][level, : len(recall)])
        # the average precision R40 is what stands under the line, without its first point
        assert f"{precision[1:].sum() / 40 * 100:.1f}" in line.get_label()
    assert all(len(line.get_xdata()) == 0 for line in figure.axes[2].lines)  # no cyclist anywhere


def test_other_metrics_and_mistakes():
    result = evaluate_kitti(*frames(1, 5), "Car")
    for metric in ("bbox", "bev", "aos"):
        line = draw_precision_recall(result, metric=metric).axes[0].lines[0]
        np.testing.assert_array_equal(
            line.get_ydata(), [value for value in result.precision["Car"][metric]["strict"][0] if value > 0]
        )
    with pytest.raises(InputError, match="'3D'.*bbox, bev, 3d, aos"):
        draw_precision_recall(result, metric="3D")
