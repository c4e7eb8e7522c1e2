"""Make records anew, and compare them with those that are here.

    python -m tests.record --openpcdet ../OpenPCDet --compare tests/recorded/simulated/10_infos
    python -m tests.record --openpcdet ../OpenPCDet --out tests/recorded/simulated/10_infos

Frames are simulated unless ``--frames`` names a folder in KITTI's layout. Needs what `make test` installs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.record import compare, kitti, peer  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--openpcdet", type=Path, required=True, help="a checkout of OpenPCDet v0.6.0 (commit 8caccce)")
    parser.add_argument("--frames", type=Path, help="a folder in KITTI's layout (default: simulated frames)")
    parser.add_argument("--out", type=Path, help="folder for the records (default: a temporary one)")
    parser.add_argument("--compare", type=Path, help="folder with records to compare with")
    parser.add_argument(
        "--training",
        nargs=3,
        action="append",
        metavar=("MODEL", "FRAME", "SEED"),
        help="a training sample to record (default: four)",
    )
    args = parser.parse_args()
    import tiny_kitti

    frames = args.frames or tiny_kitti.dataset()  # made before torch is changed
    training = [(model, frame, int(seed)) for model, frame, seed in args.training or ()]
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder)
        checkout = args.openpcdet.resolve()
        kitti.record(peer.open_checkout(checkout), checkout, frames, out, training)
        return compare.compare_folders(out, args.compare) if args.compare else 0


sys.exit(main())
