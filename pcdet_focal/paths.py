"""Where the package and its configurations are: in a checkout, or installed."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
IMPORT_FOLDER = PACKAGE.parent  # what a new process needs on its path to import the package
# setup.py puts the checkout's cfgs/ into the installed package
CFGS = next((folder for folder in (PACKAGE / "cfgs", IMPORT_FOLDER / "cfgs") if folder.is_dir()), PACKAGE / "cfgs")
