"""Door with OpenPCDet's name: see ``roiaware_pool3d_utils``."""
