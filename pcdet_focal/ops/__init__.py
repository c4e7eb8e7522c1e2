"""What needs a kernel: rotated IoU, NMS, points in boxes, voxelisation and grouping, sparse convolution, target
assignment.

Every kernel package has the same files: ``__init__.py`` (public functions, checks, choice of the backend), ``reference.py``
(plain torch, the
definition), ``cpu.py`` (numba) and, where there is one, ``cuda.py`` (Triton). ``backend.py`` says how the choice is
made. ``iou3d_nms`` and ``roiaware_pool3d`` have OpenPCDet's names. This file imports nothing, so that a kernel
package costs only its own import.
"""
