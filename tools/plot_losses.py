"""pcdet-focal plot-losses, from a checkout: python tools/plot_losses.py --help"""

import _init_path  # noqa: F401

from pcdet_focal.commands import run

if __name__ == "__main__":
    run("plot-losses")
