"""Comparing classification losses: one small model trained and evaluated once per loss recipe and seed.

Each run is a process of one thread (``python -m pcdet_focal.engine.compare``). It ends by writing
``<out>/<recipe>/seed_<n>/result.json``; a run that has a result is not repeated.
"""

from .easy_negatives import EASY, SHARE, easy_negative_share, watch_easy_negatives
from .processes import last_line, run_all
from .runs import RECIPES, Run, find_recipes, fingerprint, plan, read_result, with_recipe
from .summary import collect, mean_ap, response_curves, table

__all__ = [
    "EASY",
    "RECIPES",
    "SHARE",
    "Run",
    "collect",
    "easy_negative_share",
    "find_recipes",
    "fingerprint",
    "last_line",
    "mean_ap",
    "plan",
    "read_result",
    "response_curves",
    "run_all",
    "table",
    "watch_easy_negatives",
    "with_recipe",
]
