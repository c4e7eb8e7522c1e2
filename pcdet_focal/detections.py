"""What a detector found in one scan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .geometry.calibration import Calibration

_COLUMNS = ("x", "y", "z", "dx", "dy", "dz", "heading")


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects of one scan, in the LiDAR's frame, as the detector ordered them.

    Attributes:
        boxes: (K, 7) float32: x, y, z of the centre, size dx, dy, dz in metres, heading in radians anticlockwise from
            +x; (K, 9) with the velocity vx, vy in m/s where the model estimates it.
        scores: (K,) float32. labels: (K,) int64, 1, 2, ... names: (K,) text.
        points: (N, C) float32, the scan, for pictures.
        title: the scan's file name, or "".
        point_cloud_range: (6,) x, y, z lowest, then highest: where the detector looks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    points: np.ndarray = field(repr=False)
    title: str = ""
    point_cloud_range: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        kept = self.scores >= score
        return replace(
            self, **{name: getattr(self, name)[kept] for name in ("boxes", "scores", "labels", "names")}
        )  # the scan stays whole

    def to_dict(self) -> dict[str, Any]:
        """Lists and numbers, as JSON takes them: ``{"title", "objects": [{"name", "label", "score", "box"}, ...]}``."""
        return {
            "title": self.title,
            "objects": [
                {"name": str(name), "label": int(label), "score": float(score), "box": [float(x) for x in box]}
                for name, label, score, box in zip(self.names, self.labels, self.scores, self.boxes)
            ],
        }

    def to_kitti(self, calib: Calibration | str | Path, image_shape: tuple[int, int] = (375, 1242)) -> str:
        """Lines of KITTI's result format: type -1 -1 alpha x1 y1 x2 y2 h w l x y z rotation_y score.

        Args:
            calib: a KITTI calib file, or its ``Calibration``.
            image_shape: (height, width) in pixels, to which the rectangles are clipped.

        Raises:
            InputError: the file is missing or not as described.
        """
        from .datasets.kitti.predictions import kitti_annotation, result_lines
        from .geometry.calibration import Calibration

        calib = calib if isinstance(calib, Calibration) else Calibration(calib)
        return result_lines(kitti_annotation(self.boxes, self.scores, self.names, calib, image_shape))

    def draw(self, path: str | Path) -> Path:
        """Save a bird's-eye picture (.png, .pdf, .svg); returns its path."""
        from .visualization import draw_bev

        draw_bev(
            self.points,
            pred_boxes=self.boxes,
            pred_scores=self.scores,
            pred_names=self.names,
            point_cloud_range=self.point_cloud_range,
            title=self.title,
            path=path,
        )
        return Path(path)

    def html(self, path: str | Path) -> Path:
        """Save the scan and its boxes in 3-D, to turn in a browser: one file that needs no other; returns its path."""
        from .visualization import write_scene_html

        return write_scene_html(
            self.points,
            pred_boxes=self.boxes,
            pred_names=self.names,
            pred_scores=self.scores,
            path=path,
            title=self.title or "scan",
        )

    def table(self) -> str:
        """A heading and one line a box, the best first; metres and radians. Empty where there is no box."""
        if not len(self):
            return ""
        lines = [f"  {'class':<12}{'score':>6}  " + "".join(f"{name:>9}" for name in _COLUMNS)]
        for row in np.argsort(-self.scores, kind="stable"):
            box = "".join(f"{value:>9.2f}" for value in self.boxes[row, :7])
            lines.append(f"  {self.names[row]:<12}{self.scores[row]:>6.2f}  {box}")
        return "\n".join(lines)
