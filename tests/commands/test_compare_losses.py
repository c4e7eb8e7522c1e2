"""tools/compare_losses.py: runs, resuming, failures, the table, and the numbers behind the pictures."""

import json
import math
import re
import subprocess
import sys

import pytest
import tiny_kitti
import torch
from head_cases import GT, features, small_head

from pcdet_focal.config import Config, cfg_from_yaml_file, read_yaml
from pcdet_focal.engine import cli, compare
from pcdet_focal.errors import InputError
from pcdet_focal.losses import set_training_progress
from pcdet_focal.visualization import losses

NAMES = sorted(path.stem for path in compare.RECIPES.glob("*.yaml"))


def run(*argv) -> int:
    """The tool in this process; its exit status."""
    try:
        cli.run_main(tiny_kitti.tool("compare_losses").main, [str(word) for word in argv])
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture(scope="module")
def cfg_file(tmp_path_factory):
    content = tiny_kitti.config(tiny_kitti.dataset(), NUM_EPOCHS=1)
    return tiny_kitti.write_config(tmp_path_factory.mktemp("compared") / "cfgs/tiny_models/tiny.yaml", content)


def config(cfg_file) -> Config:
    return cfg_from_yaml_file(cfg_file, Config())


@pytest.mark.slow
def test_two_recipes_a_failure_and_going_on(cfg_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken.yaml"  # its mistake shows only in training
    broken.write_text("CLS_LOSS: {NAME: SigmoidFocalClassificationLoss}\nDIR_LOSS: NoSuchLoss\n")
    words = ["--cfg_file", cfg_file, "--seeds", 3, "--jobs", 2, "--out", "out"]
    assert run(*words, "--recipes", "focal", "cross_entropy", broken) == 2
    printed = capsys.readouterr()
    assert re.search(
        r"broken seed 3 failed: error: MODEL\.DENSE_HEAD\.LOSS_CONFIG\.DIR_LOSS.*NoSuchLoss", printed.out
    ), printed.out
    assert "1 of 3 runs failed: broken seed 3" in printed.err

    results = {
        name: json.loads((tmp_path / f"out/{name}/seed_3/result.json").read_text())
        for name in ("focal", "cross_entropy")
    }
    table = (tmp_path / "out/table.md").read_text()
    for name, result in results.items():
        evaluated = json.loads((tmp_path / f"out/{name}/seed_3/eval/result.json").read_text())
        assert result["ap"] == {c: evaluated[f"{c}_3d/moderate_R40"] for c in ("Car", "Pedestrian", "Cyclist")}
        assert result["iterations"] == 3 and [step for step, _ in result["easy_negative_share"]] == [1]
        assert f"| {name} | {result['ap']['Car']:.1f} | " in table
    assert "broken seed 3: error:" in table
    assert all(
        (tmp_path / "out" / f"{name}.png").stat().st_size > 5000 for name in ("ap", "loss_curves", "easy_negatives")
    )

    marked = tmp_path / "out/focal/seed_3/result.json"
    results["focal"]["ap"]["Car"] = 77.25
    marked.write_text(json.dumps(results["focal"]))
    assert run(*words, "--recipes", "focal", "cross_entropy") == 0
    printed = capsys.readouterr().out
    assert "2 runs, 2 of them done before" in printed and "| focal | 77.2 |" in printed
    assert printed.index("| focal |") < printed.index("| cross_entropy |")

    assert run(*words, "--recipes", "focal", "--set", "OPTIMIZATION.LR", "0.001") == 2
    assert re.search(r"error: .*out/focal", capsys.readouterr().err)
    assert run(*words, "--recipes", "fokal") == 2
    assert "--recipes fokal: " in capsys.readouterr().err


def test_the_recipe_replaces_the_models_own_loss_and_its_schedule_fits(cfg_file):
    cfg = config(cfg_file)
    cfg.OPTIMIZATION.NUM_EPOCHS = 7
    cfg.MODEL.DENSE_HEAD.LOSS_CONFIG.CLS_LOSS = {"NAME": "GHMC", "BINS": 3}
    before = json.dumps(cfg, default=str)
    for name in NAMES:
        (recipe,) = compare.find_recipes([name])
        entry, written = (
            compare.with_recipe(cfg, recipe).MODEL.DENSE_HEAD.LOSS_CONFIG.CLS_LOSS,
            read_yaml(recipe)["CLS_LOSS"],
        )
        if name == "focal_gamma_schedule":
            assert entry.GAMMA_SCHEDULE.TO == 6 and written["GAMMA_SCHEDULE"]["TO"] == 20
        else:
            assert entry == written
    assert json.dumps(cfg, default=str) == before


def test_runs_go_round_the_recipes_and_names_must_differ(tmp_path):
    recipes = compare.find_recipes(["all"])
    assert [path.stem for path in recipes] == NAMES and "cross_entropy" in NAMES
    runs = compare.plan(recipes[:2], [4, 0, 4], tmp_path)
    assert [(run.recipe.stem, run.seed) for run in runs] == [(name, seed) for seed in (4, 0) for name in NAMES[:2]]
    (tmp_path / "focal.yaml").write_text("CLS_LOSS: GHMC")
    with pytest.raises(InputError, match="focal"):
        compare.find_recipes(["focal", str(tmp_path / "focal.yaml")])


def head_after_a_forward(name: str):
    torch.manual_seed(1)
    head = small_head(**read_yaml(compare.RECIPES / f"{name}.yaml"))
    set_training_progress(head, epoch=3, iteration=3)
    head({"spatial_features_2d": features(), "gt_boxes": GT, "batch_size": 2})
    labels = head.forward_ret_dict["box_cls_labels"]
    logits = torch.randn(*labels.shape, head.num_class, generator=torch.Generator().manual_seed(2)) - 3.0
    head.forward_ret_dict["cls_preds"] = logits.requires_grad_()
    return head, labels, logits.detach()


@pytest.mark.parametrize("name", ["focal", "cross_entropy"])
def test_share_of_easy_negatives_by_hand(name):
    head, labels, logits = head_after_a_forward(name)
    p = logits.double().sigmoid()
    target = torch.nn.functional.one_hot(labels.long().clamp(min=0), head.num_class + 1)[..., 1:].double()
    loss = torch.nn.functional.binary_cross_entropy(p, target, reduction="none")
    if name == "focal":
        loss = loss * torch.where(target > 0, 0.25, 0.75) * torch.where(target > 0, 1 - p, p) ** 2
    per_anchor = loss.sum(-1) * (labels >= 0) / (labels > 0).sum(1, keepdim=True).clamp(min=1)
    easy = (labels == 0) & (p < 0.1).all(-1)
    expected = float(per_anchor[easy].sum() / per_anchor.sum())
    assert 0.001 < expected < 0.9
    assert float(compare.easy_negative_share(head)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_measuring_changes_nothing(name):
    (plain, _, _), (watched, _, _) = head_after_a_forward(name), head_after_a_forward(name)
    compare.watch_easy_negatives(watched, interval=2)
    expected = [plain.get_cls_layer_loss() for _ in range(3)]
    found = [watched.get_cls_layer_loss() for _ in range(3)]
    assert [compare.SHARE in logged for _, logged in found] == [True, True, False]
    assert 0 < float(found[0][1][compare.SHARE]) < 1
    for (loss, _), (same, _) in zip(expected, found):
        assert torch.equal(loss, same)
    for _head, (loss, _) in ((plain, expected[-1]), (watched, found[-1])):
        loss.backward()
    assert torch.equal(plain.forward_ret_dict["cls_preds"].grad, watched.forward_ret_dict["cls_preds"].grad)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[key]), key


def test_curves_of_nothing_but_batch_losses(tmp_path):
    figure = losses.draw_loss_curves({"ghm": None}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert "ghm" in figure.legends[0].get_title().get_text()


def test_curves_of_known_losses(cfg_file):
    cfg, x = config(cfg_file), 0.7
    p = 1 / (1 + math.exp(-x))
    curves = {name: compare.response_curves(cfg, compare.RECIPES / f"{name}.yaml", [x]) for name in NAMES}
    entropy, focal = curves["cross_entropy"], curves["focal"]
    assert entropy["positive"]["loss"] == pytest.approx([-math.log(p)]) and entropy["positive"][
        "gradient"
    ] == pytest.approx([p - 1])
    assert entropy["negative"]["loss"] == pytest.approx([-math.log(1 - p)]) and entropy["negative"][
        "gradient"
    ] == pytest.approx([p])
    assert focal["positive"]["loss"] == pytest.approx([-0.25 * (1 - p) ** 2 * math.log(p)])
    assert focal["negative"]["loss"] == pytest.approx([-0.75 * p**2 * math.log(1 - p)])
    assert focal["negative"]["gradient"] == pytest.approx([0.75 * (p**3 - 2 * p**2 * (1 - p) * math.log(1 - p))])
    assert curves["softmax_focal"]["positive"]["loss"] == pytest.approx([-((1 - p) ** 2) * math.log(p)])
    assert curves["varifocal"]["positive"]["loss"] == pytest.approx([-math.log(p)])  # weighted by an IoU of 1
    assert curves["varifocal"]["negative"]["loss"] == pytest.approx([-0.75 * p**2 * math.log(1 - p)])
    assert curves["ghm"] is None


def test_the_table_has_mean_and_spread_over_the_seeds():
    def result(seed, car, cyclist):
        return {
            "seed": seed,
            "ap": {"Car": car, "Cyclist": cyclist},
            "seconds": 10.0,
            "epochs": 7,
            "iterations": 700,
            "training_frames": 200,
            "test_frames": 50,
        }

    text = compare.table(
        {"a": [result(0, 10.0, 40.0), result(1, 30.0, 40.0)], "b": [result(1, 1.0, 2.0)]}, "python it", {}
    )
    assert "| a | 20.0 (10.0 to 30.0) | 40.0 (40.0 to 40.0) | 30.0 (25.0 to 35.0) | 2 |" in text
    assert "| b | 1.0 | 2.0 | 1.5 | 1 |" in text and "mean over seeds 0, 1" in text and "`python it`" in text


def test_an_interruption_ends_the_processes_and_keeps_what_is_done(cfg_file, tmp_path, monkeypatch):
    cfg, started = config(cfg_file), []
    runs = compare.plan(compare.find_recipes(["focal", "ghm", "varifocal"]), [0], tmp_path)

    def start(run, words):
        started.append((run, subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])))
        return started[-1][1]

    def interrupted(seconds):
        raise KeyboardInterrupt

    runs[0].folder.mkdir(parents=True)
    runs[0].result.write_text(
        json.dumps({"fingerprint": compare.fingerprint(compare.with_recipe(cfg, runs[0].recipe))})
    )
    monkeypatch.setattr(compare.processes, "_start", start)
    monkeypatch.setattr(compare.processes.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare.run_all(runs, cfg, [], jobs=5, report=lambda line: None)
    assert [run for run, _ in started] == runs[1:]
    assert all(process.returncode not in (None, 0) for _, process in started)
    assert runs[0].result.is_file()


def test_the_last_line_of_a_log_is_no_progress_bar(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("epoch 1\nerror: what went wrong\n\repoch 1/2:  10%|#  | 1/10 [00:01<00:09,  1.00it/s]\n\n")
    assert compare.last_line(log) == "error: what went wrong"
    assert compare.last_line(tmp_path / "none.txt") == ""
