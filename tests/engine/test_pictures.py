"""Precision over recall of a finished evaluation: drawn from its result.pkl, and left out where there is nothing to
compare.
"""

import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest

from pcdet_focal.engine.pictures import draw_curves
from pcdet_focal.errors import InputError


def frame(name="Car", **more):
    box = {
        "bbox": np.array([[100.0, 100, 200, 180]]),
        "dimensions": np.array([[4.0, 1.5, 2]]),
        "location": np.array([[0, 1.6, 20.0]]),
    }
    return {
        "name": np.array([name]),
        "truncated": np.zeros(1),
        "occluded": np.zeros(1),
        "alpha": np.zeros(1),
        "rotation_y": np.zeros(1),
        **box,
        **more,
    }


@pytest.fixture
def evaluation(tmp_path):
    """Three frames with a car each, and the same cars as detections: (data set, result.pkl)."""
    ids = ["000001", "000002", "000003"]
    dataset = SimpleNamespace(
        infos=[{"point_cloud": {"lidar_idx": i}, "annos": frame()} for i in ids], class_names=["Car", "Tractor"]
    )
    result = tmp_path / "result.pkl"
    result.write_bytes(pickle.dumps([frame(score=np.array([0.9]), frame_id=i) for i in reversed(ids)]))
    return dataset, result


def test_curves_of_a_result(evaluation, tmp_path):
    path = tmp_path / "new/curves.png"
    assert draw_curves(*evaluation, path) == path and path.read_bytes().startswith(b"\x89PNG")


def test_nothing_to_compare(evaluation, tmp_path):
    dataset, result = evaluation
    path = tmp_path / "curves.png"
    for change in (
        {"class_names": ["Tractor"]},
        {"infos": [*dataset.infos, {"point_cloud": {"lidar_idx": "000004"}, "annos": frame()}]},
        {"infos": [{"point_cloud": {"lidar_idx": "000001"}}]},
        {
            "infos": [
                {
                    "point_cloud": {"lidar_idx": "000001"},
                    "annos": {"name": np.array(["Car"]), "gt_boxes_lidar": np.ones((1, 7))},
                }
            ]
        },
    ):
        assert draw_curves(SimpleNamespace(**{**vars(dataset), **change}), result, path) is None
    assert not path.exists()
    with pytest.raises(InputError, match=re.escape(str(result))):
        draw_curves(
            SimpleNamespace(infos=[{"point_cloud": {"lidar_idx": "7"}, "annos": frame()}], class_names=["Car"]),
            result,
            path,
        )
    with pytest.raises(InputError, match=r"absent\.pkl"):
        draw_curves(dataset, tmp_path / "absent.pkl", path)
