"""Every recipe in cfgs/loss_recipes: any model file takes it with one line, and a head learns with it."""

from pathlib import Path

import pytest
import torch
import yaml
from easydict import EasyDict
from head_cases import GT, features, small_head

from pcdet_focal.config import cfg_from_list, cfg_from_yaml_file, read_yaml
from pcdet_focal.losses import set_training_progress

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = sorted((REPOSITORY / "cfgs/loss_recipes").glob("*.yaml"))
MODELS = sorted(path for path in (REPOSITORY / "cfgs").glob("*_models/*.yaml"))
NAMES = {
    "focal",
    "focal_gamma_schedule",
    "quality_focal",
    "varifocal",
    "softmax_focal",
    "cross_entropy",
    "bce_label_smoothing",
    "bce_blur",
    "ghm",
}


def test_the_recipes_are_there():
    assert {path.stem for path in RECIPES} == NAMES


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("error")
def test_one_line_is_enough_in_a_file_and_on_the_command_line(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    model = MODELS[0]
    text = yaml.safe_load(model.read_text())
    text["MODEL"]["DENSE_HEAD"]["LOSS_CONFIG"]["_BASE_CONFIG_"] = f"cfgs/loss_recipes/{recipe.name}"
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(text))
    in_file = cfg_from_yaml_file(tmp_path / "model.yaml", EasyDict())
    by_set = cfg_from_yaml_file(model, EasyDict())
    cfg_from_list(["MODEL.DENSE_HEAD.LOSS_CONFIG._BASE_CONFIG_", f"cfgs/loss_recipes/{recipe.name}"], by_set)
    for cfg in (in_file, by_set):
        loss_config = cfg.MODEL.DENSE_HEAD.LOSS_CONFIG
        assert loss_config.CLS_LOSS == read_yaml(recipe)["CLS_LOSS"]
        assert loss_config.LOSS_WEIGHTS == text["MODEL"]["DENSE_HEAD"]["LOSS_CONFIG"]["LOSS_WEIGHTS"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_head_learns_with_it(recipe):
    head = small_head(**read_yaml(recipe))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    history = []
    for step in range(40):
        set_training_progress(head, epoch=0, iteration=step)  # one gamma throughout
        head({"spatial_features_2d": features(), "gt_boxes": GT, "batch_size": 2})
        loss, parts = head.get_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append((float(parts["rpn_loss_cls"]), float(parts["rpn_loss_loc"]), separation(head)))
    # by then GHM's running counts have settled
    (first, first_box, blind), (last, last_box, told_apart) = history[8], history[-1]
    assert last < first and last_box < first_box
    assert told_apart > blind + 0.5


def separation(head) -> float:
    """Mean logit of the positives' own class over that of the background: how well the scores tell objects apart,
    whatever the loss's scale.
    """
    ret = head.forward_ret_dict
    labels = ret["box_cls_labels"].flatten().long()
    logits = ret["cls_preds"].detach().reshape(len(labels), -1)
    positives = labels > 0
    return float(logits[positives, labels[positives] - 1].mean() - logits[labels == 0].mean())
