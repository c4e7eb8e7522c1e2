"""pcdet-focal check-dataset, from a checkout: python tools/check_dataset.py --help"""

import _init_path  # noqa: F401

from pcdet_focal.commands import run

if __name__ == "__main__":
    run("check-dataset")
