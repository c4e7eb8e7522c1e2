"""Generates synthetic LiDAR data in KITTI's format.

    pcdet-focal synthetic --root data/synthetic --num_train 200 --num_val 50 --seed 0 [--full_scan]

The data go into a temporary folder and are moved to --root when complete. If --root already holds exactly this, nothing
is done.
"""

from __future__ import annotations

import argparse
import sys

from ...errors import InputError
from .config import SyntheticConfig
from .kitti_writer import write_kitti_folder


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/synthetic", help="folder to write (default: data/synthetic)")
    parser.add_argument("--num_train", type=int, default=200, help="training frames (default: 200)")
    parser.add_argument("--num_val", type=int, default=50, help="validation frames (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other frames (default: 0)")
    parser.add_argument(
        "--full_scan",
        action="store_true",
        help="all 360 degrees instead of the camera's sector (about 4 times the points)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def write(argv: list[str] | None = None) -> None:
    """Parse the arguments and write the folder. Raises InputError."""
    args = build_parser().parse_args(argv)
    config = SyntheticConfig(seed=args.seed, full_scan=args.full_scan)
    written = write_kitti_folder(args.root, args.num_train, args.num_val, config, not args.quiet)
    print(
        f"{args.root}: {'written' if written else 'already there'}, {args.num_train} training and {args.num_val} "
        "validation frames"
    )


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for a mistake that the user can mend."""
    try:
        write(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
