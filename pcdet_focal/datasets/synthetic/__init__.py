"""A LiDAR simulator that writes a plain KITTI folder: ``python -m pcdet_focal.datasets.synthetic --root
data/synthetic``.
"""

from .config import SyntheticConfig
from .kitti_writer import Label, frame_labels, occlusion_level, write_frame, write_kitti_folder
from .simulator import Frame, SceneObject, simulate_frame

__all__ = [
    "Frame",
    "Label",
    "SceneObject",
    "SyntheticConfig",
    "frame_labels",
    "occlusion_level",
    "simulate_frame",
    "write_frame",
    "write_kitti_folder",
]
