"""The list of augmentations that a configuration asks for, applied one after the other to a training frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...geometry.angles import limit_period
from ...registry import AUGMENTORS
from ..config_checks import choice_list, number_range, require_keys, step_name
from . import augmentor_utils
from .database_sampler import DataBaseSampler
from .frustum import global_frustum_masks
from .world import random_image_flip_horizontal

KEY_PATH = "DATA_CONFIG.DATA_AUGMENTOR.AUG_CONFIG_LIST"

# What each step must find in its entry of the configuration: key -> how it is checked.
_RANGE, _SYMMETRIC = "a pair of numbers", "a pair of numbers, or one number a for [-a, a]"
_STEPS: dict[str, dict[str, Any]] = {
    "gt_sampling": {},  # DataBaseSampler checks its own
    "random_world_flip": {"ALONG_AXIS_LIST": ("x", "y")},
    "random_world_rotation": {"WORLD_ROT_ANGLE": _SYMMETRIC},
    "random_world_scaling": {"WORLD_SCALE_RANGE": _RANGE},
    "random_world_translation": {"NOISE_TRANSLATE_STD": "three numbers"},
    "random_local_translation": {"LOCAL_TRANSLATION_RANGE": _RANGE, "ALONG_AXIS_LIST": ("x", "y", "z")},
    "random_local_rotation": {"LOCAL_ROT_ANGLE": _SYMMETRIC},
    "random_local_scaling": {"LOCAL_SCALE_RANGE": _RANGE},
    "random_world_frustum_dropout": {"INTENSITY_RANGE": _RANGE, "DIRECTION": ("top", "bottom", "left", "right")},
    "random_local_frustum_dropout": {"INTENSITY_RANGE": _RANGE, "DIRECTION": ("top", "bottom", "left", "right")},
    "random_local_pyramid_aug": {
        key: "a number" for key in ("DROP_PROB", "SPARSIFY_PROB", "SPARSIFY_MAX_NUM", "SWAP_PROB", "SWAP_MAX_NUM")
    },
    "random_image_flip": {"ALONG_AXIS_LIST": ("horizontal",)},
}


def _check_values(config: Mapping[str, Any], key_path: str) -> None:
    checks = _STEPS.get(config["NAME"], {})
    require_keys(config, checks, key_path)
    for key, check in checks.items():
        value = config[key]
        if check in (_RANGE, _SYMMETRIC):
            number_range(config, key, key_path, symmetric=check == _SYMMETRIC)
        elif isinstance(check, tuple):
            choice_list(config, key, check, key_path)
        elif check == "three numbers":
            values = value if isinstance(value, (list, tuple)) else [value] * 3
            if len(values) != 3 or not all(
                isinstance(v, (int, float)) and not isinstance(v, bool) and v >= 0 for v in values
            ):
                raise InputError(
                    f"{key_path}.{key} must be three standard deviations [x, y, z] in metres, or one, not {value!r}."
                )
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{key_path}.{key} must be a number, not {value!r}.")


def _on_rois(data_dict: dict, augment: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Apply a box augmentation to the region proposals (frames, R, 7 or 9) that some data sets bring along."""
    if "roi_boxes" in data_dict:
        rois = data_dict["roi_boxes"]
        data_dict["roi_boxes"] = augment(rois.reshape(-1, rois.shape[-1]), np.zeros((0, 3), dtype=rois.dtype)).reshape(
            rois.shape
        )


class DataAugmentor:
    """OpenPCDet's DataAugmentor: each method is one step, named by ``NAME`` in ``AUG_CONFIG_LIST`` and skipped if in
    ``DISABLE_AUG_LIST``.

    A method called with only its configuration returns the step as a function of ``data_dict``. A step of your own is a
    function ``step(data_dict, config) -> data_dict`` registered as ``@AUGMENTORS.register()`` of pcdet_focal.registry.
    What a step drew is left in ``data_dict`` (``flip_x``, ``flip_y``, ``noise_rot``, ``noise_scale``,
    ``noise_translate``) for ``lidar_aug_matrix``.

    Args:
        root_path: data folder; the object database is looked for below it.
        augmentor_configs: mapping with ``AUG_CONFIG_LIST`` and optionally ``DISABLE_AUG_LIST``, or the list alone.
        class_names: classes to paste objects of.
        logger: ``logging.Logger`` or None.

    Raises:
        InputError: an unknown step, a missing key or a value of the wrong kind, with its key path.
    """

    def __init__(self, root_path: str | Path | None, augmentor_configs: Any, class_names: Sequence[str], logger=None):
        self.root_path = root_path
        self.class_names = class_names
        self.logger = logger
        self.disable_augmentation(augmentor_configs)

    def disable_augmentation(self, augmentor_configs: Any) -> None:
        """Build the list of steps anew, without those in the ``DISABLE_AUG_LIST`` of the configuration given."""
        if isinstance(augmentor_configs, (list, tuple)):
            entries, disabled = augmentor_configs, ()
        else:
            require_keys(augmentor_configs, ["AUG_CONFIG_LIST"], KEY_PATH.rpartition(".")[0])
            entries, disabled = augmentor_configs["AUG_CONFIG_LIST"], augmentor_configs.get("DISABLE_AUG_LIST", ())
        self.aug_config_list = list(entries)
        self.data_augmentor_queue = []
        for i, config in enumerate(self.aug_config_list):
            if isinstance(config, Mapping) and config.get("NAME") in disabled:
                continue
            name = step_name(config, self._known_steps(), f"{KEY_PATH}[{i}]")
            _check_values(config, f"{KEY_PATH}[{i}]")
            registered = AUGMENTORS.get(name)
            step = getattr(self, name)(config=config) if registered is None else partial(registered, config=config)
            self.data_augmentor_queue.append(step)

    def _known_steps(self) -> list[str]:
        others = ("forward", "disable_augmentation")
        return [*AUGMENTORS] + [
            name
            for name in dir(type(self))
            if not name.startswith("_") and name not in others and callable(getattr(type(self), name))
        ]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "logger": None}  # loggers do not travel to worker processes

    def gt_sampling(self, config=None) -> DataBaseSampler:
        """Paste objects from the database into the scene (:class:`DataBaseSampler`)."""
        index = next((i for i, entry in enumerate(self.aug_config_list) if entry is config), "gt_sampling")
        return DataBaseSampler(
            self.root_path, config, self.class_names, logger=self.logger, key_path=f"{KEY_PATH}[{index}]"
        )

    def random_world_flip(self, data_dict: dict | None = None, config=None):
        """Mirror the scene at the axes in ``ALONG_AXIS_LIST``, each with probability 1/2; leaves ``flip_x`` /
        ``flip_y``.
        """
        if data_dict is None:
            return partial(self.random_world_flip, config=config)
        for axis in config["ALONG_AXIS_LIST"]:
            flip = getattr(augmentor_utils, f"random_flip_along_{axis}")
            data_dict["gt_boxes"], data_dict["points"], enable = flip(
                data_dict["gt_boxes"], data_dict["points"], return_flip=True
            )
            data_dict[f"flip_{axis}"] = enable
            _on_rois(data_dict, lambda boxes, points: flip(boxes, points, enable=enable)[0])
        return data_dict

    def random_world_rotation(self, data_dict: dict | None = None, config=None):
        """Turn the scene about z by an angle from ``WORLD_ROT_ANGLE``; leaves ``noise_rot`` (radians)."""
        if data_dict is None:
            return partial(self.random_world_rotation, config=config)
        rot_range = number_range(config, "WORLD_ROT_ANGLE", KEY_PATH, symmetric=True)
        rotate = partial(augmentor_utils.global_rotation, rot_range=rot_range)
        data_dict["gt_boxes"], data_dict["points"], angle = rotate(
            data_dict["gt_boxes"], data_dict["points"], return_rot=True
        )
        data_dict["noise_rot"] = angle
        _on_rois(data_dict, lambda boxes, points: rotate(boxes, points, noise_rotation=angle)[0])
        return data_dict

    def random_world_scaling(self, data_dict: dict | None = None, config=None):
        """Scale the scene by a factor from ``WORLD_SCALE_RANGE``; leaves ``noise_scale``."""
        if data_dict is None:
            return partial(self.random_world_scaling, config=config)
        gt_boxes, points, scale_range = data_dict["gt_boxes"], data_dict["points"], config["WORLD_SCALE_RANGE"]
        if "roi_boxes" in data_dict:
            gt_boxes, data_dict["roi_boxes"], points, factor = augmentor_utils.global_scaling_with_roi_boxes(
                gt_boxes, data_dict["roi_boxes"], points, scale_range, return_scale=True
            )
        else:
            gt_boxes, points, factor = augmentor_utils.global_scaling(gt_boxes, points, scale_range, return_scale=True)
        data_dict["gt_boxes"], data_dict["points"], data_dict["noise_scale"] = gt_boxes, points, factor
        return data_dict

    def random_world_translation(self, data_dict: dict | None = None, config=None):
        """Move the scene by a vector with standard deviations ``NOISE_TRANSLATE_STD`` [x, y, z]; leaves
        ``noise_translate`` (1, 3) float32.

        One number, as in files of OpenPCDet 0.5, is that of each axis in ``ALONG_AXIS_LIST`` (default: all three).
        """
        if data_dict is None:
            return partial(self.random_world_translation, config=config)
        stds = config["NOISE_TRANSLATE_STD"]
        if not isinstance(stds, (list, tuple)):
            stds = [stds if axis in config.get("ALONG_AXIS_LIST", "xyz") else 0.0 for axis in "xyz"]
        shift = np.array([np.random.normal(0, std, 1) for std in stds], dtype=np.float32).T  # (1, 3)
        for key in ("points", "gt_boxes", "roi_boxes"):
            if key in data_dict:
                moved = data_dict[key].copy()
                moved[..., :3] += shift
                data_dict[key] = moved
        data_dict["noise_translate"] = shift
        return data_dict

    def random_image_flip(self, data_dict: dict | None = None, config=None):
        """Mirror the camera image, its depth map, the boxes and the 2-D boxes left to right with probability 1/2."""
        if data_dict is None:
            return partial(self.random_image_flip, config=config)
        for key in ("images", "depth_maps", "calib"):
            if key not in data_dict:
                raise InputError(
                    f"random_image_flip needs {key!r}, which frame {data_dict.get('frame_id', '?')} has not: add it "
                    "to DATA_CONFIG.GET_ITEM_LIST "
                    "(gt_sampling with USE_ROAD_PLANE removes the calibration)."
                )
        for _ in config["ALONG_AXIS_LIST"]:
            images, depth_maps, gt_boxes, enable = random_image_flip_horizontal(
                data_dict["images"],
                data_dict["depth_maps"],
                data_dict["gt_boxes"],
                data_dict["calib"],
                return_flip=True,
            )
            data_dict["images"], data_dict["depth_maps"], data_dict["gt_boxes"] = images, depth_maps, gt_boxes
            if enable and "gt_boxes2d" in data_dict:
                boxes2d = data_dict["gt_boxes2d"].copy()
                boxes2d[:, [0, 2]] = images.shape[1] - boxes2d[:, [2, 0]]
                data_dict["gt_boxes2d"] = boxes2d
        return data_dict

    def random_local_translation(self, data_dict: dict | None = None, config=None):
        """Move each object along the axes in ``ALONG_AXIS_LIST`` by a distance from ``LOCAL_TRANSLATION_RANGE``."""
        if data_dict is None:
            return partial(self.random_local_translation, config=config)
        for axis in config["ALONG_AXIS_LIST"]:
            move = getattr(augmentor_utils, f"random_local_translation_along_{axis}")
            data_dict["gt_boxes"], data_dict["points"] = move(
                data_dict["gt_boxes"], data_dict["points"], config["LOCAL_TRANSLATION_RANGE"]
            )
        return data_dict

    def random_local_rotation(self, data_dict: dict | None = None, config=None):
        """Turn each object about its own vertical axis by an angle from ``LOCAL_ROT_ANGLE``."""
        if data_dict is None:
            return partial(self.random_local_rotation, config=config)
        rot_range = number_range(config, "LOCAL_ROT_ANGLE", KEY_PATH, symmetric=True)
        data_dict["gt_boxes"], data_dict["points"] = augmentor_utils.local_rotation(
            data_dict["gt_boxes"], data_dict["points"], rot_range
        )
        return data_dict

    def random_local_scaling(self, data_dict: dict | None = None, config=None):
        """Scale each object about its centre by a factor from ``LOCAL_SCALE_RANGE``."""
        if data_dict is None:
            return partial(self.random_local_scaling, config=config)
        data_dict["gt_boxes"], data_dict["points"] = augmentor_utils.local_scaling(
            data_dict["gt_boxes"], data_dict["points"], config["LOCAL_SCALE_RANGE"]
        )
        return data_dict

    def random_world_frustum_dropout(self, data_dict: dict | None = None, config=None):
        """Drop a slab of the scene from each side in ``DIRECTION``; names, masks and 2-D boxes lose the same rows as
        the boxes.
        """
        if data_dict is None:
            return partial(self.random_world_frustum_dropout, config=config)
        for direction in config["DIRECTION"]:
            keep, keep_points = global_frustum_masks(
                data_dict["gt_boxes"], data_dict["points"], config["INTENSITY_RANGE"], direction
            )
            data_dict["points"] = data_dict["points"][keep_points]
            for key in ("gt_boxes", "gt_names", "gt_boxes2d", "gt_boxes_mask"):
                if key in data_dict:
                    data_dict[key] = data_dict[key][keep]
        return data_dict

    def random_local_frustum_dropout(self, data_dict: dict | None = None, config=None):
        """Drop a part of each object from each side in ``DIRECTION``."""
        if data_dict is None:
            return partial(self.random_local_frustum_dropout, config=config)
        for direction in config["DIRECTION"]:
            drop = getattr(augmentor_utils, f"local_frustum_dropout_{direction}")
            data_dict["gt_boxes"], data_dict["points"] = drop(
                data_dict["gt_boxes"], data_dict["points"], config["INTENSITY_RANGE"]
            )
        return data_dict

    def random_local_pyramid_aug(self, data_dict: dict | None = None, config=None):
        """Empty, thin out and exchange pyramids of the objects (SE-SSD, arXiv 2104.09804)."""
        if data_dict is None:
            return partial(self.random_local_pyramid_aug, config=config)
        gt_boxes, points = data_dict["gt_boxes"], data_dict["points"]
        gt_boxes, points, pyramids = augmentor_utils.local_pyramid_dropout(gt_boxes, points, config["DROP_PROB"])
        gt_boxes, points, pyramids = augmentor_utils.local_pyramid_sparsify(
            gt_boxes, points, config["SPARSIFY_PROB"], config["SPARSIFY_MAX_NUM"], pyramids
        )
        data_dict["gt_boxes"], data_dict["points"] = augmentor_utils.local_pyramid_swap(
            gt_boxes, points, config["SWAP_PROB"], config["SWAP_MAX_NUM"], pyramids
        )
        return data_dict

    def forward(self, data_dict: dict) -> dict:
        """Augment one frame.

        Args:
            data_dict: ``points`` (N, 3+C), ``gt_boxes`` (M, 7 or 9), ``gt_names`` (M,), optionally ``gt_boxes_mask``
                (M,) bool: which boxes are of classes to train on (the others leave at the end), ``calib`` and
                ``road_plane`` for ``gt_sampling``. Its arrays are not changed.

        Returns:
            A new dict with the augmented arrays, headings in [-pi, pi), without ``road_plane`` and ``gt_boxes_mask``,
            plus what was drawn.
        """
        data_dict = dict(data_dict)
        for step in self.data_augmentor_queue:
            data_dict = step(data_dict=data_dict)
        gt_boxes = data_dict["gt_boxes"].copy()
        gt_boxes[:, 6] = limit_period(gt_boxes[:, 6], offset=0.5, period=2 * np.pi)
        data_dict["gt_boxes"] = gt_boxes
        data_dict.pop("road_plane", None)
        mask = data_dict.pop("gt_boxes_mask", None)
        if mask is not None:
            for key in ("gt_boxes", "gt_names", "gt_boxes2d"):
                if key in data_dict:
                    data_dict[key] = data_dict[key][mask]
        return data_dict
