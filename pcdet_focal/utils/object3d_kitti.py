"""OpenPCDet's name for :mod:`pcdet_focal.datasets.kitti.object3d`."""

from ..datasets.kitti.object3d import Object3d, cls_type_to_id, get_objects_from_label

__all__ = ["Object3d", "cls_type_to_id", "get_objects_from_label"]
