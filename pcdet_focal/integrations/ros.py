"""ROS messages: a ``sensor_msgs/PointCloud2`` as an array, detections as a ``vision_msgs/Detection3DArray``.

Nothing of ROS is imported: messages are read by the names of their fields, and made by the classes that are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..detections import Detections
from ..errors import InputError, nearest_or_all

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}  # of sensor_msgs/PointField


def points_of(message: Any, feature_names: Sequence[str]) -> np.ndarray:
    """The points of a PointCloud2 as float32 (N, len(feature_names)), without those that have NaN or infinite values.

    Fields may have any type, order and offset, rows and points any padding, and either byte order.

    Args:
        feature_names: fields to read, ``Detector.feature_names`` for example. A field of another case counts.

    Raises:
        InputError: a field is missing or has an unknown type, or the data are too short.
    """
    fields = {field.name.lower(): field for field in message.fields}
    for name in feature_names:
        if name.lower() not in fields:
            raise InputError(f"the cloud has no field {name}; {nearest_or_all(name, fields)}")
    chosen = [fields[name.lower()] for name in feature_names]
    unknown = [field.name for field in chosen if field.datatype not in _TYPES]
    if unknown:
        raise InputError(f"the cloud's field {unknown[0]} has a type that is not one of sensor_msgs/PointField")
    order = ">" if message.is_bigendian else "<"
    layout = np.dtype(
        {
            "names": list(feature_names),
            "formats": [order + _TYPES[field.datatype] for field in chosen],
            "offsets": [field.offset for field in chosen],
            "itemsize": message.point_step,
        }
    )
    data = np.frombuffer(bytes(message.data), np.uint8)
    row_bytes = max(message.row_step, message.width * message.point_step)
    if len(data) < row_bytes * message.height:
        raise InputError(
            f"the cloud has {len(data)} bytes; {message.height} rows of {message.width} points of "
            f"{message.point_step} bytes need {row_bytes * message.height}"
        )
    rows = data[: row_bytes * message.height].reshape(message.height, row_bytes)
    table = np.ascontiguousarray(rows[:, : message.width * message.point_step]).view(layout).ravel()
    points = np.stack([table[name].astype(np.float32) for name in feature_names], axis=1)
    return points[np.isfinite(points).all(axis=1)]


def detection_array(found: Detections, header: Any, messages: Any) -> Any:
    """A ``Detection3DArray`` of what was found, in the frame of ``header``.

    ``messages`` is the module vision_msgs.msg; each box has one hypothesis, its class name and score.
    """
    array = messages.Detection3DArray()
    array.header = header
    for name, score, box in zip(found.names, found.scores, found.boxes.astype(float)):
        hypothesis = messages.ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = str(name), float(score)
        detection = messages.Detection3D()
        detection.header = header
        place = detection.bbox.center
        place.position.x, place.position.y, place.position.z = box[:3].tolist()
        place.orientation.z, place.orientation.w = float(np.sin(box[6] / 2)), float(np.cos(box[6] / 2))
        detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z = box[3:6].tolist()
        hypothesis.pose.pose = place
        detection.results.append(hypothesis)
        array.detections.append(detection)
    return array
