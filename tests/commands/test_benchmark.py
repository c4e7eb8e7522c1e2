"""tools/benchmark.py: what it compares computes the same, the files and the page of a run, its clock and counters,
mistakes.
"""

import json
import re
import time
import types
from pathlib import Path

import numpy as np
import pytest
import tiny_kitti
import torch
from openpcdet import needs_openpcdet, peer_folder

from pcdet_focal.engine import cli
from pcdet_focal.engine.benchmark import (
    SUITES,
    Case,
    goals,
    losses,
    measure,
    ops,
    page,
    peak_memory,
    pipeline,
    results,
    run,
    step,
)
from pcdet_focal.engine.inference import has_bfloat16
from pcdet_focal.engine.optimization import build_optimizer
from pcdet_focal.models import build_network

CPU = torch.device("cpu")
BENCHMARKS = tiny_kitti.REPOSITORY / "benchmarks"


def benchmark(*argv) -> int:
    """The tool in this process, on one thread; its exit status."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cli.run_main(tiny_kitti.tool("benchmark").main, [str(word) for word in argv])
    except SystemExit as end:
        return end.code
    finally:
        torch.set_num_threads(threads)
    return 0


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Without what takes a process or a C++ compiler each time; both have a test of their own."""
    monkeypatch.setattr(losses, "can_compile", lambda device: False)
    monkeypatch.setattr(run, "peak_rss", lambda *_: 12_345_678)
    monkeypatch.setattr(results, "startup", lambda: {"import": 0.5, "kernels_cold": 9.0, "kernels_cached": 0.3})
    monkeypatch.setattr("pcdet_focal.engine.memory.disable_malloc_trim", lambda: False)


# ---- the sides of a row compute the same
# --------------------------------------------------------------------------------------------


def cases(suite: str, row: str) -> list[Case]:
    return list(SUITES[suite][row](CPU, True))


@pytest.mark.parametrize("row", ["classification", "box_and_direction", "whole_head", "drop_in", "soft_labels"])
def test_both_sides_have_the_same_gradients(row):
    found = cases("losses", row)
    assert found
    for case in found:
        for ours, plain in zip(case.sides["ours"](), case.sides["eager"](), strict=True):
            assert float(plain.abs().max()) > 0
            torch.testing.assert_close(
                ours, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()), msg=lambda text: f"{case.case}: {text}"
            )
    assert sum(case.kept_bytes for case in found) == sum(losses.nbytes(*case.sides["ours"]()) for case in found)


def test_target_assignment_gives_the_same_targets():
    (case,) = cases("ops", "target_assignment")
    ours, plain, dense = (case.sides[side]() for side in ("ours", "eager", "reference"))
    assert (ours["box_cls_labels"] > 0).sum() > 50 and (ours["box_cls_labels"] < 0).sum() > 20
    for key in ("box_cls_labels", "box_reg_targets"):
        torch.testing.assert_close(ours[key], plain[key])
        torch.testing.assert_close(ours[key], dense[key])


def test_operators_agree_with_the_packages_they_are_compared_with():
    pytest.importorskip("shapely")
    (iou,) = cases("ops", "rotated_iou")
    np.testing.assert_allclose(iou.sides["ours"](), iou.sides["shapely"](), atol=1e-5)
    assert float(iou.sides["ours"]().max()) > 0.05
    (nms,) = cases("ops", "rotated_nms")
    kept = {name: side().tolist() for name, side in nms.sides.items()}
    assert 10 < len(kept["ours"]) < 64 and kept.keys() == {"ours", "reference", "shapely", "shapely loop"}
    assert all(indices == kept["ours"] for indices in kept.values())
    (points,) = cases("ops", "points_in_boxes")
    assert (
        torch.equal(points.sides["ours"](), points.sides["reference"]())
        and int((points.sides["ours"]() >= 0).sum()) > 100
    )


@pytest.mark.slow
def test_voxels_and_the_sparse_encoder_agree_with_spconv():
    if ops.spconv() is None:
        pytest.skip("needs a build of spconv that works")
    for case in cases("ops", "voxels"):
        for ours, theirs in zip(case.sides["ours"](), case.sides["spconv"](), strict=True):
            np.testing.assert_array_equal(ours, theirs.numpy())
    forward, both = cases("ops", "sparse_backbone")
    ours, theirs = forward.sides["ours"]().features, forward.sides["spconv"]().features
    assert ours.shape == theirs.shape and len(ours) > 50
    for a, b in zip(both.sides["ours"](), both.sides["spconv"](), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_the_frames_of_the_evaluation_have_true_and_false_detections():
    (case,) = cases("ops", "kitti_ap")
    strict = {name: case.sides["ours"]().ap[name]["3d"]["strict"]["R40"] for name in ("Car", "Pedestrian", "Cyclist")}
    assert all(((values >= 0) & (values < 100)).all() for values in strict.values()) and strict["Car"].max() > 1
    assert "14 detections each" in case.shape


# ---- clock and counters
# -------------------------------------------------------------------------------------------------------------


def test_the_clock_takes_turns_and_gives_ratios():
    order = []

    def sleeper(name, seconds):
        def side():
            order.append(name)
            time.sleep(seconds)

        return side

    timed = measure.time_case(
        Case("row", "case", "", {"ours": sleeper("ours", 0.06), "other": sleeper("other", 0.12)}), rounds=3
    )
    assert order[4:] == ["ours", "other", "other", "ours", "other", "ours"]  # after two calls of each that do not count
    assert timed["sides"]["ours"]["n"] == 3 and timed["sides"]["ours"]["calls"] == 1
    # sleep never wakes early
    assert 0.06 <= timed["sides"]["ours"]["median"] and 0.12 <= timed["sides"]["other"]["median"]
    assert timed["ratios"].keys() == {"other"}
    assert timed["ratios"]["other"]["q1"] <= timed["ratios"]["other"]["median"] <= timed["ratios"]["other"]["q3"]
    asleep = measure.time_case(Case("row", "case", "", {"ours": sleeper("ours", 0.06)}), rounds=2, cpu_time=True)
    assert asleep["sides"]["ours"]["median"] < 0.03  # it computed nothing
    alone = measure.time_case(Case("row", "case", "", {"ours": lambda: None}), rounds=1)
    assert alone["sides"]["ours"]["n"] == 1 and alone["ratios"] == {}


def test_peak_memory_counts_torch_and_numpy():
    def side():
        a = torch.ones(1000, 250)  # 1 MB
        b = a + a  # 1 MB more
        del a
        c = np.ones(375_000)  # 3 MB of numpy's own
        return b, c

    assert peak_memory.peak_bytes(side, CPU) == pytest.approx(5_000_000, rel=0.02)
    assert peak_memory.peak_bytes(lambda: None, CPU) < 10_000


def test_the_systems_count_of_a_fresh_process_agrees():
    case = next(iter(losses.drop_in(CPU, True)))
    seen = peak_memory.peak_rss("losses", "drop_in", case.case, "eager", quick=True)
    if seen is None:
        pytest.skip("/proc tells nothing here")
    assert seen == pytest.approx(peak_memory.peak_bytes(case.sides["eager"], CPU), abs=1_000_000)


def test_compiled_formulas_are_there_where_a_compiler_is(monkeypatch):
    monkeypatch.setattr(losses, "can_compile", lambda device: True)
    assert list(next(iter(losses.classification(CPU, True))).sides) == ["ours", "eager", "compiled", "copy"]
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not losses.can_compile(CPU)


def test_a_stopwatch_charges_each_stage_for_its_own_time():
    watch = pipeline.Stopwatch()
    inner = watch.wrap("inner", lambda: time.sleep(0.05))
    outer = watch.wrap("outer", lambda: (time.sleep(0.01), inner(), inner()))
    began = time.perf_counter()
    outer()
    took = time.perf_counter() - began
    assert watch.seconds["inner"] >= 0.1 and 0.01 <= watch.seconds["outer"] <= took - 0.1


def test_one_thread_is_also_one_of_numpys_matrix_products():
    def threads() -> list[int]:
        blas = [
            getattr(library, get)()
            for library in pipeline._openblas()
            for get in pipeline._BLAS_THREADS
            if hasattr(library, get)
        ]
        return [torch.get_num_threads(), *blas]

    before = threads()
    with pipeline.one_thread():
        assert set(threads()) == {1}
    assert threads() == before


def test_goals_are_judged_by_medians():
    row = {
        "row": "classification",
        "case": "SECOND KITTI",
        "device": "cpu",
        "sides": {"ours": {"median": 0.002, "extra_memory": 1_500_000}},
        "ratios": {"eager": {"median": 26.0}, "copy": {"median": 0.25}},
    }
    judged = {entry["goal"]: (entry["found"], entry["met"]) for entry in goals.judge("losses", row)}
    assert judged == {
        "at least 12 times as fast as eager": (26.0, True),
        "at most 8 times the time of copy": (4.0, True),
        "at most 1 MB beyond the gradient": (1_500_000, False),
    }
    known = {(suite, row) for suite in SUITES for row in SUITES[suite]}
    known |= {("data", "pipeline"), *(("step", mode) for mode in step.MODES)}
    assert {(goal.suite, goal.row) for goal in goals.GOALS} <= known


# ---- whole runs
# ---------------------------------------------------------------------------------------------------------------------


def check_schema(content: dict, suite: str) -> None:
    assert content["schema"] == 1 and content["suite"] == suite and content["quick"] is True
    assert {"torch", "numpy", "python", "pcdet_focal"} <= content["versions"].keys()
    assert content["machine"].keys() == {"kind", "cpu", "cores", "gpu", "system"}
    for row in content["rows"]:
        assert row["device"] == "cpu" or content["machine"]["gpu"]
        assert "ours" in row["sides"] and row["ratios"].keys() == row["sides"].keys() - {"ours"}
        for side in row["sides"].values():
            assert (
                0 < side["q1"] <= side["median"] <= side["q3"]
                and side["n"] >= 1
                and side["calls"] >= 1
                and side["first_call"] > 0
            )


@pytest.mark.slow
def test_quick_losses_are_saved_where_asked_and_make_no_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert benchmark("losses", "--quick", "--repeats", 1, "--threads", 1, "--out", "there/x.json") == 0
    printed = capsys.readouterr().out
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [Path("there/x.json")]
    content = results.read("there/x.json")
    check_schema(content, "losses")
    assert list(dict.fromkeys(row["row"] for row in content["rows"])) == list(SUITES["losses"])
    assert (
        content["command"] == "pcdet-focal benchmark losses --quick --repeats 1 --threads 1" and content["threads"] == 1
    )
    second = content["rows"][0]
    assert (
        second["case"] == "SECOND KITTI"
        and second["shape"] == "4 x 4,000 x 3"
        and second["kept_bytes"] == 4 * 4000 * 3 * 4
    )
    assert (
        second["sides"]["eager"]["extra_memory"] > 5 * second["kept_bytes"]
        and second["sides"]["ours"]["extra_memory"] < 200_000
    )
    assert second["sides"]["ours"]["rss"] == pytest.approx(12_345_678 - second["kept_bytes"], rel=1e-3)
    assert re.search(r"eager +[\d.]+ ms .* x ours .* MB more", printed) and "startup: import 0.50 s" in printed
    assert benchmark("page", "--out", "there/README.md") == 2
    assert "x.json is of a --quick run" in capsys.readouterr().err


def test_quick_ops_and_a_row_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argv in (
        ["--cpu_time", "--out", "x.json", "--only", "points_in_boxes", "kitti_ap", "rotated_nms"],
        ["--only", "kitti_ap"],
    ):
        assert benchmark("ops", "--quick", "--repeats", 1, *argv) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]  # a part of a run is kept only where --out says so
    content = results.read("x.json")
    check_schema(content, "ops")
    assert [row["row"] for row in content["rows"]] == ["rotated_nms", "points_in_boxes", "kitti_ap"]
    assert content["clock"] == "cpu" and content["threads"] == 1


def test_quick_data_pipeline_stage_by_stage(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert benchmark("data", "--quick", "--out", "x.json") == 0
    assert "samples a second on one core" in capsys.readouterr().out
    content = results.read("x.json")
    check_schema(content, "data")
    whole, *stages = content["rows"]
    assert content["threads"] == 1 and whole["row"] == "pipeline" and "3 frames simulated" in whole["shape"]
    assert whole["goals"][0]["goal"] == "at least 150 a second"
    names = [row["case"] for row in stages]
    steps = [
        "gt_sampling",
        "random_world_flip",
        "random_world_rotation",
        "random_world_scaling",
        "mask_points_and_boxes_outside_range",
        "shuffle_points",
        "transform_points_to_voxels",
    ]
    assert [name for name in names if name in steps] == steps and {
        "load the scan",
        "crop to the image",
        pipeline.REST,
    } <= set(names)


def test_the_data_pipeline_of_a_folder_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert benchmark("data", "--quick", "--samples", 4, "--root", tiny_kitti.dataset(), "--out", "x.json") == 0
    content = results.read("x.json")
    assert f"{tiny_kitti.NUM_TRAIN} frames given with --root" in content["rows"][0]["shape"]
    assert "--root KITTI" in content["command"] and str(tiny_kitti.dataset()) not in json.dumps(content)


def test_quick_steps_stage_by_stage(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert benchmark("step", "--quick", "--models", "centerpoint-pillar", "--out", "x.json") == 0
    content = results.read("x.json")
    check_schema(content, "step")
    assert content["command"] == "pcdet-focal benchmark step --quick --models centerpoint-pillar"
    modules = ["vfe", "map_to_bev", "backbone_2d", "dense_head"]
    stages = {
        "train": [*modules, "losses", "backward", "optimizer"],
        "evaluate": [*modules, "post_processing"],
        **({step.BFLOAT16: [*modules, "post_processing"]} if has_bfloat16() else {}),
    }
    for mode, names in stages.items():
        whole, *own = [row for row in content["rows"] if row["row"] == mode]
        assert [row["case"] for row in own] == [f"centerpoint-pillar, {name}" for name in names]
        # one round: the stages are all of the step
        sums = sum(row["sides"]["ours"]["median"] for row in own)
        assert whole["sides"]["ours"]["median"] == pytest.approx(sums, rel=1e-2)
    assert "first loss" in content["rows"][0]["note"] and "backward" in capsys.readouterr().out
    text = page.render([{**content, "quick": False}])
    assert "| train: centerpoint-pillar, 2 x " in text and f"- evaluate: {step.MODES['evaluate']}" in text


def test_steps_of_training_go_on_from_each_other():
    cfg = step.config("pointpillar", quick=True)
    torch.manual_seed(0)
    net = build_network(cfg.MODEL, 3, step.dataset_like(cfg)).train()
    batch = step.simulated_batch(cfg, 2, CPU, every=step.QUICK_EVERY)
    optimizer = build_optimizer(net, cfg.OPTIMIZATION)
    losses = [step.staged(net, batch, time.perf_counter, optimizer)["loss"] for _ in range(4)]
    assert losses[-1] < losses[0] - 0.01
    assert not net.vfe._forward_hooks


@needs_openpcdet
@pytest.mark.slow
def test_openpcdets_code_takes_the_same_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--models", "pointpillar", "--openpcdet", peer_folder(), "--out", "x.json"]
    assert benchmark("step", "--quick", *argv) == 0
    content = results.read("x.json")
    check_schema(content, "step")
    assert all(row["sides"].keys() == {"ours", "openpcdet"} for row in content["rows"])
    ours, theirs = map(float, re.findall(r"first loss ([\d.]+)", content["rows"][0]["note"]))
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert str(peer_folder()) not in json.dumps(content)


# ---- the page
# ----------------------------------------------------------------------------------------------------------------------


def test_the_page_in_the_repository_is_that_of_its_files():
    assert (BENCHMARKS / "README.md").read_text(encoding="utf-8") == page.render(results.read_all(BENCHMARKS))


def made_up(device: str = "cpu", gpu: str | None = None, ratio: float = 30.0) -> dict:
    side = {"median": 0.002, "q1": 0.0019, "q3": 0.0021, "n": 9, "calls": 5, "first_call": 0.1}
    row = {
        "row": "classification",
        "case": "SECOND KITTI",
        "shape": "4 x 9 x 3",
        "device": device,
        "note": "",
        "kept_bytes": 10,
        "sides": {"ours": {**side, "extra_memory": 2_500_000, "rss": 2_600_000}, "eager": {**side, "median": 0.06}},
        "ratios": {"eager": {"median": ratio, "q1": ratio - 1, "q3": ratio + 1}},
        "goals": [],
    }
    machine = {"kind": "CPU 9, 2 cores", "cpu": "CPU 9", "cores": 2, "gpu": gpu, "system": "Linux"}
    return {
        "schema": 1,
        "suite": "losses",
        "quick": False,
        "command": "pcdet-focal benchmark losses",
        "date": "2026-01-02",
        "machine": machine,
        "load": 0.25,
        "threads": 2,
        "clock": "wall",
        "versions": {"torch": "2.13.0"},
        "startup": {},
        "rows": [row],
    }


def test_the_page_says_what_is_missed_and_what_is_not_measured(tmp_path, capsys):
    results.write(made_up(ratio=11.5), tmp_path / "losses-a.json")
    assert benchmark("page", "--out", tmp_path / "README.md") == 0
    text = (tmp_path / "README.md").read_text()
    assert (
        "| classification: SECOND KITTI | at least 12 times as fast as eager | 11.5 x (10.5 to 12.5) | **missed** | "
        "CPU 9, 2 of 2 cores |" in text
    )
    assert (
        "- classification: SECOND KITTI: at most 1 MB beyond the gradient; it is 2.5 MB (CPU 9, 2 of 2 cores)" in text
    )
    assert "| classification: SECOND KITTI, GPU | at least 15 times as fast as eager | not measured yet |  |  |" in text
    assert "## Data pipeline\n\nNot measured yet.\n" in text and "On a GPU: not measured yet." in text
    assert (
        "| classification: SECOND KITTI, 4 x 9 x 3 | ours | 2 ms (1.9 to 2.1) |  | 2.5 MB (2.6) |\n|  | eager | 60 ms"
        in text
    )

    results.write(made_up("cuda", "GPU 7"), tmp_path / "losses-b.json")
    assert benchmark("page", "--out", tmp_path / "README.md") == 0
    text = (tmp_path / "README.md").read_text()
    assert (
        "| classification: SECOND KITTI, GPU | at least 15 times as fast as eager | 30 x (29 to 31) | reached | GPU 7 |"
        in text
    )
    losses_part = text[text.index("## Losses") : text.index("## Operators")]
    assert "### GPU 7\n" in losses_part and "not measured yet" not in losses_part


# ---- mistakes
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, told",
    [
        (
            ["losses", "--only", "clasification"],
            "--only clasification: the rows are classification, box",
        ),
        (["ops", "--threads", "0"], "--repeats and --threads must be at least 1"),
        (
            ["ops", "--cpu_time", "--threads", "2"],
            "--cpu_time adds up the time of all threads, so it needs --threads 1",
        ),
        (["data", "--samples", "0"], "--samples 0: at least one sample is needed"),
        (["data", "--quick", "--root", "nowhere"], "nowhere"),
        (["step", "--models", "pointpilar"], "--models pointpilar: there is no such model; there are pointpillar, sec"),
        (["step", "--quick", "--openpcdet", "nowhere"], "nowhere: there is no pcdet/models and tools/train_utils in"),
        (["page"], "there is no JSON file in benchmarks; measure first: pcdet-focal benchmark losses"),
        (["speed"], "invalid choice: 'speed'"),
        (["ops", "--repeats", "many"], "'many' is not a number"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(argv, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert benchmark(*argv) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_without_infos_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kitti").mkdir()
    assert benchmark("data", "--quick", "--root", "kitti") == 2
    assert "create-infos" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, told",
    [
        ("{", r"x\.json, line 1: .*not valid JSON"),
        ("[]", r"x\.json is not a result of tools/benchmark\.py with schema 1"),
        ('{"schema": 2}', r"x\.json is not a result of tools/benchmark\.py with schema 1"),
        (json.dumps({**made_up(), "rows": [{"row": "a"}]}), r"x\.json has no rows\[0\]\.case, "),
    ],
)
def test_a_damaged_file_is_named(text, told, tmp_path, capsys):
    (tmp_path / "x.json").write_text(text)
    assert benchmark("page", "--out", tmp_path / "README.md") == 2
    assert re.search(told, capsys.readouterr().err)


def test_the_file_is_named_after_the_machine(monkeypatch):
    monkeypatch.setattr(results, "machine", lambda: {"kind": "NVIDIA H100 80GB HBM3, 16 cores"})
    assert results.default_path("losses") == Path("benchmarks/losses-nvidia-h100-80gb-hbm3-16-cores.json")


def test_gpu_rows_are_made_where_there_is_a_gpu_only(monkeypatch):
    asked = []
    monkeypatch.setitem(SUITES["ops"], "kitti_ap", lambda device, quick: asked.append(device.type) or iter(()))
    run.run_suite("ops", ["kitti_ap"], quick=True)
    assert asked == ["cpu"] if not torch.cuda.is_available() else ["cpu", "cuda"]
    monkeypatch.setattr(torch, "cuda", types.SimpleNamespace(is_available=lambda: True, current_device=lambda: 0))
    run.run_suite("ops", ["kitti_ap"], quick=True)
    assert asked[-2:] == ["cpu", "cuda"]
