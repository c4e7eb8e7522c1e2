"""One run of a comparison, in a process of its own: ``python -m pcdet_focal.engine.compare``."""

from .. import cli
from .single_run import main

if __name__ == "__main__":
    cli.run_main(main)
