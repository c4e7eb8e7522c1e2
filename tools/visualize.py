"""pcdet-focal visualize, from a checkout: python tools/visualize.py --help"""

import _init_path  # noqa: F401

from pcdet_focal.commands import run

if __name__ == "__main__":
    run("visualize")
