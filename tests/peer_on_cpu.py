"""Importing this makes a checkout of OpenPCDet (its folder on ``sys.path``) importable on a CPU: for processes of its
own, it changes torch.
"""

from pcdet_focal.engine.benchmark.openpcdet import make_importable

make_importable()
