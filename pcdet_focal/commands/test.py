"""Evaluate a checkpoint, or all checkpoints of a run.

    pcdet-focal test --cfg_file kitti_models/second.yaml \\
        --ckpt output/kitti_models/second/default/ckpt/checkpoint_epoch_80.pth
    pcdet-focal test --cfg_file kitti_models/second.yaml --eval_all

Prints KITTI average precision; results go to output/<group>/<config>/<extra_tag>/eval in the working directory.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..datasets import build_dataloader
from ..engine import cli, evaluate
from ..engine.checkpoint import load_for_use, newest_checkpoint
from ..engine.repeat_eval import repeat_eval_ckpt
from ..errors import InputError
from ..models import build_network


def build_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--eval_tag", default="default", help="name of this evaluation, a folder in the output")
    parser.add_argument(
        "--eval_all", action="store_true", help="every checkpoint of --ckpt_dir that is not evaluated yet"
    )
    parser.add_argument("--ckpt_dir", default=None, help="default: the run's own ckpt folder")
    parser.add_argument("--infer_time", action="store_true", help="also measure the time a batch takes")
    cli.add_precision_argument(parser)
    cli.add_run_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    cfg = cli.load_config(args)
    evaluate.check_settings(cfg)
    distributed, world_size = cli.start_processes(args, cfg)
    device = cli.pick_device(args)
    batch_size = cli.batch_size_per_process(args, cfg, world_size)
    run_dir = cli.output_dir(cfg) / args.extra_tag
    ckpt_dir = Path(args.ckpt_dir) if args.ckpt_dir else run_dir / "ckpt"
    checkpoint = args.ckpt or newest_checkpoint(ckpt_dir)
    if checkpoint is None and not (args.eval_all and args.max_waiting_mins):
        raise InputError(
            f"there is no checkpoint in {ckpt_dir}; name one with --ckpt, or train: pcdet-focal train --cfg_file "
            f"{args.cfg_file}"
        )
    if args.ckpt and not Path(args.ckpt).is_file():
        raise InputError(f"there is no checkpoint {args.ckpt} (--ckpt)")

    split = cfg.DATA_CONFIG.DATA_SPLIT["test"]
    number = re.findall(r"\d+", Path(checkpoint).stem) if checkpoint else []
    epoch = number[-1] if number else "no_number"
    eval_dir = run_dir / "eval" / ("eval_all_default" if args.eval_all else f"epoch_{epoch}/{split}") / args.eval_tag
    logger = cli.run_logger(eval_dir, "eval")
    cli.log_start(
        logger, args, [f"{cfg.MODEL.NAME} on {device}, {f'checkpoints of {ckpt_dir}' if args.eval_all else checkpoint}"]
    )
    dataset, loader, _ = build_dataloader(
        cfg.DATA_CONFIG,
        cfg.CLASS_NAMES,
        batch_size,
        dist=distributed,
        workers=args.workers,
        logger=logger,
        training=False,
    )
    model = build_network(model_cfg=cfg.MODEL, num_class=len(cfg.CLASS_NAMES), dataset=dataset).to(device)
    if args.eval_all:
        repeat_eval_ckpt(
            cfg, model, loader, ckpt_dir, eval_dir, logger, args.start_epoch, args.max_waiting_mins, args.save_to_file
        )
    else:
        load_for_use(model, checkpoint, logger, args.pretrained_model)
        evaluate.eval_one_epoch(
            cfg, model, loader, epoch, logger, eval_dir, args.save_to_file, args.infer_time, args.precision
        )
