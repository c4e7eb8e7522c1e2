"""Columns in, columns out."""

import pickle

import numpy as np
import pytest
from easydict import EasyDict

from pcdet_focal.datasets.processor.point_feature_encoder import PointFeatureEncoder
from pcdet_focal.errors import InputError

SOURCE = ["x", "y", "z", "intensity", "elongation", "timestamp"]


def encoder(used, source=SOURCE, **more):
    return PointFeatureEncoder(
        EasyDict(encoding_type="absolute_coordinates_encoding", used_feature_list=used, src_feature_list=source, **more)
    )


def frame(n=10, columns=6):
    return {"frame_id": "000009", "points": np.arange(n * columns, dtype=np.float32).reshape(n, columns)}


@pytest.mark.parametrize(
    "used, columns",
    [
        (SOURCE, [0, 1, 2, 3, 4, 5]),
        (["x", "y", "z"], [0, 1, 2]),
        (["x", "y", "z", "timestamp", "intensity"], [0, 1, 2, 5, 3]),
        (["x", "y", "z", "elongation"], [0, 1, 2, 4]),
    ],
)
def test_columns_follow_the_used_list(used, columns):
    data = frame()
    before = data["points"].copy()
    made = pickle.loads(pickle.dumps(encoder(used)))
    result = made.forward(data)
    np.testing.assert_array_equal(result["points"], before[:, columns])
    assert result["points"].dtype == np.float32 and result["use_lead_xyz"] is True
    assert made.num_point_features == len(columns) == made.absolute_coordinates_encoding()
    assert made.used_feature_list == used and made.src_feature_list == SOURCE and made.point_cloud_range is None


# OpenPCDet looks for the time in the source's place after encoding
@pytest.mark.parametrize("used", [SOURCE, ["x", "y", "z", "timestamp"]])
def test_only_the_newest_sweeps(used):
    data = frame(8)
    data["points"][:, 5] = [0.0, 0.1, 0.301, 0.2, 0.099, 0.0, 0.2, 0.3]
    for sweeps, kept in ((1, [0, 5]), (2, [0, 1, 4, 5]), (3, [0, 1, 3, 4, 5, 6]), (9, list(range(8)))):
        result = encoder(used, filter_sweeps=True, max_sweeps=sweeps).forward(dict(data))
        np.testing.assert_array_equal(result["points"][:, 0], data["points"][kept, 0])
    assert len(encoder(used, filter_sweeps=True, max_sweeps=2).forward(frame(0))["points"]) == 0


def test_a_subclass_adds_an_encoding():
    class Mine(PointFeatureEncoder):
        def distance_encoding(self, points=None):
            return 1 if points is None else (np.linalg.norm(points[:, :3], axis=1, keepdims=True), False)

    made = Mine({"encoding_type": "distance_encoding", "used_feature_list": SOURCE, "src_feature_list": SOURCE})
    assert made.num_point_features == 1
    assert made.forward(frame())["points"].shape == (10, 1) and made.forward(frame())["use_lead_xyz"] is False


@pytest.mark.parametrize(
    "used, source, more, message",
    [
        (["x", "y", "z", "intensty"], SOURCE, {}, r"used_feature_list\[3\] is 'intensty'.*intensity"),
        (["x", "y"], SOURCE, {}, "used_feature_list"),
        (["x", "y", "z"], ["y", "x", "z"], {}, "src_feature_list"),
        (SOURCE, SOURCE, {"filter_sweeps": True}, "max_sweeps"),
    ],
)
def test_wrong_configurations(used, source, more, message):
    with pytest.raises(InputError, match=r"DATA_CONFIG\.POINT_FEATURE_ENCODING\." + message):
        encoder(used, source, **more)


def test_unknown_encoding_and_missing_key():
    with pytest.raises(InputError, match=r"encoding_type.*'absolute_encoding'.*absolute_coordinates_encoding"):
        PointFeatureEncoder(
            {"encoding_type": "absolute_encoding", "used_feature_list": SOURCE, "src_feature_list": SOURCE}
        )
    with pytest.raises(InputError, match=r"POINT_FEATURE_ENCODING\.src_feature_list"):
        PointFeatureEncoder({"encoding_type": "absolute_coordinates_encoding", "used_feature_list": SOURCE})


def test_points_with_other_columns():
    with pytest.raises(InputError, match="000009.*4.*6"):
        encoder(SOURCE).forward(frame(columns=4))
