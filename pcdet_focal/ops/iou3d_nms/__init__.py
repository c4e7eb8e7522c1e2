"""OpenPCDet's module name; see ``iou3d_nms_utils``."""
