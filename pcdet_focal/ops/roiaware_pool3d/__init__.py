"""OpenPCDet's module name; see ``roiaware_pool3d_utils``."""
