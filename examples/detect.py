"""Find objects in a scan: python examples/detect.py model.pth scan.bin

The checkpoint is one of this package, which knows its configuration, or the name of weights (pcdet-focal models).
"""

import sys

from pcdet_focal import Detector

checkpoint, scan = sys.argv[1:3]
detector = Detector.load(checkpoint)
found = detector(scan).above(0.3)
print(found.table())
print(found.draw("detections.png"), found.html("detections.html"))
