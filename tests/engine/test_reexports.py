"""What OpenPCDet's utils offer for runs and processes is here under the same names and does the same."""

import logging

import numpy as np
import pytest
import torch

from pcdet_focal.utils import common_utils, commu_utils


def test_names_of_openpcdet():
    names = """AverageMeter create_logger drop_info_with_name get_dist_info init_dist_pytorch init_dist_slurm
        keep_arrays_by_name merge_results_dist set_random_seed"""
    assert all(callable(getattr(common_utils, name)) for name in names.split())
    names = "all_gather all_reduce average_reduce_value get_rank get_world_size is_main_process synchronize"
    assert all(callable(getattr(commu_utils, name)) for name in names.split())
    with pytest.raises(AttributeError, match="sa_destroy"):
        common_utils.sa_destroy


def test_rows_by_name():
    names = np.array(["Car", "DontCare", "Van", "Car"])
    kept = common_utils.keep_arrays_by_name(names, ["Car", "Cyclist"])
    assert kept.dtype == np.int64 and kept.tolist() == [0, 3]
    assert common_utils.keep_arrays_by_name([], ["Car"]).shape == (0,)
    info = {"name": names, "score": np.arange(4.0), "bbox": np.arange(16.0).reshape(4, 4)}
    without = common_utils.drop_info_with_name(info, "DontCare")
    assert without["name"].tolist() == ["Car", "Van", "Car"] and without["score"].tolist() == [0, 2, 3]
    assert without["bbox"].shape == (3, 4) and len(info["name"]) == 4
    assert common_utils.drop_info_with_name({"name": np.array(["DontCare"]), "bbox": np.ones((1, 4))}, "DontCare")[
        "bbox"
    ].shape == (0, 4)


def test_average_meter():
    meter = common_utils.AverageMeter()
    meter.update(2.0)
    meter.update(5.0, n=2)
    assert (meter.val, meter.sum, meter.count, meter.avg) == (5.0, 12.0, 3, 4.0)
    meter.reset()
    assert (meter.val, meter.avg, meter.count) == (0.0, 0.0, 0)


def test_a_seed_repeats_the_draws_of_torch_and_numpy():
    draws = []
    for _ in range(2):
        common_utils.set_random_seed(11)
        draws.append((torch.rand(3).tolist(), np.random.rand(3).tolist()))
    assert draws[0] == draws[1]


def test_a_workers_seed():
    draws = []
    for worker, seed in ((0, 5), (1, 4), (2, None), (2, None)):
        common_utils.worker_init_fn(worker, seed)
        draws.append((torch.rand(3).tolist(), np.random.rand(3).tolist()))
    assert draws[0] == draws[1] and len({str(draw) for draw in draws}) == 3


def test_the_logger_writes_a_file_and_the_console_and_other_ranks_only_errors(tmp_path, capsys):
    logger = common_utils.create_logger(tmp_path / "a.log")
    logger.info("a %s", "line")
    logger.warning("look")
    quiet = common_utils.create_logger(tmp_path / "b.log", rank=1, log_level=logging.DEBUG)
    quiet.info("not shown")
    quiet.error("shown")
    assert capsys.readouterr().out == "a line\nwarning: look\nerror: shown\n"
    assert [line.split("  ", 1)[1].strip() for line in (tmp_path / "a.log").read_text().splitlines()] == [
        "INFO  a line",
        "WARNING  look",
    ]
    assert not (tmp_path / "b.log").exists()
