"""Which columns of the points a model sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InputError, nearest_or_all
from ..config_checks import require_keys

KEY_PATH = "DATA_CONFIG.POINT_FEATURE_ENCODING"


class PointFeatureEncoder:
    """OpenPCDet's PointFeatureEncoder: the method that ``encoding_type`` names picks ``used_feature_list`` out of
    ``src_feature_list``.

    Attributes: ``num_point_features`` (columns that come out), ``used_feature_list``, ``src_feature_list``,
    ``point_cloud_range``.

    Args:
        config: ``encoding_type``, ``src_feature_list`` (columns of the points as read; x, y, z first),
            ``used_feature_list``; optionally ``filter_sweeps: True`` with ``max_sweeps``, which keeps the newest sweeps
            by the column ``timestamp`` (seconds back in time).
        point_cloud_range: kept for subclasses.

    Raises:
        InputError: a missing key, a feature that is not in the source, or an unknown encoding, with its key path.
    """

    def __init__(self, config: Mapping[str, Any], point_cloud_range: Sequence[float] | None = None):
        require_keys(config, ("encoding_type", "used_feature_list", "src_feature_list"), KEY_PATH)
        self.point_encoding_config = config
        self.used_feature_list = config["used_feature_list"]
        self.src_feature_list = config["src_feature_list"]
        self.point_cloud_range = point_cloud_range
        for key in ("src_feature_list", "used_feature_list"):
            if list(config[key][:3]) != ["x", "y", "z"]:
                raise InputError(f"{KEY_PATH}.{key} must begin with x, y, z, not {list(config[key])}.")
        for i, feature in enumerate(self.used_feature_list):
            if feature not in self.src_feature_list:
                hint = nearest_or_all(feature, self.src_feature_list)
                raise InputError(
                    f"{KEY_PATH}.used_feature_list[{i}] is {feature!r}, which src_feature_list has not; {hint}"
                )
        encodings = [name for name in dir(type(self)) if name.endswith("_encoding")]
        if config["encoding_type"] not in encodings:
            raise InputError(
                f"{KEY_PATH}.encoding_type: there is no {config['encoding_type']!r}; "
                f"{nearest_or_all(config['encoding_type'], encodings)}"
            )
        if config.get("filter_sweeps", False):
            require_keys(config, ("max_sweeps",), KEY_PATH)

    @property
    def num_point_features(self) -> int:
        """Columns of the encoded points."""
        return getattr(self, self.point_encoding_config["encoding_type"])(points=None)

    def forward(self, data_dict: dict) -> dict:
        """Set ``points`` (N, len(used_feature_list)) and ``use_lead_xyz`` (whether voxels keep x, y, z as features) in
        ``data_dict``; return it.
        """
        points = data_dict["points"]
        if points.shape[-1] != len(self.src_feature_list):
            raise InputError(
                f"Frame {data_dict.get('frame_id', '?')}: its points have {points.shape[-1]} columns, but "
                f"{KEY_PATH}.src_feature_list names "
                f"{len(self.src_feature_list)}: {', '.join(self.src_feature_list)}."
            )
        if self.point_encoding_config.get("filter_sweeps", False) and "timestamp" in self.src_feature_list:
            points = points[self._newest_sweeps(points[:, list(self.src_feature_list).index("timestamp")])]
        data_dict["points"], data_dict["use_lead_xyz"] = getattr(self, self.point_encoding_config["encoding_type"])(
            points
        )
        return data_dict

    def _newest_sweeps(self, time: np.ndarray) -> np.ndarray:
        """Mask of the points whose time, to 10 ms, is among the ``max_sweeps`` smallest."""
        time = np.round(time, 2)
        distinct = np.unique(time)
        if not len(distinct):
            return np.zeros(0, dtype=bool)
        return time <= distinct[min(len(distinct), self.point_encoding_config["max_sweeps"]) - 1]

    def absolute_coordinates_encoding(self, points: np.ndarray | None = None) -> int | tuple[np.ndarray, bool]:
        """The columns of ``used_feature_list``, x, y, z first, unchanged; the number of columns for ``points=None``."""
        if points is None:
            return len(self.used_feature_list)
        columns = [0, 1, 2] + [
            list(self.src_feature_list).index(name) for name in self.used_feature_list if name not in ("x", "y", "z")
        ]
        if columns == list(range(points.shape[1])):
            return points, True
        return np.take(points, columns, axis=1), True
