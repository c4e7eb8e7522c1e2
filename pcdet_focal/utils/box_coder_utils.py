"""OpenPCDet's ``pcdet.utils.box_coder_utils``; the classes live in ``geometry.box_coders``."""

from ..geometry.box_coders import PointResidualCoder, PreviousResidualDecoder, PreviousResidualRoIDecoder, ResidualCoder  # noqa: F401
