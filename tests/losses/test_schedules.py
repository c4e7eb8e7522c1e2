"""Gamma schedules: values by hand, what a training loop tells them, mistakes."""

import math

import pytest
import torch
from torch import nn

from pcdet_focal.errors import InputError
from pcdet_focal.losses import GammaSchedule, build_gamma_schedule, set_training_progress

LINEAR = {"TYPE": "linear", "START": 0.0, "END": 2.0, "BY": "epoch", "FROM": 4, "TO": 20}


@pytest.mark.parametrize("epoch, expected", [(0, 0.0), (4, 0.0), (8, 0.5), (12, 1.0), (20, 2.0), (100, 2.0)])
def test_linear_by_epoch(epoch, expected):
    assert build_gamma_schedule(LINEAR).at(epoch, iteration=10**6) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "iteration, expected", [(0, 3.0), (250, 1 + 1 + math.sqrt(0.5)), (500, 2.0), (1000, 1.0), (5000, 1.0)]
)
def test_cosine_by_iteration_may_also_fall(iteration, expected):
    schedule = build_gamma_schedule({"TYPE": "cosine", "START": 3.0, "END": 1.0, "BY": "iteration", "TO": 1000})
    assert schedule.at(epoch=0, iteration=iteration) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("epoch, expected", [(0, 0.0), (9, 0.0), (10, 1.0), (19, 1.0), (20, 2.0), (99, 2.0)])
def test_steps_change_at_their_time(epoch, expected):
    assert (
        build_gamma_schedule({"TYPE": "steps", "VALUES": [0, 1, 2], "AT": [10, 20], "BY": "epoch"}).at(epoch, 0)
        == expected
    )


def test_constant_needs_no_telling_and_the_others_say_so():
    assert build_gamma_schedule({"TYPE": "constant", "VALUE": 1.5}).value == 1.5
    with pytest.raises(InputError, match="set_training_progress"):
        build_gamma_schedule(LINEAR).value


def test_every_schedule_in_a_model_is_told_and_nothing_is_saved():
    model = nn.ModuleDict(
        {
            "a": build_gamma_schedule(LINEAR),
            "b": nn.Sequential(nn.ReLU(), build_gamma_schedule({**LINEAR, "BY": "iteration"})),
        }
    )
    set_training_progress(model, epoch=12, iteration=8)
    assert [m.value for m in model.modules() if isinstance(m, GammaSchedule)] == [1.0, 0.5]
    assert not model.state_dict() and not list(model.parameters())


def test_a_new_process_that_is_told_the_same_iteration_has_the_same_gamma():
    first, resumed = build_gamma_schedule(LINEAR), build_gamma_schedule(LINEAR)
    for epoch in range(7):
        set_training_progress(first, epoch, 100 * epoch)
    set_training_progress(resumed, 6, 600)
    assert (
        resumed.value == first.value == 0.25
        and isinstance(first.value, float)
        and not isinstance(first.value, torch.Tensor)
    )


@pytest.mark.parametrize(
    "cfg, message",
    [
        ("linear", r"S: 'linear'"),
        ({"TYPE": "liner"}, r"S\.TYPE: 'liner' .*linear"),
        ({**LINEAR, "STRAT": 1}, r"S\.STRAT: .*START"),
        ({"TYPE": "linear", "START": 0.0, "BY": "epoch"}, r"S: .*end, to"),
        ({**LINEAR, "BY": "epochs"}, r"S: .*by='epochs'"),
        ({**LINEAR, "END": -1.0}, r"S: .*gamma=-1\.0"),
        ({**LINEAR, "TO": 4}, r"\[4, 4\]"),
        ({**LINEAR, "TO": 20.5}, r"20\.5"),
        ({"TYPE": "steps", "VALUES": [0, 1], "AT": [5, 9], "BY": "epoch"}, r"2 VALUES"),
        ({"TYPE": "steps", "VALUES": 3, "AT": [5], "BY": "epoch"}, r"S: .*VALUES 3"),
    ],
)
def test_mistakes(cfg, message):
    with pytest.raises(InputError, match=message):
        build_gamma_schedule(cfg, "S")
