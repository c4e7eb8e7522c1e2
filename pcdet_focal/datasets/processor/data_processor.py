"""The list of steps that make a model's input of points and boxes: range mask, shuffle, sampling, voxels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...errors import InputError
from ...geometry.boxes import mask_boxes_outside_range_numpy
from ...geometry.points import mask_points_by_range
from ...ops.voxelize import grid_size, voxelize
from ...registry import DATA_PROCESSORS
from ..config_checks import require_keys, step_name

KEY_PATH = "DATA_CONFIG.DATA_PROCESSOR"

# What each step must find in its entry of the configuration; those in the second tuple have one value for 'train' and
# one for 'test'.
_STEPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mask_points_and_boxes_outside_range": (("REMOVE_OUTSIDE_BOXES",), ()),
    "shuffle_points": ((), ("SHUFFLE_ENABLED",)),
    "sample_points": ((), ("NUM_POINTS",)),
    "calculate_grid_size": (("VOXEL_SIZE",), ()),
    "transform_points_to_voxels_placeholder": (("VOXEL_SIZE",), ()),
    "transform_points_to_voxels": (("VOXEL_SIZE", "MAX_POINTS_PER_VOXEL"), ("MAX_NUMBER_OF_VOXELS",)),
}


class VoxelGeneratorWrapper:
    """OpenPCDet's name for "these points into voxels of this grid", on :func:`pcdet_focal.ops.voxelize.voxelize`.

    Args:
        vsize_xyz: voxel size x, y, z, metres.
        coors_range_xyz: x, y, z minima, then maxima, metres.
        num_point_features: columns of the points (checked in ``generate``).
        max_num_points_per_voxel, max_num_voxels: points and voxels beyond these are left out, first come first served.
    """

    def __init__(
        self,
        vsize_xyz: Sequence[float],
        coors_range_xyz: Sequence[float],
        num_point_features: int,
        max_num_points_per_voxel: int,
        max_num_voxels: int,
    ):
        self.vsize_xyz, self.coors_range_xyz, self.num_point_features = vsize_xyz, coors_range_xyz, num_point_features
        self.max_num_points_per_voxel, self.max_num_voxels = max_num_points_per_voxel, max_num_voxels

    def generate(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Voxels (M, P, F) float32, coordinates (M, 3) int32 as z, y, x, and points per voxel (M,) int32 of points (N,
        F).
        """
        if points.shape[1] != self.num_point_features:
            raise InputError(
                f"Points to voxelize have {points.shape[1]} columns, the configuration says {self.num_point_features}."
            )
        return voxelize(
            points, self.vsize_xyz, self.coors_range_xyz, self.max_num_points_per_voxel, self.max_num_voxels
        )


class DataProcessor:
    """OpenPCDet's DataProcessor: each method is one step, named by ``NAME`` in ``DATA_PROCESSOR``.

    A method called with only its configuration returns the step as a function of ``data_dict``. A step of your own is a
    function ``step(data_dict, config, training) -> data_dict`` registered as ``@DATA_PROCESSORS.register()`` of
    pcdet_focal.registry.

    Attributes: ``grid_size`` (3,) int64 and ``voxel_size`` as configured (None without a voxel step),
    ``point_cloud_range`` (6,) float32, ``mode`` 'train' or 'test', ``num_point_features``.

    Args:
        processor_configs: list of entries with ``NAME`` and the keys of that step.
        point_cloud_range: x, y, z minima, then maxima, metres.
        training: which of the 'train' / 'test' values holds; boxes outside the range leave only in training.
        num_point_features: columns of the points.

    Raises:
        InputError: an unknown step, a missing key or a grid that cannot be, with its key path.
    """

    def __init__(
        self,
        processor_configs: Sequence[Mapping[str, Any]],
        point_cloud_range: Sequence[float],
        training: bool,
        num_point_features: int,
    ):
        self.point_cloud_range = np.asarray(point_cloud_range, dtype=np.float32)
        self.training = training
        self.num_point_features = num_point_features
        self.mode = "train" if training else "test"
        self.grid_size = self.voxel_size = None
        self.voxel_generator: VoxelGeneratorWrapper | None = None
        self.data_processor_queue = []
        known = [*DATA_PROCESSORS] + [
            n
            for n in dir(type(self))
            if not n.startswith("_") and n not in ("forward", "double_flip") and callable(getattr(type(self), n))
        ]
        for i, config in enumerate(processor_configs):
            key_path = f"{KEY_PATH}[{i}]"
            name = step_name(config, known, key_path)
            required, by_mode = _STEPS.get(name, ((), ()))
            require_keys(config, (*required, *by_mode), key_path)
            for key in by_mode:
                if not isinstance(config[key], Mapping):
                    raise InputError(
                        f"{key_path}.{key} must have one value for 'train' and one for 'test', not {config[key]!r}."
                    )
                require_keys(config[key], (self.mode,), f"{key_path}.{key}")
            if "VOXEL_SIZE" in required:
                self._set_grid(config["VOXEL_SIZE"], key_path)
            registered = DATA_PROCESSORS.get(name)
            step = (
                partial(registered, config=config, training=training)
                if registered
                else getattr(self, name)(config=config)
            )
            self.data_processor_queue.append(step)

    def _set_grid(self, voxel_size: Sequence[float], key_path: str) -> None:
        """``grid_size`` and ``voxel_size``; warns where the range is not a whole number of voxels, because OpenPCDet
        rounds and so do we.
        """
        try:
            cells = np.array(grid_size(voxel_size, self.point_cloud_range), dtype=np.int64)
        except InputError as error:
            raise InputError(f"{key_path}.VOXEL_SIZE with DATA_CONFIG.POINT_CLOUD_RANGE: {error}") from error
        low, high = self.point_cloud_range[:3].astype(np.float64), self.point_cloud_range[3:].astype(np.float64)
        for axis, name in enumerate("xyz"):
            extent, size = high[axis] - low[axis], float(voxel_size[axis])
            if abs(extent / size - cells[axis]) > 1e-3:
                warnings.warn(
                    f"DATA_CONFIG.POINT_CLOUD_RANGE along {name}, {low[axis]:g} to {high[axis]:g} m, is "
                    f"{extent / size:.3f} voxels of "
                    f"{key_path}.VOXEL_SIZE {size:g} m; the grid has {cells[axis]}, which ends at "
                    f"{low[axis] + cells[axis] * size:g} m. "
                    "Write that as the range to be exact.",
                    stacklevel=3,
                )
        self.grid_size, self.voxel_size = cells, voxel_size

    def mask_points_and_boxes_outside_range(self, data_dict: dict | None = None, config=None):
        """Keep points inside the range in x and y (z is left to the voxels) and, in training with
        ``REMOVE_OUTSIDE_BOXES``, boxes inside it.

        A box is inside if its centre is (x, y and z); with ``USE_CENTER_TO_FILTER: False`` if at least
        ``min_num_corners`` (1) corners are.
        """
        if data_dict is None:
            return partial(self.mask_points_and_boxes_outside_range, config=config)
        if data_dict.get("points", None) is not None:
            # rows by number: a boolean mask over rows of four numbers takes numpy nine times as long
            inside = np.flatnonzero(mask_points_by_range(data_dict["points"], self.point_cloud_range))
            data_dict["points"] = data_dict["points"].take(inside, axis=0)
        if data_dict.get("gt_boxes", None) is not None and config["REMOVE_OUTSIDE_BOXES"] and self.training:
            mask = mask_boxes_outside_range_numpy(
                data_dict["gt_boxes"],
                self.point_cloud_range,
                min_num_corners=config.get("min_num_corners", 1),
                use_center_to_filter=config.get("USE_CENTER_TO_FILTER", True),
            )
            data_dict["gt_boxes"] = data_dict["gt_boxes"][mask]
        return data_dict

    def shuffle_points(self, data_dict: dict | None = None, config=None):
        """Put the points in random order where ``SHUFFLE_ENABLED`` says so for this mode."""
        if data_dict is None:
            return partial(self.shuffle_points, config=config)
        if config["SHUFFLE_ENABLED"][self.mode]:
            points = data_dict["points"]
            data_dict["points"] = np.take(points, np.random.permutation(points.shape[0]), axis=0)
        return data_dict

    def sample_points(self, data_dict: dict | None = None, config=None):
        """Exactly ``NUM_POINTS`` points (-1: all), in random order.

        Too many: points beyond 40 m stay and near ones are drawn, unless the far ones alone are too many. Too few: some
        are repeated, each once before any twice. An empty scan stays empty.
        """
        if data_dict is None:
            return partial(self.sample_points, config=config)
        points, num_points = data_dict["points"], config["NUM_POINTS"][self.mode]
        if num_points == -1 or not len(points):
            return data_dict
        if num_points < len(points):
            near = np.linalg.norm(points[:, 0:3], axis=1) < 40.0
            far_index, near_index = np.flatnonzero(~near), np.flatnonzero(near)
            if num_points > len(far_index):
                choice = np.concatenate(
                    (np.random.choice(near_index, num_points - len(far_index), replace=False), far_index)
                )
            else:
                choice = np.random.choice(np.arange(len(points), dtype=np.int32), num_points, replace=False)
        else:
            everyone = np.arange(len(points), dtype=np.int32)
            # whole copies; the last, random part has 1 to N points (none if wanted is N)
            rounds = max(1, -(-num_points // len(points)) - 1)
            choice = np.tile(everyone, rounds)
            if num_points > len(points):
                choice = np.concatenate(
                    (choice, np.random.choice(everyone, num_points - rounds * len(points), replace=False))
                )
        np.random.shuffle(choice)
        data_dict["points"] = points[choice]
        return data_dict

    def calculate_grid_size(self, data_dict: dict | None = None, config=None):
        """Only sets ``grid_size`` and ``voxel_size``, for models that work on points or make voxels themselves."""
        if data_dict is None:
            return partial(self.calculate_grid_size, config=config)
        return data_dict

    def transform_points_to_voxels_placeholder(self, data_dict: dict | None = None, config=None):
        """Only sets ``grid_size`` and ``voxel_size``: the model makes the voxels (dynamic voxelization)."""
        if data_dict is None:
            return partial(self.transform_points_to_voxels_placeholder, config=config)
        return data_dict

    def transform_points_to_voxels(self, data_dict: dict | None = None, config=None):
        """Add ``voxels`` (M, P, F), ``voxel_coords`` (M, 3) z, y, x and ``voxel_num_points`` (M,).

        With ``DOUBLE_FLIP`` each is a list of four: as is, y mirrored, x mirrored, both mirrored. Without
        ``use_lead_xyz`` voxels lose x, y, z.
        """
        if data_dict is None:
            return partial(self.transform_points_to_voxels, config=config)
        if self.voxel_generator is None:
            self.voxel_generator = VoxelGeneratorWrapper(
                vsize_xyz=config["VOXEL_SIZE"],
                coors_range_xyz=self.point_cloud_range,
                num_point_features=self.num_point_features,
                max_num_points_per_voxel=config["MAX_POINTS_PER_VOXEL"],
                max_num_voxels=config["MAX_NUMBER_OF_VOXELS"][self.mode],
            )
        points = data_dict["points"]
        double_flip = config.get("DOUBLE_FLIP", False)
        results = [
            self.voxel_generator.generate(p)
            for p in ((points, *self.double_flip(points)) if double_flip else (points,))
        ]
        for i, key in enumerate(("voxels", "voxel_coords", "voxel_num_points")):
            values = [
                result[i] if i or data_dict.get("use_lead_xyz", True) else result[i][..., 3:] for result in results
            ]
            data_dict[key] = values if double_flip else values[0]
        return data_dict

    def double_flip(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Copies of the points (N, 3+C) with y mirrored, with x mirrored, and with both."""
        copies = []
        for columns in ([1], [0], [0, 1]):
            flipped = points.copy()
            flipped[:, columns] = -flipped[:, columns]
            copies.append(flipped)
        return tuple(copies)

    def forward(self, data_dict: dict) -> dict:
        """Run the steps on one frame: ``points`` (N, 3+C), optionally ``gt_boxes`` (M, 7+C). Returns a new dict; its
        arrays are not changed.
        """
        data_dict = dict(data_dict)
        for step in self.data_processor_queue:
            data_dict = step(data_dict=data_dict)
        return data_dict
