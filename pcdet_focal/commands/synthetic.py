"""Write a simulated LiDAR data set in KITTI's layout; also ``python -m pcdet_focal.datasets.synthetic``."""

from ..datasets.synthetic.__main__ import build_parser
from ..datasets.synthetic.__main__ import write as main

__all__ = ["build_parser", "main"]
