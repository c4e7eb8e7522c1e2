"""OpenPCDet's module names for :mod:`pcdet_focal.evaluation.kitti`."""
