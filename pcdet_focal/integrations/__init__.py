"""Integrations with other packages: run OpenPCDet's scripts on this package, put its losses into an installed OpenPCDet
or an mmengine registry.
"""
