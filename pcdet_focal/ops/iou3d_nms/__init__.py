"""Door with OpenPCDet's name: see ``iou3d_nms_utils``."""
