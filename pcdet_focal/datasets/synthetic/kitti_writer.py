"""Writes simulated frames as a plain KITTI object folder.

root/synthetic.json                          what the folder was made with; written last, so that its presence means
complete root/image_shapes.json                       {"000000": [375, 1242], ...}; there are no images
root/ImageSets/{train,val,trainval}.txt
root/training/{velodyne,calib,label_2,planes}/NNNNNN.{bin,txt}
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...errors import InputError
from . import camera
from .config import SyntheticConfig
from .simulator import Frame, simulate_frame

VERSION = 1  # counted up when the same config gives other frames
MARKER = "synthetic.json"
# What stands in such a folder, with what create_kitti_infos adds to it; a folder with anything else in it is never
# replaced.
_OWN = (
    MARKER,
    "image_shapes.json",
    "ImageSets",
    "training",
    "testing",
    "gt_database",
    "gt_database_global.npy",
    "kitti_infos_*.pkl",
    "kitti_dbinfos_*.pkl",
)


@dataclass(frozen=True)
class Label:
    """One line of label_2. bbox: left, top, right, bottom in pixels; location: bottom centre in the rectified camera
    frame, metres.
    """

    name: str
    truncation: float
    occlusion: int
    alpha: float
    bbox: tuple[float, float, float, float]
    hwl: tuple[float, float, float]
    location: tuple[float, float, float]
    ry: float

    def line(self) -> str:
        # Four digits for the box where KITTI has two: what is written is what was cast.
        numbers = [*self.hwl, *self.location, self.ry]
        box = " ".join(f"{v:.2f}" for v in (self.alpha, *self.bbox))
        return f"{self.name} {self.truncation:.2f} {self.occlusion} {box} " + " ".join(f"{v:.4f}" for v in numbers)


def occlusion_level(visible_share: float) -> int:
    """KITTI's 0 fully visible, 1 partly, 2 largely occluded, 3 unknown, from the share of an object's rays that reach
    it.
    """
    for level, least in enumerate((0.8, 0.45, 0.12)):
        if visible_share >= least:
            return level
    return 3


def _wrap(angle: float) -> float:
    return (angle + math.pi) % (2.0 * math.pi) - math.pi


def frame_labels(frame: Frame) -> list[Label]:
    """KITTI labels of the objects that are in the image and have a point there; those in the image without any are
    DontCare.

    heading = -(ry + pi / 2) and centre = bottom centre + h / 2 along the LiDAR's z give the cast box back.
    """
    labels, unseen = [], []
    for item in frame.objects:
        x, y, z, length, width, height, heading = (float(v) for v in item.box)
        location = camera.lidar_to_rect(np.array([[x, y, z - height / 2]]), frame.calib)[0]
        ry = _wrap(-heading - math.pi / 2)
        projected = camera.project_box(location, (height, width, length), ry, frame.calib)
        if projected is None:
            continue
        bbox, truncation = tuple(float(v) for v in projected[0]), projected[1]
        if item.num_points == 0:
            if truncation < 0.9:
                unseen.append(Label("DontCare", -1, -1, -10, bbox, (-1, -1, -1), (-1000, -1000, -1000), -10))
            continue
        alpha = _wrap(ry - math.atan2(location[0], location[2]))
        labels.append(
            Label(
                item.name,
                truncation,
                occlusion_level(item.visible_share),
                alpha,
                bbox,
                (height, width, length),
                tuple(float(v) for v in location),
                ry,
            )
        )
    labels.sort(key=lambda label: label.location[2])
    return labels + unseen


def write_frame(folder: Path, name: str, frame: Frame) -> None:
    """Writes one frame into ``folder`` (…/training, whose four sub-folders exist)."""
    frame.points.astype("<f4").tofile(folder / "velodyne" / f"{name}.bin")
    calib = "".join(
        f"{key}: " + " ".join(f"{v:.12e}" for v in matrix.ravel()) + "\n" for key, matrix in frame.calib.items()
    )
    (folder / "calib" / f"{name}.txt").write_text(calib)
    (folder / "label_2" / f"{name}.txt").write_text("".join(label.line() + "\n" for label in frame_labels(frame)))
    plane = " ".join(f"{v:.6e}" for v in frame.plane)
    (folder / "planes" / f"{name}.txt").write_text(f"# Plane\nWidth 4\nHeight 1\n{plane}\n")


def _marker(num_train: int, num_val: int, config: SyntheticConfig) -> dict:
    return json.loads(
        json.dumps(
            {
                "made_by": "pcdet_focal.datasets.synthetic",
                "version": VERSION,
                "num_train": num_train,
                "num_val": num_val,
                **asdict(config),
            }
        )
    )


def _check_root(root: Path, marker: dict) -> bool:
    """True where the folder is there already; False where it may be written; raises where it is somebody else's."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise InputError(f"{root} is a file; synthetic data needs the name of a folder that does not exist yet.")
    entries = sorted(root.iterdir())
    if not entries:
        return False
    try:
        old_marker = json.loads((root / MARKER).read_text())
    except (OSError, ValueError):
        old_marker = None
    if not isinstance(old_marker, dict) or old_marker.get("made_by") != marker["made_by"]:
        raise InputError(
            f"{root} is not empty and was not written by the simulator (no valid {MARKER} in it); name another folder "
            "or empty "
            "this one."
        )
    strangers = [entry.name for entry in entries if not any(entry.match(pattern) for pattern in _OWN)]
    if old_marker == marker:
        total = marker["num_train"] + marker["num_val"]
        complete = all(
            len(list((root / "training" / sub).glob("*.*"))) >= total
            for sub in ("velodyne", "calib", "label_2", "planes")
        )
        if complete:
            return True
    if strangers:
        raise InputError(
            f"{root} holds other synthetic data than asked for and also {', '.join(strangers)}, which the simulator "
            "did not write; "
            "move that away or name another folder."
        )
    return False


def write_kitti_folder(
    root: str | Path, num_train: int, num_val: int, config: SyntheticConfig | None = None, progress: bool = True
) -> bool:
    """Writes frames 0 .. num_train - 1 as the train split and the next num_val as the val split.

    The data are made in a folder beside ``root`` and moved there when complete: an interrupted run leaves nothing
    behind. A folder that already holds exactly this is left as it is; older synthetic data is replaced, with the infos
    and database made from it; any other folder that is not empty is refused.

    Returns:
        True if it was written, False if it was there already

    Raises:
        InputError: counts below zero or nothing to write, a folder that is not the simulator's, a place that cannot be
            written
    """
    config = config or SyntheticConfig()
    root = Path(root)
    if num_train < 0 or num_val < 0 or num_train + num_val == 0 or num_train + num_val > 1000000:
        raise InputError(
            f"num_train {num_train} and num_val {num_val} must not be below 0, and together from 1 to 1000000."
        )
    marker = _marker(num_train, num_val, config)
    if _check_root(root, marker):
        return False
    partial = root.with_name(f".{root.name}.partial-{os.getpid()}")
    try:
        for sub in ("training/velodyne", "training/calib", "training/label_2", "training/planes", "ImageSets"):
            (partial / sub).mkdir(parents=True, exist_ok=True)
        names = [f"{k:06d}" for k in range(num_train + num_val)]
        for index, name in enumerate(tqdm(names, desc="simulating", unit="frame", disable=not progress)):
            write_frame(partial / "training", name, simulate_frame(config, index))
        for split, part in (("train", names[:num_train]), ("val", names[num_train:]), ("trainval", names)):
            (partial / "ImageSets" / f"{split}.txt").write_text("".join(name + "\n" for name in part))
        shapes = {name: [camera.IMAGE_HEIGHT, camera.IMAGE_WIDTH] for name in names}
        (partial / "image_shapes.json").write_text(json.dumps(shapes))
        (partial / MARKER).write_text(json.dumps(marker, indent=1) + "\n")
        if root.exists():
            aside = root.with_name(f".{root.name}.old-{os.getpid()}")
            root.rename(aside)
            try:
                partial.rename(root)
            except OSError:
                aside.rename(root)
                raise
            shutil.rmtree(aside)
        else:
            partial.rename(root)
    except OSError as error:
        raise InputError(
            f"The synthetic data cannot be written to {root}: {error.strerror or error} ({error.filename or partial})."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True
