"""Measures of detection quality; so far KITTI's average precision (:mod:`pcdet_focal.evaluation.kitti`)."""

from .kitti import KittiCounts, KittiResult, evaluate_kitti

__all__ = ["KittiCounts", "KittiResult", "evaluate_kitti"]
