"""``python -m tests.record``: numbers of OpenPCDet's own code, made anew from a checkout on a CPU."""
