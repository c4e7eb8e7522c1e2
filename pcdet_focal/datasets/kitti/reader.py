"""The files of a KITTI folder, one function each. Every mistake in a file is an InputError that names it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ...files import read_json, read_lines
from .. import paths
from ..scans import read_scan

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = ("x", "y", "z", "intensity")  # of KITTI's own scans
LAYOUT = """\
<DATA_PATH>/
  ImageSets/train.txt  val.txt  (test.txt)      one frame id a line, for example 000042
  training/velodyne/000042.bin                  float32: x, y, z, intensity (src_feature_list) of each point
  training/calib/000042.txt                     P2, R0_rect, Tr_velo_to_cam
  training/label_2/000042.txt                   one object a line
  training/image_2/000042.png                   or <DATA_PATH>/image_shapes.json: {"000042": [height, width]}
  training/planes/000042.txt                    road planes, optional
  (testing/ alike, without label_2)"""


def find_root(candidates: Sequence[Path]) -> Path:
    """The first of the candidates that is a folder. Raises InputError, with what was tried and how to get the data,
    where none is.
    """
    return paths.find_folder(
        candidates,
        f"Put KITTI there, or simulated frames: pcdet-focal synthetic --root {candidates[0]}. The layout is:\n{LAYOUT}",
    )


def require_file(path: Path, what: str, frame_id: str) -> None:
    """Raise InputError, naming file and frame, where ``path`` is missing."""
    paths.require_file(path, what, frame_id, LAYOUT)


def read_points(
    path: Path, frame_id: str, feature_names: Sequence[str] = COLUMNS, drop_nonfinite: bool = False
) -> np.ndarray:
    """The scan as float32 (N, columns): x, y, z in metres, then what ``feature_names`` (src_feature_list) name. N may
    be 0.

    Raises InputError for a missing file, and see :func:`pcdet_focal.datasets.scans.read_scan`.
    """
    require_file(path, "the scan", frame_id)
    return read_scan(path, feature_names, f"frame {frame_id}: ", drop_nonfinite)


def image_shape(path: Path) -> tuple[int, int]:
    """(height, width) of an image file (PNG, JPEG, ...), from its head. Raises InputError for anything else."""
    with _opened_image(path) as image:
        return image.height, image.width


def read_image(path: Path) -> np.ndarray:
    """The image, float32 (H, W, 3), red green blue in 0 … 1. Raises InputError where it is damaged."""
    with _opened_image(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


@contextmanager
def _opened_image(path: Path) -> Iterator[Image.Image]:
    from PIL import Image  # a package that matplotlib needs

    try:
        with Image.open(path) as image:  # reads the head; the pixels when they are asked for
            yield image
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise InputError(f"{path} is no image that can be read: it is damaged, or another kind of file") from error


def find_image(split_folder: Path, frame_id: str) -> Path:
    """The file of the left colour image; the name of a .png where there is none."""
    paths = [split_folder / "image_2" / f"{frame_id}{suffix}" for suffix in (".png", ".jpg", ".jpeg")]
    return next((path for path in paths if path.is_file()), paths[0])


def read_image_shape(split_folder: Path, frame_id: str) -> np.ndarray:
    """int32 (2,): height, width of the left colour image.

    From ``<split_folder>/image_2/<frame_id>.png`` (or .jpg, .jpeg); where that is absent from ``image_shapes.json``,
    {frame id: [height, width]}, in ``split_folder`` (training or testing), else beside it. Raises InputError where none
    of them tells it.
    """
    image = find_image(split_folder, frame_id)
    if image.is_file():
        return np.array(image_shape(image), dtype=np.int32)
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
        content = read_json(table, "table of image sizes")
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
    lines = read_lines(path, "road plane")
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
