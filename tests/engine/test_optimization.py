"""Optimisers and schedules against OpenPCDet's recorded ones, and against closed forms."""

import copy
import json
import math

import model_data
import numpy as np
import pytest
import torch
from easydict import EasyDict
from golden_data import cases, record
from torch import nn
from torch.nn.utils import clip_grad_norm_

from pcdet_focal.engine.optimization import DecoupledAdam, build_optimizer, build_scheduler
from pcdet_focal.errors import InputError

SECOND = EasyDict(
    OPTIMIZER="adam_onecycle",
    LR=0.003,
    WEIGHT_DECAY=0.01,
    MOMENTUM=0.9,
    MOMS=[0.95, 0.85],
    PCT_START=0.4,
    DIV_FACTOR=10,
    DECAY_STEP_LIST=[35, 45],
    LR_DECAY=0.1,
    LR_CLIP=1e-7,
    LR_WARMUP=False,
    WARMUP_EPOCH=1,
    GRAD_NORM_CLIP=10,
)
RECORDED = json.loads(record("09_training/schedule.json").read_text())
TOY = cases("09_training/toy_trajectory.npz")
SHORT = cases("08_training_extras/adam_onecycle.npz")


def settings(record: dict, **more) -> EasyDict:
    """SECOND's OPTIMIZATION section with what a recorded case names."""
    return EasyDict({**SECOND, **{key: record[key] for key in record if key in SECOND or key == "WARMUP_ITER"}, **more})


def curve(optim_cfg, iters_each_epoch: int, epochs: int, count: int | None = None) -> tuple[list, list]:
    """Learning rate and beta1 (None: there is none) at every iteration."""
    optimizer = build_optimizer(nn.Linear(2, 2), optim_cfg)
    scheduler, _ = build_scheduler(optimizer, iters_each_epoch, epochs, last_epoch=-1, optim_cfg=optim_cfg)
    rates, betas = [], []
    for it in range(iters_each_epoch * epochs if count is None else count):
        scheduler.step(it)
        assert len({(group["lr"], group.get("betas", (None,))[0]) for group in optimizer.param_groups}) == 1
        rates.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0].get("betas", (None,))[0])
    return rates, betas


# ---- schedules
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", RECORDED.get("adam_onecycle", []), ids=lambda r: r["case"])
def test_one_cycle_is_the_recorded_curve(record):
    rates, betas = curve(settings(record), record["total_iters_each_epoch"], record["total_epochs"])
    np.testing.assert_allclose(rates, record["lr"], rtol=1e-9)
    np.testing.assert_allclose(betas, record["mom"], rtol=1e-9)
    optimizer = build_optimizer(nn.Linear(2, 2), settings(record))
    build_scheduler(optimizer, record["total_iters_each_epoch"], record["total_epochs"], -1, settings(record))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(record["before_first_step"]["lr"], rel=1e-9)
    assert optimizer.param_groups[0]["betas"][0] == record["before_first_step"]["mom"]


@pytest.mark.parametrize("record", RECORDED.get("adam_onecycle_edge_totals", []), ids=lambda r: str(r["total_steps"]))
def test_one_cycle_of_few_steps(record):
    rates, betas = curve(SECOND, record["total_steps"], 1)
    if record["peer_error"]:  # OpenPCDet divides by zero where the rise has no step; here the fall starts at once
        assert rates[0] == SECOND.LR and betas[0] == 0.85 and all(math.isfinite(rate) for rate in rates)
    else:
        np.testing.assert_allclose(rates, record["lr"], rtol=1e-9)
        np.testing.assert_allclose(betas, record["mom"], rtol=1e-9)


@pytest.mark.parametrize("case", ["short", "e80"])
def test_one_cycle_long_curves(case):
    record = SHORT[case]
    rates, betas = curve(SECOND, *{"short": (20, 2), "e80": (37, 80)}[case])
    np.testing.assert_allclose(rates, record["lr"], rtol=1e-9)
    np.testing.assert_allclose(betas, record["mom"], rtol=1e-9)


def test_one_cycle_by_hand():
    # rises over int(0.4 * 10) = 4 steps: 3e-4, ..., 3e-3 at step 4; then falls towards 3e-8 at step 10
    rates, betas = curve(SECOND, 10, 1)
    assert rates[0] == pytest.approx(3e-4, rel=1e-12) and betas[0] == pytest.approx(0.95)
    assert rates[2] == pytest.approx((3e-4 + 3e-3) / 2, rel=1e-12) and betas[2] == pytest.approx(0.90)
    assert rates[4] == 3e-3 and betas[4] == pytest.approx(0.85)
    assert rates[7] == pytest.approx((3e-3 + 3e-8) / 2, rel=1e-12)
    assert rates[9] == pytest.approx(3e-8 + (3e-3 - 3e-8) / 2 * (1 + math.cos(math.pi * 5 / 6)), rel=1e-12)


@pytest.mark.parametrize("record", RECORDED.get("adam_cosineanneal", []), ids=lambda r: f"warmup {r['WARMUP_ITER']}")
def test_cosine_annealing_is_the_recorded_curve(record):
    rates, betas = curve(
        settings(record, OPTIMIZER="adam_cosineanneal"), record["total_iters_each_epoch"], record["total_epochs"]
    )
    np.testing.assert_allclose(rates, record["lr"], rtol=1e-9)
    np.testing.assert_allclose(betas, record["mom"], rtol=1e-9)


@pytest.mark.parametrize(
    "record", RECORDED.get("step_decay", []), ids=lambda r: f"{r['OPTIMIZER']} {r['DECAY_STEP_LIST']} {r['LR_CLIP']}"
)
def test_step_decay_is_the_recorded_curve_and_optimiser(record):
    optim_cfg = settings(record)
    rates, _ = curve(optim_cfg, record["total_iters_each_epoch"], record["total_epochs"])
    np.testing.assert_allclose(rates, record["lr"], rtol=1e-9)
    (group,) = build_optimizer(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), optim_cfg).param_groups
    (recorded,) = record["param_groups"]
    assert len(group["params"]) == recorded["n_params"]
    assert group["weight_decay"] == recorded["weight_decay_in_torch_group"]
    for key in ("eps", "momentum", "nesterov", "amsgrad"):
        assert group.get(key) == recorded[key], key
    assert list(group.get("betas", [])) == (recorded["betas"] or [])


@pytest.mark.parametrize("record", RECORDED.get("cosine_warmup", []), ids=lambda r: f"{r['T_max']} steps")
def test_warm_up_is_the_recorded_curve(record):
    factor = record["LR"] / record["eta_min"]
    optim_cfg = EasyDict(
        {**SECOND, "OPTIMIZER": "sgd", "LR": record["LR"], "LR_WARMUP": True, "WARMUP_EPOCH": 1, "DIV_FACTOR": factor}
    )
    optimizer = build_optimizer(nn.Linear(2, 2), optim_cfg)
    _, warmup = build_scheduler(optimizer, record["T_max"], 5, -1, optim_cfg)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(record["before_first_step"], rel=1e-9)
    rates = []
    for it in range(len(record["lr"])):
        warmup.step(it, 0)
        rates.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, record["lr"], rtol=1e-9)


def test_an_unknown_optimiser_is_named_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"OPTIMIZATION\.OPTIMIZER: adamw .*adam, adam_cosineanneal, adam_onecycle, sgd"
    ):
        build_optimizer(nn.Linear(2, 2), EasyDict({**SECOND, "OPTIMIZER": "adamw"}))


# ---- parameter groups
# --------------------------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """The recorded toy model: it has a frozen layer that is applied and a layer that never is."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8, eps=1e-3, momentum=0.01)
        self.relu = nn.ReLU()
        self.sub = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
        self.fc = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.unused = nn.Linear(2, 3)

    def forward(self, x):
        return self.frozen(self.fc(self.sub(self.relu(self.bn(self.conv(x)))).mean((2, 3))))


def group_names(model: nn.Module) -> list[list[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in build_optimizer(model, SECOND).param_groups]


@pytest.mark.parametrize("name", ["toy", "second", "pointpillar"])
def test_parameter_groups_are_the_recorded_ones_in_the_same_order(name):
    model = Toy() if name == "toy" else model_data.build(name)
    assert group_names(model) == [group["names"] for group in RECORDED["param_groups"][name]["groups"]]


def test_no_trainable_parameter_is_forgotten():
    class Scaled(nn.Module):  # OpenPCDet never trains ``scale``: its owner has children
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.lin = nn.Linear(2, 2)
            self.again = self.lin

    assert group_names(Scaled()) == [["lin.weight", "lin.bias", "scale"], []]


# ---- steps
# ----------------------------------------------------------------------------------------------------------------------


def tensors(record: dict, prefix: str, dtype) -> dict[str, torch.Tensor]:
    start = f"{prefix}__"
    return {
        key[len(start) :].replace("/", "."): torch.from_numpy(value).to(dtype)
        for key, value in record.items()
        if key.startswith(start)
    }


@pytest.mark.parametrize("case", TOY)
def test_twenty_steps_are_the_recorded_trajectory(case):
    record, first = TOY[case], TOY["wd0.01_f64"]
    dtype = torch.float32 if case.endswith("f32") else torch.float64
    rtol = 2e-4 if dtype == torch.float32 else 1e-9
    optim_cfg = EasyDict({**SECOND, "WEIGHT_DECAY": float(case.split("_")[0][2:])})
    model = Toy().to(dtype).train()
    model.load_state_dict(tensors(first, "init", dtype), strict=False)
    optimizer = build_optimizer(model, optim_cfg)
    scheduler, _ = build_scheduler(optimizer, 20, 1, -1, optim_cfg)
    compared = 0
    for it in range(20):
        scheduler.step(it)
        optimizer.zero_grad()
        loss = (
            30
            * (
                (model(torch.from_numpy(first["X"][it]).to(dtype)) - torch.from_numpy(first["Y"][it]).to(dtype)) ** 2
            ).mean()
        )
        loss.backward()
        norm = clip_grad_norm_(model.parameters(), 1 if "clip1" in case else 10)
        optimizer.step()
        assert float(loss.detach()) == pytest.approx(record["loss"][it], rel=rtol)
        assert float(norm) == pytest.approx(record["grad_norm"][it], rel=10 * rtol)
        for key, expected in tensors(record, f"after{it + 1}" if it < 19 else "final", dtype).items():
            # A bias in front of a batch norm has gradient 0 but for rounding, of which Adam makes steps of full size.
            of_it = key in ("sub.0.bias", "sub.1.running_mean")
            atol = {torch.float64: 1e-7, torch.float32: 20 * optim_cfg.LR}[dtype] if of_it else 10 * rtol * optim_cfg.LR
            torch.testing.assert_close(
                model.state_dict()[key], expected, rtol=rtol, atol=atol, msg=lambda m: f"{key} after {it + 1}: {m}"
            )
            compared += 1
    assert compared == 15 + 15 + 15 + 19
    initial = tensors(first, "init", dtype)
    assert torch.equal(model.frozen.weight, initial["frozen.weight"])
    assert torch.equal(model.unused.weight, initial["unused.weight"]) == (optim_cfg.WEIGHT_DECAY == 0)


@pytest.mark.parametrize("case", ["short", "e80"])
def test_forty_steps_of_a_small_net(case):
    record = SHORT[case]
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).train()
    model.load_state_dict(tensors(record, "init", torch.float32), strict=False)
    optimizer = build_optimizer(model, SECOND)
    scheduler, _ = build_scheduler(optimizer, *{"short": (20, 2), "e80": (37, 80)}[case], -1, SECOND)
    inputs, targets = torch.from_numpy(record["X"]), torch.from_numpy(record["Y"])
    for it in range(40):
        scheduler.step(it)
        optimizer.zero_grad()
        loss = 3 * ((model(inputs) - targets) ** 2).mean()
        loss.backward()
        clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        assert float(loss.detach()) == pytest.approx(record["losses"][it], rel=1e-4)
        for key, expected in tensors(record, f"after{it + 1}", torch.float32).items():
            # a bias in front of a batch norm: as above; the mean has it in it
            atol = 40 * SECOND.LR if key in ("0.bias", "1.running_mean") else 1e-5
            torch.testing.assert_close(model.state_dict()[key], expected, rtol=1e-4, atol=atol)


def test_weight_decay_is_outside_the_gradient_and_reaches_every_trainable_parameter():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double()
    model[2].requires_grad_(True)
    optimizer = build_optimizer(model, EasyDict({**SECOND, "WEIGHT_DECAY": 0.5}))
    model[2].bias.requires_grad_(False)  # frozen after the optimiser was made
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model[:2].parameters():
        p.grad = torch.zeros_like(p)  # model[2] has no gradient at all
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.1
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1.0 if name == "2.bias" else 1 - 0.1 * 0.5
        torch.testing.assert_close(p.detach(), before[name] * factor, rtol=1e-14, atol=0)


# ---- optimiser states between OpenPCDet and here
# -----------------------------------------------------------------------------------


def some_steps(model, optimizer, count: int) -> None:
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(6, 4)
    for _ in range(count):
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()


def small_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double()


@pytest.mark.parametrize("keys_of_new_torch", [True, False])
def test_an_optimiser_state_of_openpcdet_goes_on_as_decoupled_decay(keys_of_new_torch):
    """Its checkpoints hold plain Adam groups with weight_decay 0 (it decays outside the optimiser), those of older
    torch fewer keys.
    """
    ours, reference = small_model(), small_model()
    optimizer = build_optimizer(ours, SECOND)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["weight_decay"] = 0
        if keys_of_new_torch:
            group["decoupled_weight_decay"] = False
        else:
            for key in ("decoupled_weight_decay", "maximize", "foreach", "capturable", "differentiable", "fused"):
                group.pop(key, None)
    optimizer.load_state_dict(state)
    some_steps(ours, optimizer, 4)
    some_steps(
        reference,
        torch.optim.AdamW(
            reference.parameters(), lr=SECOND.LR, betas=(0.9, 0.99), eps=1e-8, weight_decay=SECOND.WEIGHT_DECAY
        ),
        4,
    )
    for p, expected in zip(ours.parameters(), reference.parameters()):
        assert torch.equal(p, expected)


def test_our_optimiser_state_loads_into_openpcdets_groups():
    """Its optimiser is torch's Adam over two groups, whose weight_decay it sets to 0 before each step."""
    model = small_model()
    optimizer = build_optimizer(model, SECOND)
    some_steps(model, optimizer, 2)
    groups = [{"params": list(group["params"])} for group in optimizer.param_groups]
    adam = torch.optim.Adam(groups, lr=1e-3, betas=(0.9, 0.99))
    adam.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch shares the tensors otherwise
    for group in adam.param_groups:
        group["weight_decay"] = 0
    twin = small_model()
    twin.load_state_dict(model.state_dict())
    twin_optimizer = build_optimizer(twin, EasyDict({**SECOND, "WEIGHT_DECAY": 0.0}))
    twin_optimizer.load_state_dict(optimizer.state_dict())
    assert isinstance(twin_optimizer, DecoupledAdam) and twin_optimizer.param_groups[0]["weight_decay"] == 0.0
    some_steps(model, adam, 3)
    some_steps(twin, twin_optimizer, 3)
    for p, expected in zip(model.parameters(), twin.parameters()):
        assert torch.equal(p, expected)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_weight_decay_of_plain_adam_and_sgd_is_in_the_gradient(name):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    settings = EasyDict({**SECOND, "OPTIMIZER": name, "WEIGHT_DECAY": 0.5, "LR": 0.1, "MOMENTUM": 0.8})
    optimizer = build_optimizer(model, settings)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, was in zip(model.parameters(), before):  # Adam's first step is LR in the gradient's direction
        step = 0.1 * 0.5 * was if name == "sgd" else 0.1 * was.sign()
        torch.testing.assert_close(p.detach(), was - step, rtol=1e-4, atol=1e-6)


def test_a_one_cycle_schedule_rules_sgds_momentum():
    settings = EasyDict({**SECOND, "OPTIMIZER": "sgd", "SCHEDULER": "one_cycle", "MOMENTUM": 0.8})
    optimizer = build_optimizer(nn.Linear(2, 2), settings)
    scheduler, warmup = build_scheduler(optimizer, 10, 1, -1, settings)
    assert warmup is None and optimizer.param_groups[0]["momentum"] == pytest.approx(0.95)
    scheduler.step(4)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.85)
    scheduler.step(7)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.9)


def test_step_decay_changes_at_the_epochs_of_the_list_and_stops_at_the_limit():
    settings = EasyDict(
        {**SECOND, "OPTIMIZER": "sgd", "LR": 0.2, "MOMENTUM": 0.9, "DECAY_STEP_LIST": [2, 3, 4], "LR_DECAY": 0.1}
    )
    settings.update(LR_CLIP=1e-3, LR_WARMUP=False)
    rates, _ = curve(settings, 2, 6)
    assert rates == pytest.approx([0.2] * 4 + [0.02] * 2 + [0.002] * 2 + [0.001] * 4, rel=1e-12)


def test_cosine_annealing_by_hand():
    settings = EasyDict({**SECOND, "OPTIMIZER": "adam_cosineanneal", "WARMUP_ITER": 2})
    rates, betas = curve(settings, 2, 4)
    warm = [0.33333333 * SECOND.LR, SECOND.LR * (1 + 0.33333333) / 2]
    falling = [
        SECOND.LR * (1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * epoch / 4)) / 2) for epoch in (1, 1, 2, 2, 3, 3)
    ]
    assert rates == pytest.approx([*warm, *falling], rel=1e-9)
    assert betas == curve(SECOND, 2, 4)[1]
