"""The runs of a comparison: recipes, seeds, folders, and the results that are there."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import Config, merge_new_config
from ...errors import InputError
from ...files import read_json
from ...paths import CFGS

RECIPES = CFGS / "loss_recipes"


@dataclass(frozen=True)
class Run:
    """One recipe with one seed."""

    recipe: Path
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"{self.recipe.stem} seed {self.seed}"

    @property
    def result(self) -> Path:
        """Written at the end of the run."""
        return self.folder / "result.json"

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.folder / "log.txt"


def find_recipes(names: Sequence[str]) -> list[Path]:
    """Recipe files from their names (``focal``), their paths (``own/recipe.yaml``), or ``all`` for every file of
    cfgs/loss_recipes.

    Raises InputError for a name that is neither, and for two recipes of one name.
    """
    known = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    recipes: dict[str, Path] = {}
    for name in names:
        if name != "all" and name not in known and not Path(name).is_file():
            raise InputError(
                f"--recipes {name}: neither a file nor a recipe of {RECIPES}; there are {', '.join(known)} and all"
            )
        for path in known.values() if name == "all" else [known.get(name) or Path(name).resolve()]:
            if recipes.setdefault(path.stem, path) != path:
                raise InputError(f"--recipes: {recipes[path.stem]} and {path} have one name; rename one of them")
    return list(recipes.values())


def plan(recipes: Sequence[Path], seeds: Sequence[int], out: str | Path) -> list[Run]:
    """The runs, seed after seed: after the first round each recipe has a result."""
    return [
        Run(recipe, seed, Path(out) / recipe.stem / f"seed_{seed}")
        for seed in dict.fromkeys(seeds)
        for recipe in recipes
    ]


def with_recipe(cfg: Config, recipe: Path) -> Config:
    """A copy of ``cfg`` with the recipe in LOSS_CONFIG in place of its own CLS_LOSS.

    A gamma schedule by epochs that is longer than the training is scaled so that short runs reach its final value.
    """
    cfg = copy.deepcopy(cfg)
    loss_config = cfg.MODEL.DENSE_HEAD.LOSS_CONFIG
    loss_config.pop("CLS_LOSS", None)
    merge_new_config(loss_config, {"_BASE_CONFIG_": str(recipe)})
    loss_config.pop("_BASE_CONFIG_", None)  # where the recipe lies does not make it another one
    entry = loss_config.get("CLS_LOSS")
    schedule = entry.get("GAMMA_SCHEDULE") if isinstance(entry, Mapping) else None
    last_epoch = cfg.OPTIMIZATION.NUM_EPOCHS - 1
    if (
        schedule
        and schedule.get("BY", "epoch") == "epoch"
        and schedule.get("TO", 0) > last_epoch > schedule.get("FROM", 0)
    ):
        schedule.TO = last_epoch
    return cfg


def fingerprint(cfg: Config) -> str:
    """Tells configurations apart; two runs of one fingerprint and seed are the same run."""
    kept = {key: value for key, value in cfg.items() if key not in ("ROOT_DIR", "TAG", "EXP_GROUP_PATH", "LOCAL_RANK")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_result(run: Run, cfg: Config) -> dict[str, Any] | None:
    """A run's result, None where it has none yet. Raises InputError for that of another configuration."""
    if not run.result.is_file():
        return None
    try:
        result = read_json(run.result, "result")
    except InputError as error:
        raise InputError(f"{error}; delete it, and the run is done again") from error
    if result["fingerprint"] != fingerprint(with_recipe(cfg, run.recipe)):
        raise InputError(
            f"{run.result} is of another configuration than this one with {run.recipe.name}: name another --out, or "
            "delete the folder"
        )
    return result
