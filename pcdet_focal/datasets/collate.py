"""From a list of frames to one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError

_JOINED = ("voxels", "voxel_num_points")  # rows of all frames one after the other
_JOINED_WITH_BATCH_INDEX = ("points", "voxel_coords")  # the same, and column 0 says which frame
# zeros at the end
_PADDED = ("gt_boxes", "gt_boxes2d", "roi_boxes", "roi_scores", "roi_labels", "images", "depth_maps", "points_2d")
_PADDED_AS_FLOAT32 = ("gt_boxes", "gt_boxes2d", "roi_boxes", "roi_scores", "roi_labels")
_SAME_LAST_AXIS = ("gt_boxes", "gt_boxes2d", "roi_boxes")  # the values of one box: never padded
_LISTED = ("calib",)


def collate_batch(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch of the dicts that ``DatasetTemplate.prepare_data`` returns; keys, shapes and padding are OpenPCDet's.

    Returns:
        ``points`` (sum N, 1 + C) and ``voxel_coords`` (sum M, 4) with the frame's place in the batch as column 0;
        ``voxels`` (sum M, P, C) and ``voxel_num_points`` (sum M,) joined; ``gt_boxes`` (B, T, 8) float32 with zero rows
        up to the largest T (T may be 0), other boxes and images padded with zeros alike; ``calib`` a list; every other
        key stacked along a new first axis; ``batch_size`` an int. ``road_plane`` is (B, 4) with NaN for a frame that
        has no plane.

    Raises InputError, with key and frame ids, where frames do not fit together.
    """
    names = [str(sample.get("frame_id", index)) for index, sample in enumerate(samples)]
    batch: dict[str, Any] = {}
    for key in dict.fromkeys(key for sample in samples for key in sample):
        without = [name for name, sample in zip(names, samples) if key not in sample]
        if without and key != "road_plane":
            raise InputError(
                f"cannot form a batch: the frames {', '.join(without)} have no '{key}', other frames of the batch have"
            )
        values = [sample.get(key) for sample in samples]
        try:
            batch[key] = _collate(key, values)
        except (ValueError, TypeError) as error:
            shapes = ", ".join(f"{name}: {np.shape(value)}" for name, value in zip(names, values))
            raise InputError(
                f"cannot form a batch: the '{key}' of its frames do not fit together ({error}); shapes {shapes}"
            ) from error
    batch["batch_size"] = len(samples)
    return batch


def _collate(key: str, values: list[Any]) -> Any:
    if key in _LISTED:
        return values
    if key in _JOINED:
        return np.concatenate(values, axis=0)
    if key in _JOINED_WITH_BATCH_INDEX:
        return _join_with_batch_index(values)
    if key in _SAME_LAST_AXIS and len({array.shape[-1] for array in values}) > 1:
        raise ValueError("their boxes have different numbers of values")
    if key in _PADDED:
        return _pad_and_stack(values, np.float32 if key in _PADDED_AS_FLOAT32 else values[0].dtype)
    if key == "road_plane":
        return np.stack([np.full(4, np.nan) if plane is None else plane for plane in values])
    return np.stack(values, axis=0)


def _join_with_batch_index(arrays: list[np.ndarray]) -> np.ndarray:
    joined = np.empty((sum(len(array) for array in arrays), arrays[0].shape[1] + 1), dtype=arrays[0].dtype)
    start = 0
    for index, array in enumerate(arrays):
        rows = joined[start : start + len(array)]
        rows[:, 0] = index
        rows[:, 1:] = array
        start += len(array)
    return joined


def _pad_and_stack(arrays: list[np.ndarray], dtype: Any) -> np.ndarray:
    largest = np.max([array.shape for array in arrays], axis=0)
    stacked = np.zeros((len(arrays), *largest), dtype=dtype)
    for index, array in enumerate(arrays):
        stacked[(index, *(slice(size) for size in array.shape))] = array
    return stacked
