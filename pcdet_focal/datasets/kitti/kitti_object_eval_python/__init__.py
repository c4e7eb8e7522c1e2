"""Door with OpenPCDet's names to :mod:`pcdet_focal.evaluation.kitti`."""
