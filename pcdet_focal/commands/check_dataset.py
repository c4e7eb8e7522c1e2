"""Find the mistakes people make in data sets and their configurations, before a training run is lost to them.

    pcdet-focal check-dataset --cfg_file custom_models/second.yaml
    pcdet-focal check-dataset --cfg_file kitti_models/second.yaml --split val --out output/check

Run it before and after pcdet-focal create-infos. It prints what is wrong, where, and what to
change, and draws the boxes in question with their points to <out>/boxes.png. Exit status: 0, 1 where there are errors,
2 where there is nothing to check.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..engine import cli
from ..engine.checks import check_dataset, report_lines
from ..engine.checks.run import MAX_SCANS
from ..visualization import draw_box_page


def build_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--split", default=None, help="a file of ImageSets, without .txt (default: DATA_SPLIT.train)")
    parser.add_argument(
        "--num_scans",
        type=cli.whole_number,
        default=MAX_SCANS,
        help="scans to read, evenly spread (default: %(default)s)",
    )
    parser.add_argument("--out", default="output/check", help="folder for the picture (default: %(default)s)")
    cli.add_config_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    cfg = cli.load_config(args)
    report = check_dataset(cfg, args.split, args.num_scans)
    print("\n".join(report_lines(report.findings)))
    picture = Path(args.out) / "boxes.png"
    examples = report.examples[:12]
    if examples:
        scans = {frame_id: report.scan(frame_id) for frame_id in {example.frame_id for _, example in examples}}
        draw_box_page([(title, scans[example.frame_id], example) for title, example in examples], picture)
        print(f"boxes in question, then ordinary ones: {picture}")
    errors, warnings = report.count("error"), report.count("warning")
    print(
        f"{report.num_frames} frames, {report.num_boxes} boxes, {report.num_scans} scans: {errors} errors, {warnings} "
        "warnings"
    )
    if errors:
        sys.exit(1)
