"""Make records anew, and compare them with those that are here.

    python -m tests.record --openpcdet ../OpenPCDet --compare
    python -m tests.record --openpcdet ../OpenPCDet --out FOLDER

``losses``, ``heads``, ``geometry``: OpenPCDet's functions on the inputs that their records hold. ``data``: infos,
database, samples and batches. ``models``: losses, gradients and detections of every configuration on small grids, a
minute. Frames are simulated unless ``--frames`` names a folder in KITTI's layout. Needs what `make test` installs, and
a C++ compiler.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.record import compare, geometry, heads, kitti, losses, models, peer  # noqa: E402

RECORDED = Path(__file__).resolve().parents[1] / "recorded"
RECORDS = RECORDED / "simulated/10_infos"
MODELS = Path(__file__).resolve().parents[1] / "models/data"
REPLAYED = {"losses": losses, "heads": heads, "geometry": geometry}  # parts whose records hold their inputs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--openpcdet", type=Path, required=True, help="a checkout of OpenPCDet v0.6.0 (commit 8caccce)")
    parser.add_argument("--frames", type=Path, help="a folder in KITTI's layout (default: simulated frames)")
    parser.add_argument("--out", type=Path, help="folder for what is made (default: a temporary one)")
    parser.add_argument(
        "--compare", type=Path, nargs="?", const=RECORDS, help="folder with records of data (default: the repository's)"
    )
    parser.add_argument("--only", choices=(*REPLAYED, "data", "models"))
    parser.add_argument(
        "--training",
        nargs=3,
        action="append",
        metavar=("MODEL", "FRAME", "SEED"),
        help="a training sample to record (default: four)",
    )
    args = parser.parse_args()
    frames = args.frames
    if frames is None and args.only in (None, "data"):  # made before torch is changed
        import tiny_kitti

        frames = tiny_kitti.dataset()
    training = [(model, frame, int(seed)) for model, frame, seed in args.training or ()]
    with tempfile.TemporaryDirectory() as temporary:
        out, checkout, status = args.out or Path(temporary), args.openpcdet.resolve(), 0
        dataset = peer.open_checkout(checkout)
        peer.use_overlaps(checkout)
        for name, part in REPLAYED.items():
            if args.only in (None, name):
                part.record(RECORDED, out)
                for folder in part.FOLDERS if args.compare else ():
                    status = max(status, compare.compare_folders(out / folder, RECORDED / folder))
        if args.only in (None, "data"):
            kitti.record(dataset, frames, out / "data", training)
            status = max(status, compare.compare_folders(out / "data", args.compare) if args.compare else 0)
        if args.only in (None, "models"):
            models.record(out / "models")
            status = max(status, compare.compare_folders(out / "models", MODELS) if args.compare else 0)
    return status


sys.exit(main())
