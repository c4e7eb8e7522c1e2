"""Optimisers and learning-rate schedules of OpenPCDet's OPTIMIZATION section.

A schedule here is a pure function of the iteration, so resuming needs nothing but the iteration's number.
``scheduler.step(it)`` sets the learning rate (and, one-cycle, Adam's beta1) for iteration ``it`` before its forward
pass. OPTIMIZER says which schedule goes with it; OPTIMIZATION.SCHEDULER chooses another one, also one registered as
``@LR_SCHEDULES.register()`` of pcdet_focal.registry: a function (optim_cfg, iters_each_epoch, epochs) -> function
(iteration, epoch) -> (learning rate, beta1 or None).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import InputError
from ..registry import LR_SCHEDULES


def _annealed(start: float, end: float, share: float) -> float:
    """Cosine from ``start`` (share 0) to ``end`` (share 1)."""
    return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)


class DecoupledAdam(torch.optim.AdamW):
    """AdamW that also decays parameters without a gradient, as OpenPCDet's optimiser does, and keeps its own weight
    decay on load.

    Update: p <- p (1 - lr * weight_decay) for every parameter, then Adam without decay (Loshchilov and Hutter, ICLR
    2019).
    """

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None and p.requires_grad:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
        return super().step(closure)

    def load_state_dict(self, state_dict: dict) -> None:
        # OpenPCDet's checkpoints store weight_decay 0 (it decays outside the optimiser): the configuration's value
        # stays.
        kept = [
            {key: group[key] for key in ("weight_decay", "eps", "decoupled_weight_decay") if key in group}
            for group in self.param_groups
        ]
        super().load_state_dict(state_dict)
        for group, values in zip(self.param_groups, kept):
            group.update(values)


class Schedule:
    """Sets the optimiser's learning rate and beta1 (SGD: its momentum) from a function (iteration, epoch) -> (learning
    rate, beta1 or None).
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        function: Callable[[int, int], tuple[float, float | None]],
        total_iters_each_epoch: int,
    ):
        self.optimizer = optimizer
        self.function = function
        self.total_iters_each_epoch = total_iters_each_epoch
        self.step(0)

    def step(self, accumulated_iter: int, epoch: int | None = None) -> None:
        """Set the values for iteration ``accumulated_iter`` (0-based, over all epochs)."""
        lr, momentum = self.function(
            accumulated_iter, accumulated_iter // self.total_iters_each_epoch if epoch is None else epoch
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            if momentum is not None and "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            elif momentum is not None:
                group["momentum"] = momentum


@LR_SCHEDULES.register()
def one_cycle(optim_cfg, iters_each_epoch: int, epochs: int) -> Callable[[int, int], tuple[float, float]]:
    """(iteration, epoch) -> (learning rate, beta1) of the one-cycle policy (Smith 2018) as OpenPCDet computes it.

    With ``total_steps = iters_each_epoch * epochs`` and ``s = int(PCT_START * total_steps)``: the rate rises by a
    cosine from LR / DIV_FACTOR to LR at ``s`` and falls to LR / DIV_FACTOR / 1e4 at ``total_steps`` (one step after the
    last); beta1 goes from MOMS[0] to MOMS[1] and back.
    """
    total_steps = iters_each_epoch * epochs
    peak, (high, low) = optim_cfg.LR, optim_cfg.MOMS
    first = peak / optim_cfg.DIV_FACTOR
    turn = int(optim_cfg.PCT_START * total_steps)

    def values(iteration: int, epoch: int) -> tuple[float, float]:
        if iteration < turn:
            share = iteration / turn
            return _annealed(first, peak, share), _annealed(high, low, share)
        share = min((iteration - turn) / max(total_steps - turn, 1), 1.0)
        return _annealed(peak, first / 1e4, share), _annealed(low, high, share)

    return values


@LR_SCHEDULES.register()
def step_decay(optim_cfg, iters_each_epoch: int, epochs: int) -> Callable[[int, int], tuple[float, None]]:
    """LR * LR_DECAY^k, k = entries of DECAY_STEP_LIST (epochs) that are over, never below LR_CLIP."""
    steps = [epoch * iters_each_epoch for epoch in optim_cfg.DECAY_STEP_LIST]

    def values(iteration: int, epoch: int) -> tuple[float, None]:
        decay = optim_cfg.LR_DECAY ** sum(iteration >= step for step in steps)
        return optim_cfg.LR * max(decay, optim_cfg.LR_CLIP / optim_cfg.LR), None

    return values


@LR_SCHEDULES.register()
def cosine_annealing(optim_cfg, iters_each_epoch: int, epochs: int) -> Callable[[int, int], tuple[float, float]]:
    """A linear warm-up of WARMUP_ITER iterations from a third of LR, then a cosine by whole epochs down to LR / 1000;
    beta1 as in one-cycle.
    """
    cycle = one_cycle(optim_cfg, iters_each_epoch, epochs)
    warmup = optim_cfg.get("WARMUP_ITER", 0)

    def values(iteration: int, epoch: int) -> tuple[float, float]:
        if iteration < warmup:
            lr = optim_cfg.LR * (1 - (1 - iteration / warmup) * (1 - 0.33333333))
        else:
            lr = _annealed(optim_cfg.LR, optim_cfg.LR * 1e-3, epoch / epochs)
        return lr, cycle(iteration, epoch)[1]

    return values


def _cosine_warmup(optim_cfg, warmup_iters: int) -> Callable[[int, int], tuple[float, None]]:
    low = optim_cfg.LR / optim_cfg.DIV_FACTOR
    return lambda iteration, epoch: (
        low + (optim_cfg.LR - low) * (1 - math.cos(math.pi * iteration / warmup_iters)) / 2,
        None,
    )


def _leaf_modules(module: nn.Module) -> Iterator[nn.Module]:
    children = list(module.children())
    if not children:
        yield module
    for child in children:
        yield from _leaf_modules(child)


def _groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """Trainable parameters in OpenPCDet's two groups and order: all but batch norm's, then batch norm's, so that
    optimiser states interchange.
    """
    other, norm, seen = [], [], set()
    for module in _leaf_modules(model):
        for p in module.parameters():
            if p.requires_grad and id(p) not in seen:
                seen.add(id(p))
                (norm if isinstance(module, _BatchNorm) else other).append(p)
    # held by a module that has children
    other += [p for p in model.parameters() if p.requires_grad and id(p) not in seen]
    return [other, norm]


def build_optimizer(model: nn.Module, optim_cfg) -> torch.optim.Optimizer:
    """The optimiser that ``optim_cfg.OPTIMIZER`` names: adam_onecycle, adam_cosineanneal, adam or sgd; over every
    trainable parameter.
    """
    name, lr, decay = optim_cfg.OPTIMIZER, optim_cfg.LR, optim_cfg.WEIGHT_DECAY
    if name in ("adam_onecycle", "adam_cosineanneal"):
        betas = tuple(optim_cfg.get("BETAS", (0.9, 0.99)))
        return DecoupledAdam(
            [{"params": group} for group in _groups(model)], lr=lr, betas=betas, eps=1e-8, weight_decay=decay
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=decay)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, weight_decay=decay, momentum=optim_cfg.MOMENTUM)
    raise InputError(
        f"OPTIMIZATION.OPTIMIZER: {name} is not supported (supported: adam, adam_cosineanneal, adam_onecycle, sgd)"
    )


def build_scheduler(
    optimizer: torch.optim.Optimizer, total_iters_each_epoch: int, total_epochs: int, last_epoch: int, optim_cfg
) -> tuple[Schedule, Schedule | None]:
    """The schedule that ``optim_cfg.SCHEDULER`` names, by default the one that goes with ``optim_cfg.OPTIMIZER``, and
    the warm-up's for the first WARMUP_EPOCH epochs (LR_WARMUP), or None; one_cycle and cosine_annealing warm up on
    their own.

    ``last_epoch`` is OpenPCDet's argument; a schedule that is a function of the iteration does not need it.

    Raises:
        InputError: an unknown SCHEDULER.
    """
    default = {"adam_onecycle": "one_cycle", "adam_cosineanneal": "cosine_annealing"}
    name = optim_cfg.get("SCHEDULER") or default.get(optim_cfg.OPTIMIZER, "step_decay")
    function = LR_SCHEDULES[name](optim_cfg, total_iters_each_epoch, total_epochs)
    schedule = Schedule(optimizer, function, total_iters_each_epoch)
    if name in default.values() or not optim_cfg.get("LR_WARMUP", False):
        return schedule, None
    return schedule, Schedule(
        optimizer, _cosine_warmup(optim_cfg, optim_cfg.WARMUP_EPOCH * total_iters_each_epoch), total_iters_each_epoch
    )
