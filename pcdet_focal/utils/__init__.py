"""OpenPCDet's module names: re-exports only.

Inside the package only ``integrations.openpcdet`` imports from here, because it hands these names to OpenPCDet.
"""
