"""OpenPCDet's module names: re-exports only. Nothing inside the package imports from here."""
