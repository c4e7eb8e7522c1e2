"""The files of a KITTI folder, one function each. Every mistake in a file is an InputError that names it."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import InputError
from .. import paths
from ..scans import finite_points

LAYOUT = """\
<DATA_PATH>/
  ImageSets/train.txt  val.txt  (test.txt)      one frame id a line, for example 000042
  training/velodyne/000042.bin                  float32: x, y, z, intensity of each point
  training/calib/000042.txt                     P2, R0_rect, Tr_velo_to_cam
  training/label_2/000042.txt                   one object a line
  training/image_2/000042.png                   or <DATA_PATH>/image_shapes.json: {"000042": [height, width]}
  training/planes/000042.txt                    road planes, optional
  (testing/ alike, without label_2)"""

BYTES_PER_POINT = 16  # x, y, z, intensity as float32
_PNG_HEAD = struct.Struct(">8sI4sII")  # signature, length of the first chunk, its name, width, height


def find_root(candidates: Sequence[Path]) -> Path:
    """The first of the candidates that is a folder. Raises InputError, with what was tried and how to get the data,
    where none is.
    """
    return paths.find_folder(
        candidates,
        "Put KITTI there, or simulated frames: python -m pcdet_focal.datasets.synthetic "
        f"--root {candidates[0]}. The layout is:\n{LAYOUT}",
    )


def require_file(path: Path, what: str, frame_id: str) -> None:
    """Raise InputError, naming file and frame, where ``path`` is missing."""
    paths.require_file(path, what, frame_id, LAYOUT)


def read_points(path: Path, frame_id: str, drop_nonfinite: bool = False) -> np.ndarray:
    """The scan as float32 (N, 4): x, y, z in metres, intensity. N may be 0.

    Raises InputError for a missing file, a size that is no whole number of points, and NaN or infinite values unless
    ``drop_nonfinite``.
    """
    require_file(path, "the scan", frame_id)
    size = path.stat().st_size
    if size % BYTES_PER_POINT:
        raise InputError(
            f"frame {frame_id}: the scan {path} has {size} bytes, which is not a multiple of {BYTES_PER_POINT} (x, y, "
            "z, intensity as float32): "
            "it is cut off, or not in KITTI's format"
        )
    points = np.fromfile(path, dtype="<f4").reshape(-1, 4)
    return finite_points(points, path, f"frame {frame_id}: ", drop_nonfinite)


def png_shape(path: Path) -> tuple[int, int]:
    """(height, width) of a PNG file from its first 24 bytes. Raises InputError for anything that is not a PNG."""
    with open(path, "rb") as file:
        head = file.read(_PNG_HEAD.size)
    if len(head) < _PNG_HEAD.size or not head.startswith(b"\x89PNG\r\n\x1a\n") or head[12:16] != b"IHDR":
        raise InputError(
            f"{path} is not a PNG image: its first {_PNG_HEAD.size} bytes are no PNG header. It is damaged, or has "
            "the wrong name"
        )
    _, _, _, width, height = _PNG_HEAD.unpack(head)
    return height, width


def read_image_shape(split_folder: Path, frame_id: str) -> np.ndarray:
    """int32 (2,): height, width of the left colour image.

    From ``<split_folder>/image_2/<frame_id>.png``; where that is absent from ``image_shapes.json``, {frame id: [height,
    width]}, in ``split_folder`` (training or testing), else beside it. Raises InputError where none of them tells it.
    """
    image = split_folder / "image_2" / f"{frame_id}.png"
    if image.is_file():
        return np.array(png_shape(image), dtype=np.int32)
    tables = [split_folder / "image_shapes.json", split_folder.parent / "image_shapes.json"]
    for table in tables:
        shape = _shapes(table).get(frame_id) if table.is_file() else None
        if shape is not None:
            if not (
                isinstance(shape, list)
                and len(shape) == 2
                and all(isinstance(side, int) and side > 0 for side in shape)
            ):
                raise InputError(
                    f"{table}: the entry of frame {frame_id} is {shape!r}, it should be [height, width] in pixels"
                )
            return np.array(shape, dtype=np.int32)
    raise InputError(
        f"frame {frame_id}: its image size is needed (scans are cropped to the camera's view), and there is neither "
        f"{image} nor an entry "
        f'"{frame_id}": [height, width] in {tables[1]}'
    )


_shape_tables: dict[tuple[str, int], dict] = {}


def _shapes(table: Path) -> dict:
    key = (str(table), table.stat().st_mtime_ns)
    if key not in _shape_tables:
        try:
            content = json.loads(table.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{table} is not valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise InputError(f'{table} should be {{"<frame id>": [height, width], …}}')
        _shape_tables[key] = content
    return _shape_tables[key]


def read_road_plane(path: Path) -> np.ndarray | None:
    """float64 (4,): a, b, c, d of the ground a x + b y + c z + d = 0 in the rectified camera frame, unit normal upwards
    (b < 0); None where absent.

    The file has three head lines and the four numbers in the fourth. Raises InputError where it has not.
    """
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        plane = np.array([float(word) for word in lines[3].split()])
    except (IndexError, ValueError):
        plane = np.empty(0)
    if plane.shape != (4,) or not np.isfinite(plane).all() or not plane[:3].any():
        raise InputError(
            f"{path}, line 4: four numbers a b c d of the road plane are expected there, {lines[3:4] or 'nothing'} is "
            "found"
        )
    if plane[1] > 0:
        plane = -plane
    return plane / np.linalg.norm(plane[:3])
