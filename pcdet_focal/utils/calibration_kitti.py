"""OpenPCDet's ``pcdet.utils.calibration_kitti``; the code lives in ``geometry.calibration``."""

from ..geometry.calibration import Calibration, get_calib_from_file  # noqa: F401
