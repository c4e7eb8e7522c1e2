"""Evaluating every checkpoint of a run, also while it is being trained."""

from __future__ import annotations

import time
from pathlib import Path

from torch import nn

from ..files import finite_number, read_text
from .checkpoint import epoch_checkpoints, load_for_use
from .distributed import broadcast_from_rank0, is_main_process
from .evaluate import eval_one_epoch
from .run_log import ScalarLog

SECONDS_BETWEEN_LOOKS = 5


def repeat_eval_ckpt(
    cfg,
    model: nn.Module,
    dataloader,
    ckpt_dir: Path,
    eval_dir: Path,
    logger,
    start_epoch: int = 0,
    max_waiting_mins: float = 0,
    save_to_file: bool = False,
) -> dict[int, dict]:
    """Evaluate each ``checkpoint_epoch_N.pth`` with N >= ``start_epoch`` that ``eval_dir``'s list does not name yet;
    returns {epoch: figures}.

    With ``max_waiting_mins`` it goes on looking for new checkpoints until none has come for so long.
    """
    eval_dir.mkdir(parents=True, exist_ok=True)
    split = cfg.DATA_CONFIG.DATA_SPLIT["test"]
    record = eval_dir / f"eval_list_{split}.txt"
    done = _epochs(record) if record.exists() else set()
    results: dict[int, dict] = {}
    looking_since = time.monotonic()
    while True:
        todo = [
            (epoch, path) for epoch, path in epoch_checkpoints(ckpt_dir) if epoch >= start_epoch and epoch not in done
        ]
        over = not todo and time.monotonic() - looking_since >= max_waiting_mins * 60
        todo, over = broadcast_from_rank0(
            (todo, over)
        )  # rank 0 looks: another process may see another folder a moment later
        if over:
            return results
        for epoch, path in todo:
            load_for_use(model, path, logger)
            results[epoch] = eval_one_epoch(
                cfg, model, dataloader, epoch, logger, eval_dir / f"epoch_{epoch}" / split, save_to_file
            )
            done.add(epoch)
            if is_main_process():
                scalars = ScalarLog(eval_dir)
                scalars.add(results[epoch], epoch)
                scalars.close()
                with open(record, "a", encoding="utf-8") as file:
                    file.write(f"{epoch}\n")
            looking_since = time.monotonic()
        if not todo:
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _epochs(record: Path) -> set[int]:
    return {int(finite_number(word, "an epoch", str(record))) for word in read_text(record, "list of epochs").split()}
