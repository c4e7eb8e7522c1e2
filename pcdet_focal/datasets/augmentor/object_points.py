"""The points of database objects: one small file each, or one packed array, kept in memory once read."""
from __future__ import annotations

from pathlib import Path
from typing import Mapping

import numpy as np

from pcdet_focal.errors import InputError

MAKE_DATABASE = (
    "Make it with 'python -m pcdet_focal.datasets.kitti.kitti_dataset create_kitti_infos CFG' (KITTI's folder layout) or "
    "'python -m pcdet_focal.datasets.custom.custom_dataset create_custom_infos CFG' (custom data)."
)
CACHE_BYTES = 256 * 2**20  # a process stops keeping objects above this; KITTI's train split with at least 5 points an object needs about 90 MB


class ObjectPoints:
    """Reader of database objects.

    Args:
        root_path: folder that the paths in the database index are relative to.
        num_features: columns of a point.
        packed: a ``.npy`` file with all points, addressed by ``global_data_offset`` of an entry; it is mapped into memory, which the processes of one
            machine share (OpenPCDet copies it to /dev/shm). None: one file per object.
    """

    def __init__(self, root_path: str | Path, num_features: int, packed: Path | None = None):
        self.root_path = Path(root_path)
        self.num_features = num_features
        self.packed = packed
        self._mapped: np.ndarray | None = None
        self._kept: dict[str, np.ndarray] = {}
        self._kept_bytes = 0
        if packed is not None and not packed.is_file():
            raise InputError(f"There is no file {packed} with the points of the database (DB_DATA_PATH). {MAKE_DATABASE}")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_mapped": None, "_kept": {}, "_kept_bytes": 0}  # a worker process fills its own

    def read(self, info: Mapping) -> np.ndarray:
        """Points (N, num_features) of one entry, relative to its box centre. Not to be changed: they may be shared.

        Raises:
            InputError: the file is missing, or has not the number of points that the entry says.
        """
        if self.packed is not None:
            if self._mapped is None:
                self._mapped = np.load(self.packed, mmap_mode="r")
            start, end = info["global_data_offset"]
            return self._mapped[start:end]
        points = self._kept.get(info["path"])
        if points is None:
            points = self._read_file(info)
            if self._kept_bytes + points.nbytes <= CACHE_BYTES:
                self._kept[info["path"]] = points
                self._kept_bytes += points.nbytes
        return points

    def _read_file(self, info: Mapping) -> np.ndarray:
        path, count = self.root_path / info["path"], int(info["num_points_in_gt"])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"Cannot read {path}, which the object database lists: {error.strerror or error}. {MAKE_DATABASE}") from error
        for dtype in (np.float32, np.float64):
            if len(content) == count * self.num_features * np.dtype(dtype).itemsize:
                return np.frombuffer(content, dtype=dtype).reshape(count, self.num_features).astype(np.float32, copy=False)
        raise InputError(
            f"{path} has {len(content)} bytes, not the {count * self.num_features * 4} of {count} points with {self.num_features} float32 features "
            f"(NUM_POINT_FEATURES); the file and the database index do not belong together. {MAKE_DATABASE}"
        )
