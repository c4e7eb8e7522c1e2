"""pcdet-focal train, from a checkout: python tools/train.py --help"""

import _init_path  # noqa: F401

from pcdet_focal.commands import run

if __name__ == "__main__":
    run("train")
