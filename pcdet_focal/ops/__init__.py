"""Operations with a kernel: rotated IoU, NMS, points in boxes, voxelisation, sparse convolution, target assignment.

Every kernel package has the same layout: ``__init__.py`` (public functions, checks, choice of the backend),
``reference.py`` (plain torch, the definition), ``cpu.py`` (numba) and, for most operations, ``cuda.py`` (Triton).
``backend.py`` chooses the backend. ``iou3d_nms`` and ``roiaware_pool3d`` have OpenPCDet's names. This file imports
nothing, so that a kernel package costs only its own import.
"""
