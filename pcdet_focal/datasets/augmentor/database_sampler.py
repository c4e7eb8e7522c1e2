"""Pasting objects of other frames into a scene ("ground-truth sampling", SECOND, Yan et al., Sensors 2018)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, nearest_or_all
from ...geometry.camera_boxes import boxes3d_kitti_fakelidar_to_lidar
from ...geometry.points_in_boxes import outside_boxes
from ...safe_pickle import load_pickle
from ..config_checks import require_keys
from .kernels import collides
from .object_points import MAKE_DATABASE, ObjectPoints, database_folder

_REQUIRED = ("DB_INFO_PATH", "PREPARE", "SAMPLE_GROUPS", "NUM_POINT_FEATURES", "REMOVE_EXTRA_WIDTH")


def _name_and_number(entry: Any, key_path: str) -> tuple[str, int]:
    """``"Car:15"`` -> ("Car", 15)."""
    name, separator, number = str(entry).rpartition(":")
    if not separator or not number.strip().lstrip("-").isdigit():
        raise InputError(f"{key_path} is {entry!r}; it should be a class and a number, such as 'Car:15'.")
    return name.strip(), int(number)


class DataBaseSampler:
    """OpenPCDet's DataBaseSampler: ``sampler(data_dict)`` pastes objects from ``kitti_dbinfos_train.pkl`` and its
    points (``object_points.py``).

    For each class of ``SAMPLE_GROUPS`` it draws that many different objects (with ``LIMIT_WHOLE_SCENE`` so many that
    the scene then has that number), drops those whose bird's-eye rectangle shares area with a box of the scene, one
    pasted before, or another one drawn, and adds the rest: their points first, then the scene's points outside the
    pasted boxes (enlarged by ``REMOVE_EXTRA_WIDTH``).

    Every call draws its own permutation of each class's objects. OpenPCDet works through one permutation over many
    calls, which makes a frame depend on what its worker did before; both draw the same at the first call of a new
    sampler. ``ONE_PERMUTATION: True`` does as OpenPCDet.

    Args:
        root_path: folder that ``DB_INFO_PATH`` and the paths in it are relative to.
        sampler_cfg: the ``gt_sampling`` entry of the configuration.
        class_names: classes that may be pasted.
        logger: ``logging.Logger`` or None.
        key_path: where ``sampler_cfg`` is in the configuration, for messages.

    Raises:
        InputError: a missing or malformed key (with its key path) or database file (with the command that makes it).
    """

    def __init__(
        self,
        root_path: str | Path,
        sampler_cfg: Mapping[str, Any],
        class_names: Sequence[str],
        logger=None,
        key_path: str = "DATA_CONFIG.DATA_AUGMENTOR.AUG_CONFIG_LIST[gt_sampling]",
    ):
        require_keys(sampler_cfg, _REQUIRED, key_path)
        self.root_path = Path(root_path)
        self.class_names = list(class_names)
        self.sampler_cfg = sampler_cfg
        self.logger = logger
        self.key_path = key_path
        if sampler_cfg.get("IMG_AUG_TYPE", None) is not None:
            raise InputError(
                f"{key_path}.IMG_AUG_TYPE: pasting image crops is not supported; remove the key to paste points only."
            )
        width = sampler_cfg["REMOVE_EXTRA_WIDTH"]
        if not isinstance(width, (list, tuple)) or len(width) != 3:
            raise InputError(f"{key_path}.REMOVE_EXTRA_WIDTH must be three widths [x, y, z] in metres, not {width!r}.")

        self.db_infos: dict[str, list[dict]] = {name: [] for name in self.class_names}
        info_paths, data_paths, features = self._database_paths()
        packed: dict[str, Path] = {}
        for path, data_path in zip(info_paths, data_paths):
            infos = load_pickle(path)
            for name in self.class_names:
                self.db_infos[name].extend(infos.get(name, []))
            if data_path is not None:
                packed.update({database_folder(entry): data_path for entries in infos.values() for entry in entries})
        for method, value in sampler_cfg["PREPARE"].items():
            known = [name for name in dir(self) if name.startswith("filter_by_")]
            if method not in known:
                raise InputError(
                    f"{key_path}.PREPARE.{method}: there is no such filter; {nearest_or_all(method, known)}"
                )
            self.db_infos = getattr(self, method)(self.db_infos, value)
        self.object_points = ObjectPoints(self.root_path, features, packed)

        self.limit_whole_scene = bool(sampler_cfg.get("LIMIT_WHOLE_SCENE", False))
        # class -> rest of its permutation
        self._undrawn: dict[str, np.ndarray] | None = {} if sampler_cfg.get("ONE_PERMUTATION", False) else None
        self.sample_groups: dict[str, dict[str, int]] = {}
        for i, entry in enumerate(sampler_cfg["SAMPLE_GROUPS"]):
            name, number = _name_and_number(entry, f"{key_path}.SAMPLE_GROUPS[{i}]")
            if name not in self.class_names:
                continue
            if not self.db_infos[name] and number > 0:
                self._warn(
                    f"{key_path}: the database has no {name} left to paste (after PREPARE); none will be pasted."
                )
                continue
            self.sample_groups[name] = {"sample_num": number}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "logger": None}  # loggers do not travel to worker processes

    def _warn(self, message: str) -> None:
        if self.logger is not None:
            self.logger.warning(message)
        else:
            warnings.warn(message, stacklevel=3)

    def _database_paths(self) -> tuple[list[Path], list[Path | None], int]:
        """Index files, the packed point file of each (None: the one beside its folder) and number of point features:
        those configured, or the ``BACKUP_DB_INFO`` if they are not there.

        ``USE_SHARED_MEMORY``, with which OpenPCDet copies the packed file to /dev/shm, here only says that it must be
        there: it is mapped, which shares it as well, wherever it is.
        """
        cfg = self.sampler_cfg
        names, data, features = (
            list(cfg["DB_INFO_PATH"]),
            list(cfg.get("DB_DATA_PATH", ())),
            int(cfg["NUM_POINT_FEATURES"]),
        )
        backup = cfg.get("BACKUP_DB_INFO", None)
        if backup is not None and len(names) == 1 and not (self.root_path / names[0]).exists():
            names, data, features = (
                [backup["DB_INFO_PATH"]],
                [backup["DB_DATA_PATH"]],
                int(backup["NUM_POINT_FEATURES"]),
            )
        paths = [self.root_path / name for name in names]
        for i, path in enumerate(paths):
            if not path.is_file():
                raise InputError(
                    f"{self.key_path}.DB_INFO_PATH[{i}]: there is no object database {path}. {MAKE_DATABASE}"
                )
        packed = [self.root_path / name for name in data[: len(paths)]]
        if cfg.get("USE_SHARED_MEMORY", False):
            for i, path in enumerate(packed):
                if not path.is_file():
                    raise InputError(
                        f"{self.key_path}.DB_DATA_PATH[{i}]: there is no file {path} with the points of the database. "
                        f"{MAKE_DATABASE}"
                    )
        existing = [path if path.is_file() else None for path in packed]
        return paths, [*existing, *[None] * (len(paths) - len(existing))], features

    def filter_by_difficulty(
        self, db_infos: dict[str, list[dict]], removed_difficulty: Sequence[int]
    ) -> dict[str, list[dict]]:
        """The objects whose KITTI difficulty (0, 1, 2, or -1 for none; 0 where the data set has none) is not in
        ``removed_difficulty``.
        """
        kept = {
            name: [info for info in infos if info.get("difficulty", 0) not in removed_difficulty]
            for name, infos in db_infos.items()
        }
        self._log_filter("difficulty", db_infos, kept)
        return kept

    def filter_by_min_points(
        self, db_infos: dict[str, list[dict]], min_gt_points_list: Sequence[str]
    ) -> dict[str, list[dict]]:
        """The objects with at least the number of points that ``["Car:5", ...]`` gives for their class."""
        kept = dict(db_infos)
        for i, entry in enumerate(min_gt_points_list):
            name, number = _name_and_number(entry, f"{self.key_path}.PREPARE.filter_by_min_points[{i}]")
            if number > 0 and name in kept:
                kept[name] = [info for info in kept[name] if info["num_points_in_gt"] >= number]
        self._log_filter("min points", db_infos, kept)
        return kept

    def _log_filter(self, what: str, before: dict, after: dict) -> None:
        if self.logger is not None:
            for name in before:
                self.logger.info("Database filter by %s %s: %d => %d", what, name, len(before[name]), len(after[name]))

    def sample_with_fixed_number(self, class_name: str, sample_group: Mapping[str, Any]) -> list[dict]:
        """``sample_group['sample_num']`` different objects of a class in random order, or all where there are fewer (or
        fewer undrawn).
        """
        infos, number = self.db_infos[class_name], int(sample_group["sample_num"])
        order = () if self._undrawn is None else self._undrawn.get(class_name, ())
        if len(order) == 0:
            order = np.random.permutation(len(infos))
        if self._undrawn is not None:
            self._undrawn[class_name] = order[number:]
        return [infos[i] for i in order[:number]]

    @staticmethod
    def put_boxes_on_road_planes(gt_boxes: np.ndarray, road_planes: np.ndarray, calib) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 7+) set down on the plane ``a x + b y + c z + d = 0`` of the rectified camera frame.

        Returns new boxes and by how much each was lowered (N,), metres, in the boxes' dtype.
        """
        a, b, c, d = road_planes
        centre = np.array(calib.lidar_to_rect(gt_boxes[:, 0:3]))
        centre[:, 1] = (-d - a * centre[:, 0] - c * centre[:, 2]) / b
        ground = calib.rect_to_lidar(centre)[:, 2]
        lowered = (gt_boxes[:, 2] - gt_boxes[:, 5] / 2 - ground).astype(gt_boxes.dtype)
        gt_boxes = gt_boxes.copy()
        gt_boxes[:, 2] -= lowered
        return gt_boxes, lowered

    def add_sampled_boxes_to_scene(
        self, data_dict: dict, sampled_gt_boxes: np.ndarray, total_valid_sampled_dict: Sequence[dict]
    ) -> dict:
        """Put the chosen objects (boxes (K, 7+), entries of the database) into a scene whose boxes are all to be
        kept.
        """
        points, lowered = data_dict["points"], None
        if self.sampler_cfg.get("USE_ROAD_PLANE", False) and data_dict.get("road_plane", None) is not None:
            sampled_gt_boxes, lowered = self.put_boxes_on_road_planes(
                sampled_gt_boxes, data_dict["road_plane"], data_dict["calib"]
            )
        loaded = [self.object_points.read(info) for info in total_valid_sampled_dict]
        counts = [len(part) for part in loaded]
        obj_points = np.concatenate(loaded, axis=0)
        # whole rows: numpy adds them faster than three columns
        shifts = np.zeros((len(counts), obj_points.shape[1]), dtype=np.float32)
        shifts[:, :3] = [info["box3d_lidar"][:3] for info in total_valid_sampled_dict]
        obj_points += np.repeat(shifts, counts, axis=0)
        if lowered is not None:
            obj_points[:, 2] -= np.repeat(lowered, counts)
        obj_points = self._match_features(obj_points, points)

        enlarged = sampled_gt_boxes[:, 0:7].copy()
        enlarged[:, 3:6] += np.asarray(self.sampler_cfg["REMOVE_EXTRA_WIDTH"], dtype=enlarged.dtype)
        data_dict["points"] = np.concatenate(
            [obj_points, points.take(np.flatnonzero(outside_boxes(points, enlarged)), axis=0)], axis=0
        )
        data_dict["gt_boxes"] = np.concatenate([data_dict["gt_boxes"], sampled_gt_boxes], axis=0)
        data_dict["gt_names"] = np.concatenate(
            [data_dict["gt_names"], np.array([info["name"] for info in total_valid_sampled_dict])], axis=0
        )
        return data_dict

    def _match_features(self, obj_points: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Database points with the columns of the scene's, those of other moments (last column: time, seconds) removed
        where asked.
        """
        cfg, columns = self.sampler_cfg, points.shape[1]
        if cfg.get("FILTER_OBJ_POINTS_BY_TIMESTAMP", False):
            low, high = sorted(cfg["TIME_RANGE"][:2])
        elif obj_points.shape[1] == columns + 1:  # a database of several sweeps for a scene of one
            low = high = 0.0
        elif obj_points.shape[1] == columns:
            return obj_points
        else:
            raise InputError(
                f"{self.key_path}.NUM_POINT_FEATURES: the points of the database have {obj_points.shape[1]} columns, "
                f"those of the scene {columns}."
            )
        time = obj_points[:, -1]
        return obj_points[(time < high + 1e-6) & (time > low - 1e-6), :columns]

    def __call__(self, data_dict: dict) -> dict:
        """Paste objects into one scene.

        Args:
            data_dict: ``points`` (N, 3+C), ``gt_boxes`` (M, 7 or 9), ``gt_names`` (M,), ``gt_boxes_mask`` (M,) bool
                (which boxes to keep; all are avoided), and, for ``USE_ROAD_PLANE``, ``calib`` and ``road_plane`` (4,);
                without a plane objects keep their own heights.

        Returns:
            A dict with points, boxes and names of the scene with what was pasted, without ``gt_boxes_mask`` and, with
            ``USE_ROAD_PLANE``, without ``calib`` and ``road_plane``. Arrays given are not changed.
        """
        if "gt_boxes2d" in data_dict:
            raise InputError(
                f"{self.key_path}: gt_sampling cannot add to 'gt_boxes2d', because pasted objects are not in the "
                "image; "
                "remove gt_boxes2d from DATA_CONFIG.GET_ITEM_LIST or put gt_sampling into DISABLE_AUG_LIST."
            )
        data_dict = dict(data_dict)
        existing, names = data_dict["gt_boxes"], data_dict["gt_names"].astype(str)
        n_existing, columns = existing.shape
        chosen: list[dict] = []
        for class_name, group in self.sample_groups.items():
            number = group["sample_num"]
            if self.limit_whole_scene:
                number -= int(np.sum(names == class_name))
            if number <= 0:
                continue
            sampled = self.sample_with_fixed_number(class_name, {"sample_num": number})
            boxes = np.stack([info["box3d_lidar"] for info in sampled], axis=0).astype(np.float32)
            if self.sampler_cfg.get("DATABASE_WITH_FAKELIDAR", False):
                boxes = boxes3d_kitti_fakelidar_to_lidar(boxes)
            if boxes.shape[1] < columns:
                raise InputError(
                    f"{self.key_path}: boxes of the database have {boxes.shape[1]} columns, those of the scene "
                    f"{columns} (with velocity); "
                    "make the database from the same infos."
                )
            free = np.flatnonzero(~collides(boxes, existing))
            existing = np.concatenate((existing, boxes[free, :columns]), axis=0)
            chosen += [sampled[i] for i in free]

        mask = data_dict.pop("gt_boxes_mask", None)
        if mask is not None:
            data_dict["gt_boxes"], data_dict["gt_names"] = data_dict["gt_boxes"][mask], data_dict["gt_names"][mask]
        if chosen:
            data_dict = self.add_sampled_boxes_to_scene(data_dict, existing[n_existing:], chosen)
        if self.sampler_cfg.get("USE_ROAD_PLANE", False):
            data_dict.pop("calib", None)
            data_dict.pop("road_plane", None)
        return data_dict
