"""Find objects in scans: a table on the console and a bird's-eye picture of each scan.

    pcdet-focal demo --ckpt checkpoint_epoch_80.pth --data_path scan.bin
    pcdet-focal demo --ckpt second.pth --cfg_file kitti_models/second.yaml --data_path folder \\
        --ext .npy --score_thresh 0.5 --html

A scan has x, y, z in metres and intensity (src_feature_list) of each point: float32 one after the other (.bin, as in
KITTI), an array (N, 4) saved by numpy (.npy), or fields of these names (.pcd, .ply, .las, .laz). Checkpoints of this
package know their configuration, OpenPCDet's need --cfg_file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..datasets.scans import SUFFIXES
from ..detector import Detector
from ..engine import cli
from ..errors import InputError
from ..registry import import_modules


def build_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--data_path", required=True, help="a scan, or a folder of scans")
    parser.add_argument("--ckpt", required=True, help="checkpoint")
    parser.add_argument("--ext", choices=SUFFIXES, help="only these files of a folder (default: all of them)")
    parser.add_argument(
        "--score_thresh", type=float, default=0.3, help="least score of a box that is shown (default: 0.3)"
    )
    parser.add_argument("--out", default="output/demo_scan", help="folder for the pictures (default: output/demo_scan)")
    parser.add_argument("--html", action="store_true", help="also a page a scan, in 3-D, to turn in a browser")
    cli.add_precision_argument(parser)
    cli.add_model_arguments(parser, cfg_required=False)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    scans, out = find_scans(Path(args.data_path), args.ext), Path(args.out)
    device = cli.pick_device(args)
    if args.cfg_file is not None:
        detector = Detector.load(cli.load_config(args), args.ckpt, device, precision=args.precision)
    elif args.set_cfgs is not None:
        raise InputError("--set changes a configuration; name it with --cfg_file")
    else:
        import_modules(args.imports, "--import")
        detector = Detector.load(args.ckpt, device=device, precision=args.precision)
    out.mkdir(parents=True, exist_ok=True)
    for path, found in zip(scans, detector(iter(scans))):
        found = found.above(args.score_thresh)
        picture = found.draw(out / f"{path.stem}.png")
        if args.html:
            found.html(picture.with_suffix(".html"))
        print(f"{path.name}: {len(found)} boxes with a score of at least {args.score_thresh:g}, drawn in {picture}")
        print(found.table(), end="\n" if len(found) else "", flush=True)


def find_scans(path: Path, ext: str | None = None) -> list[Path]:
    """A scan, or those of a folder by name. Raises InputError where there is none."""
    if not path.exists():
        raise InputError(f"there is no file or folder {path} (--data_path)")
    if not path.is_dir():
        return [path]
    suffixes = SUFFIXES if ext is None else (ext,)
    scans = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
    if not scans:
        raise InputError(f"the folder {path} (--data_path) has no {' or '.join(suffixes)} file")
    return scans
