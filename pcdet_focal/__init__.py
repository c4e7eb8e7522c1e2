"""LiDAR 3-D detection with OpenPCDet's names and numbers: installs with pip, compiles nothing, runs on a CPU or a
GPU.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .detections import Detections
    from .detector import Detector

__version__ = "0.1.0"
__all__ = ["Detector", "Detections"]


def __getattr__(name: str) -> Any:  # imports torch only for who asks for a detector
    if name == "Detector":
        from .detector import Detector

        return Detector
    if name == "Detections":
        from .detections import Detections

        return Detections
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
