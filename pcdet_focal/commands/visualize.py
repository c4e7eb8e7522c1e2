"""Draw an evaluation: bird's-eye pictures with ground truth, detections and scores, precision over recall, and the
training curves.

    pcdet-focal visualize --cfg_file synthetic_models/pointpillar.yaml --extra_tag demo --out output/demo
    pcdet-focal visualize --cfg_file kitti_models/second.yaml \\
        --result output/kitti_models/second/default/eval/.../result.pkl

Without --result it takes the newest result.pkl of the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..datasets import build_dataloader
from ..engine import cli
from ..engine.pictures import draw_curves, draw_results, draw_run
from ..errors import InputError


def build_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--extra_tag", default="default", help="name of the run")
    parser.add_argument("--result", default=None, help="result.pkl of an evaluation")
    parser.add_argument("--out", default=None, help="folder for the pictures (default: the run's pictures folder)")
    parser.add_argument("--num", type=cli.whole_number, default=8, help="frames to draw")
    parser.add_argument("--score_thresh", type=float, default=0.3, help="leave out weaker detections")
    cli.add_config_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    cfg = cli.load_config(args)
    run_dir = cli.output_dir(cfg) / args.extra_tag
    result = args.result or max(run_dir.glob("eval/**/result.pkl"), key=lambda path: path.stat().st_mtime, default=None)
    if result is None:
        raise InputError(
            f"there is no result.pkl below {run_dir}/eval; evaluate first: pcdet-focal test --cfg_file {args.cfg_file}"
        )
    out = Path(args.out) if args.out else run_dir / "pictures"
    dataset, _, _ = build_dataloader(cfg.DATA_CONFIG, cfg.CLASS_NAMES, 1, dist=False, workers=0, training=False)
    paths = draw_results(dataset, result, out, args.num, args.score_thresh)
    curves = draw_curves(dataset, result, out / "precision_recall.png")
    if curves is not None:
        paths.append(curves)
    if (run_dir / "metrics.jsonl").is_file():
        paths.append(draw_run(run_dir, out / "training.png"))
    print("\n".join(map(str, paths)))
