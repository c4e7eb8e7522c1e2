"""LiDAR 3-D detection with OpenPCDet's names and numbers: installs with pip, compiles nothing, runs on a CPU or a
GPU.
"""

__version__ = "0.1.0"
