"""pcdet-focal demo, from a checkout: python tools/demo.py --help"""

import _init_path  # noqa: F401

from pcdet_focal.commands import run

if __name__ == "__main__":
    run("demo")
