"""Checks for common mistakes in data sets and configurations, before they cost a training run.

``check_dataset(cfg)`` reads labels and scans and asks every check; a check is a pure function of arrays and
configuration entries that returns :class:`Finding` s. The way through the files: ``collect`` (files -> arrays) ->
``evidence`` (what the points say about each box) -> the checks (``frames``, ``placement``, ``headings``, ``labels``,
``scans``, ``grid``, ``anchors``, ``settings``) -> ``run``.
"""

from .findings import Example, Finding, report_lines
from .run import Report, check_dataset

__all__ = ["Example", "Finding", "Report", "check_dataset", "report_lines"]
