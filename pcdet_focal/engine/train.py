"""The training loop."""
from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from ..errors import InputError
from ..models.model_utils.checkpoint_loading import read_checkpoint
from .checkpoint import checkpoint_state, remove_old_checkpoints, save_checkpoint
from .run_log import AverageMeter, ScalarLog


class Trainer:
    """Trains a model over epochs, from wherever a checkpoint left off.

    Args:
        model: the detector, or its DistributedDataParallel.
        optimizer, lr_scheduler, lr_warmup_scheduler: from engine.optimization; the warm-up rules the first WARMUP_EPOCH epochs.
        train_loader, train_sampler: from datasets.build_dataloader.
        model_func: (model, batch) -> (loss, values to log, values to show), from models.model_fn_decorator.
        optim_cfg: the OPTIMIZATION section: GRAD_NORM_CLIP, WARMUP_EPOCH.
        ckpt_dir: where checkpoints go. rank: only rank 0 writes.
        scalar_log: where logged values go, or None.
        use_amp: float16 with loss scaling on CUDA, bfloat16 on a CPU.
        log_interval: iterations between two readings of the loss (reading makes the host wait for the device).
        save_seconds: besides the epochs' checkpoints, ``latest_model.pth`` is written when this much time has passed.
    """

    def __init__(
        self, model: nn.Module, optimizer, lr_scheduler, train_loader, train_sampler, model_func, optim_cfg, total_epochs: int, ckpt_dir: Path, logger,
        lr_warmup_scheduler=None, rank: int = 0, scalar_log: ScalarLog | None = None, use_amp: bool = False, log_interval: int = 50,
        ckpt_save_interval: int = 1, max_ckpt_save_num: int = 30, save_seconds: float = 300, iters_each_epoch: int | None = None,
        augmentation_hook=None,
    ):
        self.model, self.optimizer, self.optim_cfg = model, optimizer, optim_cfg
        self.lr_scheduler, self.lr_warmup_scheduler = lr_scheduler, lr_warmup_scheduler
        self.loader, self.sampler, self.model_func = train_loader, train_sampler, model_func
        self.total_epochs, self.ckpt_dir, self.logger, self.rank, self.scalars = total_epochs, Path(ckpt_dir), logger, rank, scalar_log
        self.iters_each_epoch = iters_each_epoch or len(train_loader)
        self.log_interval, self.ckpt_save_interval = max(log_interval, 1), max(ckpt_save_interval, 1)
        self.max_ckpt_save_num, self.save_seconds = max_ckpt_save_num, save_seconds
        self.augmentation_hook = augmentation_hook
        self.device = next(model.parameters()).device
        self.use_amp = use_amp
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=use_amp and self.device.type == "cuda", init_scale=optim_cfg.get("LOSS_SCALE_FP16", 2.0**16))
        self.iteration = 0

    def state(self, finished_epochs: int) -> dict:
        """A checkpoint of this moment."""
        seed = getattr(self.loader.dataset, "seed", None)
        scaler = self.scaler.state_dict() if self.scaler.is_enabled() else None
        return checkpoint_state(self.model, self.optimizer, finished_epochs, self.iteration, data_seed=seed, scaler_state=scaler)

    def train(self, start_iteration: int = 0) -> int:
        """Train until ``total_epochs`` are done; returns the number of iterations done in all, those before ``start_iteration`` included."""
        self.iteration = start_iteration
        total = self.total_epochs * self.iters_each_epoch
        with tqdm(total=total, initial=start_iteration, desc="train", unit="it", disable=self.rank != 0, dynamic_ncols=True, mininterval=1.0) as bar:
            for epoch in range(start_iteration // self.iters_each_epoch, self.total_epochs):
                if self.augmentation_hook is not None:
                    self.augmentation_hook(epoch, self.total_epochs)
                self._train_epoch(epoch, bar)
                if self.rank == 0 and ((epoch + 1) % self.ckpt_save_interval == 0 or epoch + 1 == self.total_epochs):
                    save_checkpoint(self.state(epoch + 1), self.ckpt_dir / f"checkpoint_epoch_{epoch + 1}")
                    remove_old_checkpoints(self.ckpt_dir, self.max_ckpt_save_num)
        return self.iteration

    def _train_epoch(self, epoch: int, bar: tqdm) -> None:
        done = self.iteration % self.iters_each_epoch
        self.sampler.set_epoch(epoch, skip=done * self.loader.batch_size)
        scheduler = self.lr_scheduler
        if self.lr_warmup_scheduler is not None and epoch < self.optim_cfg.WARMUP_EPOCH:
            scheduler = self.lr_warmup_scheduler
        data_time, step_time = AverageMeter(), AverageMeter()
        batches = iter(self.loader)
        saved = time.monotonic()
        for _ in range(done, self.iters_each_epoch):
            started = time.monotonic()
            batch = next(batches)
            loaded = time.monotonic()
            scheduler.step(self.iteration, epoch)
            loss, tb_dict, grad_norm = self._step(batch)
            self.iteration += 1
            data_time.update(loaded - started)
            step_time.update(time.monotonic() - loaded)
            last = self.iteration % self.iters_each_epoch == 0
            if self.iteration % self.log_interval == 0 or last or self.iteration == 1:
                self._log(epoch, loss, tb_dict, grad_norm, data_time, step_time, bar)
            bar.update()
            if self.rank == 0 and not last and time.monotonic() - saved > self.save_seconds:
                save_checkpoint(self.state(epoch), self.ckpt_dir / "latest_model")
                saved = time.monotonic()

    def _step(self, batch: dict):
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        with torch.autocast(self.device.type, dtype=dtype, enabled=self.use_amp):
            loss, tb_dict, _ = self.model_func(self.model, batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        grad_norm = clip_grad_norm_(self.model.parameters(), self.optim_cfg.GRAD_NORM_CLIP)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), tb_dict, grad_norm

    def _log(self, epoch: int, loss, tb_dict: dict, grad_norm, data_time: AverageMeter, step_time: AverageMeter, bar: tqdm) -> None:
        value = float(loss)
        if not math.isfinite(value):
            parts = ", ".join(f"{key} {float(part):.4g}" for key, part in tb_dict.items())
            raise InputError(
                f"the loss is {value} at iteration {self.iteration} (epoch {epoch + 1}; {parts}); lower OPTIMIZATION.LR or look at the data; "
                f"the last checkpoint in {self.ckpt_dir} is from before"
            )
        if self.rank != 0:
            return
        lr = self.optimizer.param_groups[0]["lr"]
        left = bar.format_interval((self.total_epochs * self.iters_each_epoch - self.iteration) * (data_time.avg + step_time.avg))
        bar.set_postfix(loss=f"{value:.3f}", lr=f"{lr:.2e}", refresh=False)
        self.logger.info(
            "epoch %d/%d  iteration %d/%d  loss %.4f  lr %.3e  grad norm %.3g  data %.2f s  step %.2f s  left %s",
            epoch + 1, self.total_epochs, (self.iteration - 1) % self.iters_each_epoch + 1, self.iters_each_epoch,
            value, lr, float(grad_norm), data_time.avg, step_time.avg, left,
        )
        if self.scalars is not None:
            scalars = {"train/loss": value, "meta_data/learning_rate": lr, "meta_data/epoch": epoch, "meta_data/grad_norm": grad_norm}
            self.scalars.add({**scalars, **{f"train/{key}": part for key, part in tb_dict.items()}}, self.iteration)


def resume(trainer: Trainer, model: nn.Module, checkpoint: str | Path) -> int:
    """Load a checkpoint's weights, optimiser, loss scale and data seed; returns the iteration to go on from.

    The schedule is a function of the iteration and the data of (seed, epoch, frame), so the run goes on as if it had not stopped.
    """
    iteration, _ = model.load_params_with_optimizer(checkpoint, optimizer=trainer.optimizer, logger=trainer.logger)
    extra = read_checkpoint(checkpoint)
    if extra.get("data_seed") is not None and hasattr(trainer.loader.dataset, "seed"):
        trainer.loader.dataset.seed = trainer.sampler.seed = extra["data_seed"]
    if extra.get("scaler_state") and trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(extra["scaler_state"])
    return iteration


class DisableAugmentationHook:
    """OpenPCDet's HOOK.DisableAugmentationHook: switches augmentors off for the last NUM_LAST_EPOCHS epochs."""

    def __init__(self, cfg, dataset, logger):
        self.settings = cfg.HOOK.get("DisableAugmentationHook")
        self.augmentor_cfg, self.dataset, self.logger = cfg.DATA_CONFIG.DATA_AUGMENTOR, dataset, logger
        self.done = False

    def __call__(self, epoch: int, total_epochs: int) -> None:
        if self.settings is None or self.done or epoch < total_epochs - self.settings.NUM_LAST_EPOCHS:
            return
        self.augmentor_cfg.DISABLE_AUG_LIST = self.settings.DISABLE_AUG_LIST
        self.dataset.data_augmentor.disable_augmentation(self.augmentor_cfg)
        self.logger.info("augmentation switched off: %s", ", ".join(self.settings.DISABLE_AUG_LIST))
        self.done = True
