"""The points of database objects: one packed file of all of them, mapped into memory, and one small file each.

A database is an index (``kitti_dbinfos_train.pkl``: class -> entries) and a folder (``gt_database``) with a ``.bin``
file for every object, raw float32 (n, C), x, y, z relative to the box centre. Beside the folder lies
``gt_database_global.npy``: all objects, float32 (N, C), one after the other; the entry of an object has its rows,
``global_data_offset`` [first, last + 1], and ``global_data_crc32``, the CRC-32 of their bytes. File
name and offsets are what OpenPCDet has for Waymo (its ``tools/process_tools/create_integrated_database.py`` makes them
for any database); the check sum is ours, and optional.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ...errors import InputError

MAKE_DATABASE = "Make it with: pcdet-focal create-infos CFG."
# a process stops keeping objects of small files above this; KITTI's train split needs about 90 MB
CACHE_BYTES = 256 * 2**20


def database_folder(entry: Mapping) -> str:
    """The folder in the path of an entry, relative to the data folder."""
    return entry["path"].rpartition("/")[0]


def packed_file(folder: Path) -> Path:
    """Where the packed file of a database folder lies: beside it."""
    return folder.with_name(f"{folder.name}_global.npy")


def pack_objects(entries: Iterable[dict], root_path: str | Path, num_features: int, packed: Path) -> None:
    """Copy the small files of ``entries`` into one, in this order, and note offsets and check sums in the entries.

    Args:
        entries: of an index, with ``path`` (relative to ``root_path``) and ``num_points_in_gt``; they get the two keys
            above.
        num_features: columns of a point.
        packed: the ``.npy`` file to make.
    """
    entries, files = list(entries), ObjectPoints(root_path, num_features)
    total = sum(int(entry["num_points_in_gt"]) for entry in entries)
    first = 0
    with open(packed, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (total, num_features)}
        )
        for entry in entries:
            points = files._read_file(entry)
            file.write(points.tobytes())
            entry["global_data_offset"] = [first, first + len(points)]
            entry["global_data_crc32"] = zlib.crc32(points)
            first += len(points)


class ObjectPoints:
    """Reader of database objects: from the packed file where there is one and the entry has an offset, else from the
    object's own file.

    Files are opened when they are first read, in each process for itself; processes of one machine share the memory of
    a packed file.

    Args:
        root_path: folder that the paths in the database index are relative to.
        num_features: columns of a point.
        packed: database folder (as in the entries' paths) -> its packed file, where that is not the one beside the
            folder.
    """

    def __init__(self, root_path: str | Path, num_features: int, packed: Mapping[str, Path] | None = None):
        self.root_path = Path(root_path)
        self.num_features = num_features
        self.packed = dict(packed or {})
        self._forget()

    def _forget(self) -> None:
        # database folder -> rows of its packed file, None where it has none
        self._mapped: dict[str, np.ndarray | None] = {}
        self._kept: dict[str, np.ndarray] = {}  # path of an object -> its points
        self._kept_bytes = 0

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key in ("root_path", "num_features", "packed")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()  # a worker process opens its own

    def read(self, info: Mapping) -> np.ndarray:
        """Points (n, num_features) float32 of one entry, relative to its box centre. Not to be changed: they may be
        shared.

        Raises:
            InputError: a file is missing or damaged, or is not the one that the index was made with.
        """
        points = self._kept.get(info["path"])
        if points is not None:
            return points
        if info.get("global_data_offset") is not None:
            folder = database_folder(info)
            if folder not in self._mapped:
                self._mapped[folder] = self._map(self._packed_file(folder))
            if self._mapped[folder] is not None:
                # a view: it holds no memory
                points = self._kept[info["path"]] = self._slice(info, self._mapped[folder], folder)
                return points
        points = self._read_file(info)
        if self._kept_bytes + points.nbytes <= CACHE_BYTES:
            self._kept[info["path"]] = points
            self._kept_bytes += points.nbytes
        return points

    def _packed_file(self, folder: str) -> Path:
        return self.packed.get(folder) or packed_file(self.root_path / folder)

    def _map(self, path: Path) -> np.ndarray | None:
        if not path.is_file():
            return None
        try:
            rows = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} with the points of the object database cannot be read ({error}): it is cut off or damaged. "
                f"{MAKE_DATABASE}"
            ) from error
        if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != self.num_features:
            raise InputError(
                f"{path} holds {rows.dtype} {rows.shape}, and the points of the object database should be float32 (N, "
                f"{self.num_features}) "
                f"(NUM_POINT_FEATURES). {MAKE_DATABASE}"
            )
        return rows.view(np.ndarray)  # slices of a plain array cost less than those of a memmap

    def _slice(self, info: Mapping, rows: np.ndarray, folder: str) -> np.ndarray:
        first, end = info["global_data_offset"]
        points = rows[first:end]
        if len(points) == end - first == info["num_points_in_gt"] and info.get("global_data_crc32") in (
            None,
            zlib.crc32(points),
        ):
            return points
        raise InputError(
            f"{self._packed_file(folder)} has not the {info['num_points_in_gt']} points of {info['path']} in its rows "
            f"{first} to {end} (of "
            f"{len(rows)}): it was made at another time than the database index. {MAKE_DATABASE}"
        )

    def _read_file(self, info: Mapping) -> np.ndarray:
        path, count = self.root_path / info["path"], int(info["num_points_in_gt"])
        try:
            content = path.read_bytes()
        except OSError as error:
            packed = (
                f", nor is there {self._packed_file(database_folder(info))}"
                if info.get("global_data_offset") is not None
                else ""
            )
            raise InputError(
                f"Cannot read {path}, which the object database lists: {error.strerror or error}{packed}. "
                f"{MAKE_DATABASE}"
            ) from error
        for dtype in (np.float32, np.float64):
            if len(content) == count * self.num_features * np.dtype(dtype).itemsize:
                return (
                    np.frombuffer(content, dtype=dtype).reshape(count, self.num_features).astype(np.float32, copy=False)
                )
        raise InputError(
            f"{path} has {len(content)} bytes, not the {count * self.num_features * 4} of {count} points with "
            f"{self.num_features} float32 features "
            f"(NUM_POINT_FEATURES); the file and the database index do not belong together. {MAKE_DATABASE}"
        )
