"""Whole training runs on a handful of frames: the same again, interrupted and resumed, diverging, in mixed precision;
and the loop by itself.
"""

import gc
import json
import logging
import math
import multiprocessing

import pytest
import tiny_kitti
import torch
from easydict import EasyDict
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pcdet_focal.datasets.samplers import EpochSampler
from pcdet_focal.engine import checkpoint
from pcdet_focal.engine.optimization import build_optimizer, build_scheduler
from pcdet_focal.engine.run_log import read_metrics
from pcdet_focal.engine.train import DisableAugmentationHook, Trainer
from pcdet_focal.errors import InputError
from pcdet_focal.losses import build_gamma_schedule

ITERATIONS = math.ceil(tiny_kitti.NUM_TRAIN / 2)  # of an epoch, batches of 2


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working directory with cfgs/tiny_models/tiny.yaml, whose target assigner draws anchors at random (from torch's
    state).
    """
    monkeypatch.chdir(tmp_path)
    content = tiny_kitti.config(tiny_kitti.dataset())
    content["MODEL"]["DENSE_HEAD"]["TARGET_ASSIGNER_CONFIG"]["POS_FRACTION"] = 0.5
    tiny_kitti.write_config(tmp_path / "cfgs/tiny_models/tiny.yaml", content)
    tiny_kitti.write_config(
        tmp_path / "cfgs/tiny_models/second.yaml", tiny_kitti.second(tiny_kitti.config(tiny_kitti.dataset()))
    )
    return tmp_path


def train(tag: str, *more, config: str = "tiny", seed: bool = True, workers: int = 0, threads: int = 1) -> None:
    """tools/train.py in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        argv = ["--cfg_file", f"cfgs/tiny_models/{config}.yaml", "--extra_tag", tag, "--workers", str(workers)]
        tiny_kitti.tool("train").main([*argv, *(["--fix_random_seed"] if seed else []), *map(str, more)])
    finally:
        torch.set_num_threads(before)


def saved(tag: str, name: str = "checkpoint_epoch_2", config: str = "tiny") -> dict:
    return torch.load(f"output/tiny_models/{config}/{tag}/ckpt/{name}.pth", weights_only=True)


def assert_same_run(one: dict, other: dict) -> None:
    """Bit by bit: weights, batch norm, optimiser, random state."""
    assert one["it"] == other["it"] and one["epoch"] == other["epoch"]
    assert one["model_state"].keys() == other["model_state"].keys()
    for key, value in one["model_state"].items():
        assert torch.equal(value, other["model_state"][key]), key
    for number, state in one["optimizer_state"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, other["optimizer_state"]["state"][number][key]), (number, key)
    assert torch.equal(one["random_state"], other["random_state"])


def stop_after(monkeypatch, iterations: int) -> None:
    """Ctrl-C when so many further iterations are done."""
    step, left = Trainer._step, [iterations]

    def counting(self, batch):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", counting)


@pytest.mark.parametrize(
    "workers, more", [(0, []), (1, []), (0, ["--merge_all_iters_to_one_epoch"])], ids=["", "worker", "merged"]
)
def test_an_interrupted_run_goes_on_bit_by_bit(workplace, monkeypatch, workers, more):
    train("straight", *more, workers=workers)
    with monkeypatch.context() as patch:
        each = tiny_kitti.NUM_TRAIN // 2 if more else ITERATIONS
        stop_after(patch, each + 1)  # within the second epoch
        with pytest.raises(KeyboardInterrupt):
            train("stopped", "--ckpt_save_time_interval", -1, *more, workers=workers)
    within = saved("stopped", "latest_model")
    assert (within["epoch"], within["it"]) == (1, each + 1)
    assert not list(workplace.rglob("*.part"))
    torch.manual_seed(1)  # whatever this process drew in between
    train("stopped", *more, workers=workers)
    assert_same_run(saved("straight"), saved("stopped"))
    values = read_metrics("output/tiny_models/tiny/stopped/metrics.jsonl")["train/loss"]
    assert [iteration for iteration, _ in values] == sorted({iteration for iteration, _ in values})


def worker_processes(monkeypatch) -> list[set[int]]:
    """Filled with the loader processes at the end of every epoch of the runs that follow."""
    seen, train_epoch = [], Trainer._train_epoch

    def watched(self, epoch, batches):
        train_epoch(self, epoch, batches)
        seen.append({process.pid for process in multiprocessing.active_children()})

    monkeypatch.setattr(Trainer, "_train_epoch", watched)
    return seen


def test_loader_processes_stay_for_the_run(workplace, monkeypatch):
    seen = worker_processes(monkeypatch)
    train("run", workers=1)
    assert len(seen) == 2 and seen[0] & seen[1]
    gc.collect()
    assert not {process.pid for process in multiprocessing.active_children()} & seen[1]


def test_a_hooks_change_reaches_the_loader_processes(workplace, monkeypatch):
    content = tiny_kitti.config(tiny_kitti.dataset())
    content["MODEL"]["DENSE_HEAD"]["TARGET_ASSIGNER_CONFIG"]["POS_FRACTION"] = 0.5  # as in tiny.yaml
    steps = [step["NAME"] for step in content["DATA_CONFIG"]["DATA_AUGMENTOR"]["AUG_CONFIG_LIST"]]
    train("never_off")
    content["HOOK"] = {"DisableAugmentationHook": {"DISABLE_AUG_LIST": steps, "NUM_LAST_EPOCHS": 1}}
    tiny_kitti.write_config(workplace / "cfgs/tiny_models/hook.yaml", content)
    train("alone", config="hook")
    seen = worker_processes(monkeypatch)
    train("helped", config="hook", workers=1)
    assert len(seen) == 2 and seen[0] and not seen[0] & seen[1]
    assert_same_run(saved("alone", config="hook"), saved("helped", config="hook"))
    off, on = (saved(tag, config=config)["model_state"] for tag, config in (("alone", "hook"), ("never_off", "tiny")))
    assert any(not torch.equal(value, on[key]) for key, value in off.items())


def test_a_run_stopped_at_an_epochs_end_goes_on_and_seeds_make_runs(workplace, monkeypatch):
    train("straight")
    train("again")
    assert_same_run(saved("straight"), saved("again"))
    checkpoint_1 = workplace / "output/tiny_models/tiny/again/ckpt/checkpoint_epoch_1.pth"
    read, load = [], torch.load
    with monkeypatch.context() as patch:
        patch.setattr(
            torch, "load", lambda file, *args, **kwargs: (read.append(str(file)), load(file, *args, **kwargs))[1]
        )
        train("from_1", "--ckpt", checkpoint_1, seed=False)  # the checkpoint knows the seed of the data
    assert read.count(str(checkpoint_1)) == 1
    assert_same_run(saved("straight"), saved("from_1"))
    train("other", seed=False)
    assert any(
        not torch.equal(value, saved("straight")["model_state"][key])
        for key, value in saved("other")["model_state"].items()
    )


def test_another_batch_size_goes_on_at_the_start_of_the_epoch(workplace, capsys):
    train("run", "--epochs", 1)
    train("run", "--epochs", 2, "--batch_size", 1)
    assert "epoch 2" in capsys.readouterr().out
    assert (saved("run")["epoch"], saved("run")["it"]) == (2, 2 * tiny_kitti.NUM_TRAIN)
    lines = (workplace / "output/tiny_models/tiny/run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [
        1,
        ITERATIONS,
        tiny_kitti.NUM_TRAIN + 1,
        2 * tiny_kitti.NUM_TRAIN,
    ]


def test_diverging_ends_the_run_and_keeps_the_checkpoints_from_before(workplace):
    train("run", "--epochs", 1)
    before = saved("run", "checkpoint_epoch_1")
    told = r"iteration \d \(epoch 2.*rpn_loss_cls .*frames 0000\d\d, .*OPTIMIZATION\.LR"
    with pytest.raises(InputError, match=told):
        train("run", "--epochs", 2, "--ckpt_save_time_interval", -1, "--set", "OPTIMIZATION.LR", "1e18")
    assert_same_run(before, saved("run", "checkpoint_epoch_1"))
    for path in (workplace / "output/tiny_models/tiny/run/ckpt").iterdir():
        assert all(value.isfinite().all() for value in torch.load(path, weights_only=True)["model_state"].values()), (
            path
        )


@pytest.mark.parametrize("config", ["tiny", "second"])
def test_mixed_precision_on_a_cpu(workplace, config):
    train("single", "--epochs", 1, config=config)
    train("mixed", "--epochs", 1, "--use_amp", config=config)
    for key, value in saved("mixed", "checkpoint_epoch_1", config)["model_state"].items():
        assert (
            value.dtype == saved("single", "checkpoint_epoch_1", config)["model_state"][key].dtype
            and value.isfinite().all()
        ), key
    one, other = (
        dict(read_metrics(f"output/tiny_models/{config}/{tag}/metrics.jsonl")["train/loss"])[1]
        for tag in ("single", "mixed")
    )
    assert one != other and other == pytest.approx(one, rel=0.05)


# ---- the loop by itself
# ------------------------------------------------------------------------------------------------------------


class Numbers(Dataset):
    """Frame i is the vector (i, 1); it remembers which were asked for."""

    def __init__(self, length: int):
        self.length, self.asked, self.seed = length, [], 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.asked.append(index)
        return torch.tensor([float(index), 1.0])


OPTIMIZATION = EasyDict(
    OPTIMIZER="sgd",
    LR=1.0,
    MOMENTUM=0.0,
    WEIGHT_DECAY=0.0,
    GRAD_NORM_CLIP=1e-3,
    DECAY_STEP_LIST=[],
    LR_DECAY=0.1,
    LR_CLIP=0.0,
)


def linear_trainer(
    folder, frames: int = 6, batch_size: int = 2, epochs: int = 2, iters_each_epoch=None, optim_cfg=OPTIMIZATION, **more
) -> Trainer:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    dataset = Numbers(frames)
    sampler = EpochSampler(dataset, seed=5)
    loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler)
    optimizer = build_optimizer(model, optim_cfg)
    scheduler, warmup = build_scheduler(optimizer, iters_each_epoch or len(loader), epochs, -1, optim_cfg)

    def model_func(model, batch):
        loss = 1e6 * model(batch).square().mean()
        return loss, {"a_part": loss.detach() / 2}, {}

    folder.mkdir(exist_ok=True)
    return Trainer(
        model,
        optimizer,
        scheduler,
        loader,
        sampler,
        model_func,
        optim_cfg,
        epochs,
        folder,
        logging.getLogger("test"),
        lr_warmup_scheduler=warmup,
        iters_each_epoch=iters_each_epoch,
        **more,
    )


def test_the_gradient_is_clipped_over_all_parameters_together(tmp_path):
    trainer = linear_trainer(tmp_path, frames=2, epochs=1)
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.model.eval()
    trainer.train()
    assert trainer.model.training
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    # plain gradient descent with learning rate 1
    assert float((after - before).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_a_gradient_below_the_limit_is_left_alone(tmp_path):
    trainer = linear_trainer(tmp_path, frames=2, epochs=1)
    trainer.grad_norm_clip = 1e9
    before = [p.detach().clone() for p in trainer.model.parameters()]
    loss, _, _ = trainer.model_func(trainer.model, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    gradient = torch.autograd.grad(loss, trainer.model.parameters())
    trainer.train()
    for p, was, slope in zip(trainer.model.parameters(), before, gradient):
        torch.testing.assert_close(p.detach(), was - slope)


def test_with_loss_scaling_the_true_gradient_is_clipped_and_an_infinite_one_skipped(tmp_path):
    trainer = linear_trainer(tmp_path, frames=6, epochs=1)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    weights, plain = [], trainer.model_func

    def model_func(model, batch):
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        loss, values, shown = plain(model, batch)
        return loss * (math.inf if len(weights) == 2 else 1.0), values, shown

    trainer.model_func = model_func
    trainer.train()
    weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    steps = [float((after - before).norm()) for before, after in zip(weights, weights[1:])]
    assert steps == pytest.approx([1e-3, 0.0, 1e-3], rel=1e-3)  # the learning rate is 1
    assert trainer.scaler.get_scale() == 2.0**9


def test_the_first_loss_scale_is_the_configurations(tmp_path, monkeypatch):
    made, scaler = [], torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, **more: made.append((device, more)) or scaler(device))
    linear_trainer(tmp_path, use_amp=True)
    linear_trainer(tmp_path, use_amp=True, optim_cfg=EasyDict({**OPTIMIZATION, "LOSS_SCALE_FP16": 32.0}))
    # bfloat16, which a CPU computes in, needs no scale
    assert made == [("cpu", {"init_scale": scale, "enabled": False}) for scale in (2.0**16, 32.0)]


def test_warm_up_rules_its_epochs_and_the_schedule_the_rest(tmp_path):
    settings = EasyDict(
        {**OPTIMIZATION, "LR_WARMUP": True, "WARMUP_EPOCH": 2, "DIV_FACTOR": 10, "DECAY_STEP_LIST": [3]}
    )
    trainer = linear_trainer(tmp_path, epochs=4, optim_cfg=settings)  # of 3 iterations
    plain, rates = trainer.model_func, []

    def model_func(model, batch):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        return plain(model, batch)

    trainer.model_func = model_func
    trainer.train()
    rising = [0.1 + 0.9 * (1 - math.cos(math.pi * i / 6)) / 2 for i in range(6)]  # a cosine over 2 epochs
    assert rates == pytest.approx([*rising, 1, 1, 1, 0.1, 0.1, 0.1], rel=1e-9)


def test_every_epoch_has_every_frame_and_merged_epochs_share_one_pass(tmp_path):
    plain = linear_trainer(tmp_path / "plain", frames=5, epochs=3)
    assert plain.train() == 9
    for epoch in range(3):
        assert sorted(plain.loader.dataset.asked[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    assert plain.loader.dataset.asked[:5] != plain.loader.dataset.asked[5:10]

    merged = linear_trainer(tmp_path / "merged", frames=15, epochs=3, iters_each_epoch=2)  # 8 batches, 3 epochs of 2
    assert merged.train() == 6
    assert len(set(merged.loader.dataset.asked)) == len(merged.loader.dataset.asked) == 12
    assert [epoch for epoch, _ in checkpoint.epoch_checkpoints(tmp_path / "merged")] == [1, 2, 3]


def test_a_changed_data_set_starts_a_new_stream_where_the_old_one_was(tmp_path):
    whole = linear_trainer(tmp_path / "whole", frames=12, epochs=3, iters_each_epoch=2)
    whole.train()
    hooked = linear_trainer(
        tmp_path / "hooked",
        frames=12,
        epochs=3,
        iters_each_epoch=2,
        augmentation_hook=lambda epoch, epochs: epoch == epochs - 1,
    )
    streams = []
    batches = hooked._batches
    hooked._batches = lambda: streams.append(hooked.iteration) or batches()
    hooked.train()
    assert streams == [0, 4]
    assert hooked.loader.dataset.asked == whole.loader.dataset.asked


def test_a_gamma_schedule_is_told_the_time_and_goes_on_where_a_resumed_run_does(tmp_path):
    def gammas(start: int) -> list[float]:
        trainer = linear_trainer(tmp_path / str(start), epochs=4)  # of 3 iterations
        trainer.model.schedule = build_gamma_schedule(
            {"TYPE": "steps", "VALUES": [0, 1, 2], "AT": [1, 3], "BY": "epoch"}
        )
        trainer.model.finer = build_gamma_schedule(
            {"TYPE": "linear", "START": 0.0, "END": 1.0, "BY": "iteration", "TO": 10}
        )
        plain, seen = trainer.model_func, []
        trainer.model_func = lambda model, batch: (
            seen.append((model.schedule.value, model.finer.value)) or plain(model, batch)
        )
        trainer.train(start)
        return seen

    whole = gammas(0)
    assert [by_epoch for by_epoch, _ in whole] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2]
    assert [by_iteration for _, by_iteration in whole] == pytest.approx([i / 10 for i in range(11)] + [1.0])
    assert gammas(5) == whole[5:]


def test_the_augmentation_hook_switches_off_once_for_the_last_epochs():
    class Augmentor:
        seen = []

        def disable_augmentation(self, config):
            self.seen.append(list(config.DISABLE_AUG_LIST))

    cfg = EasyDict(
        HOOK={"DisableAugmentationHook": {"DISABLE_AUG_LIST": ["gt_sampling"], "NUM_LAST_EPOCHS": 2}},
        DATA_CONFIG={"DATA_AUGMENTOR": {}},
    )
    dataset = type("", (), {"data_augmentor": Augmentor()})()
    hook = DisableAugmentationHook(cfg, dataset, logging.getLogger("test"))
    assert [hook(epoch, 5) for epoch in range(5)] == [False, False, False, True, False]
    assert Augmentor.seen == [["gt_sampling"]]


def test_checkpoints_are_counted_spaced_and_limited(tmp_path):
    linear_trainer(tmp_path / "a", epochs=7, ckpt_save_interval=2, max_ckpt_save_num=3).train()
    assert [epoch for epoch, _ in checkpoint.epoch_checkpoints(tmp_path / "a")] == [4, 6, 7]
    content = torch.load(tmp_path / "a/checkpoint_epoch_7.pth", weights_only=True)
    assert {"epoch", "it", "model_state", "optimizer_state", "version"} <= content.keys()
    assert (content["epoch"], content["it"]) == (7, 21)


def test_ctrl_c_while_a_checkpoint_is_written_leaves_the_old_one(tmp_path, monkeypatch):
    checkpoint.save_checkpoint({"model_state": {}, "it": 1}, tmp_path / "latest_model")

    def interrupted(state, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_checkpoint({"model_state": {}, "it": 2}, tmp_path / "latest_model")
    assert [path.name for path in tmp_path.iterdir()] == ["latest_model.pth"]
    assert torch.load(tmp_path / "latest_model.pth", weights_only=True)["it"] == 1


def test_the_log_and_the_bar_say_loss_rate_and_time_left(tmp_path, caplog):
    logger = logging.getLogger("test")
    with caplog.at_level(logging.INFO, logger="test"):
        trainer = linear_trainer(tmp_path, log_interval=2)
        trainer.train()
    assert logger is trainer.logger
    lines = [record.getMessage() for record in caplog.records if "iteration" in record.getMessage()]
    assert [line.split("  loss")[0] for line in lines] == [  # the first, every second, the last of an epoch
        f"epoch {epoch}/2  iteration {iteration}/3" for epoch, iteration in ((1, 1), (1, 2), (1, 3), (2, 1), (2, 3))
    ]
    assert all(word in lines[0] for word in ("loss ", "lr 1.000e+00", "left "))


def test_resuming_needs_a_checkpoint_that_fits(workplace):
    train("tiny", "--epochs", 1)
    with pytest.raises(InputError, match=r"checkpoint_epoch_1\.pth"):
        train("second", "--ckpt", "output/tiny_models/tiny/tiny/ckpt/checkpoint_epoch_1.pth", config="second")
    with pytest.raises(InputError, match=r"nowhere\.pth"):
        train("none", "--ckpt", "nowhere.pth")
