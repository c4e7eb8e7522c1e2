"""Find objects in scans: a table on the console and a bird's-eye picture of each scan.

    pcdet-focal demo --cfg_file kitti_models/second.yaml --ckpt second.pth --data_path scan.bin
    pcdet-focal demo --cfg_file kitti_models/second.yaml --ckpt second.pth --data_path folder \\
        --ext .npy --score_thresh 0.5

A scan is float32 x, y, z, intensity (src_feature_list) of each point: raw (.bin, as in KITTI), an array (N, 4) saved
by numpy (.npy), or a .pcd file with fields of these names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..datasets.scans import SUFFIXES
from ..engine import cli
from ..engine.checkpoint import load_for_use
from ..engine.demo import DemoDataset, show_detections
from ..engine.run_log import create_logger
from ..models import build_network


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
    cli.add_model_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    cfg = cli.load_config(args)
    device = cli.pick_device(args)
    logger = create_logger()
    dataset = DemoDataset(
        cfg.DATA_CONFIG, cfg.CLASS_NAMES, training=False, root_path=Path(args.data_path), logger=logger, ext=args.ext
    )
    model = build_network(model_cfg=cfg.MODEL, num_class=len(cfg.CLASS_NAMES), dataset=dataset).to(device)
    load_for_use(model, args.ckpt, logger)
    show_detections(model, dataset, args.score_thresh, Path(args.out), args.html)
