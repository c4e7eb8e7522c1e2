"""The training loop, and resuming a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from ..config import as_plain
from ..datasets.scan_statistics import ScanStatistics
from ..errors import InputError
from ..losses import set_training_progress
from ..models.model_utils.checkpoint_loading import load_params_with_optimizer, read_checkpoint
from .checkpoint import checkpoint_state, remove_old_checkpoints, save_checkpoint
from .distributed import get_rank
from .run_log import AverageMeter, ScalarLog, file_only


class Trainer:
    """Trains a model over epochs, from wherever a checkpoint left off.

    Args:
        model: the detector, or its DistributedDataParallel.
        optimizer, lr_scheduler, lr_warmup_scheduler: from engine.optimization; the warm-up rules the first WARMUP_EPOCH
            epochs.
        train_loader, train_sampler: from datasets.build_dataloader.
        model_func: (model, batch) -> (loss, values to log, values to show), from models.model_fn_decorator.
        optim_cfg: the OPTIMIZATION section: GRAD_NORM_CLIP, WARMUP_EPOCH, LOSS_SCALE_FP16 (optional, the first loss
            scale).
        ckpt_dir: where rank 0 writes checkpoint_epoch_N.pth and, within an epoch, latest_model.pth every
            ``save_seconds``.
        iters_each_epoch: default: one pass over the loader. With merge_all_iters_to_one_epoch a pass is all epochs, and
            this is a share of it.
        scalar_log: where logged values go, or None.
        use_amp: mixed precision; float16 with loss scaling on CUDA, bfloat16 on a CPU.
        log_interval: iterations between two readings of the loss (reading makes the host wait for the device).
        augmentation_hook: called before each epoch with (epoch, epochs); returns whether it changed the data set.
        config: the whole configuration, which the checkpoints keep, so that they can be used without its file.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler,
        train_loader,
        train_sampler,
        model_func: Callable,
        optim_cfg,
        total_epochs: int,
        ckpt_dir: Path,
        logger,
        lr_warmup_scheduler=None,
        iters_each_epoch: int | None = None,
        scalar_log: ScalarLog | None = None,
        use_amp: bool = False,
        log_interval: int = 50,
        ckpt_save_interval: int = 1,
        max_ckpt_save_num: int = 30,
        save_seconds: float = 300,
        augmentation_hook: Callable[[int, int], bool] | None = None,
        config: dict | None = None,
    ):
        self.model, self.optimizer, self.model_func = model, optimizer, model_func
        self.loader, self.sampler = train_loader, train_sampler
        self.lr_scheduler, self.lr_warmup_scheduler = lr_scheduler, lr_warmup_scheduler
        self.warmup_epochs = optim_cfg.WARMUP_EPOCH if lr_warmup_scheduler is not None else 0
        self.grad_norm_clip = optim_cfg.GRAD_NORM_CLIP
        self.total_epochs, self.iters_each_epoch = total_epochs, iters_each_epoch or len(train_loader)
        self.ckpt_dir, self.logger, self.scalars, self.rank = Path(ckpt_dir), logger, scalar_log, get_rank()
        self.log_interval, self.ckpt_save_interval = max(log_interval, 1), max(ckpt_save_interval, 1)
        self.max_ckpt_save_num, self.save_seconds = max_ckpt_save_num, save_seconds
        self.augmentation_hook, self.config = augmentation_hook, config
        encoder = getattr(train_loader.dataset, "point_feature_encoder", None)
        self.scans = ScanStatistics(encoder.used_feature_list) if encoder is not None else None
        self.device = next(model.parameters()).device
        self.use_amp = use_amp
        scale = optim_cfg.get("LOSS_SCALE_FP16", 2.0**16)
        self.scaler = torch.amp.GradScaler(
            self.device.type, init_scale=scale, enabled=use_amp and self.device.type == "cuda"
        )
        self.iteration = 0

    def train(self, start_iteration: int = 0) -> int:
        """Train until ``total_epochs`` are done; returns the number of iterations done in all, those before
        ``start_iteration`` included.
        """
        self.iteration = self.first_iteration = start_iteration
        self.started = time.monotonic()
        total = self.total_epochs * self.iters_each_epoch
        with tqdm(
            total=total,
            initial=start_iteration,
            unit="it",
            disable=self.rank != 0 or None,
            dynamic_ncols=True,
            mininterval=0.5,
        ) as self.bar:
            batches = None
            for epoch in range(start_iteration // self.iters_each_epoch, self.total_epochs):
                changed = self.augmentation_hook is not None and self.augmentation_hook(epoch, self.total_epochs)
                if batches is None or changed:  # loader processes that already run would not see the change
                    batches = self._batches()
                self._train_epoch(epoch, batches)
                if (epoch + 1) % self.ckpt_save_interval == 0 or epoch + 1 == self.total_epochs:
                    self._save(f"checkpoint_epoch_{epoch + 1}", epoch + 1)
        return self.iteration

    def _train_epoch(self, epoch: int, batches: Iterator[dict]) -> None:
        self.model.train()
        self.bar.set_description(f"epoch {epoch + 1}/{self.total_epochs}")
        scheduler = self.lr_warmup_scheduler if epoch < self.warmup_epochs else self.lr_scheduler
        waiting, losses, began = AverageMeter(), [], time.monotonic()
        saved = began
        while True:
            start = time.monotonic()
            # the loader's random draws must not depend on where the run was resumed
            with torch.random.fork_rng(devices=[]):
                batch = next(batches)
            waiting.update(time.monotonic() - start)
            if self.scans is not None:
                self.scans.add_batch(batch)
            scheduler.step(self.iteration, epoch)
            set_training_progress(self.model, epoch, self.iteration)
            loss, values, grad_norm = self._step(batch)
            losses.append(loss)
            self.iteration += 1
            last = self.iteration % self.iters_each_epoch == 0
            save = not last and time.monotonic() - saved > self.save_seconds
            if self.iteration % self.log_interval == 0 or self.iteration == self.first_iteration + 1 or last or save:
                self._log(epoch, batch, loss, values, grad_norm, waiting)
            self.bar.update()
            if save:
                self._save("latest_model", epoch)
                saved = time.monotonic()
            if last:
                break
        mean, took = float(torch.stack(losses).mean()), time.monotonic() - began
        self.logger.info(
            "epoch %d/%d: mean loss %.4f in %s (%.0f %% of it waiting for data)",
            epoch + 1,
            self.total_epochs,
            mean,
            tqdm.format_interval(took),
            100 * waiting.sum / max(took, 1e-9),
        )

    def _batches(self) -> Iterator[dict]:
        """Batches from the present iteration on, one pass over the loader after the other."""
        if self.loader.num_workers > 0 and hasattr(self.loader.dataset, "__getitems__"):
            # load numba's cache in the parent, so that forked workers inherit it
            self.loader.dataset.__getitems__([0])
        number, done = divmod(self.iteration, len(self.loader))
        while True:
            self.sampler.set_epoch(number, skip=done * self.loader.batch_size)
            yield from self.loader
            number, done = number + 1, 0

    def _step(self, batch: dict) -> tuple[Tensor, dict, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            self.device.type,
            dtype=torch.float16 if self.device.type == "cuda" else torch.bfloat16,
            enabled=self.use_amp,
        ):
            loss, values, _ = self.model_func(self.model, batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        grad_norm = clip_grad_norm_(self.model.parameters(), self.grad_norm_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), values, grad_norm

    def _log(
        self, epoch: int, batch: dict, loss: Tensor, values: dict, grad_norm: Tensor, waiting: AverageMeter
    ) -> None:
        value, norm = float(loss), float(grad_norm)
        # loss scaling skips steps with infinite gradients
        if not math.isfinite(value) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            parts = ", ".join(f"{key} {float(part):.4g}" for key, part in values.items())
            frames = ", ".join(map(str, batch.get("frame_id", ())))
            raise InputError(
                f"training has diverged: the loss is {value}, the gradient's norm {norm} at iteration "
                f"{self.iteration} (epoch {epoch + 1}; {parts}; "
                f"frames {frames}). Lower OPTIMIZATION.LR or look at these frames, with --logger_iter_interval 1 to "
                "see where it begins. "
                f"Checkpoints in {self.ckpt_dir} are from before this point"
            )
        lr = self.optimizer.param_groups[0]["lr"]
        each = (time.monotonic() - self.started) / (self.iteration - self.first_iteration)
        self.bar.set_postfix(loss=f"{value:.3f}", lr=f"{lr:.2e}", refresh=False)
        log = self.logger if self.bar.disable else file_only(self.logger)
        log.info(
            "epoch %d/%d  iteration %d/%d  loss %.4f  lr %.3e  grad norm %.3g  %.3f s each, %.3f s of it for data  "
            "left %s",
            epoch + 1,
            self.total_epochs,
            (self.iteration - 1) % self.iters_each_epoch + 1,
            self.iters_each_epoch,
            value,
            lr,
            norm,
            each,
            waiting.avg,
            tqdm.format_interval(each * (self.total_epochs * self.iters_each_epoch - self.iteration)),
        )
        if self.scalars is not None:
            scalars = {
                "train/loss": value,
                "meta_data/learning_rate": lr,
                "meta_data/epoch": epoch,
                "meta_data/grad_norm": norm,
            }
            self.scalars.add({**scalars, **{f"train/{key}": part for key, part in values.items()}}, self.iteration)

    def _save(self, name: str, finished_epochs: int) -> None:
        if self.rank != 0:
            return
        path = save_checkpoint(self.state(finished_epochs), self.ckpt_dir / name)
        remove_old_checkpoints(self.ckpt_dir, self.max_ckpt_save_num)
        file_only(self.logger).info("saved %s", path)

    def state(self, finished_epochs: int) -> dict[str, Any]:
        """A checkpoint of this moment: OpenPCDet's entries, and what an exact continuation needs besides."""
        return checkpoint_state(
            self.model,
            self.optimizer,
            finished_epochs,
            self.iteration,
            iters_each_epoch=self.iters_each_epoch,
            data_seed=getattr(self.loader.dataset, "seed", None),
            config=as_plain(self.config) if self.config is not None else None,
            scans=self.scans.result() if self.scans is not None else None,
            scaler_state=self.scaler.state_dict() if self.scaler.is_enabled() else None,
            random_state=torch.get_rng_state(),
            cuda_random_state=torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        )


def resume(trainer: Trainer, model: nn.Module, checkpoint: str | Path) -> int:
    """Load a checkpoint's weights, optimiser, loss scale and random states; returns the iteration to go on from.

    The schedule is a function of the iteration and the data of (seed, epoch, frame), so the run goes on as if it had
    not stopped. With other data or another batch size an epoch has other iterations: then it goes on at the start of
    the first epoch that is not finished.

    Raises InputError for a checkpoint of another architecture or optimiser.
    """
    saved = read_checkpoint(checkpoint)
    iteration, epoch = load_params_with_optimizer(
        model, checkpoint, trainer.optimizer, trainer.logger, checkpoint=saved
    )
    if saved.get("data_seed") is not None and hasattr(trainer.loader.dataset, "seed"):
        trainer.loader.dataset.seed = trainer.sampler.seed = saved["data_seed"]
    if saved.get("scaler_state") and trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(saved["scaler_state"])
    if saved.get("random_state") is not None:
        torch.set_rng_state(saved["random_state"])
    if saved.get("cuda_random_state") is not None and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda_random_state"], trainer.device)
    each = trainer.iters_each_epoch
    if iteration // each != epoch or saved.get("iters_each_epoch", each) != each:
        trainer.logger.warning(
            "%s is of a run with other data or another batch size: going on at the start of epoch %d",
            checkpoint,
            epoch + 1,
        )
        iteration = epoch * each
    return iteration


class DisableAugmentationHook:
    """OpenPCDet's HOOK.DisableAugmentationHook: switches the augmentors of DISABLE_AUG_LIST off for the last
    NUM_LAST_EPOCHS epochs.
    """

    def __init__(self, cfg, dataset, logger):
        self.settings = cfg.HOOK.get("DisableAugmentationHook")
        self.augmentor_cfg, self.dataset, self.logger = cfg.DATA_CONFIG.DATA_AUGMENTOR, dataset, logger
        self.done = False

    def __call__(self, epoch: int, total_epochs: int) -> bool:
        """Whether the data set was changed just now."""
        if self.settings is None or self.done or epoch < total_epochs - self.settings.NUM_LAST_EPOCHS:
            return False
        self.augmentor_cfg.DISABLE_AUG_LIST = self.settings.DISABLE_AUG_LIST
        self.dataset.data_augmentor.disable_augmentation(self.augmentor_cfg)
        self.logger.info("augmentation switched off: %s", ", ".join(self.settings.DISABLE_AUG_LIST))
        self.done = True
        return True
