"""Train a detector, then evaluate it.

    pcdet-focal train --cfg_file kitti_models/second.yaml
    pcdet-focal train --cfg_file kitti_models/pointpillar.yaml \\
        --batch_size 4 --epochs 80 --workers 4 --extra_tag first
    torchrun --nproc_per_node=2 -m pcdet_focal train --launcher pytorch --cfg_file kitti_models/second.yaml

Everything goes to output/<group>/<config>/<extra_tag> in the working directory: ckpt/, the log, TensorBoard,
metrics.jsonl, eval/. Re-running with the same --extra_tag resumes from the latest checkpoint.
"""

from __future__ import annotations

import argparse
import shutil

import torch

from ..config import find_config, log_config_to_file
from ..datasets import build_dataloader
from ..engine import cli, evaluate
from ..engine.checkpoint import newest_checkpoint
from ..engine.memory import disable_malloc_trim
from ..engine.optimization import build_optimizer, build_scheduler
from ..engine.repeat_eval import repeat_eval_ckpt
from ..engine.run_log import ScalarLog, file_only, set_random_seed
from ..engine.train import DisableAugmentationHook, Trainer, resume
from ..errors import InputError
from ..models import build_network, model_fn_decorator

FIXED_SEED = 666


def build_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--epochs", type=cli.whole_number, default=None, help="default: OPTIMIZATION.NUM_EPOCHS")
    parser.add_argument("--sync_bn", action="store_true", help="batch norm over all processes (CUDA)")
    parser.add_argument("--fix_random_seed", action="store_true", help="the same run every time")
    parser.add_argument("--ckpt_save_interval", type=cli.whole_number, default=1, help="epochs between checkpoints")
    parser.add_argument("--max_ckpt_save_num", type=cli.whole_number, default=30, help="checkpoints kept")
    parser.add_argument(
        "--ckpt_save_time_interval",
        type=float,
        default=300,
        help="seconds between writes of latest_model.pth within an epoch",
    )
    parser.add_argument(
        "--merge_all_iters_to_one_epoch",
        action="store_true",
        help="one long pass over the data: loader processes start once",
    )
    parser.add_argument(
        "--num_epochs_to_eval", type=cli.whole_number, default=0, help="evaluate so many last epochs after training"
    )
    parser.add_argument(
        "--logger_iter_interval", type=cli.whole_number, default=50, help="iterations between two log lines"
    )
    parser.add_argument(
        "--use_amp", "--amp", action="store_true", help="mixed precision: float16 on CUDA, bfloat16 on a CPU"
    )
    # OpenPCDet's: here the bar and the log both record
    parser.add_argument("--use_tqdm_to_record", action="store_true", help=argparse.SUPPRESS)
    # OpenPCDet's: no external program is called here
    parser.add_argument("--wo_gpu_stat", action="store_true", help=argparse.SUPPRESS)
    cli.add_run_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    cfg = cli.load_config(args)
    evaluate.check_settings(cfg)
    distributed, world_size = cli.start_processes(args, cfg)
    device = cli.pick_device(args)
    if device.type == "cpu":
        disable_malloc_trim()
    batch_size = cli.batch_size_per_process(args, cfg, world_size)
    epochs = cfg.OPTIMIZATION.NUM_EPOCHS if args.epochs is None else args.epochs
    if args.sync_bn and device.type != "cuda":
        raise InputError("--sync_bn needs CUDA devices: torch's synchronised batch norm does not run on a CPU")
    if args.fix_random_seed:
        set_random_seed(FIXED_SEED + cfg.LOCAL_RANK)

    run_dir = cli.output_dir(cfg) / args.extra_tag
    logger = cli.run_logger(run_dir, "train")
    ckpt_dir = run_dir / "ckpt"
    ckpt_dir.mkdir(exist_ok=True)
    processes = f", {world_size} processes with" if distributed else ","
    cli.log_start(
        logger, args, [f"{cfg.MODEL.NAME} on {device}{processes} batches of {batch_size}; everything goes to {run_dir}"]
    )
    log_config_to_file(cfg, logger=file_only(logger))

    loader_args = dict(
        class_names=cfg.CLASS_NAMES, batch_size=batch_size, dist=distributed, workers=args.workers, logger=logger
    )
    train_set, train_loader, sampler = build_dataloader(
        cfg.DATA_CONFIG,
        training=True,
        merge_all_iters_to_one_epoch=args.merge_all_iters_to_one_epoch,
        total_epochs=epochs,
        seed=FIXED_SEED if args.fix_random_seed else None,
        persistent_workers=not cfg.get("HOOK"),  # a hook changes the data set between epochs
        **loader_args,
    )
    # before training: what is missing is missed at once
    _, test_loader, _ = build_dataloader(cfg.DATA_CONFIG, training=False, **loader_args)
    iters_each_epoch = len(train_loader) // max(epochs, 1) if args.merge_all_iters_to_one_epoch else len(train_loader)

    model = build_network(model_cfg=cfg.MODEL, num_class=len(cfg.CLASS_NAMES), dataset=train_set)
    if args.sync_bn:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device)
    if args.pretrained_model is not None:
        model.load_params_from_file(args.pretrained_model, logger)
    optimizer = build_optimizer(model, cfg.OPTIMIZATION)
    scheduler, warmup_scheduler = build_scheduler(
        optimizer, iters_each_epoch, epochs, last_epoch=-1, optim_cfg=cfg.OPTIMIZATION
    )
    size = sum(p.numel() for p in model.parameters())
    logger.info("%d training frames, %d iterations an epoch, %d parameters", len(train_set), iters_each_epoch, size)

    wrapped = (
        torch.nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
        if distributed
        else model
    )
    scalars = ScalarLog(run_dir) if cfg.LOCAL_RANK == 0 else None
    trainer = Trainer(
        wrapped,
        optimizer,
        scheduler,
        train_loader,
        sampler,
        model_fn_decorator(),
        cfg.OPTIMIZATION,
        epochs,
        ckpt_dir,
        logger,
        lr_warmup_scheduler=warmup_scheduler,
        iters_each_epoch=iters_each_epoch,
        scalar_log=scalars,
        use_amp=args.use_amp or cfg.OPTIMIZATION.get("USE_AMP", False),
        log_interval=args.logger_iter_interval,
        ckpt_save_interval=args.ckpt_save_interval,
        max_ckpt_save_num=args.max_ckpt_save_num,
        save_seconds=args.ckpt_save_time_interval,
        augmentation_hook=DisableAugmentationHook(cfg, train_set, logger) if cfg.get("HOOK") else None,
        config=cfg,
    )
    checkpoint = args.ckpt or newest_checkpoint(ckpt_dir)
    start = resume(trainer, model, checkpoint) if checkpoint else 0
    if cfg.LOCAL_RANK == 0:
        shutil.copy(find_config(args.cfg_file), run_dir)
    trainer.train(start)
    del trainer, train_loader  # ends its processes
    if scalars is not None:
        scalars.close()

    repeat_eval_ckpt(
        cfg,
        model,
        test_loader,
        ckpt_dir,
        run_dir / "eval" / "eval_with_train",
        logger,
        start_epoch=max(epochs - max(args.num_epochs_to_eval, 1) + 1, args.start_epoch),
        save_to_file=args.save_to_file,
    )
